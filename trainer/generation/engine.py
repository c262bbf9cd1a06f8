"""What writing answers needs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

Prompt = Sequence[int] | np.ndarray


class Engine(Protocol):
    """A model in the middle of writing S answers, in the order in which they were admitted."""

    def fitting(self, lengths: Sequence[int]) -> int:
        """How many prompts of these lengths, in this order, can be admitted now. At least one if nothing is under way."""
        ...

    def admit(self, prompts: Sequence[Prompt], owners: Sequence[int]) -> torch.Tensor:
        """Read prompts, longest first, each for the adapter of that number, and add their sequences, the answers of a
        prompt in a row, after those under way. Returns the logits (new sequences, V) of their first tokens."""
        ...

    def step(self, tokens_S: torch.Tensor) -> torch.Tensor:
        """Append a token to each sequence. Returns the logits (S, V) of the next; valid until the next call."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all sequences but `rows`, ascending indices."""
        ...
