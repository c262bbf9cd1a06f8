"""Writes a pool version to one file that any trainer can read. Importing the file gives the same pool.

A row is {"id", "messages", "source", "alternatives", "labelled", "metadata"}: `messages` as stored (an example without a response
ends with the user's turn; a turn that is context only has `train: false`), `metadata` the other fields of its original row (in
Parquet as JSON text). The format `exported` (al.pool.formats) reads such rows: same ids, sources, responses, accepted answers and
metadata. Only the origin of a row changes, to the exported file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from al.errors import ConfigError
from al.pool.spill import EXAMPLES, MESSAGE
from al.pool.store import marked
from al.pool.tables import ROW_GROUP
from al.run.atomic import written_whole

COMPRESSION = {".jsonl": None, ".jsonl.gz": "gzip", ".jsonl.zst": "zstd", ".jsonl.bz2": "bz2"}
COLUMNS = ("id", "messages", "source", "alternatives", "labelled", "metadata")
MESSAGES = pa.list_(pa.struct([*MESSAGE, ("train", pa.bool_())]))
"""Messages in Parquet; `train` is null unless it is false."""
BATCH = 1_024

_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def check_destination(out: Path, force: bool) -> None:
    """Check that `out` can be written.

    Raises:
        ConfigError: an unknown suffix, or an existing file without `force`.
    """
    if not out.name.lower().endswith((*COMPRESSION, ".parquet")):
        raise ConfigError(f"{out}: expected a name that ends in {', '.join(COMPRESSION)} or .parquet.")
    if out.exists() and not force:
        raise ConfigError(f"{out}: exists already. Name another file, or add --force to replace it.")


def export_examples(
    pool: Path,
    out: Path,
    *,
    chosen: np.ndarray | None = None,
    force: bool = False,
    progress: Callable[[int], None] = lambda n: None,
) -> int:
    """Write the examples of the pool directory `pool`, or those marked by `chosen` (n,) bool, to `out`; returns their number.

    Rows keep the pool's order (ascending ids). Memory holds one batch of examples; `out` is written whole or not at all.

    Raises:
        ConfigError: as `check_destination`, or no such folder.
        EnvironmentProblem: the file cannot be written.
    """
    check_destination(out, force)
    written = 0
    with written_whole(out) as temporary, pq.ParquetFile(pool / "examples.parquet") as file:
        schema = _schema(file)
        opened = _parquet if out.name.lower().endswith(".parquet") else _lines
        with opened(temporary, out.name.lower(), schema) as write:
            for batch in _batches(file, chosen, schema):
                write(batch)
                written += batch.num_rows
                progress(batch.num_rows)
    return written


def _schema(file: pq.ParquetFile) -> pa.Schema:
    """The columns to write; messages have `train` only if some turn of the pool is context only."""
    schema = pa.schema([EXAMPLES.field(column) for column in COLUMNS])
    if "unlearned" not in file.schema_arrow.names:
        return schema
    marked = any(len(batch.column(0).flatten()) for batch in file.iter_batches(columns=["unlearned"]))
    return schema.set(COLUMNS.index("messages"), pa.field("messages", MESSAGES)) if marked else schema


@contextmanager
def _parquet(path: Path, name: str, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        yield lambda batch: writer.write_batch(batch.cast(schema), row_group_size=ROW_GROUP)


@contextmanager
def _lines(path: Path, name: str, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    compression = next(method for suffix, method in COMPRESSION.items() if name.endswith(suffix))
    with pa.output_stream(str(path), compression=compression) as stream:
        yield lambda batch: stream.write(b"".join(_line(row) for row in batch.to_pylist()))


def _line(row: dict[str, Any]) -> bytes:
    messages = [{key: value for key, value in message.items() if value is not None} for message in row["messages"]]
    document = {**row, "messages": messages, "metadata": json.loads(row["metadata"])}
    try:
        return (_dumps(document) + "\n").encode()
    except UnicodeEncodeError:  # metadata may contain half a surrogate pair, which JSON can only escape
        return (json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n").encode()


def _batches(file: pq.ParquetFile, chosen: np.ndarray | None, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    seen = 0
    marks = ["unlearned"] if schema.field("messages").type == MESSAGES else []
    for batch in file.iter_batches(batch_size=BATCH, columns=[*COLUMNS, *marks]):
        mask = None if chosen is None else pa.array(chosen[seen : seen + batch.num_rows])
        seen += batch.num_rows
        columns = {name: batch.column(name) for name in COLUMNS}
        if marks:
            columns["messages"] = pa.array(marked(columns["messages"], batch.column("unlearned")), MESSAGES)
        batch = pa.record_batch(list(columns.values()), schema=schema)
        yield batch if mask is None else batch.filter(mask)
