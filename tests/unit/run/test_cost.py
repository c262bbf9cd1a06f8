"""What `plan` says of memory and speed follows from the config, and agrees with what was measured on a GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import al.preparation.projection
from al.budget import parse_budget
from al.config import Config
from al.lineage.round_state import RoundState
from al.planning.cost import (
    GIB,
    LAUNCH_SECONDS,
    Machine,
    divided,
    forward_tokens_per_s,
    training_memory,
    training_tokens_per_s,
)
from al.planning.model_shape import ModelShape
from al.planning.plan import COMPILE_MAP_S, LAID_OUT_PER_S, PLACED_PER_S, STAGES, estimate, stage_seconds
from al.planning.pool_estimate import PoolEstimate, estimate_pool
from al.scoring.amount import affordable, sample_per_cluster, sample_size
from selection.config import SelectConfig
from selection.projection import FITTED, LEAST
from selection.strategy import Budget
from trainer.decoder.retention import Retention, Widths

RECORDS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
RECORD = RECORDS / "train_h100.json"
H100 = Machine("cuda", 2, 780e12, 2.5e12, 79.1)
CONSUMER = Machine("cuda", 2, 160e12, 0.9e12, 23.5)


def mistral(r=16, ours=True):
    """The shape of Mistral-7B with LoRA of rank r on all projections."""
    per_layer = r * ((4096 + 4096) * 2 + (4096 + 1024) * 2 + (4096 + 14336) * 3)
    widths = Widths(hidden=4096, query=4096, key_value=1024, intermediate=14336, heads=32, rank=r, itemsize=2)
    return ModelShape(
        name="mistral",
        layers=32,
        hidden=4096,
        intermediate=14336,
        kv_width=1024,
        vocabulary=32000,
        linear=32 * 218_103_808,
        other=262_410_240,
        lora=32 * per_layer,
        largest_linear=4096 * 14336,
        widths=widths if ours else None,
    )


def config(**train):
    return Config.model_validate(
        {"model": {"name": "x"}, "train": {"pack_length": 2048, "packs_per_step": 4, "packs_per_batch": 4, **train}}
    )


def gib(found):
    return sum(found.values()) / GIB


def test_a_large_card_keeps_everything_and_a_small_one_recomputes():
    assert set(divided(config(), mistral(), H100).retentions) == {Retention.KEEP}
    assert divided(config(), mistral(), H100).resident
    small = divided(config(), mistral(), CONSUMER)
    assert not small.resident and Retention.INPUT in small.retentions
    for machine in (H100, CONSUMER):
        assert gib(training_memory(config(), mistral(), machine)) < machine.memory_gib


@pytest.mark.parametrize("budget", [2.0, 4.0, 9.0, 16.0])
def test_activation_memory_bounds_the_peak_and_buys_speed(budget):
    less, more = (config(activation_memory=value) for value in (budget, budget + 4))
    base = (
        gib(training_memory(less, mistral(), H100))
        - training_memory(less, mistral(), H100)["activations, gradients"] / GIB
    )
    assert gib(training_memory(less, mistral(), H100)) <= base + budget
    assert training_tokens_per_s(less, mistral(), H100) <= training_tokens_per_s(more, mistral(), H100)
    assert training_tokens_per_s(config(activation_memory=2.0), mistral(), H100) < 0.8 * training_tokens_per_s(
        config(), mistral(), H100
    )


def test_models_of_other_architectures_are_slower_and_larger():
    other = mistral(ours=False)
    low = config(activation_memory=1.5)
    assert training_tokens_per_s(low, other, H100) < training_tokens_per_s(low, mistral(), H100)
    assert forward_tokens_per_s(low, other, H100) < forward_tokens_per_s(low, mistral(), H100)
    assert gib(training_memory(low, other, H100)) > gib(training_memory(low, mistral(), H100))


def test_eight_bit_optimizer_saves_six_bytes_a_weight():
    key, full, small = "LoRA weights, optimizer", config(), config(optimizer="adamw_8bit")
    saved = training_memory(full, mistral(256), H100)[key] - training_memory(small, mistral(256), H100)[key]
    assert saved == 6.0 * mistral(256).lora


def test_launching_bounds_the_speed_of_tiny_batches():
    speed = training_tokens_per_s(config(pack_length=16, packs_per_batch=1), mistral(), H100)
    assert speed == pytest.approx(16 / (2 * 32 * LAUNCH_SECONDS["cuda"]))


def test_trap_12_small_batches_pay_the_dequantization_many_times():
    small, large = (config(activation_memory=0.0, packs_per_batch=packs) for packs in (1, 4))
    assert training_tokens_per_s(small, mistral(), H100) < 0.95 * training_tokens_per_s(large, mistral(), H100)
    assert Config.model_validate({}).train.packs_per_batch * Config.model_validate({}).train.pack_length >= 8192


@pytest.mark.skipif(not RECORD.exists(), reason="benchmarks/train_throughput.py has not been run")
def test_predictions_hold_on_the_machine_that_was_measured():
    rows = [row for row in json.loads(RECORD.read_text())["rows"] if "planned_gib" in row]
    assert len(rows) >= 4
    for row in rows:
        assert row["peak_gib"] == pytest.approx(row["planned_gib"], rel=0.10), row["name"]
        if "dropout" not in row["settings"]:
            assert row["tokens_per_s"] == pytest.approx(row["planned_tokens_per_s"], rel=0.20), row["name"]


FIT_ALL = COMPILE_MAP_S + FITTED / LAID_OUT_PER_S


@pytest.mark.parametrize(
    ("examples", "installed", "seconds"),
    [
        (0, True, 0.0),
        (LEAST - 1, True, 0.0),
        (FITTED, True, FIT_ALL),
        (FITTED + 10 * PLACED_PER_S, True, FIT_ALL + 10),
        (FITTED, False, 0.0),
    ],
)
def test_the_map_is_planned_where_umap_will_lay_one_out(
    monkeypatch: pytest.MonkeyPatch, examples: int, installed: bool, seconds: float
):
    monkeypatch.setattr(al.preparation.projection, "find_spec", lambda _: installed or None)
    pool = PoolEstimate(60_000, mean_tokens=150.0, bytes=10**7, new_to_embed=0, new_to_map=examples, exact=True)
    planned = estimate(config(), parse_budget("100"), pool, mistral(), H100)
    assert planned["seconds"]["map"] == pytest.approx(seconds, abs=0.05)
    assert planned["total_seconds"] == pytest.approx(sum(planned["seconds"].values()), abs=0.5)


def test_a_round_that_trains_on_earlier_picks_too_is_planned_with_them():
    pool = PoolEstimate(examples=60_000, mean_tokens=150.0, bytes=10**7, new_to_embed=0, new_to_map=0, exact=True)

    def seconds(number: int, **train):
        return estimate(config(**train), parse_budget("1000"), pool, mistral(), H100, number)["seconds"]["train"]

    assert seconds(3, mode="retrain") == pytest.approx(3 * seconds(1, mode="retrain"), rel=0.01)
    assert seconds(3, mode="continue", replay=0.5) == pytest.approx(1.5 * seconds(1, mode="continue"), rel=0.01)


@pytest.mark.parametrize(
    ("strategy", "budget", "dear"), [("loss", "250", True), ("loss", "20000", False), ("default", "250", False)]
)
def test_trap_28_measuring_that_costs_more_than_it_saves_is_warned_of_and_the_default_does_without(
    strategy, budget, dear
):
    pool = PoolEstimate(examples=60_000, mean_tokens=150.0, bytes=10**7, new_to_embed=0, new_to_map=0, exact=True)
    chosen = config().model_copy(update={"select": SelectConfig(strategy=strategy)})
    planned = estimate(chosen, parse_budget(budget), pool, mistral(), H100, 2)
    assert any("measuring takes" in text for text in planned["warnings"]) == dear
    if strategy == "default":  # a first look at picks, for noise
        assert 0 < planned["seconds"]["score"] <= 0.12 * planned["seconds"]["train"]


@pytest.mark.parametrize(
    ("strategy", "examples", "silhouette", "size"),
    [
        ("default", 4_000, 0.7, 5),
        ("default", 1_000, 0.7, 0),  # two of each cluster are too dear
        ("default", 4_000, 0.2, 0),  # clusters are no kinds
        ("loss", 1_000, 0.2, 2),
    ],
)
def test_the_default_measures_where_it_pays_and_others_always(strategy, examples, silhouette, size):
    clusters = SimpleNamespace(json=lambda name: {"quality": {"silhouette": silhouette}})
    history = SimpleNamespace(adapter=lambda: None)
    session = SimpleNamespace(config=Config.model_validate({"select": {"strategy": strategy}}))
    prepared = SimpleNamespace(target=None)
    state = RoundState(session, prepared, history, clusters, Budget("examples", examples))
    state.__dict__["pool"] = SimpleNamespace(cluster=np.arange(250), rows=np.arange(250))
    assert sample_size(state) == size


@pytest.mark.parametrize(
    ("examples", "clusters", "passes", "measured"),
    [(1_000, 250, 1, 1), (9_000, 250, 1, 8), (3_000, 250, 1, 4), (3_000, 250, 1.5, 2)],
)
def test_measuring_may_take_a_ninth_of_the_time_of_training(examples, clusters, passes, measured):
    assert sample_per_cluster(affordable(examples, passes), clusters) == measured


def scored(number, budget=1_000, **sections):
    """Examples that the plan of a round of `budget` examples of an even pool counts as measured."""
    from al.planning.scoring_estimate import examples_scored

    pool = PoolEstimate(examples=60_000, mean_tokens=150.0, bytes=10**7, new_to_embed=0, new_to_map=0, exact=True)
    return examples_scored(Config.model_validate(sections), pool, budget * 150.0, number)


def test_where_the_default_goes_by_sources_nothing_is_measured_for_quotas():
    from al.planning.scoring_estimate import examples_scored

    pool = PoolEstimate(60_000, mean_tokens=150.0, bytes=10**7, new_to_embed=0, new_to_map=0, exact=True)
    by_sources, settings = replace(pool, several_sources=True), {"noise": {"look": "none"}}
    default, named = (Config.model_validate({**settings, "select": {"strategy": name}}) for name in ("default", "loss"))
    tokens = 9_000 * 150.0
    assert examples_scored(default, by_sources, tokens, 2) == 0 < examples_scored(default, pool, tokens, 2)
    assert examples_scored(named, by_sources, tokens, 2) == examples_scored(named, pool, tokens, 2) > 0


def test_a_plan_for_a_target_counts_hidden_states_once_and_no_more_than_asked():
    from al.planning.scoring_estimate import examples_of_hidden_states

    pool = PoolEstimate(60_000, mean_tokens=150.0, bytes=10**7, new_to_embed=0, new_to_map=0, exact=True)

    def measured(number: int, strategy: str = "default", **target) -> float:
        sections = {"select": {"strategy": strategy}, "target": target}
        return examples_of_hidden_states(Config.model_validate(sections), pool, number)

    assert [measured(number, files=["exam.jsonl"]) for number in (1, 2)] == [50_000, 0]
    assert measured(1, files=["exam.jsonl"], measured=700) == 700 and measured(1) == 0
    assert measured(1, "rds", files=["exam.jsonl"]) == 0 and measured(1, "rds_centered", files=["exam.jsonl"]) > 0


@pytest.mark.usefixtures("no_embedder")
def test_the_plan_sees_several_sources_in_the_rows(tmp_path):
    def several(name: str, sources: list[str]) -> bool:
        """Whether the plan for a file of rows with these sources expects the default to go by sources."""
        rows = [{"prompt": f"question {i}", "completion": "yes", "source": source} for i, source in enumerate(sources)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        chosen = Config.model_validate({"pool": {"files": [str(tmp_path / name)]}})
        return estimate_pool(chosen, tmp_path / "run").several_sources

    assert several("two.jsonl", ["a", "b"] * 20)
    assert not several("one.jsonl", ["a"] * 40)
    assert not several("each.jsonl", [f"row {i}" for i in range(40)])


def test_a_plan_counts_the_picks_that_are_checked_for_noise():
    random = {"strategy": "random"}
    assert [scored(number, budget=9_000, select=random) for number in (1, 2, 3)] == [0, 512, 0]
    assert scored(2, budget=900, select=random) == 200  # a ninth of the time of training
    assert [scored(number, select=random, noise={"look": "picks"}) for number in (1, 2, 3)] == [0, 1250, 1250]
    assert scored(2, select=random, noise={"look": "measured"}) == 0
    assert scored(2, select=random, noise={"look": "picks", "hold": False}) == 0


def test_a_second_pass_over_responses_makes_measuring_dearer():
    from al.planning.scoring_estimate import seconds_per_token

    looks, does_not = (Config.model_validate({"noise": {"look": look}}) for look in ("auto", "none"))
    assert seconds_per_token(looks, 1000.0, 300.0, 2) == pytest.approx(
        1.5 * seconds_per_token(does_not, 1000.0, 300.0, 2)
    )
    assert seconds_per_token(looks, 1000.0, 300.0, 1) == seconds_per_token(does_not, 1000.0, 300.0, 1)


@pytest.mark.parametrize("rows", [10_000, 100_000, 1_000_000])
def test_the_stages_of_a_pool_take_about_as_long_as_the_record_says(rows):
    record = json.loads((RECORDS / "scale_cpu.json").read_text())["rows"]
    measured = {row["name"]: row["seconds"] for row in record if row["n"] == rows}
    measured["hold out"] = measured["shared-passages"] + measured["nearest"]
    for stage in STAGES:
        assert stage_seconds(stage, rows) == pytest.approx(measured[stage], rel=0.45), stage
    assert stage_seconds("tokenize", rows) == pytest.approx(measured["tokenize"], rel=0.05)
    assert stage_seconds("cluster", 0) == 0
