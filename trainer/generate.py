"""Continuations of prompts: one greedy answer and several sampled ones.

A batch of prompts goes through the model once, padded on the left. Its key/value cache is then repeated for the answers
of each prompt, and every further step feeds one token per answer. Finished answers leave the batch:

    prompts    . . a a a        answers   a₀ x x ■            greedy
               . b b b b                  a₁ y y y ■          drawn
               c c c c c                  b₀ z ■     …

The sampled token depends on the seed, the prompt, the number of the answer and the position, never on the batch:
uniform numbers derived from these select from the cumulative probabilities. transformers' own `generate`
draws a batch from one generator, so it is not used.

Shapes: S active sequences, T tokens, V vocabulary, N new tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import blake2b

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DynamicCache

from trainer.config import GenerateConfig
from trainer.errors import DataError, MachineError
from trainer.forward import causal_lm, compute_dtype, output_head
from trainer.model import plain_attention
from trainer.randomness import SAMPLING, derive_seed

NOT_WRITTEN = -1
Prompt = Sequence[int] | np.ndarray


@torch.inference_mode()
def generate(
    model: torch.nn.Module,
    prompts: Sequence[Prompt],
    config: GenerateConfig,
    *,
    end_ids: Collection[int],
    seed: int,
    progress: Callable[[int], None] = lambda prompts: None,
) -> list[list[np.ndarray]]:
    """Continuations of each prompt (its token ids) by `model` with its current adapter.

    Per prompt `1 + config.samples` arrays (length,) int64 of new token ids: the greedy continuation, then the sampled
    ones. Each ends with the first of `end_ids`, or after `config.max_new_tokens`. Prompts are sorted by
    length and batched by `config.batch_tokens`; order and batching change results only by rounding. `progress`
    receives the number of prompts just finished.

    Raises DataError for an empty prompt or one that leaves no room in the model's context, and MachineError if a
    batch does not fit the GPU.
    """
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    _check_lengths(lengths, causal_lm(model), config)
    written: list[list[np.ndarray]] = [[] for _ in prompts]
    model.eval()
    device, dtype = next(model.parameters()).device, compute_dtype(model)
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    with plain_attention(model), autocast:
        for members in _batches(lengths, config):
            batch = [prompts[i] for i in members]
            try:
                answers = _answer(model, batch, config, torch.tensor(sorted(end_ids), device=device), seed)
            except torch.OutOfMemoryError as error:
                raise MachineError(
                    f"out of GPU memory while generating {len(batch) * (1 + config.samples)} answers at once: "
                    f"lower generate.batch_tokens (now {config.batch_tokens})"
                ) from error
            for i, of_prompt in zip(members, answers, strict=True):
                written[i] = of_prompt
            progress(len(members))
    return written


def _check_lengths(lengths: np.ndarray, causal: torch.nn.Module, config: GenerateConfig) -> None:
    if not lengths.all():
        raise DataError(f"expected prompts of at least one token, found an empty one at {int(lengths.argmin())}")
    context = getattr(causal.config, "max_position_embeddings", None)
    longest = int(lengths.max(initial=0))
    if context is not None and longest and longest + config.max_new_tokens > context:
        raise DataError(
            f"a prompt of {longest} tokens and {config.max_new_tokens} new ones do not fit the model's context of "
            f"{context}: lower generate.max_new_tokens or tokens.max_length"
        )


def _batches(lengths: np.ndarray, config: GenerateConfig) -> Iterator[np.ndarray]:
    """Prompts, longest first, in batches whose padded answers take at most batch_tokens tokens (or of one prompt)."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        width = int(lengths[order[start]]) + config.max_new_tokens
        count = max(1, config.batch_tokens // (width * (1 + config.samples)))
        yield order[start : start + count]
        start += count


def _answer(
    model: torch.nn.Module, prompts: Sequence[Prompt], config: GenerateConfig, ends: torch.Tensor, seed: int
) -> list[list[np.ndarray]]:
    """The answers to one batch of prompts."""
    answers = 1 + config.samples
    ids_ST, mask_ST = _left_padded(prompts, ends.device)
    cache = DynamicCache(config=causal_lm(model).config)
    logits_SV = _step(model, ids_ST, mask_ST, cache)
    cache.batch_repeat_interleave(answers)
    logits_SV, mask_ST = (x.repeat_interleave(answers, dim=0) for x in (logits_SV, mask_ST))
    uniform_SN = torch.from_numpy(np.concatenate([_uniform(prompt, config, seed) for prompt in prompts]))
    uniform_SN = uniform_SN.to(ends.device)
    written_SN = torch.full(uniform_SN.shape, NOT_WRITTEN, device=ends.device)
    going = torch.arange(len(written_SN), device=ends.device)
    for place in range(config.max_new_tokens):
        tokens_S = _choose(logits_SV, uniform_SN[going, place], config)
        written_SN[going, place] = tokens_S
        open_S = (~torch.isin(tokens_S, ends)).nonzero()[:, 0]
        if place + 1 == config.max_new_tokens or not len(open_S):
            break
        if len(open_S) < len(going):
            cache.batch_select_indices(open_S)
            going, tokens_S, mask_ST = going[open_S], tokens_S[open_S], mask_ST[open_S]
        mask_ST = F.pad(mask_ST, (0, 1), value=1)
        logits_SV = _step(model, tokens_S[:, None], mask_ST, cache)
    rows = [row[row != NOT_WRITTEN] for row in written_SN.cpu().numpy()]
    return [rows[start : start + answers] for start in range(0, len(rows), answers)]


def _left_padded(prompts: Sequence[Prompt], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask (S, T) int64. Padding is masked, so its token does not matter."""
    longest = max(len(prompt) for prompt in prompts)
    ids, mask = np.zeros((2, len(prompts), longest), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def _step(model: torch.nn.Module, ids_ST: torch.Tensor, mask_ST: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """Logits (S, V) after the last of these tokens, which are added to the cache; the mask covers both.

    Logits are the hidden states times the output head, as everywhere in the trainer (see `trainer.architecture`).
    """
    base = causal_lm(model).base_model
    # transformers 5 renamed this argument.
    name = "cache" if "cache" in inspect.signature(base.forward).parameters else "past_key_values"
    positions_ST = (mask_ST.cumsum(1) - 1).clamp(min=0)[:, -ids_ST.shape[1] :]
    output = base(input_ids=ids_ST, attention_mask=mask_ST, position_ids=positions_ST, use_cache=True, **{name: cache})
    weight, bias = output_head(model)
    return F.linear(output.last_hidden_state[:, -1].to(weight.dtype), weight, bias)


def _uniform(prompt: Prompt, config: GenerateConfig, seed: int) -> np.ndarray:
    """(1 + samples, N) float64 in [0, 1), one number per sampled token; NaN in the first row, which is greedy."""
    digest = blake2b(np.asarray(prompt, dtype=np.int64).tobytes(), digest_size=8).digest()
    key, size = int.from_bytes(digest, "little"), config.max_new_tokens
    drawn = (np.random.default_rng(derive_seed(seed, key, i, SAMPLING)).random(size) for i in range(config.samples))
    return np.stack([np.full(size, np.nan), *drawn])


def _choose(logits_SV: torch.Tensor, uniform_S: torch.Tensor, config: GenerateConfig) -> torch.Tensor:
    """(S,) next tokens: the most probable if `uniform_S` is NaN, else the one whose share of [0, 1) contains it.

    In float64, so that the shares are exact, and in vocabulary order, so that rounding of the logits moves a
    border but does not swap tokens.
    """
    best_S = logits_SV.argmax(-1)
    if not config.samples:
        return best_S
    share_SV = (logits_SV.double() / config.temperature).softmax(-1)
    if config.top_p < 1:
        share_SV = _nucleus(share_SV, config.top_p)
    sums_SV = share_SV.cumsum(-1)
    drawn_S = torch.searchsorted(sums_SV / sums_SV[:, -1:], uniform_S[:, None], right=True)[:, 0]
    return torch.where(uniform_S.isnan(), best_S, drawn_S)


def _nucleus(share_SV: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probabilities of the most probable tokens with total `top_p`, 0 for the others (Holtzman et al. 2020, arXiv 1904.09751)."""
    sorted_SV = share_SV.sort(-1, descending=True).values
    more_probable_SV = sorted_SV.cumsum(-1) - sorted_SV
    least_S = sorted_SV.masked_fill(more_probable_SV >= top_p, torch.inf).amin(-1, keepdim=True)
    return share_SV.where(share_SV >= least_S, 0)
