"""The chat templates shipped with Winnow, for tokenizers without one.

They insert special tokens by id and encode the rest as plain text, so a `</s>` or `<|im_end|>` in the text of
an example stays text and can neither end nor open a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from trainer.errors import DataError, TrainerError
from trainer.rendering import (
    END_OF_TURN,
    NO_TARGET,
    RESPONSE,
    Conversation,
    Piece,
    Response,
    Segment,
    Special,
    Text,
    checked,
    joined,
    without,
)

SEPARATOR = "\n\n"


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of the named templates; None if the tokenizer lacks one.

    `adds_bos`: the tokenizer adds bos to every text. `swallows_space`: it adds a space in front of a text that does not
    begin with one (Metaspace), so "a" and " a" give the same tokens.
    """

    bos: Special | None
    eos: Special | None
    im_start: Special | None
    im_end: Special | None
    adds_bos: bool
    swallows_space: bool

    @classmethod
    def of(cls, tokenizer: Any) -> SpecialTokens:
        """The special tokens of a transformers tokenizer."""

        def special(token_id: int | None, target: int = 0) -> Special | None:
            """The token with this id and its target, or None without an id."""
            return None if token_id is None else Special(token_id, tokenizer.convert_ids_to_tokens(token_id), target)

        added = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items()}
        first = tokenizer("a")["input_ids"][:1]
        plain, spaced = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", " a"))
        return cls(
            bos=special(tokenizer.bos_token_id),
            eos=special(tokenizer.eos_token_id, END_OF_TURN),
            im_start=special(added.get("<|im_start|>")),
            im_end=special(added.get("<|im_end|>")),
            adds_bos=tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id],
            swallows_space=plain == spaced,
        )

    def require(self, template: str, *names: str) -> None:
        """Raise TrainerError with the tokens that `template` needs and the tokenizer lacks."""
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise TrainerError(
                f"chat template '{template}' needs the tokens {', '.join(names)}; the tokenizer has no "
                f"{', '.join(missing)}. Set model.chat_template to another one: auto, mistral, chatml or plain"
            )


STAND_INS = SpecialTokens(
    bos=Special(0, "<s>"),
    eos=Special(1, "</s>", END_OF_TURN),
    im_start=Special(2, "<|im_start|>"),
    im_end=Special(3, "<|im_end|>"),
    adds_bos=False,
    swallows_space=False,
)
"""Special tokens for a text that is only shown, as Mistral's and ChatML's tokenizers write them."""


Writer = Callable[[list[dict[str, str]], SpecialTokens], list[Piece]]


@dataclass(frozen=True)
class NamedTemplate:
    """A named template: `write` converts messages to pieces; `needs` names the required special tokens.

    `version` is part of the template's hash: raise it whenever the tokens change.
    """

    write: Writer
    needs: tuple[str, ...]
    version: int


NAMED: dict[str, NamedTemplate] = {}


def named(name: str, *, needs: tuple[str, ...], version: int) -> Callable[[Writer], Writer]:
    """Register a template under `name`."""

    def register(write: Writer) -> Writer:
        """Add `write` to NAMED and return it unchanged."""
        NAMED[name] = NamedTemplate(write, needs, version)
        return write

    return register


@named("mistral", needs=("bos", "eos"), version=1)
def write_mistral(messages: list[dict[str, str]], special: SpecialTokens) -> list[Piece]:
    """`<s>[INST] user [/INST] response</s>[INST] user [/INST] …`, as in mistral-common's v1 tokenizer.

    As there, each piece is encoded separately. System prompts are joined and put in front of the first user turn, and
    consecutive messages of one role are joined, both with a blank line. A conversation that opens with a response
    gets an empty user turn first. Source: mistral_common InstructRequestNormalizer and InstructTokenizerV1.
    """
    system = SEPARATOR.join(m["content"] for m in messages if m["role"] == "system" and m["content"])
    pieces: list[Piece] = [special.bos]
    turns = list(_joined_turns(messages))
    if not turns or turns[0][0] == "assistant":
        turns.insert(0, ("user", "", 0))
    for role, content, turn in turns:
        if role == "assistant":
            # SentencePiece adds a space in front of every text, also one that begins with a space.
            text = f" {content}" if special.swallows_space and content.startswith(" ") else content
            pieces += [Text(text, (Response(0, len(text), None, turn),)), special.eos]
        else:
            pieces.append(Text(f"[INST] {system}{SEPARATOR if system else ''}{content} [/INST]"))
            system = ""
    return pieces


def _joined_turns(messages: list[dict[str, str]]) -> Iterator[tuple[str, str, int]]:
    numbered = list(enumerate(messages))
    for turn, message in numbered:
        if message["role"] not in ("system", "user", "assistant"):
            raise DataError(
                f"chat template 'mistral' supports the roles system, user and assistant; "
                f"turn {turn + 1} has the role '{message['role']}'"
            )
    # mistral-common also splits user messages at a system message, but writes nothing for it.
    for role, group in groupby(numbered, key=lambda item: item[1]["role"]):
        members = list(group)
        if role != "system":
            yield role, SEPARATOR.join(m["content"] for _, m in members if m["content"]), members[0][0]


@named("chatml", needs=("im_start", "im_end"), version=1)
def write_chatml(messages: list[dict[str, str]], special: SpecialTokens) -> list[Piece]:
    """`<|im_start|>role\\ncontent<|im_end|>\\n` for each message of any role; nothing is added or joined."""
    pieces: list[Piece] = [special.bos] if special.adds_bos else []
    for turn, message in enumerate(messages):
        header, content = f"{message['role']}\n", message["content"]
        is_response = message["role"] == "assistant"
        responses = (Response(len(header), len(header) + len(content), None, turn),) if is_response else ()
        end = Special(special.im_end.id, special.im_end.text, END_OF_TURN) if is_response else special.im_end
        pieces += [special.im_start, Text(header + content, responses), end, Text("\n")]
    return pieces


@named("plain", needs=("eos",), version=1)
def write_plain(messages: list[dict[str, str]], special: SpecialTokens) -> list[Piece]:
    """Only the contents, separated by blank lines, with the tokenizer's end token after each response."""
    pieces: list[Piece] = [special.bos] if special.adds_bos else []
    text = ""
    for turn, message in enumerate(messages):
        start = len(text)
        text += message["content"]
        if message["role"] == "assistant":
            pieces += [Text(text, (Response(start, len(text), None, turn),)), special.eos]
            text = ""
        else:
            text += SEPARATOR
    return [*pieces, Text(text)] if text else pieces


def preview(name: str, messages: Conversation) -> list[Segment]:
    """A conversation through the template `name` without a tokenizer: its text, split where targets begin and end, with STAND_INS for
    special tokens. `ChatTemplate.segments` is exact, this differs where a token crosses the border of prompt and response.

    Raises DataError if the template cannot be used for the conversation.
    """
    try:
        pieces = NAMED[name].write(checked(messages), STAND_INS)
    except ValueError as error:
        raise DataError(str(error)) from error
    untrained = {turn for turn, message in enumerate(messages) if message.get("train") is False}
    found: list[Segment] = []
    for first, piece in enumerate(without(pieces, untrained)):
        if isinstance(piece, Special):
            found.append(Segment(piece.text, piece.target if first else NO_TARGET))
            continue
        end = 0
        for response in piece.responses:
            found.append(Segment(piece.text[end : response.start], NO_TARGET))
            found.append(Segment(piece.text[response.start : response.stop], RESPONSE))
            end = response.stop
        found.append(Segment(piece.text[end:], NO_TARGET))
    return joined([segment for segment in found if segment.text])
