"""Text that already has the markers of a chat template: taken apart into messages, so that they are not written twice.

Only a text that begins with a marker of a template is one. A text that mentions a marker later is text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from al.pool.formats.base import RowError, Turn
from al.pool.formats.turns import ROLES

TAKEN_APART = "template_taken_apart"
ENDS = ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "<|endoftext|>", "<eos>", "<|end|>", "</s>")
"""Tokens that end a turn or a text."""
_STARTS = re.compile(r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)?\s*")
_INSTRUCTION = re.compile(
    r"\[INST\]\s*(?:<<SYS>>\s*(?P<system>.*?)\s*<</SYS>>\s*)?(?P<user>.*?)\s*\[/INST\]", re.DOTALL
)


@dataclass(frozen=True)
class _Template:
    """A template whose turns begin with `header`, of which group 1 is the role, and end with one of `ends`."""

    header: re.Pattern[str]
    ends: tuple[str, ...]

    def split(self, text: str) -> list[Turn] | None:
        """The turns, or None if the text does not follow the template."""
        found = list(self.header.finditer(text))
        turns: list[Turn] = []
        for at, header in enumerate(found):
            last = at + 1 == len(found)
            said, ended = _without_ends(
                text[header.end() : len(text) if last else found[at + 1].start()].strip(), self.ends
            )
            role = ROLES.get(header[1].lower())
            if role is None or not (ended or last) or any(end in said for end in self.ends):
                return None
            turns.append((role, said))
        return turns


TEMPLATES = {
    "ChatML": _Template(re.compile(r"<\|im_start\|>\s*(\w+)\n?"), ("<|im_end|>", "<|endoftext|>")),
    "Llama 3": _Template(
        re.compile(r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>"),
        ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
    ),
    "Gemma": _Template(re.compile(r"<start_of_turn>\s*(\w+)\n?"), ("<end_of_turn>", "<eos>")),
    "Zephyr or Phi": _Template(re.compile(r"<\|(system|user|assistant)\|>\n?"), ("</s>", "<|end|>", "<|endoftext|>")),
}


def take_apart(text: str, name: str) -> list[Turn] | None:
    """The turns of a text that begins with the marker of a template; None for any other text. A turn without content at the end is the
    place of the response, and is left out.

    Raises:
        RowError: already_templated, naming the template, if the text does not follow it to its end.
    """
    start = _STARTS.match(text)
    at = start.end() if start else 0
    known = next((label for label, template in TEMPLATES.items() if template.header.match(text, at)), None)
    if known is None and not text.startswith("[INST]", at):
        return None
    turns = _instructions(text[at:]) if known is None else TEMPLATES[known].split(text[at:])
    if turns and turns[-1] == ("assistant", ""):
        turns = turns[:-1]
    if not turns or not all(said for _, said in turns):
        label = known or "Llama 2"
        raise RowError("already_templated", f"{name}: begins in the chat template of {label}, but does not follow it")
    return turns


def without_end(response: str) -> str:
    """A response without the token of a template that ends it; a pair of tags such as <s>…</s> stays."""
    if response.endswith("</s>") and "<s>" in response:
        return response
    return _without_ends(response, ENDS)[0]


def _without_ends(text: str, ends: tuple[str, ...]) -> tuple[str, bool]:
    left = text
    while (stripped := left.rstrip()).endswith(ends):
        left = stripped[: -next(len(end) for end in ends if stripped.endswith(end))].rstrip()
    return left, left != text


def _instructions(text: str) -> list[Turn] | None:
    """The turns of `[INST] user [/INST] response</s>`, with Llama 2's system prompt."""
    turns: list[Turn] = []
    found = list(_INSTRUCTION.finditer(text))
    for at, part in enumerate(found):
        said = text[part.end() : found[at + 1].start() if at + 1 < len(found) else len(text)]
        said, _ = _without_ends(said.removesuffix("<s>").strip(), ("</s>",))
        said = said.removesuffix("<s>").strip()
        if "[INST]" in part["user"] or "[INST]" in said or "[/INST]" in said:
            return None
        turns += [("system", part["system"])] if part["system"] else []
        turns += [("user", part["user"]), ("assistant", said.removesuffix("</s>").strip())]
    return turns
