"""What a plan and a budget of training time expect of several GPUs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from command_line import winnow

from al.budget import parse_budget
from al.config import Config
from al.planning.cost import Machine
from al.planning.gpus import gpus_of, speedup
from al.planning.model_shape import ModelShape
from al.planning.plan import estimate
from al.planning.pool_estimate import PoolEstimate
from al.round import throughput
from al.run.artifacts import Artifact

H100 = Machine("cuda", 2, 780e12, 2.5e12, 79.1)
SHAPE = ModelShape("tiny", 2, 64, 128, 64, 500, 100_000, 64_000, 4_000, 8_192, None)
POOL = PoolEstimate(60_000, 150.0, 10**7, new_to_embed=60_000, new_to_map=0, exact=True, new=60_000)


def config(**values) -> Config:
    sections = {"model": {"name": "some/model"}, "control": False, "select": {"strategy": "loss"}, **values}
    return Config.model_validate({"train": {"packs_per_step": 16}, **sections})


def planned(budget: str, gpus: int, **values) -> dict:
    return estimate(config(**values), parse_budget(budget), POOL, SHAPE, H100, 2, gpus)


def test_stages_of_gpus_get_faster_and_those_of_the_driver_do_not():
    one, eight = (planned("40000", gpus)["seconds"] for gpus in (1, 8))
    assert eight["train"] == pytest.approx(one["train"] / (1 + 7 * 0.9), rel=0.01)
    for shared in ("embed", "score", "evaluate"):
        assert eight[shared] == pytest.approx(one[shared] / (1 + 7 * 0.95), rel=0.1, abs=0.06), shared
    for driver in ("tokenize", "near-duplicates", "cluster"):
        assert eight[driver] == one[driver] > 0, driver


def test_training_time_on_several_gpus_buys_their_tokens():
    one, two, eight = (planned("30min", gpus)["round"]["tokens"] for gpus in (1, 2, 8))
    assert (two / one, eight / one) == (pytest.approx(1.9, rel=0.01), pytest.approx(1 + 7 * 0.9, rel=0.01))
    assert planned("30min", 8)["seconds"]["train"] == pytest.approx(planned("30min", 1)["seconds"]["train"], rel=0.01)


def test_with_the_control_at_the_same_time_a_round_takes_as_long_as_with_one_gpu():
    one, eight = (planned("30min", gpus, control=True) for gpus in (1, 8))
    trained = [sum(found["seconds"][name] for name in ("train", "train control")) for found in (one, eight)]
    assert trained[1] == pytest.approx(trained[0], rel=0.01) and eight["seconds"]["train control"] == 0
    assert eight["round"]["tokens"] / one["round"]["tokens"] == pytest.approx(2 * (1 + 3 * 0.9), rel=0.01)
    in_turn = speedup(config(control=True, train={"packs_per_step": 16, "patience": 2, "eval_every": 5}), 8)
    assert not in_turn.at_once and in_turn.training == pytest.approx(1 + 7 * 0.9)


def test_a_training_has_no_use_for_more_gpus_than_a_step_has_packs():
    few = [speedup(config(train={"packs_per_step": 4}), gpus) for gpus in (4, 64)]
    assert few[0].training == few[1].training == pytest.approx(1 + 3 * 0.9)
    assert few[1].shards == pytest.approx(1 + 63 * 0.95)


@pytest.mark.parametrize(
    ("kind", "device", "count"),
    [("local", "cuda", 1), ("processes", "cpu", 1), ("processes", "cuda", 4), ("ray", "cuda", 4)],
)
def test_gpus_count_and_processes_on_the_same_cores_do_not(kind, device, count):
    engine = SimpleNamespace(device=lambda config: device, size=lambda config: 4)
    assert gpus_of(config(engine={"kind": kind}), engine) == count


def test_a_budget_of_time_keeps_the_gpus_that_its_round_began_with(tmp_path):
    (tmp_path / "throughput.json").write_text(json.dumps({"tokens_per_s": 1000.0, "gpus": 8}))
    said: list[str] = []
    session = SimpleNamespace(config=config(engine={"kind": "processes", "gpus": 2}), tell=said.append)
    done = SimpleNamespace(number=1, keep=lambda role, artifact: Artifact("throughput", "a", tmp_path, {"files": {}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "throughput", lambda *arguments: None)
        found = throughput.resolve_budget(session, None, parse_budget("1min"), done)
        (tmp_path / "throughput.json").write_text(json.dumps({"tokens_per_s": 1000.0}))
        before = throughput.resolve_budget(session, None, parse_budget("1min"), done)
    assert found.amount == int(1000 * 60 * (1 + 7 * 0.9) / session.config.train.epochs)
    assert before.amount == int(1000 * 60 / session.config.train.epochs), "a round of an earlier version had one"
    assert len(said) == 1 and "8 GPUs train 7.30 times as fast as one" in said[0] and "assumed" in said[0]


def test_the_plan_says_what_it_assumes(world, tmp_path):
    asked = ("plan", "--budget", "30min", "--config", world, "--run", tmp_path / "run", "--gpu", "H100", "--no-control")
    eight = ("--set", "engine.kind=processes", "--set", "engine.gpus=8", "--set", "train.packs_per_step=16")
    found = winnow(*asked, *eight)
    assert found.code == 0, found.err
    assert "8 GPUs train 7.30 times as fast as one" in found.out and "on each of 8 GPUs" in found.out
    one = winnow(*asked, "--set", "train.packs_per_step=16")
    assert "GPUs" not in one.out
