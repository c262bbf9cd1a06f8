"""What a pool holds, for the terminal: `al.commands.inspect_pool`'s document as text of at most `width` columns.

Text of the pool is hostile: its control characters come out as visible signs, and it is never read as markup.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from al import labels
from al.report.reading.pool_words import by_format, length_sentences, near_sentence, refusal_sentence, visible_segments
from al.report.reading.values import displayable, write
from al.report.text.terminal import _labelled, _one_line, _short, _table

TOP_FILES = TOP_SOURCES = TOP_LANGUAGES = 15
BAR = 30
SHOWN_CHARACTERS = 1_200
RESPONSE, END = 1, 2
# Marks as well as colours, so that a copied text, a colour-blind reader and NO_COLOR see the same.
MARKS = {RESPONSE: ("⟦", "⟧"), END: ("⟪", "⟫")}
STYLES = {RESPONSE: "bold green", END: "bold magenta"}
_EIGHTHS = " ▏▎▍▌▋▊▉"


def describe_inspection(document: Mapping[str, Any]) -> str:
    """The document for standard output: as wide as the terminal (120 columns at most), in colour on one, unless NO_COLOR is set."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    return render_inspection(document, width, color=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def render_inspection(document: Mapping[str, Any], width: int = 100, color: bool = False) -> str:
    """Lines of at most `width` columns, without any escape sequence unless `color`."""
    document = displayable(document)
    shown, document = document["shown"], _one_line({k: v for k, v in document.items() if k not in ("shown", "samples")})
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    parts = [*_counts(document), _recognised(document), _sources(document), _languages(document), _turns(document)]
    parts += [*_lengths(document), _duplicates(document), _refusals(document), *_quarantine(document)]
    parts += [_adjusted(document), *_examples(shown, document)]
    for part in parts:
        if part is not None:
            console.print(part)
            console.print()
    if document.get("page"):
        console.print(Text(f"Page: {document['page']}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().split("\n"))


def _counts(document: Mapping[str, Any]) -> list[RenderableType]:
    place = f"pool version {document['version']} of {document['run']}"
    head = place if document["run"] else "These files, read and not imported anywhere"
    answered = (
        f", {document['answered']:,} without a response that another example answers" if document["answered"] else ""
    )
    rows = sum(file["rows"] for file in document["files"])
    return [
        Text.assemble(
            (f"{head}: ", "bold"),
            f"{document['examples']:,} examples ({document['labelled']:,} labelled, {document['unlabelled']:,} unlabelled{answered})\n"
            f"from {rows:,} rows of {len(document['files']):,} file(s); {document['duplicates']:,} exact duplicates merged, "
            f"{sum(document['quarantined'].values()):,} rows in quarantine.",
        )
    ]


def _recognised(document: Mapping[str, Any]) -> Table:
    """Each format with the fields it was recognised by, and below it the files that had most of it."""
    table = _table("Rows", justify="right")
    table.add_column("Recognised as, and why")
    formats = by_format(document["recognised"])
    files = max(2, TOP_FILES // max(1, len(formats)))
    for name, entries in formats.items():
        rows = sum(entry["rows"] for entry in entries)
        table.add_row(write(rows, "count"), Text.assemble((name, "bold"), f": it has {entries[0]['fields'] or name}"))
        named = [entry for entry in entries if entry["file"]]
        for entry in named[:files]:
            table.add_row(Text(write(entry["rows"], "count"), "dim"), Text(f"  {_short(entry['file'])}", "dim"))
        if rest := named[files:]:
            count = write(sum(entry["rows"] for entry in rest), "count")
            table.add_row(Text(count, "dim"), Text(f"  … and {len(rest):,} more files", "dim"))
    return table


def _sources(document: Mapping[str, Any]) -> Table:
    return _bars("Source", _top(document["sources"], TOP_SOURCES, "sources"))


def _languages(document: Mapping[str, Any]) -> Table:
    found = document["languages"]
    named = {labels.language(code): count for code, count in found["counts"].items()}
    return _bars(f"Language{_sampled(found['of'], document['examples'])}", _top(named, TOP_LANGUAGES, "languages"))


def _turns(document: Mapping[str, Any]) -> Table:
    turns = document["turns"]
    rows = [(f"{name} user turn{'' if name == '1' else 's'}", count) for name, count in turns["user_turns"].items()]
    rows += [("with a system message", turns["system"]), ("with a tool's message", turns["tool"])]
    return _bars("Turns", rows)


def _lengths(document: Mapping[str, Any]) -> list[RenderableType]:
    lengths = document["lengths"]
    unit = lengths["unit"]
    limit = lengths.get("max_length", float("inf"))
    rows = [
        (f"{bin['low']:,} to {bin['high'] - 1:,}{' (over the limit)' if bin['low'] >= limit else ''}", bin["count"])
        for bin in lengths["bins"]
    ]
    parts: list[RenderableType] = [_bars(f"Length in {unit}{_sampled(lengths['of'], document['examples'])}", rows)]
    if unit == "characters":
        parts.append(
            Text(f"Tokens were not counted: {lengths['why']}. Name another model with --config or --set.", "yellow")
        )
    points = [f"{name}% have at most {value:,}" for name, value in lengths["percentiles"].items()]
    parts.append(Text(f"{', '.join(points)}; the longest has {write(lengths['longest'], 'count')} {unit}."))
    return [*parts, *map(Text, length_sentences(lengths))]


def _duplicates(document: Mapping[str, Any]) -> RenderableType:
    near = near_sentence(document["near_duplicates"])
    if not document["most_repeated"]:
        return _labelled("Exact duplicates", f"none. {near}")
    table = _table("Rows", justify="right")
    table.add_column("Most repeated")
    table.add_column("First read at")
    for entry in document["most_repeated"]:
        table.add_row(write(entry["rows"], "count"), Text(_short(entry["text"])), Text(_short(entry["origin"])))
    table.caption = Text(f"{document['duplicates']:,} exact duplicates were merged. {near}")
    table.caption_justify = "left"
    return table


def _refusals(document: Mapping[str, Any]) -> Text:
    return _labelled("Refusals", refusal_sentence(document["refusals"]))


def _quarantine(document: Mapping[str, Any]) -> Iterable[RenderableType]:
    if not document["quarantine"]:
        return [_labelled("Quarantine", "empty, every row could be used.")]
    table = _table("Rows", justify="right")
    for title in ("Quarantined for", "First at", "Why"):
        table.add_column(title)
    for entry in document["quarantine"]:
        cells = (entry["reason"], f"{_short(entry['file'])}:{entry['line']}", entry["message"])
        table.add_row(write(entry["rows"], "count"), *map(Text, cells))
    return [table]


def _adjusted(document: Mapping[str, Any]) -> RenderableType:
    rows = [(labels.adjusted(code), count) for code, count in document["adjusted"].items()]
    if not rows:
        return _labelled("Changed on import", "nothing.")
    table = _table("Times", justify="right")
    table.add_column("Changed on import")
    for words, count in rows:
        table.add_row(write(count, "count"), Text(words))
    return table


def _examples(shown: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> Iterable[RenderableType]:
    if shown and document["lengths"]["unit"] == "tokens":
        (left, right), (begin, stop) = MARKS[RESPONSE], MARKS[END]
        yield Text.assemble(
            ("Examples as the model sees them. Trained on: ", "bold"),
            (f"{left}the response{right}", STYLES[RESPONSE]),
            " and ",
            (f"{begin}the token that ends it{stop}", STYLES[END]),
            ".",
        )
    for example in shown:
        yield Text.assemble(
            (f"{example['id']}  {_short(example['source'])}", "bold"),
            f"  ({_short(example['origin'])})\n",
            *_body(example),
        )


def _body(example: Mapping[str, Any]) -> Iterable[str | tuple[str, str]]:
    if "refused" in example:
        yield (f"The chat template refuses this example: {_short(example['refused'])}\n", "yellow")
    for segment in visible_segments(example, SHOWN_CHARACTERS):
        text, target = segment["text"], segment["target"]
        left, right = MARKS.get(target, ("", ""))
        yield (f"{left}{text}{right}", STYLES.get(target, ""))
    if example["segments"] and not any(segment["target"] for segment in example["segments"]):
        yield ("\n(no response: nothing here is trained on)", "yellow")


def _sampled(of: int, examples: int) -> str:
    return f" (of a sample of {of:,})" if of < examples else ""


def _top(counts: Mapping[str, int], limit: int, what: str) -> list[tuple[str, int]]:
    """The largest counts, and the others as one."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = ordered[limit:]
    others = [(f"… and {len(rest):,} more {what}", sum(count for _, count in rest))] if rest else []
    return [*ordered[:limit], *others]


def _bars(title: str, rows: Sequence[tuple[str, int]]) -> Table:
    table = _table("Examples", justify="right")
    table.add_column(title)
    table.add_column("", no_wrap=True)
    largest = max((count for _, count in rows), default=0)
    for name, count in rows:
        table.add_row(write(count, "count"), Text(_short(name)), Text(bar(count, largest), "cyan"))
    return table


def bar(count: int, largest: int, width: int = BAR) -> str:
    """A bar of at most `width` columns, in eighths of one; a count that is not zero is never without a mark."""
    eighths = max(1 if count else 0, round(8 * width * count / largest)) if largest else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
