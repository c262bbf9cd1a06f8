"""A document as Markdown, for a pull request. A text in it is never read as markup, as a link, or as a mention of somebody."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from al.report.reading.values import short
from al.report.text.blocks import Block, Cell, Line

LONGEST_PARAGRAPH, LONGEST_CELL = 2_000, 240
# A word joiner takes no room and parts what a forge would link: @user, #12, https://, www., user/repo#1.
_JOINER = "\u2060"
_MARKUP = re.compile(r"[\\`*_\[\]<>|~$&]")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_LINKED = re.compile(r"@|#(?=\d)|(?<=[\w])://|\bwww\.|\bGH-(?=\d)", re.IGNORECASE)


def escape(text: object, limit: int = 80) -> str:
    """Text as Markdown that shows it literally, on one line and cut at `limit` characters."""
    parted = _LINKED.sub(lambda found: found[0][:-1] + _JOINER + found[0][-1] + _JOINER, short(str(text), limit))
    return _MARKUP.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), parted)


def code_block(text: str) -> str:
    """A fenced block that no run of backticks in the text can end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A table of cells that are Markdown already; columns other than those at `left` are aligned right."""
    rule = ["---" if i in left else "--:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def as_markdown(blocks: Iterable[Block]) -> str:
    """The document as Markdown, one empty line between its blocks."""
    return "\n\n".join(_line(block) if isinstance(block, Line) else _table(block) for block in blocks) + "\n"


def _line(line: Line) -> str:
    text = line.text if isinstance(line.text, str) else "".join(part for part, _ in line.text)
    lead = "### " if line.heading else f"{escape(line.label)}: " if line.label else ""
    return lead + escape(text, LONGEST_PARAGRAPH)


def _table(table: Block) -> str:
    head = [_cell(cell, "{}, {}") for cell in table.head]
    return markdown_table(head, [[_cell(cell, "{} ({})") for cell in row] for row in table.rows], table.left)


def _cell(cell: str | Cell, form: str) -> str:
    cell = Cell(cell) if isinstance(cell, str) else cell
    return escape(form.format(cell.text, cell.note) if cell.note else cell.text, LONGEST_CELL)
