"""The API of the NeurIPS 2023 LLM Efficiency Challenge: /process, /tokenize and /decode.

Names and defaults are those of the organisers' sample submission (github.com/llm-efficiency-challenge/neurips_llm_efficiency_challenge).
Their evaluator, HELM's HTTPModelClient, names some parameters of /process otherwise, and sends three more; both are understood.

Log-probabilities are the model's own, of a forward pass at temperature 1 over the whole vocabulary. The sample submission gives those of
the truncated distribution that it draws from, which depend on temperature and top_k.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from al.serving.answers import Shown, WritingRequest
from al.serving.connection import Service, unless_gone
from al.serving.models import Sampled
from al.serving.openai_documents import Natural, One, Positive, Seed, Stop, Strict, String, Top

NEW_TOKENS = 50


class ProcessRequest(Strict):
    """What to continue."""

    prompt: String
    num_samples: One | None = Field(
        1, description="The response holds one answer; for more, use /v1/completions with n."
    )
    max_new_tokens: Natural | None = Field(None, description="Default 50, or as many as fit.")
    top_k: Positive | None = Field(200, description="Draw from this many of the most probable tokens.")
    temperature: Annotated[float, Field(ge=0, le=100)] | None = Field(0.8, description="0: the most probable tokens.")
    seed: Seed | None = Field(None, description="The same seed gives the same answer.")
    echo_prompt: bool | None = Field(None, description="The prompt is part of text, tokens and logprob.")
    num_return_sequences: One | None = Field(None, description="HELM's name of num_samples.")
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="HELM: draw from the most probable tokens of this total."
    )
    top_k_per_token: Top | None = Field(None, description="HELM: entries of top_logprob; default 1.")
    stop_sequences: Annotated[list[Stop], Field(max_length=16)] | None = Field(
        None, description="HELM: the answer ends before these."
    )


class ProcessedToken(BaseModel):
    """A token with its log-probability (0 for the first token of an echoed prompt, which nothing predicts), and the most probable ones in
    its place."""

    text: str
    logprob: float
    top_logprob: dict[str, float]


class ProcessResponse(BaseModel):
    """An answer; `logprob` is the sum over its tokens, `request_time` in seconds."""

    text: str
    tokens: list[ProcessedToken]
    logprob: float
    request_time: float


class TokenizeRequest(Strict):
    """A text; with `truncation` only its first `max_length` tokens."""

    text: String
    truncation: bool | None = True
    max_length: Positive | None = 2048


class TokenizeResponse(BaseModel):
    """The tokens that /process reads."""

    tokens: list[int]
    request_time: float


class DecodeRequest(Strict):
    """Tokens."""

    tokens: list[Natural]


class DecodeResponse(BaseModel):
    """Their text, special tokens included."""

    text: str
    request_time: float


def challenge_routes(service: Service) -> APIRouter:
    """The routes, for the first model of `service`."""
    routes, served = APIRouter(tags=["LLM Efficiency Challenge"]), service.served

    @routes.post("/process", response_model=ProcessResponse)
    async def process(asked: ProcessRequest, request: Request) -> Any:
        """Continue a raw prompt."""
        started = time.perf_counter()
        prompt = await asyncio.to_thread(served.raw_prompt, asked.prompt)
        wanted = _wanted(asked, prompt, min(NEW_TOKENS, served.room(len(prompt))))
        with service.writing(wanted) as writing:
            (answer,) = await unless_gone(request, writing.all())
        tokens = [*writing.prompt_tokens[0], *answer.tokens]
        return ProcessResponse(
            text=(asked.prompt if asked.echo_prompt else "") + answer.text,
            tokens=_processed(tokens),
            logprob=sum(token.logprob or 0.0 for token in tokens),
            request_time=time.perf_counter() - started,
        )

    @routes.post("/tokenize", response_model=TokenizeResponse)
    async def tokenize(asked: TokenizeRequest) -> Any:
        """Tokens of a text, as /process reads it."""
        started = time.perf_counter()
        tokens = await asyncio.to_thread(served.encode, asked.text)
        if asked.truncation is not False and asked.max_length is not None:
            tokens = tokens[: asked.max_length]
        return TokenizeResponse(tokens=tokens, request_time=time.perf_counter() - started)

    @routes.post("/decode", response_model=DecodeResponse)
    async def decode(asked: DecodeRequest) -> Any:
        """The text of tokens."""
        started = time.perf_counter()
        served.check_tokens(asked.tokens, "tokens")
        text = await asyncio.to_thread(served.backend.decode, asked.tokens, skip_special_tokens=False)
        return DecodeResponse(text=text, request_time=time.perf_counter() - started)

    return routes


def _wanted(asked: ProcessRequest, prompt: Sequence[int], default_tokens: int) -> WritingRequest:
    temperature = 0.8 if asked.temperature is None else asked.temperature
    top_p = 1.0 if asked.top_p is None else asked.top_p
    return WritingRequest(
        owner=0,
        prompts=[prompt],
        answers=1,
        new_tokens=default_tokens if asked.max_new_tokens is None else asked.max_new_tokens,
        sampled=Sampled(temperature, top_p, asked.top_k, asked.seed),
        stops=asked.stop_sequences or (),
        top=1 if asked.top_k_per_token is None else asked.top_k_per_token,
        scored=bool(asked.echo_prompt),
    )


def _processed(tokens: Sequence[Shown]) -> list[ProcessedToken]:
    """Of several tokens with the same text (parts of characters) `top_logprob` has the most probable."""
    return [
        ProcessedToken(text=token.text, logprob=token.logprob or 0.0, top_logprob=dict(reversed(token.top)))
        for token in tokens
    ]
