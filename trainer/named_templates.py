"""The templates that Winnow brings along, for tokenizers without one of their own.

They put special tokens in by id and encode what lies between as plain text, so that a `</s>` or `<|im_end|>` written
inside an example stays text and can neither end a turn nor open one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from trainer.errors import DataError, TrainerError
from trainer.rendering import END_OF_TURN, Piece, Response, Special, Text

SEPARATOR = "\n\n"


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens that the named templates are made of, None where the tokenizer has none.

    `adds_bos`: the tokenizer opens every text with bos by itself. `swallows_space`: it puts a space in front of a text,
    but not of one that has one already (Metaspace), so that "a" and " a" come out alike.
    """

    bos: Special | None
    eos: Special | None
    im_start: Special | None
    im_end: Special | None
    adds_bos: bool
    swallows_space: bool

    @classmethod
    def of(cls, tokenizer: Any) -> SpecialTokens:
        """Look them up in a transformers tokenizer."""

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
        """Raise TrainerError naming what `template` needs and the tokenizer lacks."""
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise TrainerError(
                f"chat template '{template}' needs the tokens {', '.join(names)}; the tokenizer has no "
                f"{', '.join(missing)}. Set model.chat_template to another one: auto, mistral, chatml or plain"
            )


Writer = Callable[[list[dict[str, str]], SpecialTokens], list[Piece]]


@dataclass(frozen=True)
class NamedTemplate:
    """A template of our own: `write` turns messages into pieces; `needs` names the special tokens it cannot do without.

    `version` goes into the template's hash: raise it whenever the tokens change.
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
    """`<s>[INST] user [/INST] response</s>[INST] user [/INST] …`, as mistral-common's v1 tokenizer has it.

    Like there, each piece is encoded on its own, system prompts are joined and put in front of the first user turn,
    neighbouring messages of one role are joined, both by a blank line, and a conversation that opens with a response
    gets an empty user turn first. Source: mistral_common InstructRequestNormalizer and InstructTokenizerV1.
    """
    system = SEPARATOR.join(m["content"] for m in messages if m["role"] == "system" and m["content"])
    pieces: list[Piece] = [special.bos]
    turns = list(_joined_turns(messages))
    if not turns or turns[0][0] == "assistant":
        turns.insert(0, ("user", "", 0))
    for role, content, turn in turns:
        if role == "assistant":
            # SentencePiece puts its space in front of every text, also of one that begins with a space.
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
                f"chat template 'mistral' knows the roles system, user and assistant; "
                f"turn {turn + 1} has the role '{message['role']}'"
            )
    # mistral-common breaks a run of user messages at a system message too, but writes nothing for it.
    for role, group in groupby(numbered, key=lambda item: item[1]["role"]):
        members = list(group)
        if role != "system":
            yield role, SEPARATOR.join(m["content"] for _, m in members if m["content"]), members[0][0]


@named("chatml", needs=("im_start", "im_end"), version=1)
def write_chatml(messages: list[dict[str, str]], special: SpecialTokens) -> list[Piece]:
    """`<|im_start|>role\\ncontent<|im_end|>\\n` for each message, any role, nothing added or joined."""
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
    """The contents alone, parted by blank lines, and the tokenizer's end token after each response."""
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
