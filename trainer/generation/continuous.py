"""Answers to requests that come and go while others are being written.

A step either reads the prompts that fit, in the order of their arrival, or appends one token to every answer under way. Each
answer has its own length, adapter, way of drawing and random numbers, so its tokens depend on its request alone, to rounding.

Shapes: S sequences under way, V vocabulary, T tokens of a prompt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from trainer.activation import measuring
from trainer.config import GenerateConfig
from trainer.errors import TrainerError
from trainer.forward import bound_decoder, output_head
from trainer.generation.adapters import AdapterSet
from trainer.generation.cached import HOST_TOKENS, PROMPT_TOKENS, CachedEngine, cache_rows
from trainer.generation.engine import Asked, Engine
from trainer.generation.plain import PlainEngine
from trainer.generation.sampling import Draw, choose_each, source
from trainer.loss import Head
from trainer.model import Base, plain_attention

SCORED_AT_ONCE = 1 << 24
"""Elements of the logits of a prompt in memory at once: 64 MiB in float32."""


@dataclass(frozen=True)
class Request:
    """What to write. `draw` and `seed` choose the tokens of `asked.answers` answers. `top`: with each token, its log-probability and the
    `top` most probable tokens (None: neither). `scored`: the same of the prompt's tokens. Nothing is written for 0 new tokens."""

    asked: Asked
    draw: Draw
    seed: int
    top: int | None = None
    scored: bool = False


@dataclass(frozen=True)
class Token:
    """A token, its log-probability (nats, at temperature 1 over the whole vocabulary; None if not asked for or of a prompt's first
    token), and the most probable tokens in its place with theirs."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Step:
    """Of one request: the tokens that a step adds to answer number `answer`, and why it ends there, or None if it goes on. Of the prompt
    itself `answer` is None, and of a request that is about to be read there are no tokens."""

    request: int
    answer: int | None
    tokens: tuple[Token, ...]
    ended: Literal["stop", "length"] | None = None


@dataclass
class _Answer:
    key: int
    number: int
    request: Request
    uniform: np.random.Generator
    written: int = 0
    dropped: bool = False


@dataclass
class ContinuousBatch:
    """The answers under way on `engine`. `ends`: tokens that end an answer. One thread uses it, in torch.inference_mode."""

    engine: Engine
    head: Head
    ends: frozenset[int]
    _waiting: deque[tuple[int, Request]] = field(default_factory=deque)
    _under_way: list[_Answer] = field(default_factory=list)
    _tokens_S: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self._waiting or self._under_way)

    @property
    def sequences(self) -> int:
        """Answers under way."""
        return len(self._under_way)

    def add(self, key: int, request: Request) -> None:
        """Queue a request; steps name it by `key`, which must be new."""
        self._waiting.append((key, request))

    def drop(self, key: int, answer: int | None = None) -> None:
        """Stop writing an answer, or all of a request. Unknown ones are ignored: they may have ended meanwhile."""
        if answer is None:
            self._waiting = deque(pair for pair in self._waiting if pair[0] != key)
        for one in self._under_way:
            one.dropped |= one.key == key and answer in (None, one.number)

    def step(self) -> list[Step]:
        """One pass of the model: prompts that fit are read, else every answer gets a token."""
        self._keep([not one.dropped for one in self._under_way])
        asked = [request.asked for _, request in self._waiting]
        count = self.engine.fitting(asked) if asked else 0
        if count:
            return self._admit([self._waiting.popleft() for _ in range(count)])
        if not self._under_way:
            assert not asked, "no prompt fits although nothing is under way"
            return []
        return self._choose(self.engine.step(self._tokens_S), 0)

    def _admit(self, chosen: list[tuple[int, Request]]) -> list[Step]:
        """Score and read the prompts, and choose the first token of each of their answers."""
        steps = [Step(key, None, self._scored(request)) for key, request in chosen]
        writing = [pair for pair in chosen if pair[1].asked.new_tokens]
        if not writing:
            return steps
        logits_SV = self.engine.admit([request.asked for _, request in writing])
        first = len(self._under_way)
        for key, request in writing:
            for number in range(request.asked.answers):
                uniform = source(request.asked.prompt, request.seed, number)
                self._under_way.append(_Answer(key, number, request, uniform))
        return steps + self._choose(logits_SV, first)

    def _choose(self, logits_SV: torch.Tensor, first: int) -> list[Step]:
        """Append a token to the answers from `first` on, given the logits of their next tokens; those that end are dropped."""
        answers = self._under_way[first:]
        uniform = torch.tensor([one.uniform.random() for one in answers], dtype=torch.float64, device=logits_SV.device)
        new_S = choose_each(logits_SV, uniform, [one.request.draw for one in answers])
        self._tokens_S = torch.cat([self._tokens_S.to(new_S.device)[:first], new_S])
        steps = []
        tokens = _tokens(logits_SV, new_S, [one.request.top for one in answers])
        for one, token in zip(answers, tokens, strict=True):
            one.written += 1
            full = one.written == one.request.asked.new_tokens
            ended = "stop" if token.id in self.ends else "length" if full else None
            one.dropped |= ended is not None
            steps.append(Step(one.key, one.number, (token,), ended))
        self._keep([not one.dropped for one in self._under_way])
        return steps

    def _keep(self, kept: Sequence[bool]) -> None:
        if all(kept):
            return
        rows = [i for i, keep in enumerate(kept) if keep]
        self.engine.keep(rows)
        self._under_way = [self._under_way[i] for i in rows]
        self._tokens_S = self._tokens_S[rows]

    def _scored(self, request: Request) -> tuple[Token, ...]:
        """The prompt's tokens, of which the first has no log-probability; empty if not wanted."""
        prompt = [int(token) for token in request.asked.prompt]
        if not request.scored:
            return ()
        hidden_Td = self.engine.read(prompt, request.asked.owner)[:-1]
        next_T = torch.tensor(prompt[1:], device=hidden_Td.device)
        at_once = max(1, SCORED_AT_ONCE // len(self.head.weight))
        found = [Token(prompt[0])]
        for part_Td, part_T in zip(hidden_Td.split(at_once), next_T.split(at_once), strict=True):
            found += _tokens(self.head.logits(part_Td), part_T, [request.top or 0] * len(part_T)) if len(part_T) else []
        return tuple(found)


def _tokens(logits_SV: torch.Tensor, tokens_S: torch.Tensor, tops: Sequence[int | None]) -> list[Token]:
    """Each token with its log-probability, and as many of the most probable tokens as `tops` asks for."""
    wanted = [i for i, top in enumerate(tops) if top is not None]
    if not wanted:
        return [Token(token) for token in tokens_S.tolist()]
    logprobs = (logits_SV if len(wanted) == len(tops) else logits_SV[wanted]).float().log_softmax(-1)
    own = logprobs.gather(1, tokens_S[wanted][:, None])[:, 0].tolist()
    values, ids = (part.tolist() for part in logprobs.topk(max(tops[i] for i in wanted)))
    of = {i: (own[k], tuple(zip(ids[k], values[k], strict=True))[: tops[i]]) for k, i in enumerate(wanted)}
    return [Token(token, *of.get(i, (None, ()))) for i, token in enumerate(tokens_S.tolist())]


@contextmanager
def continuous_batch(
    base: Base, paths: Sequence[Path | None], ends: Collection[int], config: GenerateConfig
) -> Iterator[tuple[Callable[[], ContinuousBatch], int | None]]:
    """(a function that makes a new, empty batch; the most tokens that the answers to one request may take, prompts included, None: no
    limit, more would wait for ever). Owner k is the base with the adapter saved at `paths[k]`, or alone (None).

    The cache holds `config.batch_tokens`. A single path may be of any adapter and model.

    Raises TrainerError for several paths of a model that our decoder does not run; CheckpointError for an adapter that cannot be loaded.
    """
    if len(paths) > 1 and base.decoder is None:
        raise TrainerError(
            f"{base.config.name}: several adapters at once need a model that Winnow's own decoder runs; serve one of them"
        )
    adapters = AdapterSet.load(paths, base.decoder) if len(paths) > 1 else None
    with base.adapter(paths[0] if adapters is None else None) as model:
        model.eval()
        decoder, asked = bound_decoder(model), None if config.batch_tokens == "auto" else config.batch_tokens
        head, ended_by = output_head(model), frozenset(ends)
        if decoder is None:
            with plain_attention(model):
                yield lambda: ContinuousBatch(PlainEngine(model, asked or HOST_TOKENS), head, ended_by), None
            return
        rows = cache_rows(decoder, model, asked, 1)
        attached = nullcontext() if adapters is None else adapters.attached(decoder)
        with measuring(model, "auto", PROMPT_TOKENS), attached:
            yield lambda: ContinuousBatch(CachedEngine(model, decoder, rows, adapters), head, ended_by), rows
