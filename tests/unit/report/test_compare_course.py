"""The time that a comparison says is left."""

from __future__ import annotations

import pytest

from al.comparison.course import Course, opening

PLANNED = {("loss", 0): 60.0, ("random", 0): 20.0, ("loss", 1): 60.0, ("random", 1): 20.0}


def test_the_plan_is_scaled_by_how_long_finished_runs_took():
    course = Course(PLANNED, {})
    assert course.seconds_left() == 160 and course.announcement(("loss", 0)).endswith(
        "run 1 of 4 (strategy loss, seed 0): about 80 s to 5 min left by the plan"
    )
    course.taken[("loss", 0)] = 180.0
    assert course.seconds_left() == pytest.approx(300)
    assert course.announcement(("random", 0)) == "run 2 of 4 (strategy random, seed 0): about 3 min to 8 min left"
    course.taken[("random", 0)] = 20.0
    assert course.seconds_left() == pytest.approx(80 * 200 / 80)
    assert course.announcement(("loss", 1)) == "run 3 of 4 (strategy loss, seed 1): about 3 min left"


def test_finished_runs_are_counted():
    assert Course(PLANNED, {("loss", 1): 9.0}).resumed() == "1 of 4 runs is finished already and not repeated"
    assert Course(PLANNED, {("loss", 1): 9.0, ("loss", 0): 9.0}).resumed().startswith("2 of 4 runs are ")


def test_one_strategy_and_one_seed_are_singular():
    assert opening(["random"], 1).startswith("1 run: 1 strategy (random) × 1 seed. ")
