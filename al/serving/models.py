"""The models that a server offers, and what a request may ask of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from al.prompting.prompts import Messages
from al.serving.problems import Problem
from trainer.errors import DataError
from trainer.generation.engine import Asked
from trainer.generation.sampling import Draw
from trainer.template import ChatTemplate

if TYPE_CHECKING:
    from trainer.generation.continuous import Request

MOST_ANSWERS = 128
LEAST_TOP_P = 1e-9
"""A top_p of 0 keeps the most probable token, as in OpenAI's API."""


@dataclass(frozen=True)
class Limits:
    """What one request may take. `body_bytes` of a request; tokens of a prompt and of an answer; `seconds` until its last token;
    `waiting`: requests in the queue. `context`: tokens of a prompt and its answer that the model computes (None: no limit). `rows`:
    tokens of all answers to one prompt, as many as the cache holds."""

    body_bytes: int = 1 << 20
    prompt_tokens: int | None = None
    new_tokens: int = 1024
    seconds: float = 120.0
    waiting: int = 64
    context: int | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Sampled:
    """How a client wants its answers drawn; `seed` None: differently each time."""

    temperature: float
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class ServedModels:
    """Models by name, in the order in which they were asked for: owner k is `names[k]`. `backend`: the tokenizer, of which tokens 0 to
    `vocabulary` - 1 exist; it truncates nothing. `opening`: the token that an empty prompt is. `default_new_tokens`: of a chat."""

    names: tuple[str, ...]
    backend: Any
    vocabulary: int
    opening: int
    template: ChatTemplate
    limits: Limits
    default_new_tokens: int
    created: int

    def owner(self, name: str) -> int:
        """The number of a model. Raises Problem 404."""
        if name not in self.names:
            known = ", ".join(self.names)
            raise Problem(
                404,
                f"the model {name!r:.80} is not served; this server has {known}.",
                param="model",
                code="model_not_found",
            )
        return self.names.index(name)

    def encode(self, text: str) -> list[int]:
        """Tokens of a raw prompt: special tokens in it are read as such, and the tokenizer's own are added."""
        return self.backend.encode(text, add_special_tokens=True).ids

    def raw_prompt(self, given: str | Sequence[int]) -> list[int]:
        """Tokens of a raw prompt, given as text or tokens. The empty prompt is the token that opens a text. Raises Problem 400."""
        if isinstance(given, str):
            ids = self.encode(given)
        else:
            ids = list(given)
        self.check_tokens(ids, "prompt")
        return ids or [self.opening]

    def check_tokens(self, ids: Sequence[int], param: str) -> None:
        """Raises Problem 400 for a number that is no token."""
        wrong = next((token for token in ids if not 0 <= token < self.vocabulary), None)
        if wrong is not None:
            raise Problem(
                400,
                f"expected tokens from 0 to {self.vocabulary - 1}, found {wrong}.",
                param=param,
                code="invalid_token",
            )

    def chat_prompt(self, messages: Messages) -> list[int]:
        """Tokens of a conversation up to its answer, exactly as in training. Raises Problem 400 if the template refuses it."""
        try:
            return self.template.prompt_ids(messages)
        except DataError as error:
            raise Problem(400, str(error), param="messages", code="invalid_messages") from error

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        tokenizer: Any,
        template: ChatTemplate,
        embeddings: int,
        limits: Limits,
        new_tokens: int,
    ) -> ServedModels:
        """Models of one transformers tokenizer; `embeddings`: tokens that the base model knows."""
        from tokenizers import Tokenizer

        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_padding()
        backend.no_truncation()
        special = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        opening = next((token for token in special if token is not None), min(template.end_ids))
        vocabulary = min(len(tokenizer), embeddings)
        return cls(tuple(names), backend, vocabulary, opening, template, limits, new_tokens, int(time.time()))

    def room(self, prompt_tokens: int) -> int:
        """New tokens that fit after a prompt."""
        found = [limit - prompt_tokens for limit in (self.limits.context, self.limits.rows) if limit is not None]
        return max(1, min([self.limits.new_tokens, *found]))

    def request(
        self,
        owner: int,
        prompt: Sequence[int],
        answers: int,
        new_tokens: int,
        sampled: Sampled,
        seed: int,
        *,
        top: int | None = None,
        scored: bool = False,
    ) -> Request:
        """A request for the batch. Raises Problem 400, naming the limit that it is over."""
        from trainer.generation.continuous import Request

        self._check(len(prompt), answers, new_tokens)
        draw = Draw(sampled.temperature, max(sampled.top_p, LEAST_TOP_P), sampled.top_k)
        return Request(Asked(prompt, answers, new_tokens, owner), draw, seed, top, scored)

    def _check(self, prompt_tokens: int, answers: int, new_tokens: int) -> None:
        limits, size = self.limits, prompt_tokens + new_tokens
        if limits.prompt_tokens is not None and prompt_tokens > limits.prompt_tokens:
            raise Problem(
                400,
                f"the prompt has {prompt_tokens:,} tokens; this server reads at most {limits.prompt_tokens:,}.",
                param="prompt",
                code="context_length_exceeded",
            )
        if new_tokens > limits.new_tokens:
            raise Problem(
                400,
                f"{new_tokens:,} new tokens are asked for; this server writes at most {limits.new_tokens:,}.",
                param="max_tokens",
            )
        if limits.context is not None and size > limits.context:
            raise Problem(
                400,
                f"the prompt's {prompt_tokens:,} tokens and {new_tokens:,} new ones are more than the model's context of "
                f"{limits.context:,}.",
                param="max_tokens",
                code="context_length_exceeded",
            )
        if limits.rows is not None and answers * size > limits.rows:
            raise Problem(
                400,
                f"{answers} answers of {size:,} tokens with their prompt are more than the {limits.rows:,} tokens of this server's cache.",
                param="n",
            )
