"""The engine on transformers' forward: a batch of prompts, padded on the left, from its first token to its last."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DynamicCache

from trainer.forward import body, causal_lm, compute_dtype, output_head
from trainer.generation.engine import Asked, Prompt


class PlainEngine:
    """A batch's padded sequences take at most `batch_tokens` tokens, or those of one prompt. Use inside
    trainer.model.plain_attention."""

    def __init__(self, model: torch.nn.Module, batch_tokens: int):
        self.model, self.batch_tokens = model, batch_tokens
        self.device, self.dtype = next(model.parameters()).device, compute_dtype(model)
        self.base = body(causal_lm(model))
        # transformers 5 renamed this argument.
        accepted = inspect.signature(self.base.forward).parameters
        self.cache_name = "cache" if "cache" in accepted else "past_key_values"
        self.cache: DynamicCache | None = None
        self.mask_ST = torch.empty(0, 0, dtype=torch.int64)

    def fitting(self, asked: Sequence[Asked]) -> int:
        """See Engine; nothing joins a batch under way."""
        if len(self.mask_ST):
            return 0
        count = longest = new = sequences = 0
        for one in asked:
            longest, new = max(longest, len(one.prompt)), max(new, one.new_tokens)
            sequences += one.answers
            if count and (longest + new) * sequences > self.batch_tokens:
                break
            count += 1
        return count

    def admit(self, asked: Sequence[Asked]) -> torch.Tensor:
        """See Engine; the model has one adapter."""
        ids_PT, self.mask_ST = left_padded([one.prompt for one in asked], self.device)
        self.cache = DynamicCache(config=causal_lm(self.model).config)
        logits_PV = self._forward(ids_PT)
        answers = torch.tensor([one.answers for one in asked])
        prompt_S = torch.arange(len(asked)).repeat_interleave(answers).to(self.device)
        self.cache.batch_select_indices(prompt_S)
        self.mask_ST = self.mask_ST[prompt_S]
        return logits_PV[prompt_S]

    def read(self, prompt: Prompt, owner: int) -> torch.Tensor:
        """See Engine; the model has one adapter."""
        ids_1T, mask_1T = left_padded([prompt], self.device)
        with self._autocast():
            return self.base(input_ids=ids_1T, attention_mask=mask_1T, use_cache=False).last_hidden_state[0]

    def step(self, tokens_S: torch.Tensor) -> torch.Tensor:
        """See Engine."""
        self.mask_ST = F.pad(self.mask_ST, (0, 1), value=1)
        return self._forward(tokens_S[:, None])

    def keep(self, rows: Sequence[int]) -> None:
        """See Engine."""
        kept = torch.tensor(rows, dtype=torch.int64, device=self.device)
        self.cache.batch_select_indices(kept)
        self.mask_ST = self.mask_ST[kept]

    def _forward(self, ids_ST: torch.Tensor) -> torch.Tensor:
        """Logits (S, V) after the last of these tokens, which are added to the cache; the mask covers both.

        Logits are the hidden states times the output head, as everywhere in the trainer (see `trainer.gate.architecture`).
        """
        positions_ST = (self.mask_ST.cumsum(1) - 1).clamp(min=0)[:, -ids_ST.shape[1] :]
        given = {"attention_mask": self.mask_ST, "position_ids": positions_ST, self.cache_name: self.cache}
        with self._autocast():
            output = self.base(input_ids=ids_ST, use_cache=True, **given)
            return output_head(self.model).logits(output.last_hidden_state[:, -1])

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)


def left_padded(prompts: Sequence[Prompt], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask (S, T) int64. Padding is masked, so its token does not matter."""
    longest = max(len(prompt) for prompt in prompts)
    ids, mask = np.zeros((2, len(prompts), longest), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
