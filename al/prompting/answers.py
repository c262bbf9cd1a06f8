"""A base model that answers conversations in writing, with any adapter of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from al.errors import DataError
from al.prompting.prompts import Messages
from al.run.artifacts import Artifact
from trainer.config import GenerateConfig

if TYPE_CHECKING:
    from trainer.model import Base
    from trainer.template import ChatTemplate

UNFINISHED_CHARACTER = "\ufffd"


@dataclass(frozen=True)
class Sampling:
    """How answers are written: `answers` of each prompt, the most probable one at temperature 0, else drawn."""

    answers: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int

    def config(self) -> tuple[GenerateConfig, bool]:
        """For trainer.generate: its config, and whether a greedy answer comes first."""
        greedy = self.temperature == 0
        settings = {"max_new_tokens": self.max_new_tokens, "samples": 0 if greedy else self.answers}
        if not greedy:
            settings |= {"temperature": self.temperature, "top_p": self.top_p}
        return GenerateConfig(**settings), greedy


@dataclass(frozen=True)
class Answering:
    """A loaded base model with its tokenizer and chat template."""

    base: Base
    tokenizer: Any
    template: ChatTemplate

    def prompt(self, messages: Messages, max_new_tokens: int) -> list[int]:
        """Tokens of a conversation up to its answer. Raises DataError if template or context do not allow it."""
        from trainer.generate import check_lengths

        ids = self.template.prompt_ids(messages)
        check_lengths([len(ids)], self.base.model, GenerateConfig(max_new_tokens=max_new_tokens))
        return ids

    def answer(
        self,
        adapter: Artifact | None,
        asked: Sequence[Messages],
        sampling: Sampling,
        progress: Callable[[int], None] = lambda prompts: None,
    ) -> list[list[dict[str, Any]]]:
        """Answers of base (adapter None) or base + adapter: per conversation `sampling.answers` of {"text", "tokens", "finished"}.

        `finished`: whether the model ended the answer itself. Raises DataError naming the first prompt that cannot be asked.
        """
        from trainer.generate import generate

        prompts = []
        for number, messages in enumerate(asked, 1):
            try:
                prompts.append(self.prompt(messages, sampling.max_new_tokens))
            except Exception as error:
                if getattr(error, "exit_code", None) != DataError.exit_code:
                    raise
                raise DataError(f"prompt {number}: {error}") from error
        config, greedy = sampling.config()
        with self.base.adapter(adapter.path / "adapter" if adapter else None) as model:
            written = generate(
                model, prompts, config, end_ids=self.template.end_ids, seed=sampling.seed, greedy=greedy, progress=progress
            )  # fmt: skip
        return [[self._answer(answer.tolist()) for answer in answers] for answers in written]

    def stream(self, adapter: Artifact | None, messages: Messages, sampling: Sampling) -> Iterator[str]:
        """One answer as pieces of text, each as soon as its characters are complete."""
        from trainer.generate import follow

        prompt = self.prompt(messages, sampling.max_new_tokens)
        config, greedy = sampling.config()
        ids: list[int] = []
        shown = ""
        with self.base.adapter(adapter.path / "adapter" if adapter else None) as model:
            for _, tokens, _ in follow(
                model, [prompt], config, end_ids=self.template.end_ids, seed=sampling.seed, greedy=greedy
            ):
                ids += tokens
                text = self._text(ids)
                if text.startswith(shown) and not text.endswith(UNFINISHED_CHARACTER) and text != shown:
                    yield text[len(shown) :]
                    shown = text
        if (rest := self._text(ids)) != shown:
            yield rest[len(shown) :]

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _answer(self, ids: list[int]) -> dict[str, Any]:
        finished = bool(ids) and ids[-1] in self.template.end_ids
        return {"text": self._text(ids).strip(), "tokens": len(ids), "finished": finished}
