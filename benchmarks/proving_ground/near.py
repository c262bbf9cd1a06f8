"""What the search for near-duplicates leaves of a pool, with near copies planted in it and without.

Copies are 30% of the pool that they make. Few rows are copied often, by a power law. A copy has another opening or closing line, and in
half of the cases no line breaks; its answer stays. The originals stay in their places, so the clean pool is part of the grown one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study_pools import shuffled

COPIES, MOST, POWER = 0.3, 30, 0.25
"""Share of the grown pool; a row of rank r, in the order of a hash, is copied 1 + MOST · r^-POWER times until there are as many."""
NOISE, SEARCHED = "near", "searched"
"""The record's names of a pool with its copies, and of the clean pool once it is searched. Without a name runs pick from the whole pool."""
ALL = "random, copies left in"
"""Random from the grown pool as it is; other strategies pick from what the search leaves."""
OPENINGS = (
    "", "Here is something to work on.", "Please have a look at this:", "Task:", "I would like to know the following.",
    "A colleague asked me this.",
)  # fmt: skip
CLOSINGS = (
    "", "Thank you in advance.", "That is all I need.", "Take the time that you need.", "I am looking forward to it.",
    "Nothing else is asked.",
)  # fmt: skip
Row = dict[str, Any]


def with_copies(rows: Sequence[Row]) -> tuple[list[Row], np.ndarray]:
    """The rows and their copies behind them, and (n + copies,) the place of the row that each copies; a row of its own has its own."""
    wanted, made, of = round(COPIES / (1 - COPIES) * len(rows)), [], []
    for rank, row in enumerate(shuffled([{**row, "number": i} for i, row in enumerate(rows)], "near copies")):
        number, times = row["number"], 1 + int(MOST * (rank + 1) ** -POWER)
        for turn in range(min(times, wanted - len(made))):
            made.append(copy_of(rows[number], number + turn))
            of.append(number)
    return [*rows, *made], np.array([*range(len(rows)), *of], dtype=np.int64)


def copy_of(row: Row, turn: int) -> Row:
    """A copy of the row; those of 35 turns in a row differ."""
    opening, closing = divmod(turn % (len(OPENINGS) * len(CLOSINGS) - 1) + 1, len(CLOSINGS))
    messages = list(row["messages"])
    at = len(messages) - 2  # the last one before the response
    text = messages[at]["content"]
    if turn % 2:
        text = " ".join(line for part in text.split("\n") if (line := part.strip()))
    text = "\n".join(part for part in (OPENINGS[opening], text, CLOSINGS[closing]) if part)
    messages[at] = {**messages[at], "content": text}
    return {**row, "messages": messages}


def left_by_search(vectors: np.ndarray, keys: np.ndarray, answers: np.ndarray | None) -> np.ndarray:
    """Places (ascending) of the rows that a round could pick: one of each group of near-duplicates, by its shipped settings.

    Args:
        vectors: (n, d) embeddings. keys: (n,) which of a group stays is a draw, as it is in a round. answers: (n,) of `answer_codes`;
            None: by the embeddings alone.
    """
    from selection.config import DedupConfig
    from selection.dedup import near_duplicate_groups

    config = DedupConfig()
    preference = np.argsort(np.argsort(keys, kind="stable"), kind="stable")
    groups = near_duplicate_groups(vectors, preference, config.threshold, config.neighbours, answers=answers)
    return np.flatnonzero(groups.representative == np.arange(len(keys)))


def rows_in(noise: str) -> str:
    """The part of splits.npz that has the rows before the search."""
    return "near" if noise == NOISE else "pool"


def noises(pool: str, splits: Mapping[str, np.ndarray]) -> list[str]:
    """What of a pool is searched: it alone, and with its copies where splits.npz has them."""
    return [noise for noise in (SEARCHED, NOISE) if f"{pool}|{rows_in(noise)}" in splits]


def search_figures(of: np.ndarray, left: np.ndarray) -> dict[str, Any]:
    """How well the search did: of the rows that copies make superfluous the part that left ("recall"), and of the rows that left the
    part that copies made superfluous ("precision"; others are near-duplicates that the pool had already)."""
    size, stay = np.bincount(of), np.bincount(of[left], minlength=of.max() + 1)
    planted = len(of) - len(size)
    gone = int(np.where(size > 1, size - np.maximum(stay, 1), 0).sum())
    out = len(of) - len(left)
    return {
        "rows": len(of),
        "copies": planted,
        "left_out": out,
        "recall": round(gone / planted, 4) if planted else None,
        "precision": round(gone / out, 4) if planted and out else None,
    }


def recorded(before: dict[str, dict[str, Any]], files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """{noise: {pool: `search_figures`}} of the record, and over them those of the files (near.json) that are there.

    A pool that no file has keeps its figures: a work folder has those of its own pools alone, and none where its picks were made elsewhere.
    """
    found = {noise: dict(of_pool) for noise, of_pool in before.items()}
    for file in files:
        for noise, of_pool in (json.loads(file.read_text()) if file.exists() else {}).items():
            found[noise] = found.get(noise, {}) | of_pool
    return found
