"""Documents of random tokens that a loaded model is checked with, and windows short enough for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

WINDOW = 6
LENGTHS = (17, 17, 24, 11, 11)
"""Of the documents: two that stand before the one that is compared, that one, and two that stand after it."""
COMPARED = 2
PACKS = ((0, COMPARED, 3), (1, COMPARED, 4))


class Probe:
    """Five documents, all of whose tokens are targets. Tokens are from the middle of the vocabulary: special ones are at its ends."""

    def __init__(self, vocabulary: int) -> None:
        rng = np.random.default_rng(0)
        self.documents = [rng.integers(vocabulary // 4, vocabulary // 2, length) for length in LENGTHS]

    def ids(self, row: int) -> np.ndarray:
        """(length,) token ids of a document."""
        return self.documents[row]

    def targets(self, row: int) -> np.ndarray:
        """(length,) ones: every token is a target."""
        return np.ones(LENGTHS[row], dtype=np.uint8)


@contextmanager
def short_windows(causal: torch.nn.Module) -> Iterator[None]:
    """Inside the block every window and chunk of attention is at most WINDOW tokens: in the configs, from which masks are built, and
    in the modules. The probe's documents are longer, so a window that only one of two computations has shows."""
    changed: list[tuple[Any, str, int]] = []
    seen: set[int] = set()
    try:
        for module in causal.modules():
            for owner in (module, getattr(module, "config", None)):
                if owner is None or id(owner) in seen:
                    continue
                seen.add(id(owner))
                for name, value in list(vars(owner).items()):
                    if _is_window(name) and type(value) is int and value > WINDOW:
                        changed.append((owner, name, value))
                        setattr(owner, name, WINDOW)
        yield
    finally:
        for owner, name, value in changed:
            setattr(owner, name, value)


def _is_window(name: str) -> bool:
    return re.search(r"(^|_)window(_size)?$|^attention_chunk_size$", name) is not None
