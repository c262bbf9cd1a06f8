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
from typing import Any

from al.report.reading.values import MISSING, lookup, short, write
from al.report.reading.verdict import SHORT_WORDS, Comparison, Outcome, join_words

LEVEL = 0.05
LONGEST_NAME = 32
NOT_REACHED = "not reached"
ENOUGH_SEEDS = 5
"""With fewer, no significant difference is put down to the number of seeds: the t interval of three is 2.2 times that of many."""


@dataclass(frozen=True)
class Difference(Comparison):
    """A strategy minus the baseline in one metric; `holm` is `p` corrected for the strategies compared."""

    holm: float | None = None

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
        i: Difference(name_of(document, i), metric, *map(entry.get, ("value", "low", "high", "p")), corrected.get(i))
        for i, entry in entries.items()
    }


def ranked(document: Mapping[str, Any]) -> list[int]:
    """Positions of the entries by final macro NLL, best first, unmeasured ones last."""
    values = [nll_of(document, i) for i in range(len(entries_of(document)))]
    return sorted(range(len(values)), key=lambda i: (values[i] is None, values[i] or 0.0))


def baseline_of(document: Mapping[str, Any]) -> int | None:
    """Position of the baseline; None where it was not among the entries."""
    names = [entry.get("name") for entry in entries_of(document)]
    return names.index(document.get("baseline")) if document.get("baseline") in names else None


def name_of(document: Mapping[str, Any], i: int, limit: int = LONGEST_NAME) -> str:
    """An entry's name on one line of at most `limit` characters."""
    return short(str(lookup(entries_of(document), i, "name") or MISSING), limit)


def comparison_headline(document: Mapping[str, Any]) -> str:
    """The answer without numbers: which entries beat the baseline, and which lost to it."""
    if document.get("why_not"):
        return f"No difference is claimed: {document['why_not']}"
    text = _answer(document)
    if not unfinished(document):
        return text
    done, asked = (write(document.get(key), "count") for key in ("runs_done", "runs_asked"))
    return f"Unfinished, {done} of {asked} runs: {text}"


def unfinished(document: Mapping[str, Any]) -> bool:
    """Whether fewer runs are done than were asked for."""
    done, asked = document.get("runs_done"), document.get("runs_asked")
    return done is not None and asked is not None and done < asked


def comparison_verdict(document: Mapping[str, Any]) -> list[str]:
    """A paragraph on each entry against the baseline, best first: NLL, exact match, examples and tokens."""
    if document.get("why_not"):
        return []
    nll, exact_match = differences(document, "macro_nll"), differences(document, "macro_em")
    sentences = []
    for i in ranked(document):
        if i in nll:
            sentences.append(" ".join([_nll_sentence(document, nll, i), *_others(document, nll[i], exact_match, i)]))
        elif i != baseline_of(document):
            why = "not yet compared" if nll_of(document, i) is None else "not compared"
            sentences.append(f"{name_of(document, i)}: {why} with {baseline_name(document)}.")
    return sentences


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
    """What a macro metric is the mean over, "391 groups (source)"."""
    name = short(str(document.get("groups_name") or ""), LONGEST_NAME)
    return f"{write(document.get('groups'), 'count')} groups" + (f" ({name})" if name else "")


def _answer(document: Mapping[str, Any]) -> str:
    measured = [i for i in ranked(document) if nll_of(document, i) is not None]
    nll, baseline, start = differences(document, "macro_nll"), baseline_name(document), baseline_of(document)
    if not measured:
        return "Nothing was measured"
    lowest = name_of(document, measured[0])
    if start not in measured:
        return f"No strategy was compared with {baseline}, so nothing shows that choosing pays; {lowest} has the lowest NLL"
    if not nll:
        return f"Nothing was compared with {baseline}"
    found = {outcome: [i for i in measured if i in nll and nll[i].outcome == outcome] for outcome in SHORT_WORDS}
    named = {outcome: join_words([name_of(document, i) for i in rows]) for outcome, rows in found.items()}
    worse = f"; {named['worse']} {_verb(found['worse'], 'is', 'are')} worse than {baseline}" if found["worse"] else ""
    if found["better"]:
        text = f"{named['better']} beat {baseline} {'on these test examples' if compares_runs(document) else 'beyond chance'}"
        if measured[0] not in found["better"]:
            text += f"; {lowest} has the lowest NLL, but that may be chance"
        else:
            text += f"; {lowest} has the lowest NLL" if len(found["better"]) > 1 else ""
            if lookup(entries_of(document), measured[0], "share", "value") is not None:
                text += f" and needs {share_text(document, measured[0])} of {baseline}'s examples for the same NLL"
        return text + worse + _fallen_exact_match(document, found["better"])
    if len(found["worse"]) == len(nll):
        return worse.removeprefix("; ")
    unsettled = [*found["unclear"], *found["unmeasured"]]
    names = f"whether {name_of(document, unsettled[0])} beats" if len(nll) == 1 else "whether any of them beats"
    if compares_runs(document):
        return f"{'None of them' if len(nll) > 1 else f'{name_of(document, unsettled[0])} did not'} beat {baseline} here{worse}"
    fewest = min(len(entries_of(document)[i].get("seeds_done") or []) for i in unsettled)
    if fewest >= ENOUGH_SEEDS and not found["unmeasured"]:
        return f"Over {fewest} seeds no gain over {baseline} is beyond chance{worse}"
    seeds = "1 seed is" if fewest == 1 else f"{fewest} seeds are"
    first = f"; {lowest} has the lowest NLL, which may be chance" if measured[0] != start else ""
    return f"{seeds} too few to tell {names} {baseline}{worse}{first}"


def _fallen_exact_match(document: Mapping[str, Any], better: list[int]) -> str:
    exact_match = differences(document, "macro_em")
    fallen = [i for i in better if i in exact_match and exact_match[i].outcome == "worse"]
    whose = join_words([name_of(document, i) for i in fallen])
    return f"; but the exact match of {whose} fell below {baseline_name(document)}'s" if fallen else ""


def _nll_sentence(document: Mapping[str, Any], nll: Mapping[int, Difference], i: int) -> str:
    """ "rds: NLL 1.120, 0.210 nats per response token below random's 1.330 (95% interval 0.180 to 0.240, p …)."."""
    found, start = nll[i], baseline_of(document)
    theirs = f"{baseline_name(document)}'s {write(None if start is None else nll_of(document, start), 'nll')}"
    lead = f"{name_of(document, i)}: NLL {write(nll_of(document, i), 'nll')}, "
    size = f"{write(abs(found.value or 0), 'nll')} nats per response token {'below' if (found.value or 0) < 0 else 'above'}"
    if found.outcome == "unmeasured":
        return f"{lead}{size} {theirs}, but without an interval (it takes three seeds) that may be chance."
    signed = found.outcome == "unclear"
    ends = (found.low or 0.0, found.high or 0.0)
    bounds = ends if signed else sorted(map(abs, ends))
    interval = " to ".join(write(bound, "nll", signed=signed) for bound in bounds)
    inside = f"95% interval {interval}{_p_text(found, sum(d.holm is not None for d in nll.values()))}"
    if not signed:
        return f"{lead}{size} {theirs} ({inside})."
    return f"{lead}no significant difference from {theirs} (difference {write(found.value, 'nll', signed=True)}, {inside})."


def _p_text(found: Difference, count: int) -> str:
    if found.holm is None:
        return ""
    p = write(found.holm, "p")
    return f", p {p if p.startswith('<') else '= ' + p}" + (f" corrected for {count} strategies" if count > 1 else "")


def _others(document: Mapping[str, Any], nll: Difference, exact_match: Mapping[int, Difference], i: int) -> list[str]:
    """Sentences on exact match, examples for the same NLL, and equal tokens."""
    baseline, sentences = baseline_name(document), []
    if i in exact_match:
        found = exact_match[i]
        interval = " to ".join(write(bound, "points", signed=True) for bound in (found.low, found.high))
        inside = "no interval" if found.outcome == "unmeasured" else f"{interval}, {SHORT_WORDS[found.outcome]}"
        sentences.append(f"Exact match {write(found.value, 'points', signed=True)} points ({inside}).")
    if lookup(entries_of(document), i, "share") is not None and nll.outcome != "unclear":
        part = share_text(document, i)
        has = f"It has {baseline}'s final NLL with {part} of {baseline}'s examples."
        sentences.append(f"It does not reach {baseline}'s final NLL." if part == NOT_REACHED else has)
    equal = lookup(entries_of(document), i, "equal_tokens", "difference")
    if equal is not None:
        turned = nll.outcome in ("better", "worse") and equal * (nll.value or 0) < 0
        sentences.append(
            f"At equal training tokens the difference is {write(equal, 'nll', signed=True)}"
            + (": the opposite sign." if turned else ".")
        )
    return sentences


def nll_of(document: Mapping[str, Any], i: int) -> float | None:
    """The mean macro NLL of an entry after its last round."""
    return lookup(entries_of(document), i, "final", "macro_nll", "mean")


def baseline_name(document: Mapping[str, Any]) -> str:
    """The baseline's name, cut at `LONGEST_NAME`."""
    return short(str(document.get("baseline") or "the baseline"), LONGEST_NAME)


def _verb(rows: list[int], one: str, many: str) -> str:
    return one if len(rows) == 1 else many
