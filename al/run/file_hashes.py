"""sha256 of large files, remembered between processes: hashing a 7B model takes ten seconds, and a round asks for it at every stage."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from al.cache import cache_dir
from al.run.atomic import replaced
from al.run.integrity import sha256_file

FILE = "file-hashes.json"
SMALL = 2**20
MOST = 1000


def remembered_sha256(path: Path) -> str:
    """Hex sha256 of a file. That of a file of SMALL bytes or more is remembered under `cache_dir()` as long as its path, size, mtime and
    inode stay the same. That the memory cannot be read or written changes nothing but the time."""
    found = path.stat()
    if found.st_size < SMALL:
        return sha256_file(path)
    key = f"{path.resolve()}|{found.st_size}|{found.st_mtime_ns}|{found.st_ino}"
    known = _read()
    if key not in known:
        known[key] = sha256_file(path)
        _write(dict(list(known.items())[-MOST:]))
    return known[key]


def _read() -> dict[str, str]:
    try:
        known = json.loads((cache_dir() / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(known: dict[str, str]) -> None:
    with suppress(OSError):
        cache_dir().mkdir(parents=True, exist_ok=True)
        with replaced(cache_dir() / FILE, durable=False) as temporary:
            temporary.write_text(json.dumps(known, indent=0), encoding="utf-8")
