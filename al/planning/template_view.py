"""A conversation as the model would see it, with its tokenizer or, where that is not on this machine, with a built-in template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.config import ModelConfig
from trainer.errors import TrainerError
from trainer.named_templates import NAMED, preview
from trainer.rendering import Conversation
from trainer.template import ChatTemplate
from trainer.tokenizer import load_tokenizer

MISTRAL_BASES = frozenset(("mistralai/Mistral-7B-v0.1",))
"""Bases of the hub whose tokenizer has no chat template, so that model.chat_template auto means mistral, and writes `<s>` and `</s>`."""


@dataclass(frozen=True)
class TemplateView:
    """How conversations are shown. `template`: with the model's tokenizer; None without. `name`: of the template, None where it is not
    known. `note`: what is not as it will be, "" if nothing is."""

    template: ChatTemplate | None
    name: str | None
    note: str = ""

    def segments(self, messages: Conversation) -> list[dict[str, Any]]:
        """The conversation's text in parts {"text", "target"} (0 not trained on, 1 response, 2 its end); [] where the template is not
        known. Raises DataError if the template refuses it."""
        if self.name is None:
            return []
        found = self.template.segments(messages) if self.template is not None else preview(self.name, messages)
        return [{"text": text, "target": target} for text, target in found]


def view_without_hub(model: ModelConfig) -> TemplateView:
    """The view with what is on this machine."""
    try:
        tokenizer = load_tokenizer(model, only_local=True)
    except TrainerError:
        return _without_tokenizer(model)
    try:
        template = ChatTemplate.resolve(tokenizer, model.chat_template)
    except TrainerError as error:
        return TemplateView(None, None, f"The chat template cannot be used: {error}")
    return TemplateView(template, template.name)


def _without_tokenizer(model: ModelConfig) -> TemplateView:
    name = model.chat_template
    if model.name in MISTRAL_BASES and name in ("auto", "mistral"):
        return TemplateView(None, "mistral")
    absent = f"the tokenizer of {model.name} is not on this machine"
    if name in NAMED:
        return TemplateView(None, name, f"Special tokens may be written otherwise: {absent}")
    return TemplateView(
        None,
        None,
        f"The chat template is the tokenizer's own and is not shown: {absent}. --set model.chat_template=mistral, chatml or plain takes "
        "one of these instead",
    )
