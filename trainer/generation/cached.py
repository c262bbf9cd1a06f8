"""The engine on our own decoder. Answers of any length finish and make room for waiting prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from trainer.attention import PackLayout
from trainer.decoder.cached import FromCache, IntoCache, has_kernel, new_cache, row_bytes
from trainer.decoder.decoder import Decoder
from trainer.decoder.layer import Attention, Pass, WithinDocuments
from trainer.forward import causal_lm, compute_dtype, output_head
from trainer.generation.adapters import AdapterSet
from trainer.generation.engine import Asked, Prompt
from trainer.generation.graphs import StepGraphs
from trainer.generation.spans import Spans

CACHE_BYTES = 2 << 30
HOST_TOKENS = 16_384
PROMPT_TOKENS = 16_384
MOST_SEQUENCES = 1024
REFILL = 8
"""Prompts are read when at least one in so many sequences has finished: reading a few takes as long as reading many."""


@dataclass
class _Sequence:
    """Its span of the cache, the place of its next token in it, and its adapter."""

    begin: int
    size: int
    place: int
    owner: int


class CachedEngine:
    """Sequences in a cache of `rows` tokens. `adapters` are attached to the decoder; owners of prompts are their numbers."""

    def __init__(
        self,
        model: torch.nn.Module,
        decoder: Decoder,
        rows: int,
        adapters: AdapterSet | None = None,
    ):
        self.decoder, self.adapters = decoder, adapters
        self.embed, self.head = causal_lm(model).get_input_embeddings(), output_head(model)
        self.device, dtype = self.embed.weight.device, compute_dtype(model)
        self.cache = new_cache(decoder.layers, rows, dtype, self.device)
        self.spans = Spans(rows)
        self.under_way: list[_Sequence] = []
        self.begins_S = self.places_S = torch.zeros(0, dtype=torch.int64, device=self.device)
        graphs = has_kernel(decoder.layers[0], self.cache) and adapters is None
        self.graphs = StepGraphs(self._logits, rows, self.embed.weight.shape[1]) if graphs else None

    def fitting(self, asked: Sequence[Asked]) -> int:
        """See Engine."""
        room, count, sequences = self.spans.copy(), 0, 0
        for one in asked:
            total = len(self.under_way) + sequences + one.answers
            if total > max(MOST_SEQUENCES, one.answers) or any(room.take(one.size) is None for _ in range(one.answers)):
                break
            count, sequences = count + 1, sequences + one.answers
        worthwhile = count == len(asked) or sequences * REFILL >= len(self.under_way)
        return count if worthwhile else 0

    def admit(self, asked: Sequence[Asked]) -> torch.Tensor:
        """See Engine."""
        logits = []
        begin = tokens = 0
        for i, one in enumerate(asked):  # in the order given: `fitting` found room for that one
            if i > begin and tokens + len(one.prompt) > PROMPT_TOKENS:
                logits.append(self._admit(asked[begin:i]))
                begin, tokens = i, 0
            tokens += len(one.prompt)
        logits.append(self._admit(asked[begin:]))
        self._place()
        return torch.cat(logits)

    def _admit(self, asked: Sequence[Asked]) -> torch.Tensor:
        """Logits (answers of all prompts, V) after one pass over the prompts, which fills the cache."""
        first = 0
        source, target = [], []
        for one in asked:
            length = len(one.prompt)
            for _ in range(one.answers):
                begin = self.spans.take(one.size)
                self.under_way.append(_Sequence(begin, one.size, length, one.owner))
                source.append(np.arange(first, first + length))
                target.append(np.arange(begin, begin + length))
            first += length
        rows = [torch.from_numpy(np.concatenate(part)).to(self.device) for part in (source, target)]
        last = np.cumsum([len(one.prompt) for one in asked]) - 1
        hidden_Pd = self._read(
            [one.prompt for one in asked],
            [one.owner for one in asked],
            lambda within: IntoCache(within, self.cache, *rows),
            torch.from_numpy(last).to(self.device),
        )
        answers = torch.tensor([one.answers for one in asked], device=self.device)
        return self.head.logits(hidden_Pd).repeat_interleave(answers, dim=0)

    def read(self, prompt: Prompt, owner: int) -> torch.Tensor:
        """See Engine."""
        hidden_Td = self._read([prompt], [owner], lambda within: within, None)
        self._place()
        return hidden_Td

    def _read(
        self,
        prompts: Sequence[Prompt],
        owners: Sequence[int],
        attention: Callable[[WithinDocuments], Attention],
        rows: torch.Tensor | None,
    ) -> torch.Tensor:
        """Hidden states of a pass over a pack of prompts: of every token, or of `rows` (one for each prompt)."""
        lengths = [len(prompt) for prompt in prompts]
        borders = [0, *accumulate(lengths)]
        places_T = torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])).to(self.device)
        ids_T = torch.from_numpy(np.concatenate([np.asarray(prompt, dtype=np.int64) for prompt in prompts]))
        cu_seqlens = torch.tensor(borders, dtype=torch.int32, device=self.device)
        pack = PackLayout(tuple(borders), cu_seqlens, max(lengths))
        embeddings_Td = self.embed(ids_T.to(self.device))
        run = self.decoder.new_pass(embeddings_Td, places_T, pack, differentiable=False)
        if self.adapters is not None:
            self.adapters.place(np.repeat(owners, lengths), np.asarray(owners))
        within = WithinDocuments.of(self.decoder.layers, places_T)
        return self.decoder.without_gradients(embeddings_Td, run, attention(within), rows)

    def step(self, tokens_S: torch.Tensor) -> torch.Tensor:
        """See Engine."""
        embeddings_Sd = self.embed(tokens_S)
        run = self.decoder.new_pass(embeddings_Sd, self.places_S, None, differentiable=False)
        if self.graphs is not None:
            logits_SV = self.graphs(embeddings_Sd, run, self.begins_S, self.places_S)
        else:
            host = [(sequence.begin, sequence.place) for sequence in self.under_way]
            logits_SV = self._logits(embeddings_Sd, run, self.begins_S, self.places_S, host)
        self.places_S = self.places_S + 1
        for sequence in self.under_way:
            sequence.place += 1
        return logits_SV

    def keep(self, rows: Sequence[int]) -> None:
        """See Engine."""
        kept = set(rows)
        for i, sequence in enumerate(self.under_way):
            if i not in kept:
                self.spans.give(sequence.begin, sequence.size)
        self.under_way = [self.under_way[i] for i in rows]
        self._place()

    def _place(self) -> None:
        """Copy begins and places of all sequences to the device, and assign rows to adapters."""
        found = np.array([(sequence.begin, sequence.place) for sequence in self.under_way], dtype=np.int64)
        self.begins_S, self.places_S = torch.from_numpy(found.reshape(-1, 2).T.copy()).to(self.device)
        if self.adapters is not None:
            self.adapters.place(np.array([sequence.owner for sequence in self.under_way], dtype=np.int64))

    def _logits(
        self,
        embeddings_Sd: torch.Tensor,
        run: Pass,
        begins_S: torch.Tensor,
        places_S: torch.Tensor,
        host: Sequence[tuple[int, int]] = (),
    ) -> torch.Tensor:
        attention = FromCache(self.cache, begins_S, places_S, host)
        return self.head.logits(self.decoder.without_gradients(embeddings_Sd, run, attention))


def cache_rows(decoder: Decoder, model: torch.nn.Module, batch_tokens: int | None, largest: int) -> int:
    """Tokens of a cache of `batch_tokens`, or of one whose bytes suit the device (None), and at least `largest`."""
    if batch_tokens is None:
        dtype, device = compute_dtype(model), decoder.scratch.device
        batch_tokens = HOST_TOKENS if device.type == "cpu" else CACHE_BYTES // row_bytes(decoder.layers, dtype)
    return max(batch_tokens, largest)
