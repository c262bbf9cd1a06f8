"""A comparison for the terminal and as Markdown: strategies on one pool, or rounds of several runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from al import labels
from al.comparison import words
from al.comparison.headline import comparison_headline
from al.comparison.words import baseline_name, differences, entries_of, name_of, value_of
from al.report.reading.values import MISSING, lookup, short, write
from al.report.reading.verdict import deciding_reason
from al.report.text.blocks import Block, Cell, Line, Table, as_terminal, difference_cell, metric_table, one_line
from al.report.text.markdown import as_markdown
from al.terminal import displayable

HEADS = {"nll": Cell("NLL", note="↓"), "em": Cell("Exact", note="match ↑")}
METRICS = ("macro_nll", "micro_nll", "macro_nll_no_end", "macro_em", "micro_em")
STRATEGY_KEY = (
    "NLL in nats per response token, exact match teacher-forced, both as the mean over {mean}. p after Holm's correction; n.s.: no "
    "significant difference from {baseline}. Same NLL with: the part of {baseline}'s examples that a strategy needs for {baseline}'s "
    "final NLL. At equal tokens: its NLL minus {baseline}'s after as many training tokens. Scoring: its part of scoring, selecting and "
    "training. Gains in NLL overstate gains in accuracy: read exact match too."
)
RUN_KEY = "NLL in nats per response token, exact match teacher-forced, differences of it in points; n.s.: no significant difference."


def comparison_as_text(document: Mapping[str, Any], width: int = 100, color: bool = False) -> str:
    """Lines of at most `width` columns for a comparison of schema 1, without escape sequences unless `color`. The answer for strategies
    stands below their numbers, because a terminal shows the end of a long text."""
    document = displayable(document)
    shown = one_line(document)
    if words.compares_runs(document):
        blocks = [_headline(shown), *_verdict(shown), *_numbers(shown)]
    else:
        answer = f"In short: {comparison_headline(shown)}"
        blocks = [*_numbers(shown), *_verdict(shown, apart=True), *_closing(document, answer)]
    return as_terminal(blocks, width, color)


def comparison_as_markdown(document: Mapping[str, Any]) -> str:
    """The same as Markdown, with the answer as its heading."""
    document = displayable(document)
    shown = one_line(document)
    return as_markdown([_headline(shown), *_verdict(shown), *_numbers(shown), *_closing(document)])


def _headline(document: Mapping[str, Any]) -> Line:
    return Line(comparison_headline(document), style="bold", heading=True)


def _verdict(document: Mapping[str, Any], apart: bool = False) -> list[Line]:
    """A paragraph for each entry; `apart`: below an empty line."""
    return [Line(text, joined=i > 0 or not apart) for i, text in enumerate(words.comparison_verdict(document))]


def _closing(document: Mapping[str, Any], answer: str = "") -> list[Line]:
    """The answer, if it is still to be said, what to do next, and its command on a line of its own."""
    reason, command = words.next_step(document) or ("", "")
    text = ". ".join(filter(None, [answer, reason]))
    lines = [Line(f"{text}{':' if command else '.'}", style="bold")] if text else []
    return lines + ([Line(command.replace("\n", " "), joined=True, wrap=False)] if command else [])


def _numbers(document: Mapping[str, Any]) -> list[Block]:
    blocks = _runs(document) if words.compares_runs(document) else _strategies(document)
    return [*blocks, *(Line(f"Note: {note}", joined=True) for note in document.get("notes") or [])]


def _strategies(document: Mapping[str, Any]) -> list[Block]:
    setting = Line(_setting(document), style="dim", joined=True)
    if not document.get("strategies"):
        return [setting]
    baseline = short(baseline_name(document), 9)
    first = words.leading_metric(document)
    second = words.other_metric(first)
    head = [
        "Strategy",
        HEADS[first.partition("_")[2]],
        Cell(f"minus {baseline}", note="95% interval"),
        "p",
        HEADS[second.partition("_")[2]],
    ]
    head += [Cell(f"minus {baseline}", note=labels.difference_style(second)[1])]
    head += [Cell("Same NLL", note="with"), Cell("At equal", note="tokens"), "Scoring"]
    found, other = differences(document, first), differences(document, second)
    rows = []
    for i in words.ranked(document):
        strategy = document["strategies"][i]
        values = [write(value_of(document, i, key), labels.metric(key).style) for key in (first, second)]
        row = [words.marked_name(document, i, 16), values[0], difference_cell(found.get(i))]
        row += [write(found[i].holm, "p") if i in found else MISSING, values[1]]
        row += [write(other[i].value, labels.difference_style(second)[0], signed=True) if i in other else MISSING]
        row += [words.share_text(document, i).replace("at most ", "≤ ").replace(words.NOT_REACHED, "never")]
        row += [write(lookup(strategy, "equal_tokens", "difference"), "nll", signed=True)]
        rows.append([*row, write(strategy.get("scoring_share"), "percent")])
    if base := document.get("base"):
        ends = [write(base.get(key), labels.metric(key).style) for key in (first, second)]
        rows.append(["Base model", ends[0], "", "", ends[1], "", "", "", ""])
    mean = words.groups_text(document) if first.startswith("macro") else "all tokens (NLL) and examples (exact match)"
    key = STRATEGY_KEY.format(mean=mean, baseline=baseline_name(document))
    why = [Line(reason, style="dim", joined=True)] if (reason := deciding_reason(document)) else []
    keys = filter(None, [words.other_seeds_note(document), key])
    return [setting, *why, Table(head, rows), *(Line(text, style="dim", joined=True) for text in keys)]


def _setting(document: Mapping[str, Any]) -> str:
    """What was compared on what, and the seeds done of each strategy where runs are missing."""
    selectable, examples = (write(lookup(document, "pool", key), "count") for key in ("selectable", "examples"))
    text = (
        f"Budget {short(str(document.get('budget') or MISSING))}, rounds {write(document.get('rounds'), 'count')}, "
        f"seeds {len(document.get('seeds') or [])}; {selectable} selectable of {examples} examples; tested on "
        f"{write(document.get('test_examples'), 'count')} in {words.groups_text(document)}{_dev(document)}; "
        f"model {short(str(document.get('model') or MISSING))}{', a proxy' if document.get('proxy') else ''}."
    )
    if words.unfinished(document):
        strategies = enumerate(entries_of(document))
        done = [f"{name_of(document, i)} {len(strategy.get('seeds_done') or [])}" for i, strategy in strategies]
        text += f" Seeds done: {', '.join(done)}."
    return text


def _dev(document: Mapping[str, Any]) -> str:
    """How many examples are evaluated in all, as progress lines count them; "" without dev."""
    tests, dev = document.get("test_examples"), document.get("dev_examples")
    if not dev or tests is None:
        return ""
    return f" (of {write(tests + dev, 'count')} evaluated; the others are dev, which decides nothing)"


def _runs(document: Mapping[str, Any]) -> list[Block]:
    """What each run is and where it differs, then its models in every metric with the differences from the first run."""
    runs = entries_of(document)
    facts = [
        ("round", "plain"),
        ("examples", "count"),
        ("tokens", "count"),
        ("seconds", "seconds"),
        ("test_examples", "count"),
    ]
    rows = [[name_of(document, i), *(write(run.get(key), style) for key, style in facts)] for i, run in enumerate(runs)]
    blocks: list[Block] = [
        Table(["Run", "Round", "Examples picked", "Tokens picked", "Time of stages", "Test examples"], rows)
    ]
    config = [[key, *map(_value, values)] for key, values in document["config"].items()]
    head = ["Config keys that differ", *(name_of(document, i) for i in range(len(runs)))]
    blocks.append(Table(head, config) if config else Line("The configs are equal."))
    values = {
        f"{name_of(document, i)}: {labels.MODELS[model]}": run["models"][model]
        for i, run in enumerate(runs)
        for model in labels.models_of(run)
    }
    found: dict[str, dict[str, Any]] = {}
    for metric in METRICS:
        for i, difference in differences(document, metric).items():
            found.setdefault(f"{name_of(document, i)} minus {baseline_name(document)}", {})[metric] = difference
    title = Cell("Model", note=f"{write(document.get('test_examples'), 'count')} test examples")
    return [*blocks, metric_table(title, METRICS, values, found), Line(RUN_KEY, style="dim", joined=True)]


def _value(value: Any) -> str:
    return MISSING if value is None else short(str(value))
