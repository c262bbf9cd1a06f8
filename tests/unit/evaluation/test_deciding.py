"""Which metric decides follows from the test answers alone."""

from __future__ import annotations

import numpy as np
import pytest

from al.evaluation.deciding import SHORT, deciding_metric, mostly_right_or_wrong


@pytest.mark.parametrize(
    ("leads", "tokens", "metric", "median"),
    [
        (True, [90, 90, 90], "macro_accuracy", 90.0),
        (False, [1, 2, 500], "macro_em", 2.0),
        (False, [SHORT, SHORT], "macro_em", float(SHORT)),
        (False, [SHORT, SHORT + 1], "macro_nll", SHORT + 0.5),
        (False, [], "macro_nll", None),
    ],
)
def test_the_metric_follows_from_the_shape_of_the_answers(leads, tokens, metric, median):
    assert deciding_metric(leads, np.array(tokens)) == {"metric": metric, "response_tokens": median}
    micro = metric.replace("macro", "micro")
    assert deciding_metric(leads, np.array(tokens), "pool") == {"metric": micro, "response_tokens": median}


@pytest.mark.parametrize(
    ("kinds", "mostly"), [({"number": 1, "rouge_l": 1}, True), ({"choice": 1, "rouge_l": 2}, False), ({}, False)]
)
def test_half_of_the_answers_have_to_be_right_or_wrong(kinds, mostly):
    assert mostly_right_or_wrong(kinds) is mostly
