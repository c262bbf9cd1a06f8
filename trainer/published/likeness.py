"""Whether the published chat template gives the tokens that were trained on, measured on a few conversations.

A text template cannot always do it: some tokenizers split a text differently when another one follows it (GPT-2's joins
two line feeds at the end of a prompt and not before a word). What differs is counted, and an example is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from trainer.errors import DataError
from trainer.rendering import Conversation
from trainer.template import ChatTemplate

CONTENTS = (
    ("Which colour has the sky?",),
    ("What is 2 + 2?", "It is 4.", "And 3 + 3?"),
    ("  two spaces\n", "\n\nline feeds\n", "\ttab  "),
    ("Übersetze: naïve façade", "日本 🙂", "¿Qué?"),
    ("Hi", "", "Go on."),
    ("1", "2", "3", "(4)", "5"),
    ("def f():\n    return 1", "- one\n- two", '{"a": [1]}'),
    ("", "...", "!"),
)
SYSTEMS = (None, "", "Be brief.", "Two\n\nparagraphs.\n")


@dataclass(frozen=True)
class Likeness:
    """On how many of the `probes` conversations the published template gives the tokens of Winnow's: up to where the
    model begins to write (`prompts`), and with a response after that (`conversations`). Conversations that Winnow's
    template refuses are no probes.

    `example`: the first conversation that differs with both token lists, of which an empty one is a refusal; or None.
    """

    probes: int
    prompts: int
    conversations: int
    example: dict[str, Any] | None

    @property
    def exact(self) -> bool:
        """Whether every prompt and every conversation gives the same tokens."""
        return self.prompts == self.conversations == self.probes


def probes() -> list[list[dict[str, str]]]:
    """Conversations that end with a message to respond to: of one turn and several, with and without a system message,
    with empty messages, white space, punctuation and non-ASCII text."""
    found = []
    for contents in CONTENTS:
        turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
        for system in SYSTEMS:
            found.append(turns if system is None else [{"role": "system", "content": system}, *turns])
    return found


def measure_likeness(folder: Path, template: ChatTemplate, trust_remote_code: bool = False) -> Likeness:
    """Compare the chat template of the tokenizer in `folder` with `template`, which made the training tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    asked = [messages for messages in probes() if not isinstance(template.prompt_ids_batch([messages])[0], DataError)]
    equal, example = [0, 0], None
    for messages in asked:
        answered = [*messages, {"role": "assistant", "content": "It is blue."}]
        trained = (template.prompt_ids(messages), template.tokenize(answered).ids)
        published = (_published(tokenizer, messages, prompt=True), _published(tokenizer, answered, prompt=False))
        for kind in (0, 1):
            equal[kind] += trained[kind] == published[kind]
            if trained[kind] != published[kind] and example is None:
                example = {"messages": messages, "trained": trained[kind], "published": published[kind]}
    return Likeness(len(asked), *equal, example)


def _published(tokenizer: Any, messages: Conversation, prompt: bool) -> list[int]:
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=True)["input_ids"]
    except (TemplateError, TypeError):
        return []
