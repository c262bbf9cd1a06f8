"""Uncertainty of a model on unlabelled prompts, from its own answers.

Two numbers per prompt. The entropy of the greedy answer: the answer becomes a document, and
`trainer.measure.measure` gives `entropy_mean`. The disagreement of sampled answers: one minus their mean
pairwise ROUGE-L, "lexical similarity" in Fomicheva et al. 2020 (arXiv 2005.10608) and Kuhn et al. 2023 (arXiv 2302.09664).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations

import numpy as np

from trainer.rendering import END_OF_TURN, NO_TARGET, RESPONSE
from trainer.template import Tokenized
from trainer.tokens import TokenTable

TokenIds = Sequence[int] | np.ndarray


def continuation_documents(
    prompts: Sequence[TokenIds], continuations: Sequence[TokenIds], end_ids: Collection[int]
) -> TokenTable:
    """Each prompt with its continuation as one document: generated tokens are targets, `end_ids` are end tokens."""
    documents = []
    for prompt, continuation in zip(prompts, continuations, strict=True):
        marks = [END_OF_TURN if token in end_ids else RESPONSE for token in continuation]
        documents.append(Tokenized([*prompt, *continuation], [NO_TARGET] * len(prompt) + marks))
    return TokenTable.build(documents)


def disagreement(answers: Sequence[TokenIds], end_ids: Collection[int]) -> float:
    """1 − mean pairwise ROUGE-L of the answers' token ids, without end tokens: 0 if all are the same, 1 if no two
    share a token. NaN for fewer than two answers."""
    if len(answers) < 2:
        return float("nan")
    bodies = [[int(token) for token in answer if token not in end_ids] for answer in answers]
    return 1 - float(np.mean([rouge_l(one, other) for one, other in combinations(bodies, 2)]))


def rouge_l(one: Sequence[int], other: Sequence[int]) -> float:
    """F1 of the longest common subsequence (Lin 2004): 2 · LCS / (both lengths); 1 for two empty sequences."""
    total = len(one) + len(other)
    return 2 * longest_common_subsequence(one, other) / total if total else 1.0


def longest_common_subsequence(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common subsequence. A row of the usual table is one integer; its bit i is 0 if the row grows at place i
    of `one` (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"): O(length) operations on integers of that many bits."""
    places: dict[int, int] = {}
    for i, token in enumerate(one):
        places[token] = places.get(token, 0) | 1 << i
    everywhere = (1 << len(one)) - 1
    row = everywhere
    for token in other:
        matches = row & places.get(token, 0)
        row = ((row + matches) | (row - matches)) & everywhere
    return len(one) - row.bit_count()
