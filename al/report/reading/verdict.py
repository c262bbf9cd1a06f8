"""Whether selecting beat random, in one sentence, then the numbers behind it; they claim no more than the intervals do.

A difference counts as shown when its 95% interval leaves zero out. One metric decides, named by a rule that reads no result
(`al.evaluation.deciding`). The sentences report NLL and exact match both, because gains in one overstate gains in the other, and they
say plainly when fine-tuning made the base model worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from al import labels
from al.evaluation.deciding import SHORT
from al.report.reading.values import NOISE, lookup, write

Outcome = Literal["better", "worse", "unclear", "unmeasured"]
MODEL_NAMES = {"control": "the random control", "base": "the base model", "previous": "the previous round"}
HEADLINE_MEASURES = {
    "accuracy": "written accuracy",
    "nll": "NLL",
    "nll_no_end": "NLL without the end-of-turn token",
    "em": "exact match",
}
MIXES = {"macro": "with sources alike", "micro": "over the pool's own mix"}
"""What a mean counts alike, said where it is not the one that decides."""
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
        if self.low <= NOISE and self.high >= -NOISE:
            return "unclear"
        lower_is_better = "nll" in self.metric
        return "better" if (self.high < 0) == lower_is_better else "worse"


def deciding(summary: Mapping[str, Any]) -> str:
    """The metric that decides (`al.evaluation.deciding`). Rounds before that rule: written accuracy where it led, else NLL."""
    older = "macro_accuracy" if lookup(summary, "answers", "leads") else "macro_nll"
    return lookup(summary, "decides", "metric") or older


def nll_metric(summary: Mapping[str, Any]) -> str:
    """NLL by the mean of the metric that decides: "macro_nll" or "micro_nll"."""
    return f"{deciding(summary).partition('_')[0]}_nll"


def headline_metrics(summary: Mapping[str, Any]) -> list[str]:
    """The metrics of the verdict, the deciding one first; accuracy of written answers only where it decides."""
    mean, _, first = deciding(summary).partition("_")
    return [f"{mean}_{name}" for name in (first, *(m for m in HEADLINE_MEASURES if m not in (first, "accuracy")))]


def comparisons(summary: Mapping[str, Any], metric: str, *place: str) -> list[Comparison]:
    """The selected model against base, previous round and control, in that order, if they were compared: on test, or at `place`."""
    found, place = [], place or labels.place_of(metric)
    for against in MODEL_NAMES:
        entry = lookup(summary, *place, "differences", f"selected - {against}", metric)
        if entry:
            found.append(Comparison(against, metric, *(entry.get(key) for key in ("value", "low", "high", "p"))))
    return found


ANSWERS: dict[str, str] = {
    "better": "Yes, selecting beat random",
    "worse": "No, selecting lost to random",
    "unclear": "Cannot tell yet whether selecting beats random",
    "unmeasured": "Cannot tell whether selecting beats random",
}


def headline(summary: Mapping[str, Any]) -> str:
    """Whether selecting beat random in the deciding metric, by how much; then each metric that lost to random or to base. A round without a
    control says what the last one said."""
    metric = deciding(summary)
    compared = {c.against: c for c in comparisons(summary, metric)}
    if "control" not in compared and (earlier := _last_control(summary)):
        text = f"No control in this round; {earlier}"
    elif "control" not in compared:
        why = (_missing(summary, []) if compared else "; nothing was compared on held-out examples").removeprefix("; ")
        text = f"{ANSWERS['unmeasured']}: {why.partition(', so')[0]}"
    else:
        found = compared["control"]
        text = f"{ANSWERS[found.outcome]}: {_against_random(summary, found)}"
        if lost := [_change(c, metric) for c in losses(summary, "control") if c.metric != metric]:
            text += f"; {'it also' if found.outcome == 'worse' else 'but it'} lost to random in {join_words(lost)}"
    worse = [_change(c, metric) for c in losses(summary, "base")]
    return text + (f". Fine-tuning made the base model worse in {join_words(worse)}" if worse else "")


def losses(summary: Mapping[str, Any], against: str, mean: str = "") -> list[Comparison]:
    """Metrics on test in which the selected model is significantly worse than another; of variants of one metric (macro and micro, with
    and without end token) the first that lost. `mean`: only "macro" or "micro". Intervals are not corrected: a loss that is named too
    often misleads less than a gain."""
    found: dict[str, Comparison] = {}
    for metric in (m for m in (*labels.WRITTEN, *labels.METRICS) if m.key.startswith(mean)):
        worse = [c for c in comparisons(summary, metric.key) if c.against == against and c.outcome == "worse"]
        found |= {metric.name.partition(",")[0]: c for c in worse[:1]} | found
    return list(found.values())


def compared_with(summary: Mapping[str, Any], against: str) -> bool:
    """Whether the selected model was compared with another one in the deciding metric."""
    return any(c.against == against for c in comparisons(summary, deciding(summary)))


def _last_control(summary: Mapping[str, Any]) -> str:
    """ "round 2 said: Yes, selecting beat random: …", of the last earlier round with a control; "" if there was none."""
    for entry in reversed(summary.get("learning_curve") or []):
        if entry.get("against_control"):
            return f"round {entry['round']} said: {entry['against_control']}"
    return ""


def _against_random(summary: Mapping[str, Any], found: Comparison) -> str:
    """ "exact match 21.0% against 18.7% (+2.3 points, 95% interval 0.4 to 4.2)", with what NLL is where NLL decides."""
    metric = labels.metric(found.metric)
    values = (
        lookup(summary, *labels.place_of(found.metric), "models", name, found.metric)
        for name in ("selected", "control")
    )
    ours, theirs = (write(value, metric.style) for value in values)
    about = "; NLL is the loss on the true responses, lower is better" if "nll" in found.metric else ""
    return f"{spoken(found.metric)} {ours} against {theirs} ({_signed(found)}{about})"


def spoken(metric: str) -> str:
    """A headline metric in a sentence; what a mean counts alike is said of the pool's mix only, as tasks alike are the default."""
    mean, _, measure = metric.partition("_")
    return HEADLINE_MEASURES[measure] + (f" {MIXES[mean]}" if mean == "micro" else "")


def _change(found: Comparison, deciding: str) -> str:
    """ "NLL (+0.086 nats, +0.010 to +0.162)"; with what its mean counts alike where that of the `deciding` metric differs."""
    mean = found.metric.partition("_")[0]
    name = labels.metric(found.metric).name.replace(f", {mean}", "")
    name = name if name.startswith("NLL") else name[0].lower() + name[1:]
    other = "" if deciding.startswith(mean) else f" {MIXES[mean]}"
    return f"{name}{other} ({_signed(found, short=True)})"


def _signed(found: Comparison, short: bool = False) -> str:
    """ "+2.3 points, 95% interval +0.4 to +4.2"; `short` leaves out what the first of a sentence says."""
    style, unit = (
        ("nll", "nats" if short else "nats per response token") if "nll" in found.metric else ("points", "points")
    )
    value, low, high = (write(x, style, signed=True) for x in (found.value, found.low, found.high))
    lead = "" if short else "95% interval "
    return f"{value} {unit}, " + ("no interval" if found.outcome == "unmeasured" else f"{lead}{low} to {high}")


def deciding_reason(summary: Mapping[str, Any]) -> str:
    """Which metric decides and why, in a sentence; "" for rounds before that rule."""
    metric, tokens = lookup(summary, "decides", "metric"), write(lookup(summary, "decides", "response_tokens"), "count")
    mean, _, measure = (metric or "").partition("_")
    text = {
        "accuracy": "Written accuracy decides, because at least half of the test answers are right or wrong.",
        "em": f"Exact match decides, because the median test response is short: {tokens} tokens (at most {SHORT}).",
        "nll": f"NLL decides, because test responses are long: a median of {tokens} tokens (exact match: at most {SHORT}).",
    }.get(measure, "")
    return f"{text[:-1]}; over the pool's own mix, because that is the goal." if text and mean == "micro" else text


def verdict(summary: Mapping[str, Any]) -> str:
    """A sentence on each headline metric: which models the selection beat, and by how much.

    Uses the means of the metric that decides: macro (over sources) or micro. The end token is easy and may hold most of a gain in NLL, so
    the gain is stated without it too. A comparison that the summary lacks is named as missing, never left out.
    """
    by_metric = {metric: comparisons(summary, metric) for metric in headline_metrics(summary)}
    if not any(by_metric.values()):
        return "Nothing was compared on held-out examples, so this round shows neither a gain nor a loss."
    sentences = [
        _sentence("it" if i else "the selection", spoken(metric), found)
        for i, (metric, found) in enumerate(by_metric.items())
    ]
    sentences[0] += _missing(summary, next(iter(by_metric.values())))
    matched = next((metric for metric in by_metric if metric.endswith("_em")), None)
    if matched and by_metric[matched] and (about := end_token_share(summary, matched)):
        sentences.insert(list(by_metric).index(matched) + 1, about)
    reason = deciding_reason(summary)
    return ". ".join(sentences) + "." + (f" {reason} That was settled before any result." if reason else "")


def end_token_share(summary: Mapping[str, Any], matched: str = "macro_em") -> str:
    """A sentence where at least half of a significant gain in exact match over the base is the end-of-turn token; else "".

    A base model goes on after its answer, so that its whole response hardly ever matches; whatever is trained gains by ending it.
    """
    metrics = (matched, f"{matched}_no_end")
    gain, rest = (next((c for c in comparisons(summary, m) if c.against == "base"), None) for m in metrics)
    if gain is None or rest is None or gain.outcome != "better" or rest.value is None or rest.value > gain.value / 2:
        return ""
    base, without = (write(lookup(summary, "evaluation", "models", "base", m), "percent") for m in metrics)
    outcome = "" if rest.outcome in ("better", "unmeasured") else f", {OUTCOME_WORDS[rest.outcome]}"
    return (
        f"Most of the gain over the base model is the end-of-turn token: without it the base has {without} instead of {base}, and the "
        f"difference is {_signed(rest)}{outcome}"
    )


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
