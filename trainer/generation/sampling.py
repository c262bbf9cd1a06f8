"""Which token follows the logits: the most probable, or one that is drawn.

A drawn token depends on the seed, the prompt, the number of the answer and the position, never on the batch: uniform numbers derived
from these select from the cumulative probabilities. transformers' own `generate` draws a batch from one generator.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch

from trainer.config import GenerateConfig
from trainer.generation.engine import Prompt
from trainer.randomness import SAMPLING, derive_seed

PROBABILITIES_AT_ONCE = 1 << 24
"""Float64 probabilities in memory at once, 128 MiB; sorting them for top_p takes four times as much."""


def uniform(prompt: Prompt, config: GenerateConfig, seed: int, greedy: bool = True) -> np.ndarray:
    """(answers, max_new_tokens) float64 in [0, 1), one number per drawn token; NaN in the first row if it is `greedy`."""
    digest = blake2b(np.asarray(prompt, dtype=np.int64).tobytes(), digest_size=8).digest()
    key, size = int.from_bytes(digest, "little"), config.max_new_tokens
    drawn = [np.random.default_rng(derive_seed(seed, key, i, SAMPLING)).random(size) for i in range(config.samples)]
    return np.stack([*[np.full(size, np.nan)] * greedy, *drawn])


def choose(logits_SV: torch.Tensor, uniform_S: torch.Tensor, config: GenerateConfig) -> torch.Tensor:
    """(S,) next tokens: the most probable if `uniform_S` is NaN, else the one whose share of [0, 1) contains it.

    In float64, so that the shares are exact, and in vocabulary order, so that rounding of the logits moves a
    border but does not swap tokens.
    """
    best_S = logits_SV.argmax(-1)
    if not config.samples:
        return best_S
    rows = max(1, PROBABILITIES_AT_ONCE // logits_SV.shape[1])
    parts = zip(logits_SV.split(rows), uniform_S.split(rows), strict=True)
    return torch.where(uniform_S.isnan(), best_S, torch.cat([_drawn(*part, config) for part in parts]))


def _drawn(logits_SV: torch.Tensor, uniform_S: torch.Tensor, config: GenerateConfig) -> torch.Tensor:
    share_SV = (logits_SV.double() / config.temperature).softmax(-1)
    if config.top_p < 1:
        share_SV = _nucleus(share_SV, config.top_p)
    sums_SV = share_SV.cumsum(-1)
    return torch.searchsorted(sums_SV / sums_SV[:, -1:], uniform_S[:, None].contiguous(), right=True)[:, 0]


def _nucleus(share_SV: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probabilities of the most probable tokens with total `top_p`, 0 for the others (Holtzman et al. 2020, arXiv 1904.09751)."""
    sorted_SV = share_SV.sort(-1, descending=True).values
    more_probable_SV = sorted_SV.cumsum(-1) - sorted_SV
    least_S = sorted_SV.masked_fill(more_probable_SV >= top_p, torch.inf).amin(-1, keepdim=True)
    return share_SV.where(share_SV >= least_S, 0)
