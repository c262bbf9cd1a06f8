"""What another round would bring, in a sentence, if the learning curve goes on as between the last two rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from al.report.reading.values import lookup, write
from al.report.reading.verdict import comparisons, nll_metric


def outlook(summary: Mapping[str, Any]) -> str:
    """The change in NLL that as many examples again would bring, with its interval, and their time; "" without a round before.

    NLL is taken as linear in the logarithm of the examples picked so far. The interval is that of the step from the previous round to this
    one; that the curve flattens is not in it.
    """
    steps = [c for c in comparisons(summary, nll_metric(summary)) if c.against == "previous"]
    before = sum(entry.get("examples") or 0 for entry in summary.get("learning_curve") or [])
    picked = lookup(summary, "budget", "examples") or 0
    if not steps or steps[0].value is None or steps[0].low is None or steps[0].high is None or not before * picked:
        return ""
    step, after = steps[0], before + picked
    part = math.log((after + picked) / after) / math.log(after / before)
    change, low, high = (write(part * end, "nll", signed=True) for end in (step.value, step.low, step.high))
    text = f"Another round of {write(picked, 'count')} examples would change NLL by {change} ({low} to {high})"
    seconds = lookup(summary, "work", "seconds", "total")
    time = f", for about {write(seconds, 'seconds')} of this device" if seconds else ""
    return f"{text} if the curve goes on as between the last two rounds{time}."
