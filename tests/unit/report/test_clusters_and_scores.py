"""The parts of summary and cards on clusters and scores, from small tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from al.preparation.groups import describe_groups
from al.report.reading.view import agreement_index, agreement_names, heat
from al.report.summary.cards import first_picked, refused
from al.report.summary.clusters import changes_by_cluster, gain
from al.report.summary.selection import agreement, histograms_part
from al.run.artifacts import Artifact, write_json

NAN = float("nan")


def test_a_gain_is_the_loss_before_minus_now_and_its_error_that_of_two_samples():
    found = gain({"loss": 1.5, "loss_stderr": 0.3}, 2.0, 0.4)
    assert found == {"loss_before": 2.0, "loss_before_stderr": 0.4, "gain": 0.5, "gain_stderr": pytest.approx(0.5)}


@pytest.mark.parametrize(("now", "before"), [(None, 2.0), (1.5, NAN)])
def test_a_gain_needs_both_losses(now: float | None, before: float):
    found = gain({"loss": now, "loss_stderr": None}, before, NAN)
    assert found["gain"] is None and found["gain_stderr"] is None
    assert found["loss_before"] == (2.0 if now is None else None)


def clusters(folder: Path, stage: str, number: int) -> Artifact:
    changes = [
        {"old": [1], "new": [1, 4], "reason": "uneven"},
        {"old": [2, 3], "new": [2], "reason": "alike"},
    ]
    write_json(folder / "clusters.json", {"changes": changes})
    return Artifact(stage, "0" * 20, folder, {"params": {"round": number}, "files": {}})


def test_changes_are_told_in_the_round_that_made_them(tmp_path: Path):
    adapted = clusters(tmp_path, "adapted_clusters", 3)
    split = "split from group 1 of the previous clustering: uneven"
    assert changes_by_cluster(adapted, 5, 3) == {
        1: split,
        4: split,
        2: "joined from groups 2, 3 of the previous clustering: alike",
    }
    assert changes_by_cluster(adapted, 5, 4) == {} == changes_by_cluster(clusters(tmp_path, "clusters", 3), 5, 3)


def test_scores_are_compared_where_both_were_measured():
    a = np.array([1.0, 2, 3, 4, NAN, 6])
    (pair,) = agreement({"a": a, "b": -(a**3), "none": np.full(6, NAN)})[:1]
    assert pair == {"scores": ["a", "b"], "spearman": pytest.approx(-1), "examples": 5}
    assert [p["spearman"] for p in agreement({"a": a, "none": np.full(6, NAN)})] == [None]


def test_every_score_that_was_measured_has_a_distribution():
    scores = {"entropy": [NAN] * 4, "ifd": [0.5, 0.6, NAN, NAN], "nll": [1.0, 2.0, NAN, NAN]}
    picked = np.array([True, False, True, False])
    found = histograms_part(
        {name: np.array(values) for name, values in scores.items()}, np.array([10, 20, 30, 40]), picked
    )
    assert list(found) == ["nll", "ifd", "length"]
    for name, other in (("nll", 2), ("ifd", 2)):
        assert found[name]["measured"].sum() == other and found[name]["picked"].sum() == 1
    assert found["length"]["left"].sum() == 2 and found["length"]["picked"].sum() == 2


def test_refused_examples_are_of_as_many_outcomes_as_there_are():
    outcome = np.array(["quota_full"] * 5 + ["selected", "tail_cut"])
    assert refused(np.arange(7), outcome, ["quota_full", "selected", "tail_cut"]) == [0, 6, 1]
    assert refused(np.array([5]), outcome, ["selected"]) == []


def test_the_first_picked_come_first():
    order = np.array([3, -1, 0, 2, 1])
    assert first_picked(np.arange(5), order).tolist() == [2, 4, 3]


def test_a_pair_of_scores_is_found_in_either_order():
    pairs = [{"scores": ["nll", "ifd"]}, {"scores": ["nll", "less"]}]
    summary = {"scoring": {"agreement": pairs}}
    assert agreement_names(summary) == ["nll", "ifd", "less"]
    assert agreement_index(summary, "less", "nll") == 1 and agreement_index(summary, "ifd", "less") is None
    assert agreement_index(summary, "nll", "nll") is None and agreement_names({}) == []


@pytest.mark.parametrize(
    ("value", "name"), [(0.05, ""), (None, ""), (0.45, "heat-plus-2"), (-1.0, "heat-minus-4"), (0.99, "heat-plus-4")]
)
def test_a_correlation_is_coloured_by_sign_and_size(value: float | None, name: str):
    assert heat(value) == name


@pytest.mark.parametrize(
    "found, words",
    [
        ({"k": 48}, "48 clusters of embeddings"),
        ({"k": 40, "spread_over": "wording"}, "40 kinds of prompt"),
        ({"k": 12, "spread_over": "field", "quality": {"by": "source"}}, "12 sources"),
        ({"k": 12, "spread_over": "field", "quality": {"by": "task"}}, "12 values of task"),
        ({"k": 68, "spread_over": "kinds", "quality": {"by": "source", "sources": 68}}, "68 sources"),
        (
            {"k": 1250, "spread_over": "kinds", "quality": {"by": "source", "sources": 3}},
            "1,250 kinds of prompt in 3 sources",
        ),
    ],
)
def test_groups_are_named_by_what_they_are(found, words):
    assert describe_groups({"quality": {}, **found}) == words
