"""Import: files and hub datasets → a pool directory (one pool version).

    examples.parquet     the examples, sorted by id, exact duplicates merged; the same bytes for any order of files
    quarantine.parquet   the unusable rows: file, line, reason, message, snippet
    duplicates.parquet   the rows merged into an example: id, origin, kept_origin, exact (nothing else differed)
    answered.npy         for each example, whether it has no response and another example answers it
    pool.json            PoolStats

Rows are read one at a time and sorted externally (`al.pool.spill`). Bad rows are written to disk immediately. Memory does not
grow with the files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.errors import DataError
from al.pool.answers import find_answered
from al.pool.convert import Converter
from al.pool.formats import FORMATS, RowError
from al.pool.formats.leftovers import ignores
from al.pool.quarantine import TABLE as QUARANTINED
from al.pool.quarantine import Quarantine
from al.pool.reading.hub import read_hub_rows
from al.pool.reading.rows import RawRow, read_rows
from al.pool.repair import Repair
from al.pool.sources import Source
from al.pool.spill import Spill
from al.pool.stats import PoolStats
from al.pool.store import Pool
from al.pool.tables import counts, write_tables
from al.run.integrity import sha256_file

PROGRESS_EVERY = 1000
SHOWN = 5
"""Left-over fields and skipped files that an error names."""


@dataclass
class _Import:
    """Collects the results of an import: records, bad rows, and one entry of `PoolStats.files` per source."""

    spill: Spill
    quarantine: Quarantine
    strict: bool
    repair: Repair | None
    progress: Callable[[int], None]
    files: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def refuse(self, source: Source, line: int, error: RowError, raw: Any) -> None:
        """Quarantine a row. Raises DataError in strict mode."""
        if self.strict:
            raise DataError(
                f"{source.label}:{line}: {error} [{error.reason}]. Correct the row, or set `pool.strict: false` "
                "to quarantine such rows."
            ) from None
        self.quarantine.add(source.label, line, error, raw)


def import_pool(
    sources: Sequence[Source],
    out: Path,
    *,
    previous: Path | None = None,
    strict: bool = False,
    progress: Callable[[int], None] = lambda n: None,
    repair: Repair | None = None,
) -> PoolStats:
    """Import `sources` into the existing directory `out`; all examples of `previous`, a pool directory, are kept.

    A file that `previous` already has (same label, bytes and format) is skipped. A changed file is read again and its earlier
    counts, quarantined rows and duplicates are removed, because its rows may be corrected. `progress` receives numbers of rows.
    `repair` changes the text of examples before their id is computed; None changes nothing.

    Raises:
        DataError: a missing file, a named file without a recognised row, a pool without examples, left-over fields that look like
            content, or with `strict` the first unusable row.
    """
    earlier = PoolStats.read(previous) if previous is not None else None
    present = _present(earlier) if earlier else set()
    folder = out / ".spill"
    folder.mkdir()
    try:
        into = _Import(Spill(folder), Quarantine(folder), strict, repair, progress)
        if previous is not None:
            _keep(previous, into.spill)
        for source in sorted(sources, key=lambda source: source.label):
            _import_source(source, present, into)
        into.quarantine.close()
        read = {file["file"] for file in into.files}
        _check_leftovers(sources, into.files)
        merged = write_tables(into.spill.tables(), out, previous, read)
        into.quarantine.write(out, previous, read)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    stats = _stats(out, into, earlier, merged)
    if not stats.examples and into.skipped:
        raise DataError("; ".join(f"{file['file']}: {file['reason']}" for file in into.skipped[:SHOWN]))
    if not stats.examples:
        raise DataError(f"no usable example in {len(stats.files)} file(s): {_reasons(stats)}. See `pool.format`.")
    stats.write(out)
    return stats


def holds_all(previous: Path, sources: Sequence[Source], repair: Repair | None) -> bool:
    """Whether the pool directory `previous` has all of these files, read and repaired in the same way, so that importing them adds nothing.
    A file with bad rows, and a hub data set, may add something."""
    present = _present(PoolStats.read(previous))
    return not any(source.is_hub for source in sources) and all(
        (source.label, _sha256(source), _reading(source, repair)) in present for source in sources
    )


def same_pool(one: Path, other: Path) -> bool:
    """Whether two pool directories hold the same: examples, duplicates, bad rows and counts."""
    if PoolStats.read(one) != PoolStats.read(other):
        return False
    files = ("examples.parquet", "duplicates.parquet")
    return all(sha256_file(one / name) == sha256_file(other / name) for name in files) and pq.read_table(
        one / QUARANTINED
    ).equals(pq.read_table(other / QUARANTINED))


def _present(earlier: PoolStats) -> set[tuple[str, str, str]]:
    """Label, sha256 and reading of the files of a pool that are not read again. One with bad rows is: a raised limit or `strict` may give
    another result."""
    return {(file["file"], file["sha256"], file["format"]) for file in earlier.files if not file["quarantined"]}


def _reading(source: Source, repair: Repair | None) -> str:
    return source.reading + (f" clean={json.dumps(repair.identity)}" if repair is not None else "")


def _import_source(source: Source, present: set[tuple[str, str, str]], into: _Import) -> None:
    known = None if source.is_hub else _sha256(source)
    reading = _reading(source, into.repair)
    if (source.label, known, reading) in present:
        return
    converter, digest = Converter(source, into.repair), hashlib.sha256()
    refused = into.quarantine.count
    rows, used, first = _take_rows(source, converter, into, digest)
    for line, found, raw in converter.finish():
        if isinstance(found, RowError):
            into.refuse(source, line, found, raw)
            first = first or (line, found)
        else:
            into.spill.add(found, source.label, line, 0)
            used += 1
    _check_recognised(source, rows, used, first, into)
    into.files.append(
        {
            "file": source.label,
            "sha256": known or digest.hexdigest(),
            "format": reading,
            "rows": rows,
            "quarantined": into.quarantine.count - refused,
            "formats": dict(sorted(converter.formats.items())),
            "adjusted": dict(sorted(converter.adjusted.items())),
            "leftovers": converter.leftovers.listed(converter.formats),
        }
    )


def _take_rows(
    source: Source, converter: Converter, into: _Import, digest: Any
) -> tuple[int, int, tuple[int, RowError] | None]:
    """Read all rows; returns their number, the number of examples, and the first unusable row."""
    rows = used = part = at = 0
    first = None
    convert, add, label, is_hub = converter.convert, into.spill.add, source.label, source.is_hub
    for rows, (line, row, raw) in enumerate(_open_rows(source), 1):
        if is_hub:
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
        if line != at:
            at, part = line, 0
        try:
            if isinstance(row, RowError):
                raise row
            for record in convert(row, line):
                add(record, label, line, part)
                part += 1
                used += 1
        except RowError as error:
            into.refuse(source, line, error, raw)
            first = first or (line, error)
        if rows % PROGRESS_EVERY == 0:
            into.progress(PROGRESS_EVERY)
    into.progress(rows % PROGRESS_EVERY)
    return rows, used, first


def _sha256(source: Source) -> str:
    try:
        return sha256_file(Path(source.path))
    except OSError as error:
        raise DataError(f"{source.label}: cannot be opened ({error.strerror}). Check `pool.files`.") from None


def _open_rows(source: Source) -> Iterator[RawRow]:
    if source.is_hub:
        return read_hub_rows(source)
    return read_rows(source)


def _check_recognised(source: Source, rows: int, used: int, first: tuple[int, RowError] | None, into: _Import) -> None:
    """Raise DataError for a file without a usable row. One that was found in a folder is noted as skipped, unless `strict`."""
    if rows == 0:
        reason = "contains no rows. Leave it out, or check that it was written completely."
    elif first is not None and not used:
        line, error = first
        reason = (
            f"none of its {rows:,} rows is usable. The first is line {line}: {error} [{error.reason}]. "
            f"Known formats (docs/pools.md): {', '.join(FORMATS)}."
        )
    else:
        return
    if into.strict or not source.found:
        raise DataError(f"{source.label}: {reason}")
    into.skipped.append({"file": source.label, "reason": reason})


def _check_leftovers(sources: Sequence[Source], files: list[dict[str, Any]]) -> None:
    """Raise DataError for left-over fields that look like content, unless the source ignores the field or only warns."""
    known = {source.label: source for source in sources}
    found = []
    for file in files:
        source = known[file["file"]]
        for entry in file["leftovers"] if source.leftover == "stop" else ():
            if entry["content"] and not ignores(source.ignore, entry["field"]):
                found.append((file["file"], entry))
    if not found:
        return
    shown = "; ".join(
        f"{label}: `{entry['field']}` in {entry['rows']:,} rows read as {entry['format']}, for example {entry['example']!r:.100}"
        for label, entry in found[:SHOWN]
    )
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    names = ",".join(dict.fromkeys(entry["field"] for _, entry in found))
    raise DataError(
        f"fields that look like content would be left out of the conversation: {shown}{more}. Put them into the conversation with "
        f"`--map` (`pool.map`), for example --map question='{{{found[0][1]['field']}}} {{question}}',answer=answer; or leave them out "
        f"with `--ignore {names}` (`pool.ignore`); or set `pool.leftover: warn`. `pool inspect` lists all left-over fields."
    )


def _keep(previous: Path, spill: Spill) -> None:
    with pq.ParquetFile(previous / "examples.parquet") as file:
        for batch in file.iter_batches(batch_size=2048):
            spill.add_kept(pa.Table.from_batches([batch]))


def _stats(out: Path, into: _Import, earlier: PoolStats | None, merged: tuple[int, int]) -> PoolStats:
    fresh = into.files
    examples = out / "examples.parquet"
    total, answered = pq.read_metadata(examples).num_rows, find_answered(Pool.open(out))
    np.save(out / "answered.npy", answered)
    labelled, read = counts(examples, "labelled")[True], {file["file"] for file in fresh}
    files = [*(file for file in (earlier.files if earlier else ()) if file["file"] not in read), *fresh]
    return PoolStats(
        examples=total,
        labelled=labelled,
        unlabelled=total - labelled - int(answered.sum()),
        answered=int(answered.sum()),
        duplicates=merged[0],
        merged_after_conversion=merged[1],
        skipped=[*(file for file in (earlier.skipped if earlier else ()) if file["file"] not in read), *into.skipped],
        quarantined=dict(sorted(counts(out / "quarantine.parquet", "reason").items())),
        sources=dict(sorted(counts(examples, "source").items())),
        formats=_added("formats", files, earlier),
        adjusted=_added("adjusted", files, earlier),
        files=sorted(files, key=lambda file: (file["file"], file["sha256"])),
    )


def _added(name: str, files: list[dict[str, Any]], earlier: PoolStats | None) -> dict[str, int]:
    """The counts `name` of all files, including those that an older Winnow counted for all files together."""
    total: Counter[str] = Counter(getattr(earlier, name) if earlier else {})
    for file in earlier.files if earlier else ():
        total.subtract(file.get(name, {}))
    for file in files:
        total.update(file.get(name, {}))
    return {key: count for key, count in sorted(total.items()) if count > 0}


def _reasons(stats: PoolStats) -> str:
    found = Counter(stats.quarantined).most_common()
    return ", ".join(f"{reason} {count}" for reason, count in found) or "they contain no rows"
