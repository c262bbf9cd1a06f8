"""About how many tokens examples have with their chat template, before a run has tokenized them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.errors import DataError
from trainer.rendering import Conversation
from trainer.template import ChatTemplate

CHARACTERS_PER_TOKEN = 4.0
"""Characters per token of English text under common tokenizers."""
TOKENS_PER_TURN = 5
"""Tokens that a chat template adds to a turn, about."""
TOKENIZED_PER_FILE, TOKENIZED_CHARACTERS = 200, 4_000_000
"""Examples of a file that are tokenized, and characters in all: about a second."""


class TokenCounter:
    """Counts the tokens of a random sample if there is a template, else estimates them from the length of texts.

    Args:
        template: the model's chat template, bound to its tokenizer; None where that is not on this machine.
        longest: tokens above which an example is cut (tokens.max_length).
    """

    def __init__(self, template: ChatTemplate | None, longest: int):
        self.tokenized = 0
        self._template, self._longest, self._left = template, longest, TOKENIZED_CHARACTERS
        self._counted = self._estimated = 0.0

    def total(self, conversations: Sequence[Conversation]) -> float:
        """About the tokens of all of these conversations together. Those that the template refuses count as the others."""
        if not conversations:
            return 0.0
        by_length = np.minimum([tokens_by_length(messages) for messages in conversations], self._longest)
        found = [] if self._template is None else self._sampled(conversations, by_length)
        if found:
            return float(np.mean(found)) * len(conversations)
        return float(by_length.sum()) * (self._counted / self._estimated if self._estimated else 1.0)

    def _sampled(self, conversations: Sequence[Conversation], by_length: np.ndarray) -> list[int]:
        """The tokens of some of the conversations, [] once enough characters have been tokenized."""
        rows = np.random.default_rng([7]).permutation(len(conversations))[:TOKENIZED_PER_FILE]
        chosen = []
        for row in rows:
            if self._left <= 0:
                break
            self._left -= sum(len(message["content"]) for message in conversations[row])
            chosen.append(row)
        results = self._template.tokenize_batch([conversations[row] for row in chosen])
        kept = [(row, one) for row, one in zip(chosen, results, strict=True) if not isinstance(one, DataError)]
        found = [min(len(one.ids), self._longest) for _, one in kept]
        self.tokenized += len(found)
        self._counted += sum(found)
        self._estimated += float(by_length[[row for row, _ in kept]].sum()) if kept else 0.0
        return found


def tokens_by_length(messages: Conversation) -> float:
    """About the tokens of a conversation, from the length of its texts."""
    return sum(len(message["content"]) / CHARACTERS_PER_TOKEN + TOKENS_PER_TURN for message in messages)
