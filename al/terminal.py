"""What is printed, made fit to be printed. Names, texts and errors come from files, models and other programs: their control characters
would drive the reader's terminal, and their URLs may hold passwords. Everything that Winnow prints goes through here."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import PurePath
from typing import Any, TextIO

# C0 and C1 controls but tab and newline: an ESC in a pool's text would drive the reader's terminal.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LINE_ENDS = re.compile("\r\n|[\u2028\u2029\x85]")
# Marks that reorder the text around them: a reason printed after a hostile name would read backwards.
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
# RFC 3986, 3.2.1: what stands between `://` and the last `@` before the path.
_USERINFO = re.compile(r'(?<=://)[^\s/?#"]+@')

_collected: ContextVar[list[str] | None] = ContextVar("_collected", default=None)


def displayable(node: Any) -> Any:
    """A copy of a JSON-like value that can be shown: NaN and infinities become None, control characters visible signs.

    CRLF and the Unicode line separators become newlines: every reader of the text then agrees on where its lines end.
    Lone surrogates, which JSON may spell but UTF-8 cannot, become "?"; tuples become lists, paths texts.
    """
    if isinstance(node, Mapping):
        return {_clean_text(str(key)): displayable(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [displayable(value) for value in node]
    if isinstance(node, (str, PurePath)):
        return _clean_text(str(node))
    if isinstance(node, float) and not math.isfinite(node):
        return None
    return node


def without_passwords(text: str) -> str:
    """`text` with the user and password of every URL replaced: `https://***@host/path`."""
    return _USERINFO.sub("***@", text) if "://" in text else text


def show(text: str, *, file: TextIO | None = None, end: str = "\n") -> None:
    """Print a text that may hold anything, at once, to `file` (None: stdout)."""
    show_drawn(displayable(text), file=file, end=end)


def show_drawn(text: str, *, file: TextIO | None = None, end: str = "\n") -> None:
    """As `show`, for a text drawn from a displayable document: the colours in it are Winnow's own and stay."""
    collected = _collected.get()
    if collected is not None:
        collected.append(without_passwords(text))
        return
    print(without_passwords(text), file=sys.stdout if file is None else file, end=end, flush=True)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """Inside the block nothing is printed: what would be is appended to the list."""
    lines: list[str] = []
    token = _collected.set(lines)
    try:
        yield lines
    finally:
        _collected.reset(token)


def ignore_notices() -> None:
    """Ignore what libraries say of their own future, and of optional packages that Winnow does not use."""
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's bars as widgets
    # It misses a package for a product that Winnow does not use: weights are dequantized first.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)  # a line for every retry


def _clean_text(text: str) -> str:
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = _CONTROL.sub(lambda m: chr(0x2400 + ord(m[0])) if ord(m[0]) < 0x20 else "\ufffd", _LINE_ENDS.sub("\n", text))
    return _BIDI.sub("\ufffd", text)


def quiet_libraries(debug: bool) -> None:
    """Hide the libraries' progress bars and deprecation notices unless --debug is given."""
    if debug:
        return
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    ignore_notices()
