"""The comparison by source and by task group, and what was forgotten."""

from __future__ import annotations

import numpy as np
import pytest

from al.evaluation.bootstrap import paired_differences
from al.evaluation.breakdown import LEAST_EXAMPLES, by_group, by_source, changed_answers, group_sources
from al.evaluation.metrics import Measured

NAMES = ["gsm8k", "logic-a", "trivia"]
SIZES = [6, LEAST_EXAMPLES, LEAST_EXAMPLES - 1]


def model(shift: float, right: float = 0.5) -> Measured:
    source = np.repeat(np.arange(3), SIZES)
    n = len(source)
    tokens = np.arange(2.0, 2 + n)
    nll = tokens * (2 + shift + 0.3 * np.sin(np.arange(n)))
    correct = (np.arange(n) < right * n).astype(float)
    return Measured(nll, tokens, correct, nll, tokens, correct, source)


def compared() -> tuple[dict[str, Measured], dict]:
    models = {"base": model(0.0), "selected": model(-0.2, 0.8)}
    return models, {"base": paired_differences(models["selected"], models["base"], 100, 0)}


def test_the_first_group_that_fits_takes_a_source():
    patterns = {"reasoning": ["gsm8k*", "logic-?"], "all": ["*"]}
    assert group_sources(["gsm8k-test", "logic-a", "logic-ab"], patterns, {}) == {
        "gsm8k-test": "reasoning",
        "logic-a": "reasoning",
        "logic-ab": "all",
    }


def test_the_config_goes_before_what_the_pool_knows_and_the_rest_has_no_group():
    known = {"a": "QA", "b": "QA"}
    assert group_sources(["a", "b", "c"], {"mine": ["a"]}, known) == {"a": "mine", "b": "QA"}


def test_patterns_mind_case():
    assert group_sources(["GSM8K"], {"reasoning": ["gsm8k"]}, {}) == {}


def test_a_source_has_intervals_from_five_examples_on():
    rows = by_source(NAMES, *compared())
    assert [row["source"] for row in rows] == NAMES and [row["examples"] for row in rows] == SIZES
    assert ["intervals" in row for row in rows] == [True, True, False]
    ends, change = rows[0]["intervals"]["base"]["nll"], rows[0]["selected_nll"] - rows[0]["base_nll"]
    assert change == pytest.approx(-0.2) and ends["low"] <= change + 1e-9 and ends["high"] >= change - 1e-9


def test_a_group_is_the_mean_of_its_sources():
    models, against = compared()
    rows = by_source(NAMES, models, against)
    (group,) = by_group(NAMES, models, against, {"gsm8k": "reasoning", "trivia": "reasoning"})
    assert (group["group"], group["sources"], group["examples"]) == ("reasoning", 2, SIZES[0] + SIZES[2])
    assert group["models"]["base"]["nll"] == pytest.approx((rows[0]["base_nll"] + rows[2]["base_nll"]) / 2)
    found = group["differences"]["base"]["nll"]
    assert found["value"] == pytest.approx(group["models"]["selected"]["nll"] - group["models"]["base"]["nll"])
    assert found["low"] - 1e-9 <= found["value"] <= found["high"] + 1e-9


def test_without_groups_there_are_no_rows():
    assert by_group(NAMES, *compared(), {}) == []


def test_forgotten_is_right_before_and_wrong_now():
    before, now = model(0.0, 0.6), model(0.1, 0.2)
    found = changed_answers(before, now)
    n = sum(SIZES)
    assert found["forgotten"] == before.correct.sum() - now.correct.sum() and found["learned"] == 0
    assert found["forgotten"] + found["learned"] + found["kept"] + found["never"] == n == found["nll_rose"]
    assert found["p"] == pytest.approx(2 * 0.5 ** found["forgotten"])


def test_nothing_changed_is_no_evidence():
    assert changed_answers(model(0.0), model(0.0))["p"] == 1.0
