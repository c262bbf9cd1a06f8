"""The size of a pool that is not imported yet: files read in part, hub data sets by what is known of them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from al.errors import DataError, UserError
from al.planning.example_tokens import TokenCounter
from al.pool.convert import Converter, Record
from al.pool.formats import RowError
from al.pool.formats.advice import is_number
from al.pool.presets import find, known_set, local_copy
from al.pool.reading.hub import hub_rows_counted, read_hub_rows
from al.pool.reading.rows import RawRow, read_rows
from al.pool.sources import Source, parse_hub
from al.pool.store import Part, text_of

ROWS_READ, FIRST_ROWS = 200, 2_000
"""Rows of a hub data set that are converted, and of a large file: a tenth of a second."""
READ_WHOLE = 16 * 2**20
"""Bytes of files that are read whole, smallest first: a second or two."""
PACKED, UNPACKED = (".gz", ".zst", ".bz2", ".xz", ".zip"), 4
"""Suffixes of compressed files, and how many times larger their text is, about."""
TOKENS_ASSUMED = 250
"""Tokens of an example of a hub data set that cannot be sampled."""
BYTES_PER_TOKEN = 5


@dataclass
class Sample:
    """What is known of the sources together. `examples` and `tokens`: estimated totals; `rows_read`: the examples that they rest on,
    `labelled` of which have a response, and in `numbers` of which a bare number is all that is asked.
    `names`: the sources that examples name. `counted`: every file was read whole. `unknown`: labels of data sets of unknown size;
    `assumed`: of those whose examples have an assumed length. `first`: the first example of the files. `ids`: those of the examples that
    were read, each once, as an import keeps them. `texts`: of those with a response, with the number of examples that each stands for in
    `weights`; `unread`: whether a source gave no rows."""

    examples: float = 0.0
    tokens: float = 0.0
    bytes: float = 0.0
    rows_read: int = 0
    labelled: int = 0
    numbers: int = 0
    names: set[str] = field(default_factory=set)
    counted: bool = True
    unknown: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    first: Record | None = None
    ids: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    unread: bool = False
    part: Part = "conversation"

    def drawn_texts(self) -> tuple[list[str], list[str]]:
        """The texts and responses in random order, as a draw without replacement by their weights (Efraimidis & Spirakis 2006)."""
        draw = np.random.default_rng([11]).exponential(size=len(self.texts)) / np.array(self.weights)
        order = np.argsort(draw, kind="stable")
        return [self.texts[row] for row in order], [self.responses[row] for row in order]


def sample_sources(
    sources: Iterable[Source], longest: int, counter: TokenCounter, part: Part = "conversation"
) -> Sample:
    """Estimate examples and tokens of sources; `longest`: tokens above which an example is cut (tokens.max_length);
    `counter` counts the tokens of those that are read; `part`: of a conversation that is a text of the sample (embed.text).

    Raises:
        DataError: a file that cannot be read, or without a usable row among the first.
    """
    found = Sample(part=part)
    files = sorted(
        (source for source in sources if not source.is_hub), key=lambda source: Path(source.path).stat().st_size
    )
    left = READ_WHOLE
    for source in files:
        size = Path(source.path).stat().st_size * (UNPACKED if Path(source.path).suffix in PACKED else 1)
        _add_file(found, source, counter, whole=size <= left)
        left -= size
    for source in sources:
        if source.is_hub:
            _add_hub(found, source, longest, counter)
    return found


def _add_file(found: Sample, source: Source, counter: TokenCounter, whole: bool) -> None:
    rows, size = list(read_rows(source) if whole else _first_rows(source)), Path(source.path).stat().st_size
    records, problem = _converted(source, rows)
    if not rows or (problem and not records):
        if source.found:
            return
        raise DataError(_unusable(source, len(rows), problem, whole))
    times = 1.0 if whole or len(rows) < ROWS_READ else max(1.0, _rows_in(source, rows, size) / len(rows))
    _add(found, records, source, times, counter)
    found.bytes += size
    found.counted &= times == 1.0


def _first_rows(source: Source) -> Iterator[RawRow]:
    """The first FIRST_ROWS rows of a large file, fewer if they are long: ROWS_READ, and more up to READ_WHOLE bytes."""
    read = 0
    for number, row in enumerate(islice(read_rows(source), FIRST_ROWS), 1):
        yield row
        read += len(row[2]) if isinstance(row[2], bytes) else len(str(row[2]))
        if number >= ROWS_READ and read > READ_WHOLE:
            return


def _add_hub(found: Sample, source: Source, longest: int, counter: TokenCounter) -> None:
    preset = find(source.path)[0] if source.is_preset else known_set(parse_hub(source.path).name)
    rows: list[RawRow] = []
    if not (source.is_preset and local_copy(preset) is None and preset.tokens):
        try:
            rows = list(islice(read_hub_rows(source), ROWS_READ))
        except UserError:  # the round will say so; the plan goes on with what is known
            rows = []
    count = (preset.examples or preset.rows if preset is not None else None) or hub_rows_counted(source)
    found.counted = False
    if count is None:
        found.unknown.append(source.label)
        found.unread = True
        return
    records, _ = _converted(source, rows)
    if records and len(rows) == ROWS_READ:
        _add(found, records, source, count / len(rows), counter)
    elif records:
        _add(found, records, source, 1.0, counter)
        return
    else:
        length = preset.tokens if preset is not None and preset.tokens else TOKENS_ASSUMED
        found.assumed += [source.label] if preset is None or not preset.tokens else []
        found.examples += count
        found.tokens += count * min(length, longest)
        found.names.add(source.stem)
        found.unread = True
    found.bytes += BYTES_PER_TOKEN * count * TOKENS_ASSUMED


def _add(found: Sample, records: list[Record], source: Source, times: float, counter: TokenCounter) -> None:
    records = [record for record in {record.id: record for record in records}.values() if record.id not in found.ids]
    found.ids.update(record.id for record in records)
    messages = [messages_of(record) for record in records]
    found.examples += len(records) * times
    found.tokens += counter.total(messages) * times
    found.rows_read += len(records)
    found.labelled += sum(record.labelled for record in records)
    found.numbers += sum(is_number(asked_of(record)) for record in records)
    if found.first is None and records:
        found.first = records[0]
    found.names |= {record.source for record in records}
    answered = [one for one, record in zip(messages, records, strict=True) if record.labelled]
    found.texts += [text_of(one, found.part) for one in answered]
    found.responses += [text_of(one, "response") for one in answered]
    found.weights += [times] * len(answered)


def asked_of(record: Record) -> str:
    """The last user turn of an example."""
    return next((content for role, content in reversed(record.turns) if role == "user"), "")


def messages_of(record: Record) -> list[dict[str, Any]]:
    """The conversation of an example as chat templates read it."""
    return [
        {"role": role, "content": content, **({"train": False} if at in record.unlearned else {})}
        for at, (role, content) in enumerate(record.turns)
    ]


def _converted(source: Source, rows: list[RawRow]) -> tuple[list[Record], tuple[int, RowError] | None]:
    """The examples of rows, and the first row that is none, if any."""
    converter, records, first = Converter(source), [], None
    for line, row, _ in rows:
        try:
            if isinstance(row, RowError):
                raise row
            records += converter.convert(row, line)
        except RowError as error:
            first = first or (line, error)
    for line, row, _ in converter.finish():
        if isinstance(row, RowError):
            first = first or (line, row)
        else:
            records.append(row)
    return records, first


def _unusable(source: Source, rows: int, problem: tuple[int, RowError] | None, whole: bool) -> str:
    if problem is None:
        return f"{source.label}: contains no rows. Leave it out, or check that it was written completely."
    line, error = problem
    read = f"its {'' if whole else 'first '}{rows:,} rows"
    return f"{source.label}: none of {read} is usable. The first is line {line}: {error} [{error.reason}]."


def _rows_in(source: Source, rows: list[RawRow], size: int) -> float:
    """About how many rows a file of `size` bytes has, of which the first are `rows`; a Parquet file knows."""
    if source.path.endswith(".parquet"):
        return float(pq.read_metadata(source.path).num_rows)
    table = {".csv", ".tsv"} & set(Path(source.path).suffixes)
    read = b"\n".join(_written(raw, bool(table)) for _, _, raw in rows)
    packed = Path(source.path).suffix in PACKED
    return size * len(rows) / max(len(zlib.compress(read)) if packed else len(read) + 1, 1)


def _written(raw: Any, table: bool) -> bytes:
    """A row about as its file has it: a line of a table, or JSON."""
    if isinstance(raw, bytes):
        return raw
    if table and isinstance(raw, dict):
        return ",".join("" if value is None else str(value) for value in raw.values()).encode("utf-8", "replace")
    return json.dumps(raw, default=str, ensure_ascii=False).encode("utf-8", "replace")
