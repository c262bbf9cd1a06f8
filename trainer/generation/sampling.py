"""Which token follows the logits: the most probable, or one that is drawn.

A drawn token depends on the seed, the prompt, the number of the answer and the position, never on the batch: uniform numbers derived
from these select from the cumulative probabilities. transformers' own `generate` draws a batch from one generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch

from trainer.config import GenerateConfig
from trainer.generation.engine import Prompt
from trainer.randomness import SAMPLING, derive_seed

PROBABILITIES_AT_ONCE = 1 << 24
"""Float64 probabilities in memory at once, 128 MiB; sorting them for top_p takes four times as much."""

LEAST_TEMPERATURE = 1e-200
"""Any float32 logit divided by it is a finite float64. Already at 1e-8 nothing but the most probable token is drawn."""


@dataclass(frozen=True)
class Draw:
    """How tokens are chosen: the most probable one at `temperature` 0, else drawn from the `top_k` most probable (None: all), and of
    these from the most probable with total probability `top_p`."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None


def uniform(prompt: Prompt, config: GenerateConfig, seed: int, greedy: bool = True) -> np.ndarray:
    """(answers, max_new_tokens) float64 in [0, 1), one number per drawn token; NaN in the first row if it is `greedy`."""
    size = config.max_new_tokens
    drawn = [source(prompt, seed, i).random(size) for i in range(config.samples)]
    return np.stack([*[np.full(size, np.nan)] * greedy, *drawn])


def source(prompt: Prompt, seed: int, answer: int) -> np.random.Generator:
    """The numbers of `uniform` for one drawn answer, without an end."""
    digest = blake2b(np.asarray(prompt, dtype=np.int64).tobytes(), digest_size=8).digest()
    return np.random.default_rng(derive_seed(seed, int.from_bytes(digest, "little"), answer, SAMPLING))


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
    how = Draw(config.temperature, config.top_p)
    return torch.where(uniform_S.isnan(), best_S, torch.cat([_drawn(*part, [how] * len(part[0])) for part in parts]))


def choose_each(logits_SV: torch.Tensor, uniform_S: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """As `choose`, each row in its own way; the most probable token at temperature 0."""
    tokens_S = logits_SV.argmax(-1)
    drawn = [i for i, draw in enumerate(draws) if draw.temperature]
    rows = max(1, PROBABILITIES_AT_ONCE // logits_SV.shape[1])
    for part in (drawn[i : i + rows] for i in range(0, len(drawn), rows)):
        tokens_S[part] = _drawn(logits_SV[part], uniform_S[part], [draws[i] for i in part])
    return tokens_S


def _drawn(logits_SV: torch.Tensor, uniform_S: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    columns = ([draw.temperature for draw in draws], [draw.top_p for draw in draws])
    temperature_S1, top_p_S1 = torch.tensor(columns, dtype=torch.float64, device=logits_SV.device)[..., None]
    share_SV = (_most_probable(logits_SV, draws).double() / temperature_S1.clamp(min=LEAST_TEMPERATURE)).softmax(-1)
    if any(draw.top_p < 1 for draw in draws):
        share_SV = _nucleus(share_SV, torch.where(top_p_S1 < 1, top_p_S1, torch.inf))
    sums_SV = share_SV.cumsum(-1)
    return torch.searchsorted(sums_SV / sums_SV[:, -1:], uniform_S[:, None].contiguous(), right=True)[:, 0]


def _most_probable(logits_SV: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """The `top_k` largest logits of each row (more if several are equal to the last), -inf for the others."""
    vocabulary = logits_SV.shape[1]
    kept = [min(draw.top_k or vocabulary, vocabulary) for draw in draws]
    limited = [i for i, k in enumerate(kept) if k < vocabulary]
    if not limited:
        return logits_SV
    largest = logits_SV[limited].topk(max(kept[i] for i in limited)).values
    last = largest.gather(1, torch.tensor([[kept[i] - 1] for i in limited], device=logits_SV.device))
    least_S1 = logits_SV.new_full((len(draws), 1), -torch.inf)
    least_S1[limited] = last
    return logits_SV.where(logits_SV >= least_S1, -torch.inf)


def _nucleus(share_SV: torch.Tensor, top_p_S1: torch.Tensor) -> torch.Tensor:
    """The probabilities of the most probable tokens with total `top_p`, 0 for the others (Holtzman et al. 2020, arXiv 1904.09751)."""
    sorted_SV = share_SV.sort(-1, descending=True).values
    more_probable_SV = sorted_SV.cumsum(-1) - sorted_SV
    least_S = sorted_SV.masked_fill(more_probable_SV >= top_p_S1, torch.inf).amin(-1, keepdim=True)
    return share_SV.where(share_SV >= least_S, 0)
