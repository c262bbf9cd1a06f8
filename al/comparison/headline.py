"""The answer of a comparison in a sentence without numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al.comparison.words import (
    ENOUGH_SEEDS,
    SPOKEN,
    Difference,
    baseline_name,
    baseline_of,
    compares_runs,
    differences,
    entries_of,
    leading_metric,
    leading_nll,
    name_of,
    nll_of,
    other_metric,
    ranked,
    share_text,
    unfinished,
    value_of,
)
from al.report.reading.values import NOISE, lookup, write
from al.report.reading.verdict import SHORT_WORDS, join_words


def comparison_headline(document: Mapping[str, Any]) -> str:
    """The answer without numbers: which entries beat the baseline, and which lost to it."""
    if document.get("why_not"):
        return f"No difference is claimed: {document['why_not']}"
    text = _answer(document) + _elsewhere(document)
    if not unfinished(document):
        return text
    done, asked = (write(document.get(key), "count") for key in ("runs_done", "runs_asked"))
    return f"Unfinished, {done} of {asked} runs: {text}"


def _answer(document: Mapping[str, Any]) -> str:
    measured = [i for i in ranked(document) if nll_of(document, i) is not None]
    metric = leading_metric(document)
    found_in, baseline, start = differences(document, metric), baseline_name(document), baseline_of(document)
    best = f"the {SPOKEN[metric].best} {SPOKEN[metric].name}"
    if not measured:
        return "Nothing was measured"
    lowest = name_of(document, measured[0])
    if start not in measured:
        return f"No strategy was compared with {baseline}, so nothing shows that choosing pays; {lowest} has {best}"
    if not found_in:
        return f"Nothing was compared with {baseline}"
    found = {
        outcome: [i for i in measured if i in found_in and found_in[i].outcome == outcome] for outcome in SHORT_WORDS
    }
    named = {outcome: join_words([name_of(document, i) for i in rows]) for outcome, rows in found.items()}
    worse = f"; {named['worse']} {_verb(found['worse'], 'is', 'are')} worse than {baseline}" if found["worse"] else ""
    if found["better"]:
        text = f"{named['better']} beat {baseline} {'on these test examples' if compares_runs(document) else 'beyond chance'}"
        if measured[0] not in found["better"]:
            text += f"; {lowest} has {best}, but that may be chance"
        else:
            text += f"; {lowest} has {best}" if len(found["better"]) > 1 else ""
            if (
                metric == leading_nll(document)
                and lookup(entries_of(document), measured[0], "share", "value") is not None
            ):
                text += f" and needs {share_text(document, measured[0])} of {baseline}'s examples for the same NLL"
        return text + worse
    if len(found["worse"]) == len(found_in):
        return worse.removeprefix("; ")
    unsettled = [*found["unclear"], *found["unmeasured"]]
    names = f"whether {name_of(document, unsettled[0])} beats" if len(found_in) == 1 else "whether any of them beats"
    if compares_runs(document):
        return f"{'None of them' if len(found_in) > 1 else f'{name_of(document, unsettled[0])} did not'} beat {baseline} here{worse}"
    theirs = set(entries_of(document)[start].get("seeds_done") or [])
    fewest = min(len(theirs & set(entries_of(document)[i].get("seeds_done") or [])) for i in unsettled)
    if fewest >= ENOUGH_SEEDS and not found["unmeasured"]:
        return f"Over {fewest} seeds no gain over {baseline} is beyond chance{worse}"
    seeds = "1 seed is" if fewest == 1 else f"{fewest} seeds are"
    leads = value_of(document, measured[0], metric) != value_of(document, start, metric)
    first = f"; {lowest} has {best}, which may be chance" if leads else ""
    return f"{seeds} too few to tell {names} {baseline}{worse}{first}"


def _elsewhere(document: Mapping[str, Any]) -> str:
    """Which entries the metric that does not decide shows the other way round than the one that does."""
    metric = leading_metric(document)
    other = other_metric(metric)
    decided, compared = differences(document, metric), differences(document, other)
    turned = [i for i in ranked(document) if i in decided and _gain(decided[i]) * _gain(compared.get(i)) < 0]
    sure = [i for i in turned if compared[i].outcome in ("better", "worse")]
    lost = [i for i in sure if decided[i].outcome == "better"]
    name, verb = SPOKEN[other].name, "fell below" if other.endswith("_em") else "rose above"
    beyond = "on these test examples" if compares_runs(document) else "beyond chance"
    clauses = (
        (f"; but the {name} of ", lost, f" {verb} {baseline_name(document)}'s"),
        (f"; {name} points the other way for ", [i for i in sure if i not in lost], f", {beyond}"),
        (f"; {name} points the other way for ", [i for i in turned if i not in sure], ", which may be chance"),
    )
    return "".join(
        f"{before}{join_words([name_of(document, i) for i in rows])}{after}" for before, rows, after in clauses if rows
    )


def _gain(found: Difference | None) -> int:
    """1 for a difference in the direction that is better, -1 for one in the other, 0 for none."""
    if found is None or found.value is None or abs(found.value) <= NOISE:
        return 0
    return 1 if (found.value < 0) == ("nll" in found.metric) else -1


def _verb(rows: list[int], one: str, many: str) -> str:
    return one if len(rows) == 1 else many
