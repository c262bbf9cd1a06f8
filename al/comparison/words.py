"""What a comparison shows, in sentences: of strategies on one pool over several seeds, or of rounds of several runs.

Both are one document: entries under the key that "compared" names, each with `final` metrics and its `difference` from the baseline.
A strategy counts as better or worse than the baseline only where the 95% interval of the difference, paired by seed,
leaves zero out and its p stays under 0.05 after Holm's correction for the number of strategies (Holm 1979, "A simple
sequentially rejective multiple test procedure"). With one or two seeds there is no interval, so nothing is claimed. Runs are
compared example by example on one test set, and their intervals are not corrected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from al.comparison.next_step import MOST_SEEDS, command_of, round_command, seeds_to_tell
from al.excerpt import counted
from al.report.reading.values import MISSING, lookup, short, write
from al.report.reading.verdict import MIXES, SHORT_WORDS, Comparison, Outcome

LEVEL = 0.05
LONGEST_NAME = 32
NOT_REACHED = "not reached"
ENOUGH_SEEDS = 5
"""With fewer, no significant difference is put down to the number of seeds. At one standard deviation the t interval of three seeds is
twice as wide as that of five: t(0.975, n - 1) / √n is 2.48 and 1.24."""


class Spoken(NamedTuple):
    """A metric in sentences: its name, the styles of values and differences, the unit of these, and how its best value is called."""

    name: str
    style: str
    difference_style: str
    unit: str
    best: str


SPOKEN = {
    "macro_nll": Spoken("NLL", "nll", "nll", "nats per response token", "lowest"),
    "macro_em": Spoken("exact match", "percent", "points", "points", "highest"),
    "micro_nll": Spoken(f"NLL {MIXES['micro']}", "nll", "nll", "nats per response token", "lowest"),
    "micro_em": Spoken(f"exact match {MIXES['micro']}", "percent", "points", "points", "highest"),
}
"""The metrics that can decide a comparison; answers are not written in one."""


@dataclass(frozen=True)
class Difference(Comparison):
    """A strategy minus the baseline in one metric; `holm` is `p` corrected for the strategies compared, `sd` the standard deviation of the
    paired differences between seeds."""

    holm: float | None = None
    sd: float | None = None

    @property
    def outcome(self) -> Outcome:
        """As the interval says, but unclear where the corrected p is 0.05 or more."""
        by_interval = super().outcome
        return "unclear" if by_interval != "unmeasured" and (self.holm or 0) >= LEVEL else by_interval


def holm(p_values: Mapping[int, float]) -> dict[int, float]:
    """Step-down corrected p values: the i-th smallest of m times (m - i + 1), never falling, at most 1."""
    corrected: dict[int, float] = {}
    floor = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda k: p_values[k])):
        floor = max(floor, min(1.0, p_values[key] * (len(p_values) - rank)))
        corrected[key] = floor
    return corrected


def entries_of(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is compared: the strategies, or the runs of `report --compare`."""
    return document.get(document.get("compared") or "strategies") or []


def compares_runs(document: Mapping[str, Any]) -> bool:
    """Whether rounds of several runs are compared, on one set of test examples and without seeds."""
    return document.get("compared") == "runs"


def differences(document: Mapping[str, Any], metric: str) -> dict[int, Difference]:
    """The measured differences in a metric, by position of the entry; p is corrected for the number of strategies."""
    entries = {
        i: entry
        for i, compared in enumerate(entries_of(document))
        if compared.get("name") != document.get("baseline")
        and (entry := lookup(compared, "difference", metric) or {}).get("value") is not None
    }
    known = {} if compares_runs(document) else {i: e["p"] for i, e in entries.items() if e.get("p") is not None}
    corrected = holm(known)
    return {
        i: Difference(
            name_of(document, i),
            metric,
            *map(entry.get, ("value", "low", "high", "p")),
            holm=corrected.get(i),
            sd=entry.get("sd"),
        )
        for i, entry in entries.items()
    }


def leading_metric(document: Mapping[str, Any]) -> str:
    """The metric that decides, by the rule of `al.evaluation.deciding`; NLL where a document does not name it."""
    metric = lookup(document, "decides", "metric")
    return metric if metric in SPOKEN else f"{'micro' if str(metric).startswith('micro') else 'macro'}_nll"


def leading_nll(document: Mapping[str, Any]) -> str:
    """NLL by the mean of the metric that decides."""
    return f"{leading_metric(document).partition('_')[0]}_nll"


def ranked(document: Mapping[str, Any]) -> list[int]:
    """Positions of the entries by the final value of the deciding metric, best first, unmeasured ones last."""
    metric = leading_metric(document)
    sign = 1.0 if metric.endswith("_nll") else -1.0
    values = [value_of(document, i, metric) for i in range(len(entries_of(document)))]
    return sorted(range(len(values)), key=lambda i: (values[i] is None, sign * (values[i] or 0.0)))


def baseline_of(document: Mapping[str, Any]) -> int | None:
    """Position of the baseline; None where it was not among the entries."""
    names = [entry.get("name") for entry in entries_of(document)]
    return names.index(document.get("baseline")) if document.get("baseline") in names else None


def name_of(document: Mapping[str, Any], i: int, limit: int = LONGEST_NAME) -> str:
    """An entry's name on one line of at most `limit` characters."""
    return short(str(lookup(entries_of(document), i, "name") or MISSING), limit)


def unfinished(document: Mapping[str, Any]) -> bool:
    """Whether fewer runs are done than were asked for."""
    done, asked = document.get("runs_done"), document.get("runs_asked")
    return done is not None and asked is not None and done < asked


def shared_seeds(document: Mapping[str, Any], i: int) -> int | None:
    """Over how many seeds the difference of an entry from the baseline is, if its mean is over other seeds than the baseline's, as while
    runs are missing; None: both are over the same."""
    start = baseline_of(document)
    ours, theirs = (set(() if k is None else lookup(entries_of(document), k, "seeds_done") or ()) for k in (i, start))
    return len(ours & theirs) if ours and theirs and ours != theirs else None


def marked_name(document: Mapping[str, Any], i: int, limit: int = LONGEST_NAME) -> str:
    """An entry's name, with a star where its mean is over other seeds than the baseline's."""
    if shared_seeds(document, i) is None:
        return name_of(document, i, limit)
    return f"{name_of(document, i, limit - 2)} *"


def other_seeds_note(document: Mapping[str, Any]) -> str:
    """What the star of `marked_name` says; "" where no entry has one."""
    if all(shared_seeds(document, i) is None for i in range(len(entries_of(document)))):
        return ""
    name = baseline_name(document)
    return f"*: means over other seeds than {name}'s. The difference is over the seeds that both have, so it is not that of the means."


def comparison_verdict(document: Mapping[str, Any]) -> list[str]:
    """A paragraph on each entry against the baseline, best first: the deciding metric, the other one, examples and tokens."""
    if document.get("why_not"):
        return []
    found, sentences = differences(document, leading_metric(document)), []
    for i in ranked(document):
        if i in found:
            sentences.append(" ".join([_lead_sentence(document, found, i), *_others(document, i)]))
        elif i != baseline_of(document):
            why = "not yet compared" if nll_of(document, i) is None else "not compared"
            sentences.append(f"{name_of(document, i)}: {why} with {baseline_name(document)}.")
    return sentences


def next_step(document: Mapping[str, Any]) -> tuple[str, str] | None:
    """What to do next and its command line: the missing runs, as many seeds as would tell, or a round with the best choice. None where
    nothing was compared, and for runs of `report --compare`."""
    if compares_runs(document):
        return None
    if unfinished(document):
        return "Next, the runs that are missing", command_of(document)
    found = differences(document, leading_metric(document))
    outcomes = {difference.outcome for difference in found.values()}
    if not outcomes:
        return None
    if "better" in outcomes:
        best = next(i for i in ranked(document) if i in found and found[i].outcome == "better")
        return f"Next, train with {name_of(document, best)}", round_command(document, best)
    start = baseline_of(document)
    train = f"train with {baseline_name(document)}, which costs nothing to choose"
    if not outcomes & {"unclear", "unmeasured"}:
        return f"Next, {train}", round_command(document, start)
    if "unmeasured" in outcomes:
        why = "three give an interval too, but one that is twice as wide at the same spread"
        return f"Next, {ENOUGH_SEEDS} seeds: {why} (finished runs are kept)", command_of(document, ENOUGH_SEEDS)
    needed = {}
    for i, difference in found.items():
        seeds = len(entries_of(document)[i].get("seeds_done") or [])
        ends = (difference.value, difference.low, difference.high)
        if difference.outcome == "unclear" and seeds > 1 and None not in ends:
            needed[i] = seeds_to_tell(*ends, seeds, len(found))
    enough = {i: seeds for i, seeds in needed.items() if seeds is not None}
    if not enough:
        return (
            f"Even {MOST_SEEDS} seeds would not show a difference this small: take the strategies as equal at this budget, or raise it. "
            f"If equal, {train}",
            round_command(document, start),
        )
    first = min(enough, key=lambda i: enough[i])
    reason = (
        f"Next, {enough[first]} seeds: they show whether {name_of(document, first)} differs from {baseline_name(document)}, if difference "
        "and spread stay as they are (finished runs are kept)"
    )
    return reason, command_of(document, enough[first])


def next_sentence(document: Mapping[str, Any]) -> str:
    """`next_step` as one sentence that ends with the command; "" where there is none."""
    return ": ".join(next_step(document) or ())


def share_text(document: Mapping[str, Any], i: int) -> str:
    """The part of the baseline's examples that a strategy needs for the same NLL, in words where it is no number."""
    if i == baseline_of(document):
        return "baseline"
    share = lookup(entries_of(document), i, "share")
    if share is None or nll_of(document, i) is None:
        return MISSING
    value = write(share.get("value"), "percent")
    return NOT_REACHED if value == MISSING else f"at most {value}" if share.get("bound") else value


def groups_text(document: Mapping[str, Any]) -> str:
    """What a macro metric is the mean over, "391 sources"."""
    name = short(str(document.get("groups_name") or ""), LONGEST_NAME)
    if name == "source":
        return f"{write(document.get('groups'), 'count')} sources"
    return f"{write(document.get('groups'), 'count')} groups" + (f" ({name})" if name else "")


def other_metric(metric: str) -> str:
    """NLL for exact match and the other way round, by the same mean."""
    mean, _, measure = metric.partition("_")
    return f"{mean}_em" if measure == "nll" else f"{mean}_nll"


def _lead_sentence(document: Mapping[str, Any], found_in: Mapping[int, Difference], i: int) -> str:
    """ "rds: NLL 1.120, 0.210 nats per response token below random's 1.330 (95% interval 0.180 to 0.240, p …)."."""
    metric = leading_metric(document)
    found, start, spoken = found_in[i], baseline_of(document), SPOKEN[metric]
    baseline = None if start is None else value_of(document, start, metric)
    both = shared_seeds(document, i)
    theirs = f"{baseline_name(document)}'s {write(baseline, spoken.style)}"
    theirs += "" if both is None else f" by the {counted(both, 'seed')} that both have"
    lead = f"{name_of(document, i)}: {spoken.name} {write(value_of(document, i, metric), spoken.style)}, "
    size = f"{write(abs(found.value or 0), spoken.difference_style)} {spoken.unit} {'below' if (found.value or 0) < 0 else 'above'}"
    between = _between_seeds(found)
    if found.outcome == "unmeasured":
        return f"{lead}{size} {theirs}, but without an interval (it takes three seeds) that may be chance{between}."
    signed = found.outcome == "unclear"
    ends = (found.low or 0.0, found.high or 0.0)
    bounds = ends if signed else sorted(map(abs, ends))
    interval = " to ".join(write(bound, spoken.difference_style, signed=signed) for bound in bounds)
    inside = f"95% interval {interval}{_p_text(found, sum(d.holm is not None for d in found_in.values()))}{between}"
    if not signed:
        return f"{lead}{size} {theirs} ({inside})."
    value = write(found.value, spoken.difference_style, signed=True)
    return f"{lead}no significant difference from {theirs} (difference {value} {spoken.unit}, {inside})."


def _between_seeds(found: Difference) -> str:
    """How much the differences of single seeds vary; "" where one seed, or no number of seeds, is behind the difference."""
    if found.sd is None:
        return ""
    return f"; standard deviation between seeds {write(found.sd, SPOKEN[found.metric].difference_style)}"


def _p_text(found: Difference, count: int) -> str:
    if found.holm is None:
        return ""
    p = write(found.holm, "p")
    return f", p {p if p.startswith('<') else '= ' + p}" + (f" corrected for {count} strategies" if count > 1 else "")


def _others(document: Mapping[str, Any], i: int) -> list[str]:
    """Sentences on the metric that does not decide, examples for the same NLL, and equal tokens."""
    baseline, sentences, other = baseline_name(document), [], other_metric(leading_metric(document))
    compared, nll = differences(document, other), differences(document, leading_nll(document)).get(i)
    if i in compared:
        found, spoken = compared[i], SPOKEN[other]
        value, *ends = (write(x, spoken.difference_style, signed=True) for x in (found.value, found.low, found.high))
        inside = (
            "no interval" if found.outcome == "unmeasured" else f"{' to '.join(ends)}, {SHORT_WORDS[found.outcome]}"
        )
        sentences.append(f"{spoken.name[0].upper()}{spoken.name[1:]} {value} {spoken.unit} ({inside}).")
    if nll is None:
        return sentences
    if lookup(entries_of(document), i, "share") is not None and nll.outcome != "unclear":
        part = share_text(document, i)
        if part == NOT_REACHED:
            sentences.append(f"It does not reach {baseline}'s final NLL.")
        elif lookup(entries_of(document), i, "share", "value") < 1:  # one round shows nothing of the way there
            sentences.append(f"It has {baseline}'s final NLL with {part} of {baseline}'s examples.")
    equal = lookup(entries_of(document), i, "equal_tokens", "difference")
    if equal is not None:
        turned = nll.outcome in ("better", "worse") and equal * (nll.value or 0) < 0
        sentences.append(
            f"At equal training tokens the difference is {write(equal, 'nll', signed=True)}"
            + (": the opposite sign." if turned else ".")
        )
    return sentences


def value_of(document: Mapping[str, Any], i: int, metric: str) -> float | None:
    """The mean of a metric of an entry after its last round."""
    return lookup(entries_of(document), i, "final", metric, "mean")


def nll_of(document: Mapping[str, Any], i: int) -> float | None:
    """The mean NLL of an entry after its last round."""
    return value_of(document, i, leading_nll(document))


def baseline_name(document: Mapping[str, Any]) -> str:
    """The baseline's name, cut at `LONGEST_NAME`."""
    return short(str(document.get("baseline") or "the baseline"), LONGEST_NAME)
