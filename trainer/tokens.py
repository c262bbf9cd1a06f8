"""The token table: conversations as flat arrays of token ids and targets, streamed to disk and read memory-mapped.

Row r is conversation r, in input order; its tokens are `ids[offsets[r]:offsets[r + 1]]`. Every dropped token is
counted: the tokens of row r and `dropped[r]` together are the whole conversation.
"""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.errors import CheckpointError, DataError
from trainer.rendering import END_OF_TURN, Conversation
from trainer.template import ChatTemplate, Tokenized
from trainer.tokens_config import TokensConfig

OK, SKIPPED, TRUNCATED, NO_TARGET_LEFT = 0, 1, 2, 3
STATUS_NAMES = {OK: "ok", SKIPPED: "skipped", TRUNCATED: "truncated", NO_TARGET_LEFT: "no_target"}
BATCH = 1024
REASONS_KEPT = 20
MERGED_AT_ONCE = 2**22
"""Tokens copied at a time when tables are merged."""
_FLAT = {"ids": np.int32, "targets": np.uint8}
_ROWS = {"offsets": np.int64, "status": np.uint8, "dropped": np.int32, "target_counts": np.int32}


@dataclass(frozen=True)
class TokenTable:
    """Tokens of n conversations.

    flat_ids (N,) int32 and flat_targets (N,) uint8 (0 not trained on, 1 token of a response, 2 its end token), row r
    from offsets[r] to offsets[r + 1], offsets (n+1,) int64; status (n,) uint8: 0 ok, 1 over length and skipped (its row
    has no tokens), 2 truncated, 3 nothing to train on; dropped (n,) int32 omitted tokens; target_counts (n,) int32.
    """

    flat_ids: np.ndarray
    flat_targets: np.ndarray
    offsets: np.ndarray
    status: np.ndarray
    dropped: np.ndarray
    target_counts: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,) int64 tokens of each row."""
        return np.diff(self.offsets)

    def ids(self, row: int) -> np.ndarray:
        """(length,) int32 token ids of a row."""
        return self.flat_ids[self.offsets[row] : self.offsets[row + 1]]

    def targets(self, row: int) -> np.ndarray:
        """(length,) uint8 targets of a row."""
        return self.flat_targets[self.offsets[row] : self.offsets[row + 1]]

    @classmethod
    def open(cls, path: Path) -> TokenTable:
        """Memory-map a table written by `write_table`. Raises CheckpointError if files are missing or inconsistent in size."""
        try:
            arrays = {
                name: np.load(path / f"{name}.npy", mmap_mode=_mmap_mode(path / f"{name}.npy"))
                for name in (*_FLAT, *_ROWS)
            }
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path}: expected a token table ({', '.join(f'{name}.npy' for name in (*_FLAT, *_ROWS))}): {error}"
            ) from error
        rows, total = len(arrays["offsets"]) - 1, int(arrays["offsets"][-1])
        sizes = {name: len(array) for name, array in arrays.items()}
        expected = {
            "ids": total,
            "targets": total,
            "offsets": rows + 1,
            "status": rows,
            "dropped": rows,
            "target_counts": rows,
        }
        if sizes != expected:
            raise CheckpointError(
                f"{path}: the arrays of the token table do not belong together (expected sizes {expected}, "
                f"found {sizes}); tokenize again"
            )
        return cls(arrays.pop("ids"), arrays.pop("targets"), **arrays)

    @classmethod
    def build(cls, tokenized: Sequence[Tokenized]) -> TokenTable:
        """A table in memory without omissions: status is 0, or 3 for a conversation without a target."""
        rows = [_Row(t, NO_TARGET_LEFT if not any(t.targets) else OK, 0) for t in tokenized]
        flat_ids, flat_targets = _flat(rows)
        return cls(flat_ids, flat_targets, **_row_arrays([_columns(rows)]))


@dataclass(frozen=True)
class _Row:
    tokenized: Tokenized
    status: int
    dropped: int


def fit(tokenized: Tokenized, config: TokensConfig) -> tuple[Tokenized, int, int]:
    """Shorten a conversation to at most `config.max_length` tokens by the method `config.overlength`.

    Returns the kept tokens, their status (as in TokenTable) and the number of omitted tokens.
    """
    ids, targets = tokenized.ids, tokenized.targets
    keep = len(ids)
    if len(ids) > config.max_length:
        keep = {"skip": 0, "truncate": config.max_length, "truncate_turns": _whole_turns(targets, config.max_length)}[
            config.overlength
        ]
    kept = tokenized if keep == len(ids) else Tokenized(ids[:keep], targets[:keep], tokenized.folded)
    if not any(targets):
        status = NO_TARGET_LEFT
    elif keep == 0:
        status = SKIPPED
    elif not any(kept.targets):
        status = NO_TARGET_LEFT
    else:
        status = OK if keep == len(ids) else TRUNCATED
    return kept, status, len(ids) - keep


def _whole_turns(targets: list[int], limit: int) -> int:
    """Length of the longest prefix within `limit` that ends with a response's end token; 0 if there is none."""
    return next((i + 1 for i in range(limit - 1, -1, -1) if targets[i] == END_OF_TURN), 0)


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Python's garbage collector runs after 100,000 new objects instead of 700: a quarter of the time of tokenizing."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@dataclass(frozen=True)
class Part:
    """Some consecutive conversations of a table, in plain arrays, so that they can be made elsewhere and kept.

    ids (N,) int32 and targets (N,) uint8 of all rows; columns (4, rows) int32: length, status, dropped, target count; folded () int64:
    conversations that were folded; refused (bytes,) uint8: JSON of [row of this part, reason] of each that the template refused.
    """

    ids: np.ndarray
    targets: np.ndarray
    columns: np.ndarray
    folded: np.ndarray
    refused: np.ndarray

    def refusals(self) -> list[tuple[int, str]]:
        """(row of this part, reason) of each refused conversation."""
        return [(row, reason) for row, reason in json.loads(self.refused.tobytes())]


def tokenize_parts(
    conversations: Iterable[Conversation], template: ChatTemplate, config: TokensConfig, may_refuse_all: bool = False
) -> Iterator[Part]:
    """Tokenize `conversations`, in parts of 1,024.

    Raises DataError if the template refuses all of the first part: then the template is at fault. With `may_refuse_all`, for
    conversations that are added to others, it does not.
    """
    with _fewer_collections():
        for results in template.tokenize_batches(_batches(conversations, BATCH)):
            part = _part(results, config)
            refused = part.refusals()
            if not may_refuse_all and len(refused) == len(results):
                raise DataError(
                    f"the chat template refuses all of the first {len(results)} conversations, "
                    f"the first because: {refused[0][1]}"
                )
            may_refuse_all = True
            yield part


def join_parts(parts: Sequence[Part]) -> Part:
    """One part of several that follow each other, at least one."""
    starts = np.cumsum([0, *(part.columns.shape[1] for part in parts)]).tolist()
    refused = [
        (start + row, reason) for start, part in zip(starts, parts, strict=False) for row, reason in part.refusals()
    ]
    return Part(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.columns for part in parts], axis=1),
        np.sum([part.folded for part in parts]),
        _packed(refused),
    )


def write_table(parts: Iterable[Part], template: ChatTemplate, config: TokensConfig, out: Path) -> None:
    """Write the table of `parts`, made with this template and config, into the directory `out`. How rows are parted changes no byte.

    Memory grows by only 24 bytes per conversation. Writes the arrays of TokenTable as npy files, and tokens.json: counts by status,
    tokens, target tokens and dropped tokens, the template with its hash, the tokenizer, the number of conversations whose system prompt
    the template does not take (`folded` into the first user turn), and the conversations that the template refused. Those have status
    3 and no tokens; their reasons are counted and the first rows listed.
    """
    out.mkdir(parents=True, exist_ok=True)
    columns: list[np.ndarray] = []
    refused: list[tuple[int, str]] = []
    reasons: Counter[str] = Counter()
    done = folded = 0
    with (out / "ids.npy").open("w+b") as ids_file, (out / "targets.npy").open("w+b") as targets_file:
        ids, targets = _NpyStream(ids_file, _FLAT["ids"]), _NpyStream(targets_file, _FLAT["targets"])
        for part in parts:
            ids.append(part.ids)
            targets.append(part.targets)
            columns.append(part.columns)
            for row, reason in part.refusals():
                reasons[reason] += 1
                refused += [(done + row, reason)] if len(refused) < REASONS_KEPT else []
            folded += int(part.folded)
            done += part.columns.shape[1]
        ids.close()
        targets.close()
    arrays = _row_arrays(columns)
    for name, array in arrays.items():
        np.save(out / f"{name}.npy", array)
    facts = {**_facts(arrays, template, config), "folded": folded, "refused": _refusals(reasons, refused)}
    (out / "tokens.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def tokenize_pool(
    conversations: Iterable[Conversation], template: ChatTemplate, config: TokensConfig, out: Path
) -> None:
    """Tokenize `conversations` in this process and write their table into the directory `out`, as `tokenize_parts` and `write_table` do."""
    write_table(tokenize_parts(conversations, template, config), template, config, out)


def merge_tables(tables: Sequence[Path], places: Sequence[np.ndarray], out: Path) -> None:
    """Write one table of the rows of several, made with the same template and config, as if all had been tokenized at once.

    Args:
        tables: directories written by `write_table`.
        places: for each table (rows,) int64 ascending, the row of the new table that each of its rows becomes; together 0 … n - 1.
        out: an existing directory.
    """
    opened = [TokenTable.open(path) for path in tables]
    of = np.concatenate([np.full(len(rows), table) for table, rows in enumerate(places)])
    row = np.concatenate([np.arange(len(rows)) for rows in places])
    order = np.argsort(np.concatenate(places), kind="stable")
    of, row = of[order], row[order]
    starts = np.flatnonzero((np.diff(of, prepend=-1) != 0) | (np.diff(row, prepend=-2) != 1))
    with (out / "ids.npy").open("w+b") as ids_file, (out / "targets.npy").open("w+b") as targets_file:
        streams = _NpyStream(ids_file, _FLAT["ids"]), _NpyStream(targets_file, _FLAT["targets"])
        for start, end in zip(starts, [*starts[1:], len(of)], strict=True):
            table = opened[of[start]]
            first, last = table.offsets[row[start]], table.offsets[row[end - 1] + 1]
            for stream, flat in zip(streams, (table.flat_ids, table.flat_targets), strict=True):
                for cut in range(first, last, MERGED_AT_ONCE):
                    stream.append(flat[cut : min(cut + MERGED_AT_ONCE, last)])
        for stream in streams:
            stream.close()
    columns = [np.stack([table.lengths, table.status, table.dropped, table.target_counts]) for table in opened]
    for name, array in _row_arrays([np.concatenate(columns, axis=1)[:, order]]).items():
        np.save(out / f"{name}.npy", array)
    facts = [json.loads((path / "tokens.json").read_text(encoding="utf-8")) for path in tables]
    text = json.dumps(_added(facts, places), indent=2, ensure_ascii=False) + "\n"
    (out / "tokens.json").write_text(text, encoding="utf-8")


def _added(facts: Sequence[dict[str, Any]], places: Sequence[np.ndarray]) -> dict[str, Any]:
    """tokens.json of a merged table: counts are added, the rows of the first refusals are those of the merged table."""
    counts = ("conversations", "tokens", "target_tokens", "dropped_tokens", "folded")
    status = {name: sum(fact["status"][name] for fact in facts) for name in STATUS_NAMES.values()}
    reasons: Counter[str] = Counter()
    for fact in facts:
        reasons.update(fact["refused"]["reasons"])
    first = sorted(
        (int(rows[entry["row"]]), entry["reason"])
        for fact, rows in zip(facts, places, strict=True)
        for entry in fact["refused"]["first"]
    )
    refused = _refusals(reasons, first[:REASONS_KEPT]) | {"count": sum(fact["refused"]["count"] for fact in facts)}
    return (
        facts[0] | {name: sum(fact[name] for fact in facts) for name in counts} | {"status": status, "refused": refused}
    )


def _facts(arrays: dict[str, np.ndarray], template: ChatTemplate, config: TokensConfig) -> dict[str, Any]:
    counts = np.bincount(arrays["status"], minlength=len(STATUS_NAMES)).tolist()
    return {
        "conversations": len(arrays["status"]),
        "status": {name: counts[code] for code, name in STATUS_NAMES.items()},
        "tokens": int(arrays["offsets"][-1]),
        "target_tokens": int(arrays["target_counts"].sum()),
        "dropped_tokens": int(arrays["dropped"].sum()),
        "template": template.name,
        "template_hash": template.hash,
        "tokenizer": template.tokenizer_name,
        **config.model_dump(),
    }


def _refusals(reasons: Counter[str], refused: list[tuple[int, str]]) -> dict[str, Any]:
    first = [{"row": row, "reason": reason} for row, reason in refused]
    return {"count": reasons.total(), "reasons": dict(reasons.most_common(REASONS_KEPT)), "first": first}


def _part(results: Sequence[Tokenized | DataError], config: TokensConfig) -> Part:
    """What the template made of some conversations."""
    refused = [(row, str(result)) for row, result in enumerate(results) if isinstance(result, DataError)]
    whole = [Tokenized([], []) if isinstance(result, DataError) else result for result in results]
    rows = [_Row(*fit(tokenized, config)) for tokenized in whole]
    folded = np.int64(sum(tokenized.folded for tokenized in whole))
    return Part(*_flat(rows), _columns(rows), np.asarray(folded), _packed(refused))


def _packed(refused: Sequence[tuple[int, str]]) -> np.ndarray:
    return np.frombuffer(json.dumps(refused).encode(), dtype=np.uint8)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _flat(rows: Sequence[_Row]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated ids and targets of the rows."""
    ids = chain.from_iterable([row.tokenized.ids for row in rows])
    targets = chain.from_iterable([row.tokenized.targets for row in rows])
    return np.fromiter(ids, dtype=_FLAT["ids"]), np.frombuffer(bytes(targets), dtype=_FLAT["targets"])


def _columns(rows: Sequence[_Row]) -> np.ndarray:
    """(4, rows) int32: length, status, dropped, target count."""
    values = [
        (len(row.tokenized.ids), row.status, row.dropped, len(row.tokenized.ids) - row.tokenized.targets.count(0))
        for row in rows
    ]
    return np.array(values, dtype=np.int32).reshape(-1, 4).T


def _row_arrays(columns: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    length, status, dropped, targets = np.concatenate([np.empty((4, 0), np.int32), *columns], axis=1)
    offsets = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])
    arrays = {"offsets": offsets, "status": status, "dropped": dropped, "target_counts": targets}
    return {name: array.astype(_ROWS[name]) for name, array in arrays.items()}


def _mmap_mode(path: Path) -> str | None:
    """The mmap mode of a file: empty arrays cannot be mapped; such a file is only a header of at most 128 bytes."""
    return "r" if path.stat().st_size > 128 else None


class _NpyStream:
    """A one-dimensional npy file whose length is known only at the end.

    numpy reserves space in the header for a growing length (numpy.lib.format, GROWTH_AXIS_MAX_DIGITS), so the
    final header replaces the first exactly.
    """

    def __init__(self, file: BinaryIO, dtype: type[np.generic]) -> None:
        self.file, self.dtype, self.length = file, np.dtype(dtype), 0
        self._header()

    def _header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, array: np.ndarray) -> None:
        """Write `array` at the end, converted to the file's dtype."""
        self.file.write(np.ascontiguousarray(array, dtype=self.dtype).tobytes())
        self.length += len(array)

    def close(self) -> None:
        """Write the final length into the header."""
        self.file.seek(0)
        self._header()
