"""Progress of work whose parts are counted in shares of the whole."""

from __future__ import annotations

from collections.abc import Callable


class Shares:
    """Turns shares of the work into whole units: `total` in all, never more."""

    def __init__(self, total: int, progress: Callable[[int], None]):
        self._total, self._progress = total, progress
        self._share, self._shown = 0.0, 0

    def __call__(self, share: float) -> None:
        """So much more of the work is done."""
        self.upto(self._share + share)

    def upto(self, share: float) -> None:
        """So much of the work is done in all, at least."""
        self._share = max(self._share, min(share, 1.0))
        units = round(self._total * self._share)
        self._progress(units - self._shown)
        self._shown = units
