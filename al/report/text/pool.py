"""What a pool holds, for the terminal: `al.commands.inspect_pool`'s document as text of at most `width` columns.

Text of the pool is hostile: its control characters come out as visible signs, and it is never read as markup.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from al import labels
from al.excerpt import counted
from al.pool.formats.leftovers import describe_leftover
from al.report.reading.pool_words import by_format, length_sentences, near_sentence, refusal_sentence, visible_segments
from al.report.reading.values import short, write
from al.report.text.blocks import Block, Cell, Line, Table, as_terminal, one_line
from al.terminal import displayable

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
    shown, document = document["shown"], one_line({k: v for k, v in document.items() if k not in ("shown", "samples")})
    return as_terminal([*_facts(document), *_examples(shown, document)], width, color).rstrip()


def _facts(document: Mapping[str, Any]) -> Iterator[Block]:
    """What was counted, in the order of reading."""
    yield _counts(document)
    yield _recognised(document)
    yield _bars("Source", _top(document["sources"], TOP_SOURCES, "sources"))
    found = document["languages"]
    named = {labels.language(code): count for code, count in found["counts"].items()}
    yield _bars(f"Language{_sampled(found['of'], document['examples'])}", _top(named, TOP_LANGUAGES, "languages"))
    turns = document["turns"]
    rows = [(f"{name} user turn{'' if name == '1' else 's'}", count) for name, count in turns["user_turns"].items()]
    yield _bars("Turns", [*rows, ("with a system message", turns["system"]), ("with a tool's message", turns["tool"])])
    yield from _lengths(document)
    yield from _duplicates(document)
    yield Line(refusal_sentence(document["refusals"]), label="Refusals")
    yield _quarantine(document)
    adjusted = [[write(count, "count"), labels.adjusted(code)] for code, count in document["adjusted"].items()]
    head = ["Times", "Changed on import"]
    yield Table(head, adjusted, left=(1,)) if adjusted else Line("nothing.", head[1])
    yield from (Line(f"{file['file']}: {file['reason']}", label="Skipped") for file in document["skipped"])
    yield Line("\n".join(map(describe_leftover, document["leftovers"])) or "none.", "Left out, kept as metadata")


def _counts(document: Mapping[str, Any]) -> Line:
    place = f"pool version {document['version']} of {document['run']}"
    answered = (
        f", {document['answered']:,} without a response that another example answers" if document["answered"] else ""
    )
    rows = sum(file["rows"] for file in document["files"])
    return Line(
        f"{counted(document['examples'], 'example')} ({document['labelled']:,} labelled, {document['unlabelled']:,} unlabelled{answered})\n"
        f"from {counted(rows, 'row')} of {counted(len(document['files']), 'file')}; merged: {document['duplicates']:,} exact duplicates, "
        f"{counted(document['merged_after_conversion'], 'row')} that differ only outside the conversation; "
        f"{counted(sum(document['quarantined'].values()), 'row')} in quarantine.",
        label=place if document["run"] else "These files, read and not imported anywhere",
    )


def _recognised(document: Mapping[str, Any]) -> Table:
    """Each format with the fields it was recognised by, and below it the files that had most of it."""
    rows: list[list[str | Cell]] = []
    formats = by_format(document["recognised"])
    files = max(2, TOP_FILES // max(1, len(formats)))
    for name, entries in formats.items():
        total = write(sum(entry["rows"] for entry in entries), "count")
        rows.append([total, f"{name}: it has {entries[0]['fields'] or name}"])
        named = [(entry["rows"], short(entry["file"])) for entry in entries if entry["file"]]
        if rest := named[files:]:
            named = [*named[:files], (sum(count for count, _ in rest), f"… and {len(rest):,} more files")]
        rows += [[Cell(write(count, "count"), "dim"), Cell(f"  {file}", "dim")] for count, file in named]
    return Table(["Rows", "Recognised as, and why"], rows, left=(1,))


def _lengths(document: Mapping[str, Any]) -> Iterator[Block]:
    lengths = document["lengths"]
    unit, limit = lengths["unit"], lengths.get("max_length", float("inf"))
    rows = [
        (f"{bin['low']:,} to {bin['high'] - 1:,}{' (over the limit)' if bin['low'] >= limit else ''}", bin["count"])
        for bin in lengths["bins"]
    ]
    yield _bars(f"Length in {unit}{_sampled(lengths['of'], document['examples'])}", rows)
    if unit == "characters":
        yield Line(
            f"Tokens were not counted: {lengths['why']}. Name another model with --config or --set.", style="yellow"
        )
    points = [f"{name}% have at most {value:,}" for name, value in lengths["percentiles"].items()]
    yield Line(f"{', '.join(points)}; the longest has {write(lengths['longest'], 'count')} {unit}.")
    yield from map(Line, length_sentences(lengths))


def _duplicates(document: Mapping[str, Any]) -> Iterator[Block]:
    near = near_sentence(document["near_duplicates"])
    if not document["most_repeated"]:
        yield Line(f"none. {near}", label="Exact duplicates")
        return
    rows = [[write(e["rows"], "count"), short(e["text"]), short(e["origin"])] for e in document["most_repeated"]]
    yield Table(["Rows", "Most repeated", "First read at"], rows, left=(1, 2))
    yield Line(f"{document['duplicates']:,} exact duplicates were merged. {near}", joined=True)


def _quarantine(document: Mapping[str, Any]) -> Block:
    rows = [
        [write(entry["rows"], "count"), entry["reason"], f"{short(entry['file'])}:{entry['line']}", entry["message"]]
        for entry in document["quarantine"]
    ]
    head = ["Rows", "Quarantined for", "First at", "Why"]
    return Table(head, rows, left=(1, 2, 3)) if rows else Line("empty, every row could be used.", label="Quarantine")


def _examples(shown: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> Iterator[Line]:
    if any(example["segments"] for example in shown):
        marked = [(f"{MARKS[kind][0]}{text}{MARKS[kind][1]}", STYLES[kind])
                  for kind, text in ((RESPONSE, "the response"), (END, "the token that ends it"))]  # fmt: skip
        label = "Examples as the model sees them. Trained on"
        yield Line([marked[0], (" and ", ""), marked[1], (".", "")], label=label)
    if document["template_note"]:
        yield Line(f"{document['template_note']}.", style="yellow")
    for example in shown:
        title = (f"{example['id']}  {short(example['source'])}", "bold")
        yield Line([title, (f"  ({short(example['origin'])})\n", ""), *_body(example)])
    if document.get("page"):
        yield Line(f"Page: {document['page']}", wrap=False)


def _body(example: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "refused" in example:
        yield (f"The chat template refuses this example: {short(example['refused'])}\n", "yellow")
    for segment in visible_segments(example, SHOWN_CHARACTERS):
        left, right = MARKS.get(segment["target"], ("", ""))
        yield (f"{left}{segment['text']}{right}", STYLES.get(segment["target"], ""))
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
    largest = max((count for _, count in rows), default=0)
    cells = [[write(count, "count"), short(name), Cell(count_bar(count, largest), "cyan")] for name, count in rows]
    return Table(["Examples", title, ""], cells, left=(1, 2))


def count_bar(count: int, largest: int, width: int = BAR) -> str:
    """A bar of at most `width` columns, in eighths of one; a count that is not zero always has a mark."""
    eighths = max(1 if count else 0, round(8 * width * count / largest)) if largest else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
