"""Errors of libraries and of the system that are no defects of Winnow, as messages and exit codes."""

from __future__ import annotations

import errno
import re
import sqlite3
import sys

from al.excerpt import cut
from al.program import PROGRAM
from trainer.shortage import GPU, HOST, shortage

ENVIRONMENT, RUN_STATE = 4, 5
OURS = ("", "al", "selection", "trainer")
GOES_ON = "Nothing published was lost; run the same command again once that is mended."
OF_THE_MACHINE = {
    errno.ENOSPC: f"the disk is full (`{PROGRAM} gc` empties the trash of a run)",
    errno.EDQUOT: f"the disk quota is used up (`{PROGRAM} gc` empties the trash of a run)",
    errno.EIO: "the disk reported an error; check it with your system's tools",
    errno.EROFS: "the file system is read-only",
    errno.EINTR: "the file system interrupted a call, as network file systems may",
    errno.ENOMEM: "the system has no memory left",
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
    errno.ENFILE: "the system has too many open files",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ESTALE: "the network file system lost the file",
    errno.EISDIR: "expected a file, found a folder; move it away",
    errno.ENOTDIR: "expected a folder, found a file on the way to it; move it away",
    errno.EEXIST: "expected a folder or nothing, found something else; move it away",
    errno.ELOOP: "a link leads to itself, or should not be there; move it away",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTEMPTY: "the folder cannot be emptied; close the programs that use files in it",
    errno.EBUSY: "another program uses it",
}
OF_SQLITE = {
    sqlite3.SQLITE_FULL: OF_THE_MACHINE[errno.ENOSPC],
    sqlite3.SQLITE_IOERR: OF_THE_MACHINE[errno.EIO],
    sqlite3.SQLITE_READONLY: OF_THE_MACHINE[errno.EROFS],
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened for writing",
    sqlite3.SQLITE_PERM: OF_THE_MACHINE[errno.EACCES],
    sqlite3.SQLITE_NOMEM: OF_THE_MACHINE[errno.ENOMEM],
    sqlite3.SQLITE_BUSY: "another process holds it",
    sqlite3.SQLITE_LOCKED: "another process holds it",
}
"""By primary result code: extended codes have it in their lowest byte."""
LONGEST_PATH = 300
_OF_RUST = re.compile(r"\(os error (\d+)\)")
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
MEMORY = {
    GPU: "Free memory that other programs use, or set model.quantization to nf4, or use a smaller model.",
    HOST: "Close other programs, or use a smaller model or pool.",
}
"""Batches are no longer the cause: where there are any, they have been made smaller."""


def known(error: BaseException) -> tuple[int, str] | None:
    """(exit code, message) of an error that a user can cause, or as `explain`; None for a defect."""
    code = getattr(error, "exit_code", None)
    return (code, str(error)) if code else explain(error)


def explain(error: BaseException) -> tuple[int, str] | None:
    """(exit code, message) of an error that the machine or a damaged database caused; None for any other, which is a defect."""
    text = " ".join(str(error).split())
    short = shortage(error)
    if short is not None:
        return ENVIRONMENT, f"out of {short.memory} ({short.message}). {MEMORY[short.memory]} {GOES_ON}"
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] not in OURS:
        return (
            ENVIRONMENT,
            f"{sys.executable} has no package {error.name}. `make demo` installs everything into .venv; then use .venv/bin/python "
            "cli.py, or install Winnow into this Python with `pip install .`",
        )
    if type(error).__name__ == "AcceleratorError":
        return ENVIRONMENT, f"the GPU reported an error: {text}. {GOES_ON}"
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error, text)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return (
            ENVIRONMENT,
            f"{cut(error.object, LONGEST_PATH)}: this path is not UTF-8, and a library cannot open it. Rename it.",
        )
    if (
        isinstance(error, OSError) and error.errno is None and _SHORT_WRITE.fullmatch(text)
    ):  # numpy's, which drops the errno
        return (
            ENVIRONMENT,
            f"a file could not be written whole ({text}): {OF_THE_MACHINE[errno.ENOSPC]}, or fails. {GOES_ON}",
        )
    if type(error).__name__ == "SafetensorError" and (
        number := _OF_RUST.search(text)
    ):  # not an OSError, and names no file
        error = OSError(int(number[1]), text)
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        where = f"{error.filename}: " if error.filename is not None else ""
        return ENVIRONMENT, f"{where}{OF_THE_MACHINE[error.errno]}. {GOES_ON}"
    return None


def _of_sqlite(error: sqlite3.Error, text: str) -> tuple[int, str] | None:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None and "decode to UTF-8" in text:
        code = sqlite3.SQLITE_CORRUPT
    if code is None:
        return None
    if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return (
            RUN_STATE,
            f"run.db is damaged ({text}). Restore it together with run.db-wal from a backup, or make it again with `{PROGRAM} repair "
            "--run DIR`.",
        )
    cause = OF_SQLITE.get(code & 0xFF)
    return None if cause is None else (ENVIRONMENT, f"run.db: {cause} ({text}). {GOES_ON}")
