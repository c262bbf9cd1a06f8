"""A document as lines, tables and code, which the terminal and Markdown both render. Texts in it are data, never markup."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from al import labels
from al.report.reading.values import MISSING, short, write
from al.report.reading.verdict import SHORT_WORDS, Comparison

LONGEST_TEXT = 240
COLORS = {"better": "green", "worse": "red", "unclear": "yellow", "unmeasured": ""}


@dataclass(frozen=True)
class Cell:
    """A cell of a table. `note` stands below `text` in the terminal and in brackets after it in Markdown; `style` is a rich style."""

    text: str
    style: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a head. Columns at `left` hold text and wrap; the others hold numbers and are aligned right."""

    head: Sequence[str | Cell]
    rows: Sequence[Sequence[str | Cell]]
    left: Sequence[int] = (0,)
    joined = False


@dataclass(frozen=True)
class Line:
    """A paragraph: a text, or stretches of text each with its style. `joined`: without an empty line before it in the terminal."""

    text: str | Sequence[tuple[str, str]]
    label: str = ""
    style: str = ""
    joined: bool = False
    heading: bool = False
    wrap: bool = True


Block = Line | Table


def one_line(node: Any) -> Any:
    """Every text of a document on one line and of bounded length: a name with newlines would tear the table it stands in."""
    if isinstance(node, dict):
        return {key: one_line(value) for key, value in node.items()}
    if isinstance(node, list):
        return [one_line(value) for value in node]
    return short(node, LONGEST_TEXT) if isinstance(node, str) else node


def metric_head(metric: labels.Metric) -> Cell:
    """A metric over its column, with the direction that is better."""
    name, _, kind = metric.name.partition(", ")
    return Cell(name, note=f"{kind} {'↓' if metric.lower_is_better else '↑'}")


def difference_cell(found: Comparison | None) -> Cell:
    """A difference with its outcome, the interval as the note; a dash where nothing was compared."""
    if found is None or found.value is None:
        return Cell(MISSING)
    style, _ = labels.difference_style(found.metric)
    value, low, high = (write(number, style, signed=True) for number in (found.value, found.low, found.high))
    note = "" if found.outcome == "unmeasured" else f"{low}…{high}"
    return Cell(f"{value} {SHORT_WORDS[found.outcome]}", COLORS[found.outcome], note)


def metric_table(
    title: Cell,
    keys: Sequence[str],
    values: Mapping[str, Mapping[str, float | None]],
    differences: Mapping[str, Mapping[str, Comparison]],
) -> Table:
    """Rows of values by metric, then rows of differences with their intervals: both by label and metric."""
    metrics = [labels.metric(key) for key in keys]
    rows: list[list[str | Cell]] = [
        [label, *(write(of.get(m.key), m.style) for m in metrics)] for label, of in values.items()
    ]
    for label, found in differences.items():
        rows.append([Cell(label, note="95% interval"), *(difference_cell(found.get(m.key)) for m in metrics)])
    return Table([title, *map(metric_head, metrics)], rows)


def as_terminal(blocks: Iterable[Block], width: int = 100, color: bool = False) -> str:
    """Lines of at most `width` columns, without any escape sequence unless `color`."""
    out = io.StringIO()
    system = "standard" if color else None
    console = Console(file=out, width=width, force_terminal=color, color_system=system, no_color=not color, highlight=False,
                      markup=False, emoji=False, legacy_windows=False)  # fmt: skip
    for number, block in enumerate(blocks):
        if number and not block.joined:
            console.print()
        if isinstance(block, Table):
            console.print(_rich_table(block))
        else:
            parts = [(block.text, block.style)] if isinstance(block.text, str) else block.text
            label = [(f"{block.label}: ", "bold")] if block.label else []
            console.print(Text.assemble(*label, *parts), soft_wrap=not block.wrap)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n")) + "\n"


def _rich_table(table: Table) -> RichTable:
    made = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, header_style="bold")
    head = [Cell(cell) if isinstance(cell, str) else cell for cell in table.head]
    deep = any(cell.note for cell in head)
    for column, cell in enumerate(head):
        title = f"{cell.text}\n{cell.note}" if cell.note else "\n" * deep + cell.text
        if column in table.left:
            made.add_column(Text(title), overflow="fold")
        else:
            made.add_column(Text(title), justify="right", no_wrap=True)
    for row in table.rows:
        made.add_row(*map(_rich_cell, row))
    return made


def _rich_cell(cell: str | Cell) -> Text:
    if isinstance(cell, str):
        return Text(cell)
    return Text.assemble((cell.text, cell.style), (f"\n{cell.note}" if cell.note else "", "dim"))
