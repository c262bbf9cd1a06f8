"""Score `less` sums over checkpoints: kept by the round before or by a warm-up, lost by no kill, and of no cost without `less`."""

from __future__ import annotations

import json
import random
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from command_line import winnow, winnow_child
from tiny_world import WORDS

from al.pool.store import Pool
from al.report.summary.cost import kind_of

PICKS, DIMENSION, ROUNDS = 24, 64, (1, 2)


@pytest.fixture(scope="module")
def aimed(world, tmp_path_factory):
    """Config of the small world with a target of two tasks and score `less`."""
    root = tmp_path_factory.mktemp("aimed")
    rng = random.Random(8)
    paths = []
    for task, place in (("begin", 0), ("end", -1)):
        asked = [rng.sample(WORDS, 6) for _ in range(5)]
        rows = [(f"{task} with one of {' '.join(words)}", words[place]) for words in asked]
        lines = [
            json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]})
            for q, a in rows
        ]
        paths.append(root / f"{task}.jsonl")
        paths[-1].write_text("\n".join(lines) + "\n")
    config = yaml.safe_load(world.read_text())
    config["target"] = {"files": [str(path) for path in paths]}
    config["score"] |= {"by": "less", "gradient_dimension": DIMENSION, "sample_per_cluster": 3}
    config["select"] = {"strategy": "top"}
    config["train"] |= {"epochs": 2, "checkpoint_every": 3}
    config["evaluate"] |= {"generations": 0}
    path = root / "aimed.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def arguments(config, run):
    return ("round", "--config", config, "--run", run, "--budget", PICKS)


@pytest.fixture(scope="module")
def run(aimed, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "less"
    for number in ROUNDS:
        result = winnow(*arguments(aimed, path), *(("--no-control",) if number == 2 else ()))
        assert result.code == 0, result.err
    return path


def read(path):
    return json.loads(path.read_text())


def source(run, number):
    """The training whose checkpoints gave the gradients of a round."""
    return run / ("rounds/001/warmup.train" if number == 1 else "rounds/001/train")


def cosines(left, right):
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (left, right))
    first, second = (vectors.astype(np.float64) for vectors in units)
    return first @ second.T


def by_hand(config, run, number, statistics):
    """LESS's definition as a plain loop: Σ over checkpoints of mean learning rate × cosine, the mean over each task's targets, and the
    highest of the tasks. `statistics`: the rows of a score artifact."""
    from al.config import load
    from trainer.gradients import Moments, project_gradients
    from trainer.model import Base
    from trainer.tokens import TokenTable

    settings = load(config)
    base = Base.load(settings.model)
    trained = source(run, number)
    index = read(trained / "checkpoints.json")
    inputs = read(run / f"rounds/00{number}/score.target/manifest.json")["inputs"]
    pool = TokenTable.open(run / f"rounds/00{number}/tokens")
    targets = TokenTable.open(run / "artifacts/tokens" / inputs["tokens"])
    files = Pool.open(next((run / "artifacts/target_pool").iterdir())).sources
    assert len(set(files)) == 2 and len(targets.lengths) == len(files)
    total = 0.0
    for entry in index:
        folder = trained if entry is index[-1] else trained / f"checkpoints/step-{entry['step']:06d}"
        with base.adapter(folder / "adapter", trainable=True) as model:
            same = {"dimension": DIMENSION, "batch_tokens": 512, "seed": settings.seed}
            moments = Moments.open(folder / "moments.safetensors", "cpu")
            assert moments.steps == entry["step"]
            mine = project_gradients(model, pool, statistics["row"], moments=moments, **same)
            theirs = project_gradients(model, targets, np.arange(len(files)), **same)
        total = total + entry["learning_rate"] * cosines(mine, theirs)
    of_task = [total[:, np.asarray(files) == name].mean(axis=1) for name in sorted(set(files))]
    return np.max(of_task, axis=0) / sum(entry["learning_rate"] for entry in index)


@pytest.mark.parametrize("number", ROUNDS)
def test_the_score_is_the_sum_over_checkpoints_of_a_plain_loop(aimed, run, number):
    folder = run / f"rounds/00{number}/score"
    measured = pq.read_table(folder / "statistics.parquet").to_pydict()
    measured = {name: np.array(values) for name, values in measured.items()}
    found = pq.read_table(run / f"rounds/00{number}/selection/selection.parquet").to_pandas().set_index("row")
    expected = by_hand(aimed, run, number, measured)
    assert len(expected) > 10 and expected.std() > 0.01
    np.testing.assert_allclose(found.loc[measured["row"], "less"], expected, atol=2e-3)
    shares = read(folder / "score.json")["checkpoint_shares"]
    assert len(shares) > 1 and sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("number", ROUNDS)
def test_checkpoints_are_even_over_the_steps_and_weighted_by_mean_learning_rates(aimed, run, number):
    from al.config import load
    from trainer.optim import learning_rate

    trained, settings = source(run, number), load(aimed).train
    index, steps = read(trained / "checkpoints.json"), read(trained / "train.json")["steps"]
    kept = [entry["step"] for entry in index]
    assert kept == sorted({-(-steps * part // 4) for part in (1, 2, 3, 4)}) and kept[-1] == steps
    rates = [learning_rate(step, steps, settings) for step in range(steps)]
    for before, entry in zip([0, *kept], index, strict=False):
        assert entry["learning_rate"] == pytest.approx(np.mean(rates[before : entry["step"]]))


def test_the_warm_up_is_random_and_small_and_no_pick(run):
    rows = np.load(run / "rounds/001/warmup.packs/rows.npy")
    table = pq.read_table(run / "rounds/001/selection/selection.parquet").to_pandas()
    may_be_picked = table[table.outcome.isin(["selected", "tail_cut", "quota_full", "no_quota"])]
    assert set(rows) <= set(may_be_picked.row) and len(rows) == round(0.05 * len(may_be_picked))
    picked = set(table[table.outcome == "selected"].row)
    assert len(picked) == PICKS and not set(rows) <= picked
    assert set(np.load(run / "rounds/001/packs/rows.npy")) == picked
    second = pq.read_table(run / "rounds/002/selection/selection.parquet").to_pandas()
    assert set(second[second.outcome == "trained"].row) == picked
    assert not list((run / "rounds/002").glob("warmup*"))


def test_the_report_counts_the_warm_up_as_part_of_selecting(run):
    summary = read(run / "rounds/001/summary.json")
    parts = [summary["timings"][label] for label in ("pack warm-up", "warm up")]
    assert min(parts) > 0 and {kind_of(label) for label in ("pack warm-up", "warm up")} == {"selecting"}
    assert summary["cost"]["seconds"]["selecting"] >= sum(parts)
    assert summary["plan"]["selecting"]["planned"] > 0


def test_a_round_without_less_keeps_nothing_and_neither_does_the_control(run, two_rounds):
    plain = two_rounds[0] / "rounds/002"
    for folder in (plain / "train", plain / "control.train", run / "rounds/001/control.train"):
        assert {path.name for path in folder.iterdir()} == {"adapter", "curve.jsonl", "train.json", "manifest.json"}
        params = read(folder / "manifest.json")["params"]
        assert not {"moments", "checkpoints"} & params.keys()
    assert not list(plain.glob("warmup*"))


def test_one_checkpoint_is_the_adapter_itself_without_a_warm_up(aimed, tmp_path):
    one = ("--set", "score.checkpoints=1", "--no-control")
    assert winnow_child(*arguments(aimed, tmp_path / "run"), *one, WINNOW_FAILPOINT="train.start").code == -9
    documents = [read(path) for path in (tmp_path / "run/artifacts/score").glob("*/score.json")]
    assert [document["adam_moments"] for document in documents if document["examples"]] == [False, False]
    assert all(document["checkpoint_shares"] == [1.0] for document in documents)


def everything(run):
    """Bytes of what gradients come from and of the gradients, by name."""
    first = run / "rounds/001"
    parts = [first / name for name in ("warmup.train", "train", "score", "shortlist", "score.target", "selection")]
    files = [path for part in parts for path in sorted(part.rglob("*")) if path.is_file()]
    kept = [path for path in files if path.name not in ("manifest.json", "train.json", "curve.jsonl")]
    return {path.relative_to(first).as_posix(): path.read_bytes() for path in kept}


def test_killed_in_the_warm_up_in_a_pass_and_in_training_it_ends_with_the_same_bytes(aimed, run, tmp_path):
    killed = tmp_path / "run"
    for point in ("train.step:3", "train.files", "score.shard:3", "train.step:5", "train.checkpoint.before_rename:2"):
        found = winnow_child(*arguments(aimed, killed), WINNOW_FAILPOINT=point)
        assert found.code == -signal.SIGKILL, f"{point} was never passed: {found.err}"
    assert winnow(*arguments(aimed, killed)).code == 0
    left, right = everything(killed), everything(run)
    assert left.keys() == right.keys()
    assert [name for name in left if left[name] != right[name]] == []
    assert sum("checkpoints/step" in name and name.endswith("moments.safetensors") for name in left) >= 3


def test_what_gc_deletes_is_no_checkpoint(run):
    before = everything(run)
    assert winnow("gc", "--run", run, "--yes").code == 0
    assert everything(run) == before
