"""What the headers of Parquet pages claim, read before Arrow reads the pages.

Arrow makes room for as many bytes and values as a page's header names, up to 2 GiB and 2^31, before it unpacks the page. A header may
lie, and the footer may name less. So every header is read first, as Arrow reads it; a page takes one seek and about 20 µs.

Format: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift in Thrift's compact protocol,
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from al.pool.formats import RowError

HEADER, LONGEST_HEADER = 1 << 12, 1 << 24
"""Bytes read for a header: at first, and at most, which is Arrow's limit. Statistics in it hold the smallest and the largest value."""
DEEPEST = 16
TYPE, UNPACKED, PACKED = 1, 2, 3
"""Fields of PageHeader."""
INSIDE = {0: 5, 2: 7, 3: 8}
"""The field with the header of its own that a page has by its type: data, dictionary, data version 2."""
VALUES, DICTIONARY = 1, 2
"""In that header, how many values the page has; and the type of a dictionary."""
PADDING = 100
"""Bytes that Arrow reads behind a column chunk, because early writers named too few."""
BOOLEANS, INTEGERS, DOUBLE, BINARY, LISTS, MAP, STRUCT, UUID = (1, 2), (3, 4, 5, 6), 7, 8, (9, 10), 11, 12, 13
I32 = 5
"""Types of the compact protocol."""
Fields = dict[tuple[int, int], Any]
"""By type and id."""


def pages_of(file: BinaryIO, column: pq.ColumnChunkMetaData, size: int) -> Iterator[int]:
    """The unpacked bytes that each page of a column chunk claims, in the order of the file, which has `size` bytes.

    Raises:
        RowError: damaged_parquet: a header that cannot be read, that lies outside the file, or claims more than can be true.
    """
    start = column.data_page_offset
    if column.dictionary_page_offset:
        start = min(start, column.dictionary_page_offset)
    end, seen = start + column.total_compressed_size, 0
    if not 0 <= start <= end <= size:
        raise _damaged(column, f"expected it inside the file's {size:,} bytes, found it from {start:,} to {end:,}")
    while seen < column.num_values and start < min(end + PADDING, size):
        header, length = _header(file, start, column)
        unpacked, packed, values = header.get((I32, UNPACKED), -1), header.get((I32, PACKED), -1), _values(header)
        is_dictionary = header.get((I32, TYPE)) == DICTIONARY
        fits = 0 <= packed <= size - start - length
        if not fits or min(unpacked, values) < 0 or (is_dictionary and values > unpacked):
            found = f"{values:,} values, {packed:,} bytes and {unpacked:,} once unpacked"
            raise _damaged(column, f"the page at byte {start:,} of {size:,} claims {found}")
        yield unpacked
        seen += 0 if is_dictionary else values
        start += length + packed


def _values(header: Fields) -> int:
    """The values that a page claims; 0 for one without, which Arrow passes over or refuses."""
    inside = INSIDE.get(header.get((I32, TYPE), -1), -1)
    return header.get((STRUCT, inside), {}).get((I32, VALUES), 0)


def _damaged(column: pq.ColumnChunkMetaData, found: str) -> RowError:
    return RowError("damaged_parquet", f"column {column.path_in_schema}: {found}")


def _header(file: BinaryIO, start: int, column: pq.ColumnChunkMetaData) -> tuple[Fields, int]:
    """The fields of the page header at `start`, and its length in bytes."""
    wanted = HEADER
    while True:
        file.seek(start)
        data = file.read(wanted)
        try:
            reader = _Compact(data)
            return reader.struct(), reader.at
        except IndexError:
            if len(data) < wanted or wanted >= LONGEST_HEADER:
                raise _damaged(column, f"the page header at byte {start:,} has no end") from None
            wanted = min(LONGEST_HEADER, 16 * wanted)
        except ValueError as error:
            raise _damaged(column, f"the page header at byte {start:,} {error}") from None


@dataclass
class _Compact:
    """Values of Thrift's compact protocol. Raises IndexError where the data ends, ValueError for what the protocol does not have."""

    data: bytes
    at: int = 0

    def struct(self, depth: int = 0) -> Fields:
        """The integers of 32 bits and the structs among the fields; Thrift, too, passes over a field of another type than it expects."""
        if depth > DEEPEST:
            raise ValueError("is nested too deeply")
        fields: Fields = {}
        name = 0
        while (first := self._byte()) & 15:
            name = name + (first >> 4) if first >> 4 else self._integer(4)
            kind = first & 15
            value = None if kind in BOOLEANS else self._value(kind, depth)
            if kind in (I32, STRUCT):
                fields[kind, name] = value
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in INTEGERS:
            return self._integer(kind)
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind in LISTS:
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            self._skip_values((head & 15,), count, depth)
        elif kind == MAP:
            count = self._varint()
            if count:
                kinds = self._byte()
                self._skip_values((kinds >> 4, kinds & 15), count, depth)
        elif kind == BINARY:
            self._skip(self._varint())
        elif kind in (DOUBLE, UUID):
            self._skip(8 if kind == DOUBLE else 16)
        else:
            raise ValueError(f"has a value of an unknown type ({kind})")
        return None

    def _skip_values(self, kinds: tuple[int, ...], count: int, depth: int) -> None:
        if depth > DEEPEST:
            raise ValueError("is nested too deeply")
        for _ in range(count):
            for kind in kinds:
                if kind in BOOLEANS:
                    self._byte()
                else:
                    self._value(kind, depth + 1)

    def _integer(self, kind: int) -> int:
        """A signed integer; as in Thrift, the bits above its type's 8, 16, 32 or 64 are dropped."""
        if kind == INTEGERS[0]:
            byte = self._byte()
            return byte - 256 * (byte > 127)
        coded = self._varint() & (0xFFFFFFFFFFFFFFFF if kind == INTEGERS[-1] else 0xFFFFFFFF)
        return coded >> 1 ^ -(coded & 1)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("has a number of more than 10 bytes")

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise IndexError
