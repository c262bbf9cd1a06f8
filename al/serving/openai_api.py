"""OpenAI's routes: /v1/models, /v1/chat/completions, /v1/completions."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from al.serving.answers import Answer, Piece, Shown, Writing, WritingRequest
from al.serving.connection import Service, unless_gone
from al.serving.models import Sampled
from al.serving.openai_documents import (
    ChatCompletion,
    ChatRequest,
    Common,
    Completion,
    CompletionRequest,
    ModelCard,
    ModelList,
)
from al.serving.problems import Problem
from al.serving.text import UNFINISHED

STREAMED = {
    200: {"content": {"text/event-stream": {"schema": {"description": "Chunks as server-sent events, with stream."}}}}
}
COMPLETION_TOKENS = 16
"""OpenAI's default of max_tokens for /v1/completions."""


def openai_routes(service: Service) -> APIRouter:
    """The routes, for the models of `service`."""
    routes, served = APIRouter(prefix="/v1", tags=["OpenAI"]), service.served

    def card(name: str) -> ModelCard:
        """A model as OpenAI shows it."""
        return ModelCard(id=name, created=served.created)

    @routes.get("/models", response_model=ModelList)
    def models() -> Any:
        """The models that can be asked."""
        return ModelList(data=[card(name) for name in served.names])

    @routes.get("/models/{name}", response_model=ModelCard)
    def model(name: str) -> Any:
        """One model."""
        served.owner(name)
        return card(name)

    @routes.post("/chat/completions", response_model=ChatCompletion, responses=STREAMED)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Answers to a conversation, as a chat template writes it."""
        if asked.top_logprobs and not asked.logprobs:
            raise Problem(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
        owner = served.owner(asked.model)
        prompt = await asyncio.to_thread(served.chat_prompt, [message.plain() for message in asked.messages])
        new_tokens = _chat_tokens(asked) or min(served.default_new_tokens, served.room(len(prompt)))
        top = (asked.top_logprobs or 0) if asked.logprobs else None
        wanted = WritingRequest(owner, [prompt], asked.n or 1, new_tokens, _sampled(asked), asked.stops, top)
        return await _respond(request, service, asked, wanted, _Chat(f"chatcmpl-{secrets.token_hex(12)}", asked))

    @routes.post("/completions", response_model=Completion, responses=STREAMED)
    async def complete(asked: CompletionRequest, request: Request) -> Response:
        """Continuations of raw prompts."""
        owner = served.owner(asked.model)
        prompts = await asyncio.to_thread(lambda: [served.raw_prompt(prompt) for prompt in asked.prompts])
        fitting = min(COMPLETION_TOKENS, served.room(max(map(len, prompts))))
        new_tokens = fitting if asked.max_tokens is None else asked.max_tokens
        scored = bool(asked.echo) and asked.logprobs is not None
        wanted = WritingRequest(
            owner, prompts, asked.n or 1, new_tokens, _sampled(asked), asked.stops, asked.logprobs, scored
        )
        echoed = [p if isinstance(p, str) else served.backend.decode(p) for p in asked.prompts] if asked.echo else None
        return await _respond(request, service, asked, wanted, _Text(f"cmpl-{secrets.token_hex(12)}", asked, echoed))

    return routes


def _chat_tokens(asked: ChatRequest) -> int | None:
    given = {value for value in (asked.max_tokens, asked.max_completion_tokens) if value is not None}
    if len(given) > 1:
        raise Problem(400, "max_tokens and max_completion_tokens differ; give one of them.", param="max_tokens")
    return next(iter(given), None)


def _sampled(asked: Common) -> Sampled:
    temperature = 1.0 if asked.temperature is None else asked.temperature
    return Sampled(temperature, 1.0 if asked.top_p is None else asked.top_p, asked.top_k, asked.seed)


async def _respond(request: Request, service: Service, asked: Common, wanted: WritingRequest, form: _Form) -> Response:
    """The whole document, or a stream of chunks."""
    if asked.stream_options is not None and not asked.stream:
        raise Problem(400, "stream_options needs stream: true.", param="stream_options")
    writing = service.writing(wanted)
    if asked.stream:
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return _EventStream(writing, _events(writing, wanted, form, usage))
    with writing:
        answers = await unless_gone(request, writing.all())
    choices = [form.choice(number, answer, writing, wanted) for number, answer in enumerate(answers)]
    return JSONResponse(form.document(choices) | {"usage": _usage(wanted, writing)})


async def _events(writing: Writing, wanted: WritingRequest, form: _Form, usage: bool) -> AsyncIterator[str]:
    """Server-sent events: chunks, then [DONE]; an error that comes after the first byte is an event too, and the last one."""
    more = {"usage": None} if usage else {}
    opened: set[int] = set()
    try:
        async for piece in writing.pieces():
            for choice in form.chunks(piece, piece.choice not in opened, writing, wanted):
                yield _event(form.chunk([choice]) | more)
            opened.add(piece.choice)
        if usage:
            yield _event(form.chunk([]) | {"usage": _usage(wanted, writing)})
        yield "data: [DONE]\n\n"
    except Problem as problem:
        yield _event(problem.body())


class _EventStream(StreamingResponse):
    """Server-sent events; writing stops when they end or nobody reads them any more."""

    def __init__(self, writing: Writing, events: AsyncIterator[str]):
        super().__init__(events, media_type="text/event-stream")
        self.writing = writing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.writing:
            await super().__call__(scope, receive, send)


def _event(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document)}\n\n"


def _usage(wanted: WritingRequest, writing: Writing) -> dict[str, int]:
    read = sum(len(prompt) for prompt in wanted.prompts)
    return {"prompt_tokens": read, "completion_tokens": writing.new_tokens, "total_tokens": read + writing.new_tokens}


@dataclass
class _Form:
    """How answers are written down."""

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    id: str
    asked: Common

    def document(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """All of them."""
        return {
            "id": self.id,
            "object": self.kind,
            "created": int(time.time()),
            "model": self.asked.model,
            "choices": choices,
        }

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A part of a stream."""
        return self.document(choices) | {"object": self.chunk_kind}


@dataclass
class _Chat(_Form):
    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def choice(self, number: int, answer: Answer, writing: Writing, wanted: WritingRequest) -> dict[str, Any]:
        """An answer."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {
            "index": number,
            "message": message,
            "logprobs": self._logprobs(answer.tokens),
            "finish_reason": answer.finish,
        }

    def chunks(self, piece: Piece, first: bool, writing: Writing, wanted: WritingRequest) -> list[dict[str, Any]]:
        """A piece: the first one names the role, the last one alone the reason."""
        found = [({"role": "assistant", "content": "", "refusal": None}, None, None)] if first else []
        if piece.text or piece.tokens:
            found.append(({"content": piece.text}, self._logprobs(piece.tokens), None))
        if piece.finish:
            found.append(({}, None, piece.finish))
        return [
            {"index": piece.choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            for delta, logprobs, finish in found
        ]

    def _logprobs(self, tokens: Sequence[Shown]) -> dict[str, Any] | None:
        if not self.asked.logprobs:
            return None
        content = [
            _entry(token.text, token.logprob) | {"top_logprobs": [_entry(*pair) for pair in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


def _entry(text: str, logprob: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": None if UNFINISHED in text else list(text.encode())}


@dataclass
class _Text(_Form):
    echoed: list[str] | None
    kind = chunk_kind = "text_completion"

    def choice(self, number: int, answer: Answer, writing: Writing, wanted: WritingRequest) -> dict[str, Any]:
        """An answer, after its prompt if that is echoed."""
        prompt, before = self._prompt(number, writing, wanted)
        logprobs = self._logprobs(before, answer.tokens, len(prompt))
        return {"index": number, "text": prompt + answer.text, "logprobs": logprobs, "finish_reason": answer.finish}

    def chunks(self, piece: Piece, first: bool, writing: Writing, wanted: WritingRequest) -> list[dict[str, Any]]:
        """A piece; the first one begins with an echoed prompt."""
        prompt, before = self._prompt(piece.choice, writing, wanted)
        shown = (prompt, before) if first else ("", [])
        logprobs = self._logprobs(shown[1], piece.tokens, len(prompt))
        return [
            {"index": piece.choice, "text": shown[0] + piece.text, "logprobs": logprobs, "finish_reason": piece.finish}
        ]

    def _prompt(self, number: int, writing: Writing, wanted: WritingRequest) -> tuple[str, list[Shown]]:
        which = number // wanted.answers
        return ("", []) if self.echoed is None else (self.echoed[which], writing.prompt_tokens[which])

    def _logprobs(self, before: Sequence[Shown], tokens: Sequence[Shown], offset: int) -> dict[str, Any] | None:
        if self.asked.logprobs is None:
            return None
        both = [*before, *tokens]
        return {
            "tokens": [token.text for token in both],
            "token_logprobs": [token.logprob for token in both],
            "top_logprobs": [_most_probable(token) for token in both],
            "text_offset": [token.start for token in before] + [token.start + offset for token in tokens],
        }


def _most_probable(token: Shown) -> dict[str, float] | None:
    """The most probable tokens and this one; of two with the same text (parts of characters) the more probable."""
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for text, logprob in (*token.top, (token.text, token.logprob)):
        found.setdefault(text, logprob)
    return found
