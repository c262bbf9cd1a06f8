"""How a number of a summary is looked up and written, for both terminal and page.

A number reaches a reader only through `lookup` and `write`, so what is shown is what the summary holds, and a missing
one is a dash. Lower-case style names ("count", "nll", ...) are the keys of `STYLES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

MISSING = "–"
MINUS = "\u2212"
NOISE = 1e-9
"""Below this a number is what rounding left of a zero: sums of float64 differ by 1e-16 with their order."""


def short(text: str, limit: int = 80) -> str:
    """A text on one line, cut at `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def lookup(summary: Mapping[str, Any] | Sequence[Any], *path: str | int) -> Any:
    """The value at a path of keys and list positions, None where any step of it is absent."""
    node: Any = summary
    for step in path:
        if isinstance(node, Mapping):
            node = node.get(step)
        elif isinstance(node, Sequence) and not isinstance(node, str) and isinstance(step, int) and step < len(node):
            node = node[step]
        else:
            return None
    return node


def pointer(*path: str | int) -> str:
    """The path as a JSON pointer (RFC 6901), e.g. ("pool", "a/b") as "/pool/a~1b"."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def write(value: float | int | None, style: str, *, signed: bool = False) -> str:
    """A number as a reader sees it, in one of `STYLES`; `signed` puts a plus before a positive one; None is a dash."""
    if value is None:
        return MISSING
    text = STYLES[style](abs(value))
    if -NOISE < value < NOISE:
        return text
    if value < 0:
        return MINUS + text
    return "+" + text if signed and value > 0 else text


def _decimals(value: float, places: int) -> str:
    """Fixed decimals, but never a nonzero number written as zero: an interval that misses zero must look so. NOISE is zero."""
    if value > NOISE and value < 0.5 * 10**-places:
        return f"{value:.1g}"
    return f"{value:,.{places}f}"


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _seconds(value: float) -> str:
    if value < 60:
        return f"{_decimals(value, 1)} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


STYLES: dict[str, Callable[[float], str]] = {
    "count": lambda value: f"{value:,.0f}",
    "nll": lambda value: _decimals(value, 3),
    "percent": lambda value: f"{_decimals(100 * value, 1)}%",
    "points": lambda value: _decimals(100 * value, 1),
    "ratio": lambda value: _decimals(value, 2),
    "rate": lambda value: f"{value:,.0f}",
    "money": lambda value: _decimals(value, 2),
    "gib": lambda value: f"{_decimals(value, 2)} GiB",
    "seconds": _seconds,
    "p": _p_value,
    "plain": str,
}
