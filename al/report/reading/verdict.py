"""Whether the selection helped, in a sentence or two that claim no more than the intervals do.

A difference counts as shown when its 95% interval leaves zero out. The sentences report NLL and exact match both,
because gains in one overstate gains in the other, and they say plainly when fine-tuning made the base model worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from al import labels
from al.report.reading.values import lookup, write

Outcome = Literal["better", "worse", "unclear", "unmeasured"]
MODEL_NAMES = {"base": "the base model", "previous": "the previous round", "control": "the random control"}
HEADLINE_METRICS = {
    "macro_accuracy": "written accuracy",
    "macro_nll": "NLL",
    "macro_nll_no_end": "NLL without the end-of-turn token",
    "macro_em": "exact match",
}
OUTCOME_WORDS: dict[str, str] = {
    "better": "better",
    "worse": "worse",
    "unclear": "no significant difference",
    "unmeasured": "not measured",
}
SHORT_WORDS: dict[str, str] = {"better": "better", "worse": "worse", "unclear": "n.s.", "unmeasured": "no interval"}
"""For a column of 14; a line below the table says them in full."""


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


def headline_metrics(summary: Mapping[str, Any]) -> list[str]:
    """The metrics of the verdict, the one of the headline first: accuracy of written answers where it leads (`leads`), then NLL."""
    return list(HEADLINE_METRICS)[0 if lookup(summary, "answers", "leads") else 1 :]


def comparisons(summary: Mapping[str, Any], metric: str, *place: str) -> list[Comparison]:
    """The selected model against base, previous round and control, in that order, if they were compared: on test, or at `place`."""
    found, place = [], place or labels.place_of(metric)
    for against in MODEL_NAMES:
        entry = lookup(summary, *place, "differences", f"selected - {against}", metric)
        if entry:
            found.append(Comparison(against, metric, *(entry.get(key) for key in ("value", "low", "high", "p"))))
    return found


def headline(summary: Mapping[str, Any]) -> str:
    """The answer without numbers, by the first headline metric: which models the selection beat, lost to, or did not differ from.

    A loss of exact match against the base model is named too where NLL alone would hide it.
    """
    metric = headline_metrics(summary)[0]
    found = comparisons(summary, metric)
    if not found:
        return "Nothing was compared on held-out examples"
    text = _sentence("the selection", HEADLINE_METRICS[metric], found, numbers=False) + _missing(summary, found)
    worse = {
        m: any(c.against == "base" and c.outcome == "worse" for c in comparisons(summary, m)) for m in HEADLINE_METRICS
    }
    return text + ("; its exact match fell below the base model's" if worse["macro_em"] and not worse[metric] else "")


def verdict(summary: Mapping[str, Any]) -> str:
    """A sentence on each headline metric: which models the selection beat, and by how much.

    Uses the macro metrics (mean over sources). The end token is easy and may hold most of a gain in NLL, so the gain
    is stated without it too. A comparison that the summary lacks is named as missing, never left out.
    """
    by_metric = {metric: comparisons(summary, metric) for metric in headline_metrics(summary)}
    if not any(by_metric.values()):
        return "Nothing was compared on held-out examples, so this round shows neither a gain nor a loss."
    sentences = [
        _sentence("it" if i else "the selection", HEADLINE_METRICS[metric], found)
        for i, (metric, found) in enumerate(by_metric.items())
    ]
    sentences[0] += _missing(summary, next(iter(by_metric.values())))
    return ". ".join(sentences) + "."


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


def _sentence(subject: str, metric_name: str, compared: Sequence[Comparison], numbers: bool = True) -> str:
    """One sentence: what lost, what won, what did not differ significantly, then what lacks an interval."""
    lead = f"In {metric_name} {subject}"
    if not compared:
        return f"{lead} was not compared"
    if any(c.against == "base" and c.outcome == "worse" for c in compared):
        lead = f"Fine-tuning made the base model worse in {metric_name}: {subject}"
    order = [c for outcome in OUTCOME_WORDS for c in compared if c.outcome == outcome]

    others = {
        outcome: join_words([_against(c, numbers, spelled=c is order[0]) for c in order if c.outcome == outcome])
        for outcome in OUTCOME_WORDS
    }
    verbs = {"better": "beat", "worse": "lost to"}
    clauses = [f"{verb} {others[outcome]}" for outcome, verb in verbs.items() if others[outcome]]
    text = f"{lead} {' but '.join(clauses)}" if clauses else ""
    for outcome, verb, what in (
        ("unclear", "showed", "no significant difference from"),
        ("unmeasured", "has", "no interval against"),
    ):
        if others[outcome]:
            text += f"; {what} {others[outcome]}" if text else f"{lead} {verb} {what} {others[outcome]}"
    return text


def _against(comparison: Comparison, numbers: bool, spelled: bool) -> str:
    """The other model and the difference: a size where "beat" or "lost to" stands before it, a signed value elsewhere.

    Unit and "95% interval" are written out for the first of a sentence only.
    """
    name = MODEL_NAMES[comparison.against]
    if not numbers or comparison.outcome == "unmeasured":
        return name
    style, unit = ("nll", "nats per response token") if "nll" in comparison.metric else ("points", "percentage points")
    unit, what = (f" {unit}", "95% interval ") if spelled else ("", "")
    if comparison.outcome == "unclear":
        value, low, high = (write(x, style, signed=True) for x in (comparison.value, comparison.low, comparison.high))
        return f"{name} ({value}{unit}; {what}{low} to {high})"
    low, high = sorted((abs(comparison.low), abs(comparison.high)))
    return f"{name} by {write(abs(comparison.value), style)}{unit} ({what}{write(low, style)} to {write(high, style)})"


def join_words(parts: Sequence[str]) -> str:
    """`a, b and c`; "" for none."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
