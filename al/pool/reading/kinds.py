"""The kind of a file: by its suffix, or by its first bytes if the suffix is unknown."""

from __future__ import annotations

from typing import Literal

from al.errors import DataError

Kind = Literal["jsonl", "json", "csv", "tsv", "txt", "parquet", "arrow"]
Codec = Literal["gz", "zst", "bz2"]

KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
CODECS: dict[str, Codec] = {".gz": "gz", ".zst": "zst", ".bz2": "bz2"}
_COMPRESSED_ALREADY = (".parquet", ".arrow", ".feather")
SUFFIXES = tuple(KINDS)
READABLE = (
    *SUFFIXES,
    *(kind + codec for kind in KINDS if kind not in _COMPRESSED_ALREADY for codec in CODECS),
)
"""All suffixes of readable files."""
EXPECTED = ".jsonl, .ndjson, .json, .csv, .tsv, .txt (each also .gz, .zst, .bz2), .parquet, .arrow or .feather"

BOM = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_MAGIC: dict[bytes, Codec] = {b"\x1f\x8b\x08": "gz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2"}
_BINARY: dict[bytes, Kind] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
_OTHERS = {
    b"PK\x03\x04": "a zip archive (or .xlsx)",
    b"FEA1": "Feather version 1",
    b"%PDF": "a PDF",
    b"<?xml": "XML",
    b"<!DOCTYPE": "HTML",
    b"<html": "HTML",
    b"\x80": "a pickle",
}


def without_suffix(name: str) -> str:
    """File name without the suffixes of a readable file: `a/b.json.gz` → `a/b`."""
    found = max((suffix for suffix in READABLE if name.lower().endswith(suffix)), key=len, default="")
    return name[: len(name) - len(found)]


def kind_by_name(name: str) -> Kind | None:
    """The kind of a file by its name, or None."""
    name = _without_codec(name.lower())
    return next((kind for suffix, kind in KINDS.items() if name.endswith(suffix)), None)


def codec_of(name: str, head: bytes) -> Codec | None:
    """The compression of a file by its first bytes; a suffix .gz (.zst, .bz2) on plain text is ignored."""
    found = next((codec for magic, codec in _MAGIC.items() if head.startswith(magic)), None)
    promised = next((codec for suffix, codec in CODECS.items() if name.lower().endswith(suffix)), None)
    return found or (promised if head and not _is_text(head) else None)


def kind_by_content(head: bytes, label: str) -> Kind:
    """The kind of a file without a known suffix, from its first (unpacked) bytes.

    Raises:
        DataError: the kind cannot be read.
    """
    for magic, kind in _BINARY.items():
        if head.startswith(magic):
            return kind
    other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
    first = _first_line(head)
    if other is None and (first[:1] in (b"{", b"[") or not first):
        return "json"
    if other is None and _is_text(head) and any(mark in first for mark in (b"\t", b",", b";")):
        return "tsv" if b"\t" in first else "csv"
    raise DataError(
        f"{label}: unknown file type{f' ({other})' if other else ''}; expected {EXPECTED}, or JSON or a table with a "
        "header under another name. Rename the file if it is one of these."
    )


def _without_codec(name: str) -> str:
    return next((name[: -len(suffix)] for suffix in CODECS if name.endswith(suffix)), name)


def _first_line(head: bytes) -> bytes:
    if head.startswith(UTF_16):
        head = head[2:].replace(b"\0", b"")
    return head.removeprefix(BOM).lstrip().split(b"\n", 1)[0]


def _is_text(head: bytes) -> bool:
    if head.startswith((*UTF_16, BOM)):
        return True
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3  # a character cut at the end of `head`
    return b"\0" not in head
