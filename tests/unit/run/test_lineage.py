"""What a line of adapters knows of its earlier rounds, and the vectors and losses that later rounds take from them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from al.errors import RunStateError
from al.lineage.history import CONTROL, SELECTED, History
from al.run import rounds
from al.run.store import Run


@pytest.fixture
def run(tmp_path):
    with Run.create_or_open(tmp_path / "run") as opened:
        yield opened


def publish(run, stage, number, **arrays):
    def build(out, scratch):
        for name, values in arrays.items():
            np.save(out / f"{name}.npy", values)

    return run.stage(stage, version=1, inputs={}, params={"number": number}, build=build)


def keys(*values):
    return np.array(values, dtype=np.uint64)


@pytest.fixture
def two_rounds(run):
    """Both lines of two rounds; the third is under way."""
    for number in (1, 2):
        for role, picks in (("selection", (9, number)), ("control.selection", (number + 20,))):
            rounds.record(run, number, role, publish(run, role, number, picked=keys(*picks)))
        for role in ("train", "control.train", "clusters"):
            rounds.record(run, number, role, publish(run, role, number))
    rounds.record(run, 3, "selection", publish(run, "selection", 3, picked=keys(99)))
    return run


def test_lines_do_not_see_each_other(two_rounds):
    ours, theirs = (History.recorded(two_rounds, lineage, 3) for lineage in (SELECTED, CONTROL))
    assert ours.all_picked().tolist() == [9, 1, 9, 2] and theirs.all_picked().tolist() == [21, 22]
    assert [sorted(entry) for entry in ours.rounds] == [["clusters", "selection", "train"]] * 2
    assert [sorted(entry) for entry in theirs.rounds] == [["selection", "train"]] * 2
    assert ours.adapter().stage == "train" and theirs.adapter().stage == "control.train"


def test_the_round_under_way_is_not_history(two_rounds):
    history = History.recorded(two_rounds, SELECTED, 3)
    assert history.number == 3 and history.picked(3).tolist() == []
    assert history.picked(2).tolist() == [9, 2] and history.last("clusters").manifest["params"] == {"number": 2}


def test_the_first_round_has_nothing_before_it(run):
    history = History.recorded(run, SELECTED, 1)
    assert history.number == 1 and history.adapter() is None and history.last("clusters") is None
    assert history.all_picked().dtype == np.uint64 and len(history.all_picked()) == 0


def test_a_history_grows_by_rounds_that_are_recorded_nowhere(run):
    history = History(SELECTED).then({"selection": publish(run, "selection", 1, picked=keys(4, 3))})
    assert history.number == 2 and history.all_picked().tolist() == [4, 3]


def test_an_adapter_that_is_gone_is_told(two_rounds):
    last = History.recorded(two_rounds, SELECTED, 3).last("train")
    two_rounds.forget(last.stage, last.fingerprint)
    with pytest.raises(RunStateError, match="round 2 has no `train` any more.*resume"):
        History.recorded(two_rounds, SELECTED, 3).adapter()


def scored(folder, rows, losses):
    folder.mkdir(parents=True)
    pq.write_table(
        pa.table({"row": np.array(rows), "nll_mean": np.array(losses, dtype=float)}), folder / "statistics.parquet"
    )
    return SimpleNamespace(path=folder)


@pytest.fixture
def grown(tmp_path, monkeypatch):
    """Two measured rounds: of a pool of keys 10, 20, 30, then of one that has 15 and 40 as well."""
    from al.pool.store import Pool

    pools = {"one": keys(10, 20, 30), "two": keys(10, 15, 20, 30, 40)}
    monkeypatch.setattr(Pool, "open", lambda path: SimpleNamespace(keys=pools[path]))
    first = {"pool": SimpleNamespace(path="one"), "score": scored(tmp_path / "a", [0, 1, 2], [3.0, 4.0, 5.0])}
    second = {
        "pool": SimpleNamespace(path="two"),
        "score": scored(tmp_path / "b", [1, 4], [1.5, 2.5]),
        "shortlist": scored(tmp_path / "c", [0], [0.5]),
    }
    for number, done in enumerate((first, second), start=1):
        folder = tmp_path / f"picked{number}"
        folder.mkdir()
        np.save(folder / "picked.npy", keys(*((20,) if number == 1 else (10, 40))))
        done["selection"] = SimpleNamespace(path=folder)
    return History(SELECTED, (first, second))


def test_loss_trajectories_follow_an_example_through_pools(grown, tmp_path):
    from al.scoring.vectors import _trajectories

    pool = SimpleNamespace(keys=keys(10, 15, 20, 30, 40))
    state = SimpleNamespace(pool=pool, history=grown, number=grown.number)
    found = _trajectories(state, np.array([0, 1, 2, 4]), [scored(tmp_path / "now", [2], [9.0])])
    nan = np.nan
    np.testing.assert_array_equal(found, [[3, 0.5, nan], [nan, 1.5, nan], [4, nan, 9], [nan, 2.5, nan]])


def test_past_rounds_are_counted_by_the_present_clusters(grown):
    from al.lineage.past import past_rounds

    state = SimpleNamespace(
        keys=keys(10, 15, 20, 30, 40), cluster=np.array([0, 0, 1, 1, 2]), tokens=np.array([5, 6, 7, 8, 9])
    )
    first, second = past_rounds(grown, state, "examples")
    np.testing.assert_allclose(first.loss, [3.0, 4.5, np.nan])
    np.testing.assert_allclose(second.loss, [1.5, np.nan, 2.5])  # shortlists are no random part of a cluster
    assert first.spent.tolist() == [0, 1, 0] and second.spent.tolist() == [1, 0, 1]
    assert [entry.spent.tolist() for entry in past_rounds(grown, state, "tokens")] == [[0, 7, 0], [5, 0, 9]]
