"""Parses plain text with a whole conversation by the user's template.

    "### Human: {user}### Assistant: {assistant}"

The text around the placeholders forms the markers at which the text is split; those of {user} and {assistant} repeat for
every turn. White space around markers is ignored, but a marker at the start of a line in the template matches only at the
start of a line. White space around turns is removed.
"""

from __future__ import annotations

import re
import string

from al.errors import ConfigError
from al.pool.formats.base import RowError, Turn

_FORM = "expected {user} and {assistant} in this order, after an optional {system}, with text between them"


class TextTemplate:
    """A compiled template; `split` parses a text.

    Raises:
        ConfigError: a template without {user} and {assistant}, or without text between them.
    """

    def __init__(self, template: str, key: str = "pool.text_template"):
        self.key = key
        try:
            pieces = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ConfigError(f"{key}: {error} in {template!r}; {_FORM}.") from None
        names = [name for _, name, _, _ in pieces if name is not None]
        if names not in (["user", "assistant"], ["system", "user", "assistant"]):
            raise ConfigError(f"{key}: found {', '.join(names) or 'no placeholder'} in {template!r}; {_FORM}.")
        literals = [literal for literal, name, _, _ in pieces if name is not None]
        self._names = {"user": literals[-2].strip(), "assistant": literals[-1].strip()}
        if not literals[-1] or (len(names) == 3 and not self._names["user"]):
            raise ConfigError(f"{key}: no text separates the placeholders of {template!r}; {_FORM}.")
        self._system = literals[0].strip() if len(names) == 3 else None
        self._user = _marker(literals[-2]) if self._names["user"] else None
        self._assistant = _marker(literals[-1])
        self._tail = pieces[-1][0].strip() if pieces[-1][1] is None else ""

    def split(self, text: str, name: str = "text") -> list[Turn]:
        """The turns of a text; a text that ends with a question has no response.

        Raises:
            RowError: template_mismatch, with the field `name` and the missing marker.
        """
        turns: list[Turn] = []
        position = 0
        if self._user is not None:
            found = self._user.search(text)
            before = text[: found.start()].strip() if found else ""
            if found is None or (before and self._system is None):
                raise self._lacks("user", name, "does not start with" if found else "has no")
            if before:
                turns.append(("system", before.removeprefix(self._system or "").strip()))
            position = found.end()
        while True:
            answer = self._assistant.search(text, position)
            if answer is None:
                if not turns or turns[-1][0] != "assistant":
                    raise self._lacks("assistant", name, "has no")
                return [*turns, ("user", text[position:].strip())]
            turns.append(("user", text[position : answer.start()].strip()))
            following = self._user.search(text, answer.end()) if self._user is not None else None
            said = text[answer.end() : following.start() if following else len(text)].strip()
            turns.append(("assistant", said.removesuffix(self._tail).strip() if self._tail else said))
            if following is None:
                return turns
            position = following.end()

    def _lacks(self, which: str, name: str, what: str) -> RowError:
        marker = self._names[which] or "line break"
        return RowError("template_mismatch", f"{name}: {what} `{marker}`, which {self.key} asks for")


def _marker(literal: str) -> re.Pattern[str]:
    words = literal.strip()
    if not words:
        return re.compile(re.escape(literal))
    before = literal[: len(literal) - len(literal.lstrip())]
    return re.compile((r"(?:\A|\n)\s*" if "\n" in before else "") + re.escape(words))
