"""Files as streams of plain bytes, unpacked while reading; everything before damage is read."""

from __future__ import annotations

import bz2
import codecs
import io
import zlib
from pathlib import Path
from typing import Any

from al.pool.formats import RowError
from al.pool.reading.kinds import UTF_16, Codec, codec_of

BUFFER = 2**20
HEAD = 2**16
"""Bytes read to detect the kind of a file."""
LEAST_BOMB = 16 * 2**20
"""Bytes; a file that unpacks to less is harmless at any compression ratio."""

# Compressed bytes per call of a decompressor. They bound the output of a call: 4 MB for gzip, 64 MiB for zstd (4 bytes
# unpack to 128 KiB), 92 MB for bzip2.
_FEED: dict[Codec, int] = {"gz": 4096, "zst": 2048, "bz2": 64}


class Damaged(OSError):
    """A stream cannot be read any further; `row` is the RowError."""

    def __init__(self, row: RowError):
        super().__init__(str(row))
        self.row = row


def zip_bomb(packed: int, unpacked: int, max_ratio: float) -> RowError:
    """The error of a file of `packed` bytes that unpacks to more than is allowed."""
    return RowError(
        "zip_bomb",
        f"{packed:,} bytes unpack to {unpacked:,} or more; the limit `pool.max_unpack_ratio` is {max_ratio:g}. Earlier rows are kept.",
    )


def open_plain(path: Path, max_ratio: float) -> io.BufferedReader:
    """Open a file for reading, unpacked if it is compressed, UTF-16 as UTF-8; reading it may raise `Damaged`.

    Args:
        max_ratio: of unpacked to packed bytes; above it, and past `LEAST_BOMB`, reading stops.
    """
    file = path.open("rb", buffering=BUFFER)
    codec = codec_of(path.name, file.peek(HEAD)[:HEAD])
    stream = io.BufferedReader(_Unpacked(file, codec, max_ratio), BUFFER) if codec else file
    return io.BufferedReader(_FromUtf16(stream), BUFFER) if head_of(stream).startswith(UTF_16) else stream


def head_of(stream: io.BufferedReader) -> bytes:
    """The next bytes of a stream, at most `HEAD`, without consuming them; empty if it is damaged, which reading will report."""
    try:
        return stream.peek(HEAD)[:HEAD]
    except Damaged:
        return b""


def _decompressor(codec: Codec) -> Any:
    if codec == "gz":
        return zlib.decompressobj(wbits=31)
    if codec == "bz2":
        return bz2.BZ2Decompressor()
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj()


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a compressed file; its members (frames, streams) in sequence."""

    def __init__(self, file: io.BufferedReader, codec: Codec, max_ratio: float):
        self._file, self._codec, self._max_ratio = file, codec, max_ratio
        self._member: Any = None
        self._member_at = 0
        self._packed = self._unpacked = 0
        self._input = self._output = b""
        self._fed = self._at = 0
        self._failed: Damaged | None = None
        self._ended = False

    def readable(self) -> bool:
        """True, as `io` requires of a readable raw stream."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with unpacked bytes; returns their number, 0 at the end. Raises Damaged after the last good byte."""
        if self._at == len(self._output):
            self._fill(len(buffer))
        part = self._output[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def _fill(self, size: int) -> None:
        parts, total = [], 0
        while total < size and not (self._failed or self._ended):
            try:
                part = self._next()
            except Damaged as error:
                self._failed = error
            else:
                parts.append(part)
                total += len(part)
        self._output, self._at = b"".join(parts), 0
        if not self._output and self._failed:
            raise self._failed

    def _next(self) -> bytes:
        if self._unpacked > max(LEAST_BOMB, self._max_ratio * self._packed):
            raise Damaged(zip_bomb(self._packed, self._unpacked, self._max_ratio))
        if self._fed == len(self._input):
            self._input, self._fed = self._file.read1(HEAD), 0
            if not self._input:
                if self._member is not None:
                    raise self._damaged("it is truncated")
                self._ended = True
                return b""
        if self._member is None and not self._starts_member():
            return b""
        fed = self._input[self._fed : self._fed + _FEED[self._codec]]
        self._fed += len(fed)
        self._packed += len(fed)
        try:
            part = self._member.decompress(fed)
        except Exception as error:  # each library has its own error: zlib.error, OSError, ZstdError
            self._failed = self._damaged(str(error))
            return self._rescued(fed)
        self._unpacked += len(part)
        if self._member.eof:
            self._fed -= len(self._member.unused_data)
            self._member = None
        return part

    def _starts_member(self) -> bool:
        rest = self._input[self._fed :].lstrip(b"\0")  # padding of tar and tapes
        self._fed = len(self._input) - len(rest)
        if rest:
            self._member = _decompressor(self._codec)
            self._member_at = self._file.tell() - len(rest)
        return bool(rest)

    def _rescued(self, fed: bytes) -> bytes:
        """The output of `fed` before the damage in it. The decompressor has dropped it, so the member is unpacked again."""
        left = self._file.tell() - len(self._input) + self._fed - len(fed) - self._member_at
        self._file.seek(self._member_at)
        member, parts = _decompressor(self._codec), []
        try:
            while left > 0:
                left -= len(piece := self._file.read(min(left, _FEED[self._codec])))
                member.decompress(piece)
            for at in range(len(fed)):
                parts.append(member.decompress(fed[at : at + 1]))
        except Exception:  # noqa: BLE001 the damage, met again
            pass
        return b"".join(parts)

    def _damaged(self, why: str) -> Damaged:
        return Damaged(
            RowError(
                f"truncated_{self._codec}",
                f"the compressed file is truncated or damaged from here on ({why}); earlier rows are kept",
            )
        )

    def close(self) -> None:
        """Close the underlying file too."""
        self._file.close()
        super().close()


class _FromUtf16(io.RawIOBase):
    """A UTF-16 stream with a byte order mark, as exported by spreadsheets, converted to UTF-8."""

    def __init__(self, stream: io.BufferedReader):
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-16")("surrogatepass")
        self._waiting = b""

    def readable(self) -> bool:
        """True, as `io` requires of a readable raw stream."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with UTF-8 bytes; returns their number, 0 at the end. Raises Damaged for invalid UTF-16."""
        while not self._waiting:
            content = self._stream.read1(BUFFER)
            try:
                found = self._decoder.decode(content, final=not content)
            except UnicodeDecodeError as error:
                raise Damaged(RowError("bad_utf8", f"not UTF-16 from here on ({error.reason})")) from None
            self._waiting = found.encode("utf-8", "surrogatepass")
            if not content and not self._waiting:
                return 0
        part = self._waiting[: len(buffer)]
        buffer[: len(part)] = part
        self._waiting = self._waiting[len(part) :]
        return len(part)

    def close(self) -> None:
        """Close the underlying file too."""
        self._stream.close()
        super().close()
