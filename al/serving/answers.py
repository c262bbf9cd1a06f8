"""The answers to one HTTP request, assembled from the steps of the batch."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from al.serving.metrics import Metrics
from al.serving.models import MOST_ANSWERS, Sampled, ServedModels
from al.serving.problems import Problem
from al.serving.text import TextStream
from al.serving.worker import BatchWorker

if TYPE_CHECKING:
    from trainer.generation.continuous import Step, Token

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Shown:
    """A token as text, with its log-probability (None: not asked for, or a prompt's first token), the most probable tokens in its place
    with theirs, and the character of its answer where it begins."""

    text: str
    logprob: float | None
    top: tuple[tuple[str, float], ...]
    start: int


@dataclass(frozen=True)
class Piece:
    """What comes next of answer number `choice`, and why it ends there, or None."""

    choice: int
    text: str
    tokens: list[Shown]
    finish: Finish | None


@dataclass
class Answer:
    """An answer so far."""

    text: str = ""
    tokens: list[Shown] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, piece: Piece) -> None:
        """Append the next piece."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish = piece.finish


@dataclass(frozen=True)
class WritingRequest:
    """What a client asks for: `answers` answers to each of `prompts` (tokens) by a model. `top`, `scored`: as in
    trainer.generation.continuous. The answers to prompt p are choices p · answers and following."""

    owner: int
    prompts: Sequence[Sequence[int]]
    answers: int
    new_tokens: int
    sampled: Sampled
    stops: Sequence[str] = ()
    top: int | None = None
    scored: bool = False


class Writing:
    """Answers under way; iterate over it once. `prompt_tokens`: of each prompt whose answers have begun, empty if they are not `scored`.
    `new_tokens` counts what was written, end tokens included. Leaving the block stops what is not finished."""

    def __init__(self, served: ServedModels, worker: BatchWorker, metrics: Metrics, wanted: WritingRequest):
        if wanted.answers * len(wanted.prompts) > MOST_ANSWERS:
            found = f"{wanted.answers} answers to {len(wanted.prompts)} prompts"
            raise Problem(400, f"expected at most {MOST_ANSWERS} answers in one request, found {found}.", param="n")
        self._served, self._metrics, self._wanted = served, metrics, wanted
        self.started = time.monotonic()
        self.new_tokens = 0
        self.prompt_tokens: dict[int, list[Shown]] = {}
        seed = secrets.randbits(63) if wanted.sampled.seed is None else wanted.sampled.seed % 2**64
        requests = [
            served.request(
                wanted.owner,
                prompt,
                wanted.answers,
                wanted.new_tokens,
                wanted.sampled,
                seed,
                top=wanted.top,
                scored=wanted.scored,
            )
            for prompt in wanted.prompts
        ]
        self._choices = [_Choice(served, number, prompt, wanted.stops) for number, prompt in self._numbered()]
        self._ticket = worker.submit(requests)

    def _numbered(self) -> list[tuple[int, Sequence[int]]]:
        wanted = self._wanted
        return list(enumerate(prompt for prompt in wanted.prompts for _ in range(wanted.answers)))

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, *exc: object) -> None:
        self._ticket.close()

    async def pieces(self) -> AsyncIterator[Piece]:
        """The pieces of all answers in the order of their steps; each answer's last piece has its `finish`. Raises Problem."""
        until = asyncio.get_running_loop().time() + self._served.limits.seconds
        wanted, going = self._wanted, len(self._choices)
        while going:
            number, step = await self._ticket.next(until)
            if step.answer is None:
                self._read(number, step)
                if not wanted.new_tokens:
                    for answer in range(wanted.answers):
                        yield Piece(number * wanted.answers + answer, "", [], "length")
                    going -= wanted.answers
                continue
            piece = self._choices[number * wanted.answers + step.answer].add(step)
            if piece is None:
                continue
            if not self.new_tokens:
                self._metrics.first_token.observe(time.monotonic() - self.started)
            self.new_tokens += 1
            if piece.finish is not None:
                going -= 1
                if step.ended is None:
                    self._ticket.drop(number, step.answer)
            if piece.text or piece.tokens or piece.finish:
                yield piece

    async def all(self) -> list[Answer]:
        """Every answer, when the last one has ended. Raises Problem."""
        answers = [Answer() for _ in self._choices]
        async for piece in self.pieces():
            answers[piece.choice].add(piece)
        return answers

    def _read(self, number: int, step: Step) -> None:
        """The prompt was read; its own tokens, if they are scored."""
        self._metrics.prompt_tokens.inc(len(self._wanted.prompts[number]))
        stream = TextStream(self._served.backend, ())
        self.prompt_tokens[number] = []
        for token in step.tokens:
            start = stream.length
            stream.add(token.id)
            self.prompt_tokens[number].append(shown(self._served, token, start))


class _Choice:
    """One answer: its text, and the tokens whose text is not certain yet."""

    def __init__(self, served: ServedModels, number: int, prompt: Sequence[int], stops: Sequence[str]):
        self._served, self._number = served, number
        self._stream = TextStream(served.backend, prompt, stops)
        self._pending: list[Shown] = []
        self._done = False

    def add(self, step: Step) -> Piece | None:
        """What a step adds; None after the end, while the batch does not know of it yet. The end token has no text and is left out."""
        if self._done:
            return None
        (token,) = step.tokens
        text = ""
        if step.ended != "stop":
            start = self._stream.length
            text = self._stream.add(token.id)
            self._pending.append(shown(self._served, token, start))
        if step.ended:
            text += self._stream.finish()
        self._done = step.ended is not None or self._stream.stopped
        finish = "stop" if self._stream.stopped else step.ended
        end = len(self._stream.text)
        certain = [one for one in self._pending if one.start < end or (self._done and not self._stream.stopped)]
        self._pending = self._pending[len(certain) :]
        return Piece(self._number, text, certain, finish if self._done else None)


def shown(served: ServedModels, token: Token, start: int) -> Shown:
    """A token with text in place of numbers."""

    def text(number: int) -> str:
        """The text of a token alone, special ones included."""
        return served.backend.decode([number], skip_special_tokens=False)

    return Shown(text(token.id), token.logprob, tuple((text(number), value) for number, value in token.top), start)
