"""Charts of dots with intervals, one row below the other, as SVG in the page: they stand with its text and need no script.

x is in percent of the plot, so a chart fits any window while its text keeps its size. Labels stand in its left padding (report.css) and
are HTML, since the browser then ends those that are too long with an ellipsis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from al.report.reading.values import MINUS, write

SHAPES = {
    "circle": "M-6,0a6,6 0 1 0 12,0a6,6 0 1 0 -12,0z",
    "square": "M-5.5-5.5h11v11h-11z",
    "triangle-up": "M0-7L7 5H-7z",
    "diamond": "M0-8L8 0 0 8-8 0z",
    "cross": "M-2-7h4v5h5v4h-5v5h-4v-5h-5v-4h5z",
    "triangle-down": "M0 7L7-5H-7z",
    "x": "M-6-3L-3-6 0-3 3-6 6-3 3 0 6 3 3 6 0 3-3 6-6 3-3 0z",
    "star": "M0-8L2-2.6 7.6-2.5 3.2 1 4.7 6.5 0 3.3-4.7 6.5-3.2 1-7.6-2.5-2-2.6z",
}
"""Markers by name, about 12 pixels around (0, 0)."""
TOP, FOOT, TICKS = 8, 46, 5
"""Pixels above the rows and below them (ticks and title), and how many steps of the axis fit a telephone."""
LABELS = 148
"""Pixels of the padding in which labels stand."""


@dataclass(frozen=True)
class DotRow:
    """A dot at `value` with the `ends` of its interval, if it has one, and `each` of the single values behind it with its name.

    `role` is the colour's CSS variable, `shape` a key of `SHAPES`."""

    label: str
    value: float
    role: str
    shape: str
    ends: tuple[float, float] | None = None
    each: Sequence[tuple[str, float]] = ()

    @property
    def says(self) -> str:
        """What a pointer over the row shows."""
        between = f" ({_short(self.ends[0])} to {_short(self.ends[1])})" if self.ends else ""
        return f"{self.label}: {_short(self.value)}{between}"


def dots(rows: Sequence[DotRow], title: str, about: str, *, line: float | None = None, row_height: int = 38) -> Markup:
    """The chart as an `<svg>`; `title` stands below its axis, `about` is what a screen reader says, `line` is where a dashed line stands.

    The axis holds every value, every interval and the line, with room at both ends.
    """
    low, high = axis_range(rows, line)
    bottom = TOP + row_height * len(rows)

    def at(value: float) -> str:
        """Where a value is, in percent of the plot."""
        return f"{100 * (value - low) / (high - low):.3f}%"

    parts = [
        Markup('<svg class="dots" role="img" aria-label="{}" width="100%" height="{}">').format(about, bottom + FOOT)
    ]
    for tick, text in ticks(low, high):
        parts.append(_line(at(tick), TOP, at(tick), bottom, "grid"))
        parts.append(Markup('<text class="tick" x="{}" y="{}">{}</text>').format(at(tick), bottom + 16, text))
    if line is not None:
        parts.append(_line(at(line), TOP, at(line), bottom, "mark"))
    for number, row in enumerate(rows):
        parts.append(_row(row, at, TOP + row_height * number + row_height // 2))
    parts.append(Markup('<text class="title" x="50%" y="{}">{}</text></svg>').format(bottom + 38, title))
    return Markup("").join(parts)


def axis_range(rows: Sequence[DotRow], line: float | None) -> tuple[float, float]:
    """Ends of an axis on which everything can be seen, with a tenth of room at both."""
    values = [v for row in rows for v in (row.value, *(row.ends or ()), *(value for _, value in row.each))]
    values += [] if line is None else [line]
    room = 0.1 * (max(values) - min(values)) or 1.0
    return min(values) - room, max(values) + room


def ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between `low` and `high`, at most `TICKS` and one, and how they are written."""
    power = 10.0 ** math.floor(math.log10((high - low) / TICKS))
    step = next(power * times for times in (1, 2, 5, 10) if (high - low) / (power * times) <= TICKS)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = range(math.ceil(low / step), math.floor(high / step) + 1)
    return [(step * number, f"{step * number:.{places}f}".replace("-", MINUS)) for number in numbers]


def _row(row: DotRow, at: Callable[[float], str], y: int) -> Markup:
    middle = y - 4 if row.each else y
    parts = [Markup('<g color="var(--{})"><title>{}</title>').format(row.role, row.says)]
    label = Markup(
        '<foreignObject x="-{}" y="{}" width="{}" height="20"><bdi class="label" title="{}">{}</bdi></foreignObject>'
    )
    parts.append(label.format(LABELS, y - 10, LABELS - 12, row.says, row.label))
    if row.ends:
        low, high = (at(end) for end in row.ends)
        parts.append(_line(low, middle, high, middle, "interval"))
        parts += [_line(end, middle - 6, end, middle + 6, "interval") for end in (low, high)]
    for name, value in row.each:
        small = Markup('<circle class="each" cx="{}" cy="{}" r="3"><title>{}: {}</title></circle>')
        parts.append(small.format(at(value), y + 10, name, _short(value)))
    dot = Markup('<svg x="{}" y="{}" overflow="visible"><path d="{}"/></svg></g>')
    parts.append(dot.format(at(row.value), middle, SHAPES[row.shape]))
    return Markup("").join(parts)


def _line(x1: str, y1: int, x2: str, y2: int, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, x1, y1, x2, y2)


def _short(value: float) -> str:
    return write(value, "nll")
