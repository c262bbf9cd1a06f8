"""What writing answers needs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

Prompt = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Asked:
    """A prompt to continue: `answers` sequences of at most `new_tokens` tokens each, for the adapter of number `owner`."""

    prompt: Prompt
    answers: int
    new_tokens: int
    owner: int = 0

    @property
    def size(self) -> int:
        """Tokens of one sequence."""
        return len(self.prompt) + self.new_tokens


class Engine(Protocol):
    """A model in the middle of writing S answers, in the order in which they were admitted."""

    def fitting(self, asked: Sequence[Asked]) -> int:
        """How many of these prompts, in this order, can be admitted now. At least one if nothing is under way."""
        ...

    def admit(self, asked: Sequence[Asked]) -> torch.Tensor:
        """Read prompts that `fitting` has counted, and add their sequences, the answers of a prompt in a row, after those under
        way. Returns the logits (new sequences, V) of their first tokens."""
        ...

    def read(self, prompt: Prompt, owner: int) -> torch.Tensor:
        """Final hidden states (T, d) of every token of a prompt, as the adapter of that number sees it. Nothing is added."""
        ...

    def step(self, tokens_S: torch.Tensor) -> torch.Tensor:
        """Append a token to each sequence. Returns the logits (S, V) of the next; valid until the next call."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all sequences but `rows`, ascending indices."""
        ...
