"""Which metric decides whether selecting paid: a rule that reads the shape of the test answers and none of the results.

A report compares many metrics. If the reader, or the report, could choose among them afterwards, one of them would favour the
selection by chance far more often than one interval in twenty. So one metric is named by this rule before any model is measured:

    test answers                                                        metric
    written, at least half of them right or wrong (kinds, not rouge_l)  macro_accuracy, accuracy of written answers
    not written, median response of at most SHORT tokens                macro_em, teacher-forced exact match
    longer                                                              macro_nll, NLL per response token

With `goal: pool` it is the micro mean of the same metric.

The other metrics are reported, and a significant loss in one of them is part of the headline, because a loss that is named too often
misleads less than a gain that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

MEANS = {"tasks": "macro", "pool": "micro"}
"""The mean that each goal of the config goes by."""
SHORT = 16
"""Response tokens, the end of turn included, up to which a whole response is matched often enough to compare models by it."""


def mostly_right_or_wrong(kinds: Mapping[str, int]) -> bool:
    """Whether at least half of the labelled examples, counted by kind of answer, are judged right or wrong rather than by ROUGE-L."""
    total = sum(kinds.values())
    return total > 0 and 2 * (total - kinds.get("rouge_l", 0)) >= total


def deciding_metric(leads: bool, response_tokens: np.ndarray, goal: str = "tasks") -> dict[str, Any]:
    """The metric that decides, by the rule above.

    Args:
        leads: whether the models wrote answers of which at least half are right or wrong.
        response_tokens: (n,) response tokens of each test example.
        goal: "tasks" or "pool", of the config.

    Returns:
        {"metric": key, "response_tokens": their median, None without test examples}.
    """
    median = float(np.median(response_tokens)) if len(response_tokens) else None
    short = median is not None and median <= SHORT
    measure = "accuracy" if leads else "em" if short else "nll"
    return {"metric": f"{MEANS[goal]}_{measure}", "response_tokens": median}
