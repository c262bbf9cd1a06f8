"""What a compressed Arrow message unpacks to, read from its metadata before anything is unpacked.

A message is a flatbuffer and a body of buffers; a compressed buffer begins with its unpacked length. pyarrow shows neither, so the few
fields are read here (github.com/apache/arrow, format/Message.fbs; flatbuffers.dev/internals).
"""

from __future__ import annotations

import struct

import pyarrow as pa

from al.pool.formats import RowError

HEADER, DATA, BUFFERS, COMPRESSION = 2, 1, 2, 3
"""Places of fields: of Message; of DictionaryBatch, whose data is a RecordBatch; of RecordBatch."""


def unpacked_bytes(message: pa.ipc.Message) -> int:
    """Bytes of all buffers of a record batch or dictionary once they are unpacked; 0 for a message without compression.

    Raises:
        RowError: the metadata is damaged.
    """
    if message.type not in ("record batch", "dictionary"):
        return 0
    try:
        metadata, body = memoryview(message.metadata), memoryview(message.body)
        batch = _table(metadata, _field(metadata, _number("<I", metadata, 0), HEADER))
        if message.type == "dictionary":
            batch = _table(metadata, _field(metadata, batch, DATA))
        if not _field(metadata, batch, COMPRESSION):
            return 0
        vector = _table(metadata, _field(metadata, batch, BUFFERS))
        total = 0
        for index in range(_number("<I", metadata, vector)):
            offset, length = struct.unpack_from("<qq", metadata, vector + 4 + 16 * index)
            unpacked = _number("<q", body, offset) if length >= 8 else 0
            total += length if unpacked == -1 else max(0, unpacked)  # -1: left as it is
        return total
    except struct.error as error:
        raise RowError("damaged_arrow", f"damaged metadata of a message ({error})") from None


def _number(form: str, content: memoryview, at: int) -> int:
    return struct.unpack_from(form, content, at)[0]


def _table(content: memoryview, at: int) -> int:
    """Where the table or vector begins that the offset at `at` points to."""
    return at + _number("<I", content, at)


def _field(content: memoryview, table: int, index: int) -> int:
    """Where field number `index` of a table is; 0 if it has the default value."""
    places = table - _number("<i", content, table)
    if 4 + 2 * index >= _number("<H", content, places):
        return 0
    offset = _number("<H", content, places + 4 + 2 * index)
    return table + offset if offset else 0
