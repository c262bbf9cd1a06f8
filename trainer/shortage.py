"""Running out of memory: recognised, reported, and answered by smaller batches or a lower memory plan.

    found = attempt(partial(work, batch))
    if isinstance(found, Shortage): divide the batch and try again

Batches change a result only by rounding, so no caller needs to know. Whoever records a stage listens; without a listener the line is a
warning of this logger. Importing this module loads no torch.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")

GPU, HOST = "GPU memory", "main memory"
SAME = "The result is the same to rounding."
SIGNS = {
    "CUBLAS_STATUS_ALLOC_FAILED": GPU,
    "CUDNN_STATUS_ALLOC_FAILED": GPU,
    "CUDA error: out of memory": GPU,
    "CUDA out of memory": GPU,
    "DefaultCPUAllocator: can't allocate memory": HOST,
    "DefaultCPUAllocator: not enough memory": HOST,
    "std::bad_alloc": HOST,
}
"""Parts of the messages with which libraries report a failed allocation, and the memory that was short."""


@dataclass(frozen=True)
class Shortage:
    """A failed allocation: which `memory` was short (GPU or HOST), and the library's message in one line."""

    memory: str
    message: str


def shortage(error: BaseException) -> Shortage | None:
    """The shortage of memory that `error` reports; None for any other error."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        return Shortage(HOST, text)
    if type(error).__name__ == "OutOfMemoryError":
        return Shortage(GPU, text)
    memory = next((memory for sign, memory in SIGNS.items() if sign in text), None)
    return None if memory is None else Shortage(memory, text)


def attempt(work: Callable[[], T]) -> T | Shortage:
    """The result of `work()`. If memory runs out, everything that the failed attempt held is freed, and the Shortage is returned.

    `work` must leave no trace when it fails, or its caller must remove it.
    """
    try:
        return work()
    except Exception as error:
        found = shortage(error)
        if found is None:
            raise
    # Only here: inside the except clause the error's traceback still holds the tensors of every frame.
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return found


_listeners: list[Callable[[str], None]] = []


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Inside the block `listener`, and none around it, receives a line for each shortage after which work goes on."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report(found: Shortage, doing: str, going_on: str, result: str = SAME) -> None:
    """Pass one line to the listener: which memory was short while `doing` what, how work is `going_on`, and what that changes."""
    relay(f"out of {found.memory} while {doing}: going on with {going_on}. {result}")


def relay(line: str) -> None:
    """Pass a line that `report` made, perhaps in another process, to the listener."""
    if _listeners:
        _listeners[-1](line)
    else:
        logger.warning("%s", line)
