"""Configuration of the evaluation on the holdout."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, field_validator, model_validator

AnswerKind = Literal["number", "choice", "yes_no", "boxed", "text", "rouge_l", "code"]
"""How a written answer is compared with the accepted ones (al.evaluation.answers)."""


class EvaluateConfig(BaseModel, extra="forbid", frozen=True):
    """Evaluation on the holdout after each round."""

    bootstrap: int = Field(
        2000,
        ge=100,
        description="Resamples of the paired bootstrap behind every interval; with 2,000 the tail varies by about 0.3 percentage points.",
    )
    alternatives: int = Field(
        4,
        ge=0,
        description="Accepted answers after the first that are checked for exact match, per example. 0: only the first counts.",
    )
    groups: dict[str, list[str]] = Field(
        {},
        description="Task groups that the report shows separately: {group: [source patterns, as in shells]}, for example "
        "{reasoning: ['gsm8k*', 'logic-*']}. A source belongs to the first group that matches; data presets have their own groups.",
    )
    generations: int = Field(
        6,
        ge=0,
        description="Dev prompts that the base, each round's adapter and the control answer for the report, side by side; the same in "
        "every round. Each takes up to generate.max_new_tokens steps of the model. 0: none.",
    )
    generate: list[Literal["auto"] | AnswerKind] = Field(
        [],
        description="Kinds of dev and test examples that the base, the previous round, this round and the control answer in writing, to be "
        "judged (docs/evaluation.md): number, choice, yes_no, boxed, text, rouge_l, code; auto: all but code. Each answer takes up to "
        "generate.max_new_tokens steps of the model, so this can take longer than the rest of the evaluation. []: none.",
    )
    generate_examples: int = Field(
        200,
        ge=1,
        description="Examples per split that are answered for evaluate.generate, taking sources in turn; the same ones in every round. "
        "The time grows in proportion; 200 give an interval of about 7 percentage points either way.",
    )
    generate_as: dict[str, AnswerKind] = Field(
        {},
        description="Kinds of sources whose accepted answers do not show it: {source pattern, as in shells: kind}, for example "
        "{'xsum*': rouge_l}. The first pattern that matches counts.",
    )
    run_code: bool = Field(
        False,
        description="Run programs that the models write against the tests of their examples, for the kind code. Each runs in a process "
        "with limits, which is no protection from an attacker (docs/evaluation.md).",
    )

    @field_validator("generate", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """A single kind is a list of one; null is none."""
        return [value] if isinstance(value, str) else value or []

    @model_validator(mode="after")
    def _code_is_asked_for(self) -> EvaluateConfig:
        if "code" in self.generate and not self.run_code:
            raise ValueError("generate lists code, which runs what models write: set evaluate.run_code=true as well")
        return self

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of `generate`, with auto spelled out."""
        every = set(get_args(AnswerKind)) - (set() if self.run_code else {"code"})
        return frozenset(every if "auto" in self.generate else self.generate)
