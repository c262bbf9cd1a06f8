"""What a comparison of strategies showed: the sentences for terminal and page, and the table for the terminal.

A strategy counts as better or worse than the baseline only where the 95% interval of the difference, paired by seed,
leaves zero out and its p stays under 0.05 after Holm's correction for the number of strategies (Holm 1979, "A simple
sequentially rejective multiple test procedure"). One seed has no interval, so it shows nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from al.report.reading.values import MISSING, displayable, lookup, write
from al.report.reading.verdict import Comparison, Outcome, _and
from al.report.text.terminal import _one_line, _short, _table

LEVEL = 0.05
LONGEST_NAME = 32
NOT_REACHED = "not reached"
_COLORS = {"better": "green", "worse": "red", "unclear": "yellow", "unmeasured": ""}
_WORDS = {"better": "better", "worse": "worse", "unclear": "n.s.", "unmeasured": "no interval"}
_KEY = (
    "NLL in nats per response token, exact match teacher-forced, both as the mean over {groups}. p after Holm's "
    "correction; n.s.: not told apart from {baseline}. Same NLL with: the part of {baseline}'s examples that a strategy "
    "needs for {baseline}'s final NLL. At equal tokens: its NLL minus {baseline}'s after as many training tokens. "
    "Scoring: its part of scoring, selecting and training. Gains in NLL overstate gains in accuracy: read exact match too."
)


@dataclass(frozen=True)
class Difference(Comparison):
    """A strategy minus the baseline in one metric; `holm` is `p` corrected for the strategies compared."""

    holm: float | None = None

    @property
    def outcome(self) -> Outcome:
        """As the interval says, but unclear where the corrected p does not hold up."""
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


def differences(document: Mapping[str, Any], metric: str) -> dict[int, Difference]:
    """The differences in a metric by position of the strategy, as far as there are values."""
    entries = {
        i: entry
        for i, strategy in enumerate(document.get("strategies") or [])
        if strategy.get("name") != document.get("baseline")
        and (entry := lookup(strategy, "difference", metric) or {}).get("value") is not None
    }
    corrected = holm({i: entry["p"] for i, entry in entries.items() if entry.get("p") is not None})
    return {
        i: Difference(name_of(document, i), metric, *map(entry.get, ("value", "low", "high", "p")), corrected.get(i))
        for i, entry in entries.items()
    }


def ranked(document: Mapping[str, Any]) -> list[int]:
    """Positions of the strategies by final macro NLL, best first, unmeasured ones last."""

    def key(i: int) -> tuple[bool, float]:
        value = _nll(document, i)
        return value is None, value or 0.0

    return sorted(range(len(document.get("strategies") or [])), key=key)


def baseline_of(document: Mapping[str, Any]) -> int | None:
    """Position of the baseline, None where it was not among the strategies."""
    names = [strategy.get("name") for strategy in document.get("strategies") or []]
    return names.index(document.get("baseline")) if document.get("baseline") in names else None


def name_of(document: Mapping[str, Any], i: int, limit: int = LONGEST_NAME) -> str:
    """A strategy's name on one line of at most `limit` characters."""
    return _short(str(lookup(document, "strategies", i, "name") or MISSING), limit)


def comparison_headline(document: Mapping[str, Any]) -> str:
    """The answer without numbers: which strategies beat the baseline beyond chance, and which lost to it."""
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
    """A paragraph on each strategy against the baseline, best first: NLL, exact match, examples and tokens."""
    nll, exact_match = differences(document, "macro_nll"), differences(document, "macro_em")
    sentences = []
    for i in ranked(document):
        if i in nll:
            sentences.append(" ".join([_nll_sentence(document, nll, i), *_others(document, nll[i], exact_match, i)]))
        elif i != baseline_of(document):
            why = "not yet compared" if _nll(document, i) is None else "not compared"
            sentences.append(f"{name_of(document, i)}: {why} with {_baseline(document)}.")
    return sentences


def share_text(document: Mapping[str, Any], i: int) -> str:
    """The part of the baseline's examples that a strategy needs for the same NLL, in words where it is no number."""
    if i == baseline_of(document):
        return "baseline"
    share = lookup(document, "strategies", i, "share")
    if share is None or _nll(document, i) is None:
        return MISSING
    value = write(share.get("value"), "percent")
    return NOT_REACHED if value == MISSING else f"at most {value}" if share.get("bound") else value


def groups_text(document: Mapping[str, Any]) -> str:
    """What a macro metric is the mean over, "391 groups (source)"."""
    name = _short(str(document.get("groups_name") or ""), LONGEST_NAME)
    return f"{write(document.get('groups'), 'count')} groups" + (f" ({name})" if name else "")


def comparison_as_text(document: Mapping[str, Any], width: int = 100, color: bool = False) -> str:
    """Lines of at most `width` columns for a comparison of schema 1, without escape sequences unless `color`."""
    document = _one_line(displayable(document))
    out = io.StringIO()
    system = "standard" if color else None
    console = Console(file=out, width=width, force_terminal=color, color_system=system, highlight=False, markup=False,
                      emoji=False, legacy_windows=False)  # fmt: skip
    console.print(Text(comparison_headline(document), style="bold"))
    for sentence in comparison_verdict(document):
        console.print(Text(sentence))
    console.print(Text(_setting(document), style="dim"))
    console.print()
    if document.get("strategies"):
        console.print(_strategies_table(document))
        console.print(Text(_KEY.format(groups=groups_text(document), baseline=_baseline(document)), style="dim"))
    for note in document.get("notes") or []:
        console.print(Text(f"Note: {note}"))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n")) + "\n"


def _answer(document: Mapping[str, Any]) -> str:
    measured = [i for i in ranked(document) if _nll(document, i) is not None]
    nll, baseline, start = differences(document, "macro_nll"), _baseline(document), baseline_of(document)
    if not measured:
        return "Nothing was measured"
    lowest = name_of(document, measured[0])
    if start not in measured:
        return f"No strategy was compared with {baseline}, so nothing shows that choosing pays; {lowest} has the lowest NLL"
    if not nll:
        return f"Nothing was compared with {baseline}"
    found = {outcome: [i for i in measured if i in nll and nll[i].outcome == outcome] for outcome in _WORDS}
    told = {outcome: _and([name_of(document, i) for i in rows]) for outcome, rows in found.items()}
    worse = f"; {told['worse']} {_verb(found['worse'], 'is', 'are')} worse than {baseline}" if found["worse"] else ""
    if found["better"]:
        text = f"{told['better']} beat {baseline} beyond chance"
        if measured[0] not in found["better"]:
            text += f"; {lowest} has the lowest NLL, but that may be chance"
        else:
            text += f"; {lowest} has the lowest NLL" if len(found["better"]) > 1 else ""
            if lookup(document, "strategies", measured[0], "share", "value") is not None:
                text += f" and needs {share_text(document, measured[0])} of {baseline}'s examples for the same NLL"
        return text + worse + _fallen_exact_match(document, found["better"])
    if len(found["unmeasured"]) < len(nll):
        return f"{_none(document, nll)} beat {baseline} here{worse}"
    if measured[0] == start:
        return f"{_none(document, nll)} beat {baseline} here, and without an interval chance is not ruled out"
    return f"{lowest} has the lowest NLL, but without an interval that may be chance"


def _none(document: Mapping[str, Any], compared: Mapping[int, Difference]) -> str:
    return "None of them" if len(compared) > 1 else f"{name_of(document, next(iter(compared)))} did not"


def _fallen_exact_match(document: Mapping[str, Any], better: list[int]) -> str:
    exact_match = differences(document, "macro_em")
    fallen = [i for i in better if i in exact_match and exact_match[i].outcome == "worse"]
    whose = _and([name_of(document, i) for i in fallen])
    return f"; but the exact match of {whose} fell below {_baseline(document)}'s" if fallen else ""


def _nll_sentence(document: Mapping[str, Any], nll: Mapping[int, Difference], i: int) -> str:
    """ "rds: NLL 1.120, 0.210 nats per response token below random's 1.330 (95% interval 0.180 to 0.240, p …)."."""
    found, start = nll[i], baseline_of(document)
    theirs = f"{_baseline(document)}'s {write(None if start is None else _nll(document, start), 'nll')}"
    lead = f"{name_of(document, i)}: NLL {write(_nll(document, i), 'nll')}, "
    size = f"{write(abs(found.value or 0), 'nll')} nats per response token {'below' if (found.value or 0) < 0 else 'above'}"
    if found.outcome == "unmeasured":
        return f"{lead}{size} {theirs}, but without an interval (it takes two seeds) that may be chance."
    signed = found.outcome == "unclear"
    bounds = (
        [found.low or 0.0, found.high or 0.0] if signed else sorted(map(abs, (found.low or 0.0, found.high or 0.0)))
    )
    interval = " to ".join(write(bound, "nll", signed=signed) for bound in bounds)
    inside = f"95% interval {interval}{_p_text(found, sum(d.holm is not None for d in nll.values()))}"
    if not signed:
        return f"{lead}{size} {theirs} ({inside})."
    return f"{lead}not told apart from {theirs} (difference {write(found.value, 'nll', signed=True)}, {inside})."


def _p_text(found: Difference, count: int) -> str:
    if found.holm is None:
        return ""
    p = write(found.holm, "p")
    return f", p {p if p.startswith('<') else '= ' + p}" + (f" corrected for {count} strategies" if count > 1 else "")


def _others(document: Mapping[str, Any], nll: Difference, exact_match: Mapping[int, Difference], i: int) -> list[str]:
    """Sentences on exact match, examples for the same NLL, and equal tokens."""
    baseline, told = _baseline(document), []
    if i in exact_match:
        found = exact_match[i]
        interval = " to ".join(write(bound, "points", signed=True) for bound in (found.low, found.high))
        inside = "no interval" if found.outcome == "unmeasured" else f"{interval}, {_WORDS[found.outcome]}"
        told.append(f"Exact match {write(found.value, 'points', signed=True)} points ({inside}).")
    if lookup(document, "strategies", i, "share") is not None and nll.outcome != "unclear":
        part = share_text(document, i)
        has = f"It has {baseline}'s final NLL with {part} of {baseline}'s examples."
        told.append(f"It does not reach {baseline}'s final NLL." if part == NOT_REACHED else has)
    equal = lookup(document, "strategies", i, "equal_tokens", "difference")
    if equal is not None:
        turned = nll.outcome in ("better", "worse") and equal * (nll.value or 0) < 0
        told.append(
            f"At equal training tokens the difference is {write(equal, 'nll', signed=True)}"
            + (": the other way round." if turned else ".")
        )
    return told


def _setting(document: Mapping[str, Any]) -> str:
    """What was compared on what, and who is behind where runs are missing."""
    pool = [write(lookup(document, "pool", key), "count") for key in ("selectable", "examples")]
    told = f"Budget {_short(str(document.get('budget') or MISSING))}, rounds {write(document.get('rounds'), 'count')}, "
    told += f"seeds {len(document.get('seeds') or [])}; {pool[0]} selectable of {pool[1]} examples; tested on "
    told += f"{write(document.get('test_examples'), 'count')} in {groups_text(document)}; model "
    told += _short(str(document.get("model") or MISSING)) + (", a proxy." if document.get("proxy") else ".")
    if unfinished(document):
        strategies = enumerate(document.get("strategies") or [])
        done = [f"{name_of(document, i)} {len(strategy.get('seeds_done') or [])}" for i, strategy in strategies]
        told += f" Seeds done: {', '.join(done)}."
    return told


def _strategies_table(document: Mapping[str, Any]) -> Any:
    table = _table("\nStrategy")
    table.columns[0].no_wrap, table.columns[0].overflow, table.columns[0].max_width = True, "ellipsis", 16
    baseline = _short(_baseline(document), 9)
    headings = ("NLL\n↓", f"minus {baseline}\n95% interval", "\np", "Exact\nmatch ↑", f"minus {baseline}\npoints")
    for heading in (*headings, "Same NLL\nwith", "At equal\ntokens", "\nScoring"):
        table.add_column(heading, justify="right", no_wrap=True)
    nll, exact_match = differences(document, "macro_nll"), differences(document, "macro_em")
    for i in ranked(document):
        strategy = document["strategies"][i]
        row = [Text(name_of(document, i)), write(_nll(document, i), "nll"), *_difference_cells(nll.get(i))]
        row += [write(lookup(strategy, "final", "macro_em", "mean"), "percent")]
        row += [write(exact_match[i].value, "points", signed=True) if i in exact_match else MISSING]
        row += [share_text(document, i).replace("at most ", "≤ ").replace(NOT_REACHED, "never")]
        row += [write(lookup(strategy, "equal_tokens", "difference"), "nll", signed=True)]
        table.add_row(*row, write(strategy.get("scoring_share"), "percent"))
    return table


def _difference_cells(found: Difference | None) -> tuple[Text, str]:
    if found is None:
        return Text(MISSING), MISSING
    text = Text(f"{write(found.value, 'nll', signed=True)} {_WORDS[found.outcome]}", style=_COLORS[found.outcome])
    if found.outcome != "unmeasured":
        text += Text(
            f"\n{'…'.join(write(bound, 'nll', signed=True) for bound in (found.low, found.high))}", style="dim"
        )
    return text, write(found.holm, "p")


def _nll(document: Mapping[str, Any], i: int) -> float | None:
    return lookup(document, "strategies", i, "final", "macro_nll", "mean")


def _baseline(document: Mapping[str, Any]) -> str:
    return _short(str(document.get("baseline") or "the baseline"), LONGEST_NAME)


def _verb(rows: list[int], one: str, many: str) -> str:
    return one if len(rows) == 1 else many
