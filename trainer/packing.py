"""Packing: best-fit decreasing of documents into packs of a fixed number of tokens, without splitting.

    capacity 16                              document   length
    pack 0  |aaaaaaaaaaaaaa|..|              a          14
    pack 1  |bbbbbbbbb|ccccccc|              b, c        9, 7
    pack 2  |dddddd|eeeee|fff|..|            d, e, f     6, 5, 3
             <- offsets mark where a pack's members begin; dots are empty ->

Documents are placed from long to short, each into the fullest pack with enough room. Best-fit decreasing needs at
most 11/9 of the minimum number of packs (Johnson et al. 1974, doi:10.1137/0203025) and wastes under 1% on the lengths of
instruction data, because the many short documents fill the gaps of the long ones.

Only lengths matter, so all documents of one length form a group, and all packs with the same free space form a group: a
document of length l goes r // l times into a pack with r free tokens before the next pack. A two-level bit set finds the
free space. Time is O(m + g·sqrt(capacity)/64) for m documents and g <= m visited groups, memory O(m + capacity): one to two
seconds and under 300 MiB for a million documents.

The alternative, `plan_length_sorted`, groups documents of similar length and leaves more free space. It sorts only
segments of a shuffled order, so the composition and fullness of batches are random (as group_by_length
in transformers). Both plans are functions of the lengths alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np

from trainer.errors import CheckpointError, DataError, TrainerError

STRETCH = 50
"""Size of the segments that plan_length_sorted sorts by length, in batches; as in transformers."""


@dataclass(frozen=True)
class PackPlan:
    """Which documents share a pack: pack p holds `members[offsets[p]:offsets[p + 1]]`.

    offsets (p+1,) int64; members (m,) int64, indices into the planned lengths, each exactly once, longest
    first within a pack; capacity and total_tokens in tokens.
    """

    offsets: np.ndarray
    members: np.ndarray
    capacity: int
    total_tokens: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def efficiency(self) -> float:
        """Share of the packs' capacity that holds tokens, 0 to 1; 1 for an empty plan."""
        return self.total_tokens / (len(self) * self.capacity) if len(self) else 1.0

    def save(self, directory: Path) -> None:
        """Write offsets.npy, members.npy and packs.json into `directory`, creating it if missing."""
        directory.mkdir(parents=True, exist_ok=True)
        np.save(directory / "offsets.npy", self.offsets)
        np.save(directory / "members.npy", self.members)
        facts = {
            "capacity": self.capacity,
            "total_tokens": self.total_tokens,
            "documents": len(self.members),
            "packs": len(self),
        }
        (directory / "packs.json").write_text(json.dumps({**facts, "efficiency": self.efficiency}, indent=2) + "\n")

    @classmethod
    def open(cls, directory: Path) -> PackPlan:
        """Read a plan written by `save`, with memory-mapped arrays. Raises CheckpointError if files are missing or inconsistent."""
        try:
            facts = json.loads((directory / "packs.json").read_text())
            offsets, members = (np.load(directory / f"{name}.npy", mmap_mode="r") for name in ("offsets", "members"))
            plan = cls(offsets, members, facts["capacity"], facts["total_tokens"])
            sound = len(plan) == facts["packs"] and len(members) == facts["documents"] == offsets[-1]
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{directory}: expected a pack plan (packs.json, offsets.npy, members.npy): {error}"
            ) from error
        if not sound:
            raise CheckpointError(f"{directory}: packs.json and the arrays do not belong together; pack again")
        return plan


def plan_packs(lengths: np.ndarray, capacity: int) -> PackPlan:
    """Pack documents of `lengths` (m,) tokens into packs of `capacity` tokens by best-fit decreasing.

    Deterministic: of equal documents the one with the lower index comes first. Raises DataError for a document that is
    empty or longer than the capacity, TrainerError for a capacity under 1.
    """
    lengths = _checked(lengths, capacity)
    order = np.argsort(-lengths, kind="stable")
    pack_of = np.fromiter(_pack_numbers(lengths, capacity), dtype=np.int64, count=len(lengths))
    by_pack = np.argsort(pack_of, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(pack_of))]).astype(np.int64)
    return PackPlan(offsets, order[by_pack], int(capacity), int(lengths.sum()))


def plan_length_sorted(lengths: np.ndarray, capacity: int) -> PackPlan:
    """Divide documents of `lengths` (m,) tokens into batches of similar length and at most `capacity` tokens.

    The shuffled documents are divided into segments of STRETCH × capacity tokens. Each is sorted from long to short and
    split whenever a batch is full. Raises the errors of plan_packs.
    """
    lengths = _checked(lengths, capacity)
    shuffled = np.random.default_rng(len(lengths)).permutation(len(lengths))
    stretch = (np.cumsum(lengths[shuffled]) - 1) // (STRETCH * capacity)
    order = shuffled[np.lexsort((-lengths[shuffled], stretch))]
    ends = np.cumsum(lengths[order])
    borders = np.cumsum(np.bincount(stretch)).tolist()
    offsets = [0]
    for border in borders:
        while offsets[-1] < border:
            filled = ends[offsets[-1] - 1] if offsets[-1] else 0
            offsets.append(min(border, int(np.searchsorted(ends, filled + capacity, side="right"))))
    return PackPlan(np.array(offsets, dtype=np.int64), order, int(capacity), int(lengths.sum()))


PLANNERS: dict[str, Callable[[np.ndarray, int], PackPlan]] = {
    "packed": plan_packs,
    "length_sorted": plan_length_sorted,
}
"""By train.batching."""


def _checked(lengths: np.ndarray, capacity: int) -> np.ndarray:
    lengths = np.asarray(lengths, dtype=np.int64)
    if capacity < 1:
        raise TrainerError(f"capacity of a pack: expected at least 1 token, found {capacity}")
    for wrong, why in ((lengths < 1, "is empty"), (lengths > capacity, f"is longer than a pack of {capacity} tokens")):
        if wrong.any():
            worst = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"{int(wrong.sum())} of {len(lengths)} documents cannot be packed: document {worst} of "
                f"{lengths[worst]} tokens {why}. Raise train.pack_length or lower tokens.max_length"
            )
    return lengths


def _pack_numbers(lengths: np.ndarray, capacity: int) -> Iterator[int]:
    """The pack of each document, in order of decreasing length."""
    rooms = _Rooms(capacity)
    distinct, counts = np.unique(lengths, return_counts=True)
    packs = 0
    for length, count in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while count:
            room = rooms.smallest(length)
            if room is None:
                room, fit = capacity, capacity // length
                used = -(-count // fit)
                taken = range(packs, packs + used)
                packs += used
            else:
                fit = room // length
                taken = rooms.take(room, -(-count // fit))
            full, rest = divmod(min(count, fit * len(taken)), fit)
            for pack in taken[:full]:
                for _ in range(fit):
                    yield pack
            rooms.put(room - fit * length, taken[:full])
            if rest:
                for _ in range(rest):
                    yield taken[full]
                rooms.put(room - rest * length, taken[full:])
            count -= full * fit + rest


class _Rooms:
    """Open packs by their free space in tokens; finds the smallest sufficient one.

    `words[w]` has one bit for each free space in its range that some pack has, `summary` one bit for each non-zero word.
    """

    def __init__(self, capacity: int) -> None:
        self.width = max(64, isqrt(capacity) + 1)
        self.packs: list[list[int]] = [[] for _ in range(capacity + 1)]
        self.words = [0] * (capacity // self.width + 1)
        self.summary = 0

    def smallest(self, least: int) -> int | None:
        """The smallest free space of at least `least` tokens that some pack has, or None."""
        word, bit = divmod(least, self.width)
        high = self.words[word] >> bit if word < len(self.words) else 0
        if high:
            return least + (high & -high).bit_length() - 1
        later = self.summary >> (word + 1)
        if not later:
            return None
        word += (later & -later).bit_length()
        bits = self.words[word]
        return word * self.width + (bits & -bits).bit_length() - 1

    def take(self, room: int, count: int) -> list[int]:
        """Remove and return at most `count` packs with exactly this free space, the last added ones."""
        packs = self.packs[room]
        taken = packs[-count:]
        del packs[-count:]
        if not packs:
            word, bit = divmod(room, self.width)
            self.words[word] &= ~(1 << bit)
            if not self.words[word]:
                self.summary &= ~(1 << word)
        return taken

    def put(self, room: int, packs: list[int] | range) -> None:
        """Add packs with this free space; full packs are not stored, because nothing fits."""
        if packs and room:
            self.packs[room].extend(packs)
            word, bit = divmod(room, self.width)
            self.words[word] |= 1 << bit
            self.summary |= 1 << word
