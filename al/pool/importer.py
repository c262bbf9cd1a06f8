"""Import: files and hub datasets → a pool directory (one pool version).

    examples.parquet     the examples, sorted by id, exact duplicates merged; the same bytes whatever order the files come in
    quarantine.parquet   the rows that cannot be used: file, line, reason, message, snippet
    duplicates.parquet   the rows that equal an example: id, origin, kept_origin
    answered.npy         for each example, whether it has no response and another example answers it
    pool.json            PoolStats

Rows are read one at a time and sorted externally (`al.pool.spill`), so memory does not grow with the pool, except for the
quarantine (about 500 bytes a row).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from al.artifacts import sha256_file
from al.errors import DataError
from al.pool.answers import find_answered
from al.pool.convert import Converter
from al.pool.formats import FORMATS, RowError
from al.pool.reader import RawRow, read_rows
from al.pool.sources import Source
from al.pool.spill import DUPLICATES, Spill, write_examples
from al.pool.stats import PoolStats
from al.pool.store import Pool

QUARANTINE = pa.schema(
    [
        ("file", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("snippet", pa.string()),
    ]
)
SNIPPET = 200
PROGRESS_EVERY = 1000


@dataclass
class _Tally:
    """What the import has counted so far. `files` are those of all versions, `read` the labels of those read now."""

    quarantine: list[tuple[str, int, str, str, str]] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    adjusted: Counter[str] = field(default_factory=Counter)
    files: list[dict[str, Any]] = field(default_factory=list)
    read: set[str] = field(default_factory=set)


def import_pool(
    sources: Sequence[Source],
    out: Path,
    *,
    previous: Path | None = None,
    strict: bool = False,
    progress: Callable[[int], None] = lambda n: None,
) -> PoolStats:
    """Read `sources` into the existing directory `out`; with `previous`, a pool directory, all its examples are kept.

    A file that `previous` already holds (same label, bytes and format) is not read again. One that changed is, and what was
    quarantined of it before is forgotten: its rows may have been corrected. `progress` gets numbers of rows.

    Raises:
        DataError: a file that is missing or in which nothing is recognised, a pool without examples, or with `strict`
            the first unusable row.
    """
    tally = _Tally()
    folder = out / ".spill"
    folder.mkdir()
    try:
        spill = Spill(folder)
        if previous is not None:
            _keep(previous, spill, tally)
        present = {(file["file"], file["sha256"], file["format"]) for file in tally.files}
        for source in sorted(sources, key=lambda source: source.label):
            _import_source(source, present, spill, tally, strict, progress)
        duplicates = _write_tables(spill, tally, previous, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    stats = _count(out, tally, duplicates)
    if not stats.examples:
        raise DataError(
            f"no usable example in {len(tally.files)} file(s): {_reasons(tally)}. See the formats under `pool.format`."
        )
    stats.write(out)
    return stats


def _import_source(
    source: Source,
    present: set[tuple[str, str, str]],
    spill: Spill,
    tally: _Tally,
    strict: bool,
    progress: Callable[[int], None],
) -> None:
    digest = hashlib.sha256()
    known = None
    if not source.is_hub:
        known = _sha256(source)
        if (source.label, known, source.format) in present:
            return
    converter = Converter(source)
    refused = len(tally.quarantine)
    rows = 0
    for rows, (line, row, raw) in enumerate(_open_rows(source), 1):
        if source.is_hub:
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
        try:
            if isinstance(row, RowError):
                raise row
            for part, record in enumerate(converter.convert(row)):
                spill.add(record, source.label, line, part)
        except RowError as error:
            if strict:
                raise DataError(
                    f"{source.label}:{line}: {error} [{error.reason}]. Correct the row, or set `pool.strict: false` "
                    "to put such rows into quarantine."
                ) from None
            tally.quarantine.append((source.label, line, error.reason, str(error), snippet(raw)))
        if rows % PROGRESS_EVERY == 0:
            progress(PROGRESS_EVERY)
    progress(rows % PROGRESS_EVERY)
    refused = len(tally.quarantine) - refused
    _check_recognised(source, rows, refused, tally)
    tally.read.add(source.label)
    tally.formats += converter.formats
    tally.adjusted += converter.adjusted
    tally.files.append(
        {
            "file": source.label,
            "sha256": known or digest.hexdigest(),
            "format": source.format,
            "rows": rows,
            "quarantined": refused,
        }
    )


def _sha256(source: Source) -> str:
    try:
        return sha256_file(Path(source.path))
    except OSError as error:
        raise DataError(f"{source.label}: cannot be opened ({error.strerror}). Check `pool.files`.") from None


def _open_rows(source: Source) -> Iterator[RawRow]:
    if source.is_hub:
        from al.pool.hub import read_hub_rows

        return read_hub_rows(source)
    return read_rows(source)


def _check_recognised(source: Source, rows: int, refused: int, tally: _Tally) -> None:
    if rows == 0:
        raise DataError(
            f"{source.label}: holds no rows. Remove it from `pool.files`, or check that it was written completely."
        )
    if refused == rows:
        file, line, reason, message, _ = tally.quarantine[-refused]
        known = "; ".join(f"{format.name} ({format.fields})" for format in FORMATS.values())
        raise DataError(
            f"{source.label}: none of its {rows:,} rows can be used. The first is line {line}: {message} [{reason}]. "
            f"Known formats: {known}."
        )


def snippet(raw: Any) -> str:
    """The start of a raw row on one line, at most 200 characters, with control characters and bad bytes made visible."""
    if isinstance(raw, bytes):
        raw = raw[: 4 * SNIPPET].decode("utf-8", errors="backslashreplace")
    elif not isinstance(raw, str):
        raw = json.dumps(raw, ensure_ascii=False, default=str)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in raw[:SNIPPET])[:SNIPPET]


def _keep(previous: Path, spill: Spill, tally: _Tally) -> None:
    with pq.ParquetFile(previous / "examples.parquet") as file:
        for batch in file.iter_batches(batch_size=2048):
            spill.add_kept(pa.Table.from_batches([batch]))
    stats = PoolStats.read(previous)
    tally.formats.update(stats.formats)
    tally.adjusted.update(stats.adjusted)
    tally.files.extend(stats.files)


def _write_tables(spill: Spill, tally: _Tally, previous: Path | None, out: Path) -> int:
    """Write the three tables; the number of duplicate rows."""
    duplicates = [pq.read_table(previous / "duplicates.parquet")] if previous else [DUPLICATES.empty_table()]

    def examples() -> Iterable[pa.Table]:
        for kept, merged in spill.tables():
            duplicates.append(merged)
            yield kept

    write_examples(out / "examples.parquet", iter(examples()))
    merged = _distinct(pa.concat_tables(duplicates))
    pq.write_table(merged, out / "duplicates.parquet", compression="zstd")
    columns = zip(*tally.quarantine, strict=True) if tally.quarantine else [[]] * len(QUARANTINE)
    fresh = pa.table(
        [pa.array(values, type=column.type) for values, column in zip(columns, QUARANTINE, strict=True)],
        schema=QUARANTINE,
    )
    earlier = [_not_read_again(pq.read_table(previous / "quarantine.parquet"), tally.read)] if previous else []
    pq.write_table(_distinct(pa.concat_tables([*earlier, fresh])), out / "quarantine.parquet", compression="zstd")
    return len(merged)


def _not_read_again(quarantine: pa.Table, read: set[str]) -> pa.Table:
    return quarantine.filter(pc.invert(pc.is_in(quarantine["file"], value_set=pa.array(sorted(read), pa.string()))))


def _distinct(table: pa.Table) -> pa.Table:
    """Distinct rows, sorted by all columns."""
    rows = table.group_by(table.column_names).aggregate([]).select(table.column_names)
    return rows.sort_by([(name, "ascending") for name in table.column_names]).cast(table.schema)


def _count(out: Path, tally: _Tally, duplicates: int) -> PoolStats:
    table = pq.read_table(out / "examples.parquet", columns=["source", "labelled"])
    labelled = int(pc.sum(table["labelled"]).as_py() or 0)
    answered = find_answered(Pool.open(out))
    np.save(out / "answered.npy", answered)
    reasons = Counter(pq.read_table(out / "quarantine.parquet", columns=["reason"])["reason"].to_pylist())
    return PoolStats(
        examples=len(table),
        labelled=labelled,
        unlabelled=len(table) - labelled - int(answered.sum()),
        answered=int(answered.sum()),
        duplicates=duplicates,
        quarantined=dict(sorted(reasons.items())),
        sources=dict(sorted(Counter(table["source"].to_pylist()).items())),
        formats=dict(sorted(tally.formats.items())),
        adjusted=dict(sorted(tally.adjusted.items())),
        files=sorted(tally.files, key=lambda file: (file["file"], file["sha256"])),
    )


def _reasons(tally: _Tally) -> str:
    counts = Counter(reason for _, _, reason, _, _ in tally.quarantine)
    return ", ".join(f"{reason} {count}" for reason, count in counts.most_common()) or "they hold no rows"
