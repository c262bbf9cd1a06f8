"""The default strategy with a target: nearest by hidden states of the base, measured once; a kind that the pool may lack is said."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import winnow
from tiny_world import WORDS

from al.labels import TARGET_NOT_HELD
from al.preparation.target import holds_kind, nearest_other

BUDGET = 20


def write(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Conversations of (system, question, answer)."""
    roles = ("system", "user", "assistant")
    lines = ({"messages": [{"role": r, "content": c} for r, c in zip(roles, row, strict=True)]} for row in rows)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> Path:
    """Examples like those of the pool's second source."""
    rng = random.Random(5)
    drawn = [rng.sample(WORDS, rng.randint(3, 9)) for _ in range(10)]
    rows = [("kind 1", f"task 1 say the last of {' '.join(words)}", words[-1]) for words in drawn]
    return write(tmp_path_factory.mktemp("target") / "held.jsonl", rows)


@pytest.fixture(scope="module")
def alien(tmp_path_factory) -> Path:
    """Examples of a kind that the pool has not."""
    rows = [("", f"opposite of {word}", f"opposite {word}") for word in random.Random(5).sample(WORDS, 9)]
    return write(tmp_path_factory.mktemp("target") / "alien.jsonl", rows)


def do_round(world, run, *more):
    result = winnow("round", "--config", world, "--run", run, "--budget", BUDGET, "--no-control", *more)
    assert result.code == 0, result.err
    return result, json.loads((run / "rounds/001/summary.json").read_text())


def picks(run):
    table = pq.read_table(run / "rounds/001/selection/selection.parquet").to_pandas()
    return table[table.outcome == "selected"]


def test_the_default_strategy_goes_for_the_nearest_by_hidden_states(world, held, tmp_path):
    result, summary = do_round(world, tmp_path / "run", "--target", held)
    assert summary["scoring"]["target"]["held"] is True and TARGET_NOT_HELD[:40] not in result.out
    assert (summary["selection"]["strategy"], summary["selection"]["picker"]) == ("rds_centered", "rds_centered")
    found = picks(tmp_path / "run")
    assert (found.source == "source-1").mean() > 0.7  # 25% of the pool
    assert found.why.str.contains("to target example").all()
    assert summary["scoring"]["measured"] == 0  # no losses
    quotas = json.loads((tmp_path / "run/rounds/001/selection/quotas.json").read_text())
    assert sum(entry["picked"] for entry in quotas) == sum(entry["quota"] for entry in quotas) == BUDGET
    assert "nearest" in (tmp_path / "run/rounds/001/report.html").read_text()


def test_hidden_states_are_of_the_base_and_measured_once_for_all_rounds(world, held, tmp_path):
    run = tmp_path / "run"
    do_round(world, run, "--target", held)
    states = run / "artifacts/hidden_states"
    (made,) = states.iterdir()
    vectors, aims, rows = (np.load(made / f"{name}.npy") for name in ("pool", "target", "rows"))
    assert len(vectors) == len(rows) and (np.diff(rows) > 0).all() and vectors.shape[1] == aims.shape[1]
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)
    assert winnow("round", "--run", run, "--budget", BUDGET, "--no-control").code == 0
    assert list(states.iterdir()) == [made]
    table = pq.read_table(run / "rounds/002/selection/selection.parquet").to_pandas()
    second = table[table.outcome == "selected"]
    assert second.why.str.contains("to target example").all() and not set(second.id) & set(picks(run).id)


def test_of_a_large_pool_those_nearest_by_embeddings_are_measured(world, held, tmp_path):
    do_round(world, tmp_path / "run", "--target", held, "--set", "target.measured=30")
    (made,) = (tmp_path / "run/artifacts/hidden_states").iterdir()
    assert len(np.load(made / "rows.npy")) == 30
    table = pq.read_table(tmp_path / "run/rounds/001/selection/selection.parquet").to_pandas()
    measured = table.iloc[np.load(made / "rows.npy")]
    assert (measured.source == "source-1").mean() > 0.7
    assert set(table[table.outcome == "selected"].id) <= set(measured.id)


def test_trap_27_aiming_at_what_the_pool_does_not_hold_is_noticed_and_said(world, alien, tmp_path):
    result, summary = do_round(world, tmp_path / "aimed", "--target", alien)
    told = " ".join(result.out.split())
    assert f"note: {TARGET_NOT_HELD}" in told  # before anything is scored
    assert f"Note: {TARGET_NOT_HELD}." in told  # and with the results
    assert summary["scoring"]["target"]["held"] is False
    assert json.loads((tmp_path / "aimed/rounds/001/target/target.json").read_text())["held"] is False
    page = " ".join((tmp_path / "aimed/rounds/001/report.html").read_text().split())
    assert TARGET_NOT_HELD.replace("'", "&#39;") in page
    assert (
        picks(tmp_path / "aimed").why.str.contains("to target example").all()
    )  # embeddings miss kin, so it aims all the same


def test_json_output_stays_one_document(world, alien, tmp_path):
    result, _ = do_round(world, tmp_path / "run", "--target", alien, "--json")
    assert result.document["scoring"]["target"]["held"] is False


def test_a_comparison_says_it_too(world, alien, tmp_path):
    options = ("--config", world, "--run", tmp_path / "run", "--budget", BUDGET, "--rounds", 1, "--target", alien)
    result = winnow("compare", *options, "--seeds", 1, "--strategies", "default", "--json")
    assert result.code == 0, result.err
    assert result.document["notes"] == [TARGET_NOT_HELD]
    assert len(list((tmp_path / "run/artifacts/train").iterdir())) == 2  # the default aims, random does not


def test_strategies_and_pickers_of_ones_own_are_not_overruled(held):
    from types import SimpleNamespace

    from al.config import Config
    from al.lineage.round_state import used

    clusters, sources, kinds = (
        SimpleNamespace(json=lambda name, over=over: {"spread_over": over}) for over in ("clusters", "kinds", "wording")
    )
    target = SimpleNamespace(artifact=SimpleNamespace(json=lambda name: {"held": False}))

    def config(**select) -> Config:
        return Config(select=select)

    assert used(config(), target, clusters).strategy == "rds_centered"
    for own in (config(strategy="nearest"), config(strategy="loss"), config(picker="rds")):
        assert used(own, target, clusters) == own.select
    assert used(config(), None, clusters) == Config().select
    assert used(config(), None, sources).strategy == "source_kinds"
    assert used(config(), None, kinds).strategy == "kind_uniform"
    assert used(config(strategy="loss"), None, sources).strategy == "loss"
    for over in (clusters, sources, kinds):
        assert used(Config(goal="pool"), None, over).strategy == "proportional"
    assert used(Config(goal="pool"), target, clusters).strategy == "rds_centered"
    assert used(Config(goal="pool", select={"strategy": "loss"}), None, clusters).strategy == "loss"


def test_a_kind_is_held_where_most_examples_have_one_as_near_as_each_other():
    itself = np.full(10, 0.8)
    assert holds_kind(np.full(10, 0.76), itself) and not holds_kind(np.full(10, 0.74), itself)
    assert holds_kind(np.r_[np.full(5, 0.9), np.zeros(5)], itself)
    assert not holds_kind(np.r_[np.full(4, 0.9), np.zeros(6)], itself)


def test_the_nearest_other_is_never_itself():
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32)
    np.testing.assert_allclose(nearest_other(vectors), [0.6, 0.8, 0.8], atol=1e-6)
    assert nearest_other(vectors[:1]).tolist() == [1.0]
