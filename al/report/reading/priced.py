"""What the round's gain would have cost at random, in a sentence. It claims no more than the control's curve shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al.report.reading.values import lookup, write
from al.report.reading.verdict import comparisons, nll_metric


def priced(summary: Mapping[str, Any]) -> str:
    """One or two sentences on `at_random`. Where it holds nothing, they say why."""
    found = lookup(summary, "at_random")
    if not found:
        if lookup(summary, "evaluation", "models", "control") is None:
            return "No random control was measured, so there is no estimate of what the same gain would have cost at random."
        return "What the same gain would have cost at random is not recorded for this round."
    relation, examples, spent = found.get("relation"), found.get("examples"), lookup(found, "spent", "examples")
    if relation == "no gain":
        return "There is no gain in NLL over the base model, so no cost at random is estimated."
    amount, own = f"{write(examples, 'count')} examples", f"{write(spent, 'count')} selected ones"
    if relation == "more than":
        text = f"At random the same NLL would have cost more than the control's {amount}, against {own}"
        single = "; the control has one round so far; run another to estimate how much more"
        text += single if found.get("rounds") == 1 else "; the control has not reached it, so how much more is unknown"
    elif relation == "at most":
        text = f"At random at most {amount} reached the same NLL, against {own}: selecting saved nothing here"
    else:
        ratio = examples / spent if spent else None
        text = f"At random the same NLL would have cost about {amount}, {write(ratio, 'ratio')} times the {own}"
        text += ": selecting saved nothing here" if ratio is not None and ratio <= 1 else ""
    return text + "." + _doubt(summary)


def _doubt(summary: Mapping[str, Any]) -> str:
    """An estimate from a difference that may be chance is no more certain than the difference."""
    outcomes = [c.outcome for c in comparisons(summary, nll_metric(summary)) if c.against == "control"]
    if outcomes == ["better"] or outcomes == ["worse"]:
        return ""
    return " NLL does not differ significantly from the control's, so the saving may be zero."
