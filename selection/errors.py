"""Errors that a user can cause in selection. The command line prints the message and exits with `exit_code`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SelectionError(ValueError):
    """The pool does not have what was asked for. The message says what was found and what to do. Exit code 3 (data)."""

    exit_code: int = 3


class PoolUsedUp(SelectionError):
    """Fewer examples are left to select than the budget asks for."""


class SelectionUsageError(SelectionError):
    """A name, number or budget that no pool could satisfy. Exit code 2 (usage)."""

    exit_code = 2


class MachineError(SelectionError):
    """The machine lacks memory. Exit code 4 (environment)."""

    exit_code = 4


def nearest_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown `name`: it suggests the nearest known name and lists all."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}."
