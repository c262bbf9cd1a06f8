"""What the gain of a round would have cost with examples picked at random, by the control's learning curve. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Relation = Literal["about", "more than", "at most", "no gain"]


@dataclass(frozen=True)
class Point:
    """Where the control stood after a round: what it was trained on so far, and its macro NLL on test."""

    examples: float
    tokens: float
    seconds: float
    nll: float


def cost_at_random(base_nll: float, nll: float, control: Sequence[Point]) -> dict[str, Any] | None:
    """Examples, tokens and seconds of training after which the control's curve is at `nll`; None without a control.

    Between two rounds NLL is taken as linear in the logarithm of the examples, as learning curves nearly are; tokens and seconds
    follow the examples in proportion. Nothing is extrapolated: below the last point the answer is "more than" what the control was
    trained on, above the first "at most" the first. The first crossing counts where the curve goes up and down.

    Returns:
        {"relation", "examples", "tokens", "seconds", "rounds"}; amounts are None for "no gain" (`nll` is not below the base's).
    """
    if not control:
        return None
    curve = sorted(control, key=lambda point: point.examples)
    if nll >= base_nll:
        return {"relation": "no gain", "examples": None, "tokens": None, "seconds": None, "rounds": len(curve)}
    relation, found = _read_off(curve, nll)
    return {
        "relation": relation,
        "examples": round(found.examples),
        "tokens": round(found.tokens),
        "seconds": found.seconds,
        "rounds": len(curve),
    }


def _read_off(curve: Sequence[Point], nll: float) -> tuple[Relation, Point]:
    if curve[0].nll <= nll:
        return "at most", curve[0]
    for low, high in zip(curve[:-1], curve[1:], strict=True):
        if high.nll <= nll < low.nll:
            return "about", _between(low, high, nll)
    return "more than", curve[-1]


def _between(low: Point, high: Point, nll: float) -> Point:
    part = (low.nll - nll) / (low.nll - high.nll)
    examples = math.exp((1 - part) * math.log(low.examples) + part * math.log(high.examples))
    share = (examples - low.examples) / (high.examples - low.examples) if high.examples > low.examples else 1.0

    def at(first: float, last: float) -> float:
        """Between two amounts, at the same share as the examples."""
        return first + share * (last - first)

    return Point(examples, at(low.tokens, high.tokens), at(low.seconds, high.seconds), nll)
