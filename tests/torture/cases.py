"""What the harness runs: rows of cases. A new row is one function with the decorator `row`, in any module of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROWS: dict[str, Row] = {}


class Fell(Exception):
    """A promise that did not hold; says what was found instead."""


@dataclass(frozen=True)
class Case:
    """One experiment.

    Attributes:
        name: with it and the seed the experiment can be repeated.
        run: called with an empty folder, which is deleted afterwards; returns what happened in a word or two, which is counted, or
            raises `Fell`. Any other exception counts as a fall too.
        group: cases of one group run in one process and may share what they prepare.
    """

    name: str
    run: Callable[[Path], str]
    group: str = ""


@dataclass(frozen=True)
class Row:
    """A row of the table: `cases` makes its cases from a seed; `title` says what is done and `promise` what must hold."""

    name: str
    title: str
    promise: str
    cases: Callable[[int], Iterator[Case]]


def row(name: str, title: str, promise: str) -> Callable[[Callable[[int], Iterator[Case]]], None]:
    """Add a row to `ROWS`."""

    def add(cases: Callable[[int], Iterator[Case]]) -> None:
        ROWS[name] = Row(name, title, promise, cases)

    return add


def expect(held: object, found: str) -> None:
    """Raise `Fell` with what was `found` unless `held`."""
    if not held:
        raise Fell(found)
