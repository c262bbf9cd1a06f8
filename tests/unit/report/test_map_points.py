"""The map's columns say of every point what the pool says of its example."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from al.report.summary import map_points as module
from al.report.summary.map_points import OTHER_SOURCE, STEPS, TEXTS, choose_points, choose_texts, map_points

N = 500


def made(n: int = N) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    outcome = np.where(rng.random(n) < 0.1, "selected", "quota_full")
    return {
        "xy": rng.normal(size=(n, 2)) * [3.0, 1.0],
        "cluster": rng.integers(0, 40, n),
        "source": np.array(["rare", "common", "common", "common"])[rng.integers(0, 4, n)],
        "outcome": outcome.tolist(),
        "round_of": np.where(outcome == "selected", 2, rng.integers(0, 2, n)),
        "score": np.where(rng.random(n) < 0.5, rng.gamma(4, 0.5, n), np.nan),
        "score_name": "nll",
    }


def column(document: dict[str, Any], name: str) -> np.ndarray:
    kind = "<u1" if name in ("round", "outcome") else "<u2"
    return np.frombuffer(base64.b64decode(document[name]), dtype=kind).astype(np.int64)


def test_every_column_reads_back():
    pool = made()
    document, rows = map_points(**pool)
    assert document["points"] == document["sampled_from"] == N and rows.tolist() == list(range(N))
    assert column(document, "cluster").tolist() == pool["cluster"].tolist()
    assert column(document, "round").tolist() == pool["round_of"].tolist()
    assert [document["outcomes"][code] for code in column(document, "outcome")] == pool["outcome"]
    assert [document["sources"][code] for code in column(document, "source")] == pool["source"].tolist()
    assert document["sources"] == ["common", "rare"], "the largest source first, so that it gets a colour"


def test_places_keep_their_proportions():
    pool = made()
    document, _ = map_points(**pool)
    x, y = column(document, "x"), column(document, "y")
    side = np.ptp(pool["xy"], axis=0).max()
    for steps, wanted in ((x, pool["xy"][:, 0]), (y, pool["xy"][:, 1])):
        np.testing.assert_allclose(np.diff(steps) / STEPS, np.diff(wanted) / side, atol=2 / STEPS)
    assert x.min() == 0 and x.max() == STEPS and y.min() > 0 and y.min() + y.max() == pytest.approx(STEPS, abs=2)


def test_scores_are_exact_to_three_digits_and_unmeasured_ones_are_told_apart():
    pool = made()
    document, _ = map_points(**pool)
    steps, ends = column(document, "score"), document["score_range"]
    known = np.isfinite(pool["score"])
    assert ((steps > 0) == known).all() and ends["measured"] == known.sum()
    read = ends["low"] + (steps[known] - 1) / (STEPS - 1) * (ends["high"] - ends["low"])
    np.testing.assert_allclose(read, pool["score"][known], rtol=1e-3)
    assert ends["low"] < ends["shown_low"] < ends["shown_high"] < ends["high"]


@pytest.mark.parametrize("score", [np.full(N, np.nan), np.full(N, 1.5)])
def test_scores_that_are_missing_or_all_the_same_make_a_map(score: np.ndarray):
    document, _ = map_points(**made() | {"score": score})
    assert set(column(document, "score")) == {int(np.isfinite(score[0]))}


def test_a_pool_of_one_or_none_makes_a_map():
    for n in (1, 0):
        document, rows = map_points(**made(n))
        assert document["points"] == len(rows) == n


def test_a_map_has_room_for_this_rounds_picks_then_for_earlier_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "POINTS", 100)
    picked = np.arange(1000) % 25 == 0
    trained = np.arange(1000) % 20 == 1
    rows = choose_points(picked, trained)
    assert (
        len(rows) == 100
        and np.isin(np.flatnonzero(picked), rows).all()
        and np.isin(np.flatnonzero(trained), rows).all()
    )
    assert (np.diff(rows) > 0).all() and len(choose_points(np.ones(1000, bool), trained)) == 100


@pytest.mark.parametrize(("picks", "shown"), [(50, 50), (5000, TEXTS // 2), (9500, TEXTS - 500)])
def test_picked_points_fill_at_least_half_of_the_texts(picks: int, shown: int):
    picked = np.arange(10_000) < picks
    at = choose_texts(picked)
    assert len(at) == len(set(at.tolist())) == TEXTS and picked[at].sum() == shown


def test_more_sources_than_codes_share_the_last(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "STEPS", 4)
    names, codes = module._codes(np.array(list("aaaabbbccdefg")))
    assert names == ["a", "b", "c", OTHER_SOURCE] and codes.tolist() == [0] * 4 + [1] * 3 + [2] * 2 + [3] * 4
