"""Whether the selection helped, in a sentence or two that claim no more than the intervals do.

A difference counts as shown when its 95% interval leaves zero out. The sentences report NLL and exact match both,
because gains in one overstate gains in the other, and they say plainly when fine-tuning made the base model worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from al.report.values import lookup, write

Outcome = Literal["better", "worse", "unclear", "unmeasured"]
MODEL_NAMES = {
    "base": "the base model",
    "previous": "the previous round",
    "control": "the random control",
}
HEADLINE_METRICS = ("macro_nll", "macro_em")
OUTCOME_WORDS: dict[str, str] = {
    "better": "better",
    "worse": "worse",
    "unclear": "no difference shown",
    "unmeasured": "not measured",
}
_DIRECTION = {"better": 1, "worse": -1, "unclear": 0, "unmeasured": 0}
_AGAINST_CONTROL = {
    "better": "The selection beat the random control",
    "worse": "The random control beat the selection",
    "unclear": "No difference from the random control was shown",
    "unmeasured": "The selection was not compared with a random control",
}
_AGAINST_BASE = {
    "better": "training improved on the base model",
    "worse": "fine-tuning made the base model worse",
    "unclear": "no difference from the base model was shown",
    "unmeasured": "the base model was not compared",
}


@dataclass(frozen=True)
class Comparison:
    """One metric of the selected model minus that of another, with its 95% interval; NLL in nats, exact match 0..1."""

    against: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None

    @property
    def outcome(self) -> Outcome:
        """Better or worse only where the whole interval lies on one side of zero."""
        if self.value is None or self.low is None or self.high is None:
            return "unmeasured"
        if self.low <= 0 <= self.high:
            return "unclear"
        lower_is_better = "nll" in self.metric
        return "better" if (self.high < 0) == lower_is_better else "worse"

    @property
    def outcome_words(self) -> str:
        """The outcome as a reader sees it."""
        return OUTCOME_WORDS[self.outcome]


def comparisons(summary: Mapping[str, Any], metric: str) -> list[Comparison]:
    """The selected model against base, previous round and control, in that order, as far as they were compared."""
    found = []
    for against in MODEL_NAMES:
        entry = lookup(summary, "evaluation", "differences", f"selected - {against}", metric)
        if entry:
            found.append(Comparison(against, metric, *(entry.get(key) for key in ("value", "low", "high", "p"))))
    return found


def headline(summary: Mapping[str, Any]) -> str:
    """The answer in a few words, judged by macro NLL: did selecting beat random, and is the base model worse off?

    A loss of exact match against the base model is named too when NLL alone would hide it.
    """
    outcomes = {c.against: c.outcome for c in comparisons(summary, "macro_nll")}
    control, base = outcomes.get("control", "unmeasured"), outcomes.get("base", "unmeasured")
    joined = "and" if _DIRECTION[control] == _DIRECTION[base] else "but"
    text = f"{_AGAINST_CONTROL[control]}, {joined} {_AGAINST_BASE[base]}"
    exact_match = {c.against: c.outcome for c in comparisons(summary, "macro_em")}
    if exact_match.get("base") == "worse" and base != "worse":
        text += ", while its exact match fell below the base model's"
    return text


def verdict(summary: Mapping[str, Any]) -> str:
    """A sentence on NLL and one on exact match: whom of base, previous round and control the selection beat or lost to.

    Uses the macro metrics (mean over sources). A comparison that the summary lacks is named as missing, never left out.
    """
    by_metric = {metric: comparisons(summary, metric) for metric in HEADLINE_METRICS}
    if not any(by_metric.values()):
        return "Nothing was compared on held-out examples, so this round shows neither a gain nor a loss."
    nll = _sentence("the selection", by_metric["macro_nll"], "NLL")
    missing = _missing(summary, by_metric["macro_nll"])
    return f"{nll}{missing}. {_sentence('it', by_metric['macro_em'], 'exact match')}."


def _missing(summary: Mapping[str, Any], compared: Sequence[Comparison]) -> str:
    """What a reader would expect to be compared with and is not."""
    against = {c.against for c in compared}
    text = ""
    if (lookup(summary, "round") or 1) > 1 and "previous" not in against:
        text += "; it was not compared with the previous round"
    if "control" not in against:
        trained = lookup(summary, "evaluation", "models", "control") is not None
        what = "it was not compared with the random control" if trained else "no random control was trained"
        text += f"; {what}, so this does not show that selecting pays"
    return text


def _sentence(subject: str, compared: Sequence[Comparison], metric_name: str) -> str:
    """One sentence: what was beaten, what won, what could not be told apart, then what lacks an interval."""
    lead = f"In {metric_name} {subject}"
    if not compared:
        return f"{lead} was not compared"
    if any(c.against == "base" and c.outcome == "worse" for c in compared):
        lead = f"Fine-tuning made the base model worse in {metric_name}: {subject}"
    by_outcome = {word: [c for c in compared if c.outcome == word] for word in OUTCOME_WORDS}
    clauses = []
    for verb, outcome in (("beat", "better"), ("lost to", "worse")):
        margins = [_margin(c, not clauses and i == 0) for i, c in enumerate(by_outcome[outcome])]
        if margins:
            clauses.append(f"{verb} {_and(margins)}")
    text = f"{lead} {' but '.join(clauses)}" if clauses else ""
    if by_outcome["unclear"]:
        unclear = _and([_unclear(c) for c in by_outcome["unclear"]])
        text += f"; no difference was shown from {unclear}" if text else f"{lead} showed no difference from {unclear}"
    if by_outcome["unmeasured"]:
        names = _and([MODEL_NAMES[c.against] for c in by_outcome["unmeasured"]])
        text += f"; no interval was measured against {names}" if text else f"{lead} has no interval against {names}"
    return text


def _margin(comparison: Comparison, full: bool) -> str:
    """A shown difference as a size without sign; the first of a sentence spells unit and interval out."""
    style, unit = _unit(comparison.metric)
    low, high = sorted((abs(comparison.low), abs(comparison.high)))
    words = (unit, "95% interval ") if full else ("", "")
    size, interval = write(abs(comparison.value), style), f"{write(low, style)} to {write(high, style)}"
    return f"{MODEL_NAMES[comparison.against]} by {size}{words[0]} ({words[1]}{interval})"


def _unclear(comparison: Comparison) -> str:
    style, unit = _unit(comparison.metric)
    value = write(comparison.value, style, signed=True)
    interval = f"{write(comparison.low, style, signed=True)} to {write(comparison.high, style, signed=True)}"
    return f"{MODEL_NAMES[comparison.against]} ({value}{unit}, 95% interval {interval})"


def _unit(metric: str) -> tuple[str, str]:
    return ("nll", " nats per response token") if "nll" in metric else ("points", " percentage points")


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
