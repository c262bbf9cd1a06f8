"""Reads a pool version. Rows are sorted by id; row r of every per-example array of a run is example r."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from al.errors import RunStateError

Message = dict[str, Any]
Part = Literal["conversation", "prompt", "response"]


class Pool:
    """A pool directory opened for reading.

    Ids, sources and flags are in memory (about 200 bytes per example). Messages are read from disk one row
    group at a time, so `iter_messages` needs constant memory and `messages(rows)` memory in proportion to `rows`.
    """

    def __init__(self, path: Path, file: pq.ParquetFile):
        self.path = path
        self._file = file
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @classmethod
    def open(cls, path: Path) -> Pool:
        """Open the pool directory `path`.

        Raises:
            RunStateError: examples.parquet is missing or cannot be read.
        """
        file = Path(path) / "examples.parquet"
        try:
            return cls(Path(path), pq.ParquetFile(file))
        except FileNotFoundError:
            raise RunStateError(f"{path}: not a pool (no examples.parquet). Import it again.") from None
        except pa.ArrowInvalid as error:
            raise RunStateError(f"{file}: damaged ({error}). Import the pool again.") from None

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def stats(self) -> dict[str, Any]:
        """The counts of pool.json; see `al.pool.stats.PoolStats`."""
        return json.loads((self.path / "pool.json").read_text(encoding="utf-8"))

    @cached_property
    def keys(self) -> np.ndarray:
        """(n,) uint64, ascending: the ids as numbers."""
        column = self._file.read(columns=["id"])["id"].cast(pa.binary(16)).combine_chunks()
        first = 16 * column.offset  # one buffer of all ids; Python strings would take four times the memory
        digits = np.frombuffer(column.buffers()[1] or b"", dtype=np.uint8)[first : first + 16 * len(column)].reshape(
            -1, 16
        )
        nibbles = np.where(digits >= ord("a"), digits - (ord("a") - 10), digits - ord("0")).astype(np.uint8)
        octets = np.ascontiguousarray((nibbles[:, 0::2] << 4) | nibbles[:, 1::2])
        return octets.view(">u8").ravel().astype(np.uint64)

    @cached_property
    def ids(self) -> np.ndarray:
        """(n,) str of 16 lowercase hex digits, ascending."""
        return np.array(self._file.read(columns=["id"])["id"].to_pylist(), dtype="<U16")

    @cached_property
    def sources(self) -> np.ndarray:
        """(n,) str: the task or dataset each example came from."""
        encoded = self._file.read(columns=["source"])["source"].combine_chunks().dictionary_encode()
        names = np.array(encoded.dictionary.to_pylist(), dtype=str)
        return names[encoded.indices.to_numpy()] if len(names) else names

    @cached_property
    def labelled(self) -> np.ndarray:
        """(n,) bool: whether the example ends in a response to train on."""
        return self._file.read(columns=["labelled"])["labelled"].to_numpy()

    @cached_property
    def answered(self) -> np.ndarray:
        """(n,) bool: has no response, but another example is the same conversation with one. Computed on import; all False in a
        pool imported by a Winnow that did not compute it."""
        path = self.path / "answered.npy"
        return np.load(path) if path.exists() else np.zeros(len(self), dtype=bool)

    def count_roles(self) -> dict[str, np.ndarray]:
        """Number of messages of each role per example, {role: (n,) int64}."""
        counts: dict[str, list[np.ndarray]] = {"system": [], "user": [], "assistant": [], "tool": []}
        for group in range(self._file.num_row_groups):
            messages = self._file.read_row_group(group, columns=["messages"])["messages"].combine_chunks()
            parents = messages.value_parent_indices().to_numpy()
            roles = pc.struct_field(messages.flatten(), "role")
            for role, parts in counts.items():
                of_role = pc.equal(roles, role).to_numpy(zero_copy_only=False)
                parts.append(np.bincount(parents[of_role], minlength=len(messages)))
        return {role: np.concatenate([np.zeros(0, np.int64), *parts]) for role, parts in counts.items()}

    @property
    def _conversation(self) -> list[str]:
        """The columns of a conversation; pools of an older Winnow have no turns that are context only."""
        return [name for name in ("messages", "unlearned") if name in self._file.schema_arrow.names]

    def messages(self, rows: Sequence[int] | np.ndarray) -> list[list[Message]]:
        """The conversations of `rows`, in that order: `role` and `content` of each message, and `train`: False for a turn of the
        assistant that is context only. Raises IndexError for a row outside the pool."""
        return marked(*(self._take(name, rows) for name in self._conversation))

    def iter_messages(self) -> Iterator[list[Message]]:
        """Every conversation in row order, as `messages`, one batch of rows in memory at a time."""
        for batch in self._file.iter_batches(batch_size=2048, columns=self._conversation):
            yield from marked(*(batch.column(name) for name in self._conversation))

    def texts(self, rows: Sequence[int] | np.ndarray, part: Part = "conversation") -> Texts:
        """Plain text of `rows`: all message contents or all but the response, separated by line breaks; or the response, "" for none.

        Read from disk when asked for, one row group at a time; ascending rows read each row group once. What reads rows in any order
        asks for `.held()`. Raises IndexError for a row outside the pool.
        """
        rows = np.asarray(rows, dtype=np.int64)
        self._check(rows)
        return Texts(self, rows, part)

    def group_messages(self, group: int) -> pa.Array:
        """The messages of every row of a row group."""
        return self._file.read_row_group(group, columns=["messages"])["messages"].combine_chunks()

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The row group of each of `rows`, and its place there."""
        group = np.searchsorted(self._starts, rows, side="right") - 1
        return group, rows - self._starts[group]

    def _check(self, rows: np.ndarray) -> None:
        if len(rows) and not (0 <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"rows must be in 0..{len(self) - 1}, found {rows.min()}..{rows.max()}")

    def search(self, words: str) -> np.ndarray:
        """(m,) rows, ascending, of which some message contains `words`, ignoring case; one row group in memory at a time."""
        return np.flatnonzero(self.texts(np.arange(len(self))).holding(words))

    def alternatives(self, rows: Sequence[int] | np.ndarray) -> list[list[str]]:
        """Accepted answers other than the response, per row of `rows`."""
        return self._take("alternatives", rows).to_pylist()

    def origin(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """The origin of each of `rows`, such as "file.jsonl:12"."""
        return self._take("origin", rows).to_pylist()

    def metadata(self, rows: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """The fields of the raw rows outside the conversation."""
        return [json.loads(text) for text in self._take("metadata", rows).to_pylist()]

    def _take(self, column: str, rows: Sequence[int] | np.ndarray) -> pa.Array:
        rows = np.asarray(rows, dtype=np.int64)
        parts = list(self._row_groups(column, rows))
        if not parts:
            return pa.array([], type=self._file.schema_arrow.field(column).type)
        return pa.concat_arrays(parts).take(pa.array(_rank_of_sorted(rows)))

    def _row_groups(self, column: str, rows: np.ndarray) -> Iterator[pa.Array]:
        """`column` at `rows`, ascending, one array per row group touched."""
        self._check(rows)
        ordered = np.sort(rows, kind="stable")
        bounds = np.searchsorted(ordered, self._starts)
        for group in np.flatnonzero(np.diff(bounds)):
            local = ordered[bounds[group] : bounds[group + 1]] - self._starts[group]
            yield self._file.read_row_group(int(group), columns=[column])[column].combine_chunks().take(pa.array(local))


def marked(messages: pa.Array, unlearned: pa.Array | None = None) -> list[list[Message]]:
    """Conversations as lists of messages; the positions in `unlearned`, a list per conversation, get `train`: False."""
    conversations = messages.to_pylist()
    if unlearned is not None and len(unlearned.flatten()):
        for conversation, turns in zip(conversations, unlearned.to_pylist(), strict=True):
            for turn in turns:
                conversation[turn]["train"] = False
    return conversations


def locate(known: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((m,) positions of `wanted` in the sorted, non-empty `known`, (m,) bool whether each is present)."""
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return at, known[at] == wanted


class Texts(Sequence[str]):
    """Read-only sequence of the texts of `rows` (m,) of a pool; a slice is again a `Texts`. Holds the last row group that was read, at
    most 64 MiB of text, unless it is `held`."""

    def __init__(self, pool: Pool, rows: np.ndarray, part: Part):
        self._pool, self._rows, self._part = pool, rows, part
        self._read: tuple[int, pa.Array] | None = None
        self._all: pa.LargeStringArray | None = None

    def held(self) -> Texts:
        """The same, with all texts in one buffer in memory: their bytes and 8 for each."""
        order = np.argsort(self._rows, kind="stable")
        parts = list(Texts(self._pool, self._rows[order], self._part)._arrays())
        joined = pa.chunked_array(parts, type=pa.large_string()).combine_chunks()
        found = Texts(self._pool, self._rows, self._part)
        found._all = joined.take(pa.array(_rank_of_sorted(self._rows)))
        return found

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Texts: ...

    def __getitem__(self, index: int | slice) -> str | Texts:
        if isinstance(index, slice):
            found = Texts(self._pool, self._rows[index], self._part)
            found._all = None if self._all is None else self._all[index]
            return found
        if self._all is not None:
            return self._all[int(index)].as_py()
        (group,), (place,) = self._pool.places(self._rows[int(index), None])
        return _plain_text(self._group(int(group)).slice(int(place), 1), self._part)[0].as_py()

    def __iter__(self) -> Iterator[str]:
        for array in self._arrays():
            for start in range(0, len(array), 2048):
                yield from array[start : start + 2048].to_pylist()

    def holding(self, words: str) -> np.ndarray:
        """(n,) bool: which texts contain `words`, ignoring case."""
        found = (pc.match_substring(array, words, ignore_case=True) for array in self._arrays())
        return np.concatenate([np.zeros(0, bool), *(array.to_numpy(zero_copy_only=False) for array in found)])

    def lengths(self) -> np.ndarray:
        """(n,) int64 length of each text in characters."""
        found = (pc.utf8_length(array).to_numpy().astype(np.int64) for array in self._arrays())
        return np.concatenate([np.zeros(0, np.int64), *found])

    def _arrays(self) -> Iterator[pa.LargeStringArray]:
        """The texts in order, an array for each stretch of rows in one row group."""
        if self._all is not None:
            yield self._all
            return
        group, place = self._pool.places(self._rows)
        bounds = np.flatnonzero(np.diff(group, prepend=-1, append=-1))
        for start, end in zip(bounds[:-1], bounds[1:], strict=True):
            messages = self._group(int(group[start])).take(pa.array(place[start:end]))
            yield _plain_text(messages, self._part)

    def _group(self, group: int) -> pa.Array:
        if self._read is None or self._read[0] != group:
            self._read = None  # before the next one is read: one at a time is in memory
            self._read = group, self._pool.group_messages(group)
        return self._read[1]


def _rank_of_sorted(rows: np.ndarray) -> np.ndarray:
    """Positions that restore the order of `rows` after sorting: sort(rows)[rank] == rows."""
    rank = np.empty(len(rows), dtype=np.int64)
    rank[np.argsort(rows, kind="stable")] = np.arange(len(rows))
    return rank


def _plain_text(messages: pa.ListArray, part: Part) -> pa.LargeStringArray:
    counts = messages.value_lengths().to_numpy()
    ends = np.cumsum(counts, dtype=np.int64)
    said = messages.flatten()
    answered = pc.equal(said.field("role").take(pa.array(ends - 1)), "assistant").to_numpy(zero_copy_only=False)
    contents = said.field("content").cast(pa.large_string())
    if part != "conversation":
        wanted = np.full(len(contents), part == "prompt")
        wanted[ends[answered] - 1] = part == "response"
        contents = contents.filter(pa.array(wanted))
        counts = answered if part == "response" else counts - answered
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(offsets, contents), pa.scalar("\n", pa.large_string()))


def text_of(conversation: list[Message], part: Part) -> str:
    """The contents of a part of a conversation, a line each; the response is the last message, if it is the assistant's."""
    answered = conversation[-1]["role"] == "assistant"
    if part == "response":
        conversation = conversation[-1:] if answered else []
    elif part == "prompt" and answered:
        conversation = conversation[:-1]
    return "\n".join(message["content"] for message in conversation)
