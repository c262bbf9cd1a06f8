"""Spans of consecutive rows, taken and given back."""

from __future__ import annotations

from bisect import bisect_left


class Spans:
    """Free rows of 0 … rows - 1. A span comes from the first gap that is large enough; neighbouring gaps are one gap.

    Prompts enter longest first, so the span of a finished answer is always large enough for a prompt that waits.
    """

    def __init__(self, rows: int):
        self.rows = rows
        self.gaps = [(0, rows)]
        """(first row, rows) of each gap, ascending, none adjacent to the next."""

    def take(self, size: int) -> int | None:
        """The first row of a span of `size` rows that is now taken, or None if no gap is large enough."""
        for i, (begin, free) in enumerate(self.gaps):
            if free >= size:
                self.gaps[i : i + 1] = [(begin + size, free - size)] if free > size else []
                return begin
        return None

    def give(self, begin: int, size: int) -> None:
        """Give back a span."""
        i = bisect_left(self.gaps, (begin, 0))
        end = begin + size
        if i < len(self.gaps) and self.gaps[i][0] == end:
            end += self.gaps.pop(i)[1]
        if i and sum(self.gaps[i - 1]) == begin:
            begin = self.gaps.pop(i - 1)[0]
            i -= 1
        self.gaps.insert(i, (begin, end - begin))

    def copy(self) -> Spans:
        """The same free rows, to try on."""
        other = Spans(self.rows)
        other.gaps = list(self.gaps)
        return other
