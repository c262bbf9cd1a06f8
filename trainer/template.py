"""Chat templates: convert conversations to token ids and mark the training targets.

The tokens of a response are targets, and so is the token that ends it (without it a model never learns to stop). The
generation prompt before a response and the text after its end token are not. With ChatML, R marks response tokens, E end
tokens:

    <|im_start|> user \\n Hi <|im_end|> \\n <|im_start|> assistant \\n Hello ! <|im_end|> \\n
                                                                       R   R     E

A token across the border of prompt and response counts as response, so that no character of the response is lost.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from trainer.encoding import WordEncoder, encoder_of, with_contents_as_text
from trainer.errors import DataError, TrainerError
from trainer.named_templates import NAMED, NamedTemplate, SpecialTokens
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
    segments_of,
    without,
)
from trainer.tokenizer_template import TokenizerTemplate, dated

PROBE = [{"role": "user", "content": "Which colour has the sky?"}, {"role": "assistant", "content": "It is blue."}]


@dataclass(frozen=True)
class Tokenized:
    """A conversation as tokens: `ids`, and for each its target (0 not trained on, 1 token of a response, 2 its end).

    The first token is never a target: nothing predicts it. `folded`: the template refuses what precedes the first user turn, so it
    became part of that turn.
    """

    ids: list[int]
    targets: list[int]
    folded: bool = False


@dataclass(frozen=True)
class ChatTemplate:
    """A template bound to a tokenizer. Make one with `ChatTemplate.resolve`.

    `name` is "tokenizer" for the tokenizer's own, else mistral, chatml or plain; `hash` (64 hex digits) changes
    whenever the same conversation could give another text; `tokenizer_name` is the source of the tokenizer.
    """

    name: str
    hash: str
    tokenizer_name: str
    _source: TokenizerTemplate | NamedTemplate
    _special: SpecialTokens
    _backend: Any
    _encode: Callable[[Sequence[str]], list[Any]]
    _added_ids: frozenset[int]
    _typed: Callable[[Text, Any], Any]

    @classmethod
    def resolve(cls, tokenizer: Any, name: str = "auto") -> ChatTemplate:
        """The template `name` for a transformers tokenizer; "auto" is the tokenizer's own if it has one, else mistral.

        Raises TrainerError if the name is unknown, the tokenizer lacks a token that the template needs or is not a
        fast one, or a short probe conversation gives a wrong result (no end token, or targets that do not decode to
        the response).
        """
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise TrainerError(f"expected a fast tokenizer (with character offsets), found {type(tokenizer).__name__}")
        own = name == "auto" and bool(tokenizer.chat_template)
        name = "mistral" if name == "auto" else name
        if not own and name not in NAMED:
            raise TrainerError(f"model.chat_template: expected auto, {', '.join(NAMED)}, found '{name}'")
        special = SpecialTokens.of(tokenizer)
        if own:
            source: TokenizerTemplate | NamedTemplate = TokenizerTemplate(
                tokenizer, f"the chat template of {tokenizer.name_or_path or 'the tokenizer'}"
            )
            identity = f"{_own_template(tokenizer)}\n{sorted(tokenizer.special_tokens_map.items())}"
        else:
            source = NAMED[name]
            special.require(name, *source.needs)
            identity = f"{name} {source.version} {special}"
        digest = hashlib.sha256(identity.encode()).hexdigest()
        backend = _private_backend(tokenizer, parse_special=own)
        added = frozenset(tokenizer.added_tokens_decoder)
        named = "tokenizer" if own else name
        typed = _typed_tokens(tokenizer) if own else lambda piece, encoding: encoding
        template = cls(
            named, digest, str(tokenizer.name_or_path), source, special, backend, encoder_of(backend), added, typed
        )
        template._prove(tokenizer)
        return template

    def tokenize(self, messages: Conversation) -> Tokenized:
        """Tokens and targets of one conversation: role and content of each message, and `train`: false for a response that is context.

        Raises DataError, naming the turn, if the template cannot be used for it.
        """
        (result,) = self.tokenize_batch([messages])
        if isinstance(result, DataError):
            raise result
        return result

    def tokenize_batch(self, conversations: Sequence[Conversation]) -> list[Tokenized | DataError]:
        """As `tokenize` for many at once, several times faster; a refused conversation gives its error."""
        (results,) = self.tokenize_batches([conversations])
        return results

    def tokenize_batches(self, batches: Iterable[Sequence[Conversation]]) -> Iterator[list[Tokenized | DataError]]:
        """As `tokenize_batch` for each of `batches`. The next batch is rendered while the tokenizer's own threads encode one. A
        `WordEncoder` is Python, as rendering is: a thread for it would slow both down."""
        if isinstance(self._encode, WordEncoder):
            for conversations in batches:
                rendered = self._pieces(conversations)
                yield self._assembled(rendered, self._encode(_texts_of(rendered)))
            return
        with ThreadPoolExecutor(1) as encoder:
            waiting: tuple[list[Sequence[Piece] | DataError], Future[list[Any]]] | None = None
            for conversations in batches:
                rendered = self._pieces(conversations)
                encodings = encoder.submit(self._encode, _texts_of(rendered))
                if waiting is not None:
                    yield self._assembled(waiting[0], waiting[1].result())
                waiting = rendered, encodings
            if waiting is not None:
                yield self._assembled(waiting[0], waiting[1].result())

    def _assembled(
        self, rendered: list[Sequence[Piece] | DataError], found: Sequence[Any]
    ) -> list[Tokenized | DataError]:
        encodings = iter(found)
        results: list[Tokenized | DataError] = []
        for pieces in rendered:
            if isinstance(pieces, DataError):
                results.append(pieces)
                continue
            encoded = [
                (piece, self._typed(piece, next(encodings)) if isinstance(piece, Text) else None) for piece in pieces
            ]
            try:
                results.append(self._assemble(encoded))
            except DataError as error:
                results.append(error)
        return results

    def prompt_ids(self, messages: Conversation) -> list[int]:
        """Tokens of a conversation without its response, up to the position where the model begins to write.

        These are the tokens before a response that begins with a word. If a tokenizer joins the end of the prompt and
        such a word in one token, the model writes that token, in training as here.

        Raises DataError as `tokenize` does, and for a conversation that is empty or ends with a response.
        """
        (result,) = self.prompt_ids_batch([messages])
        if isinstance(result, DataError):
            raise result
        return result

    def prompt_ids_batch(self, conversations: Sequence[Conversation]) -> list[list[int] | DataError]:
        """As `prompt_ids` for many at once; a refused conversation gives its error."""
        results: list[list[int] | DataError] = []
        answered = [[*messages, PROBE[1]] for messages in conversations]
        for messages, tokenized in zip(conversations, self.tokenize_batch(answered), strict=True):
            if not messages or messages[-1].get("role") == "assistant":
                results.append(DataError("expected a conversation that ends with a message to respond to"))
            elif isinstance(tokenized, DataError):
                results.append(tokenized)
            else:
                results.append(tokenized.ids[: _last_response(tokenized.targets)])
        return results

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a response: the template's trained end token, and the tokenizer's own."""
        probe = self.tokenize(PROBE)
        ends = {token for token, target in zip(probe.ids, probe.targets, strict=True) if target == END_OF_TURN}
        return frozenset(ends if self._special.eos is None else ends | {self._special.eos.id})

    def render(self, messages: Conversation) -> str:
        """The conversation as readable text. Raises DataError as `tokenize` does."""
        (pieces,) = self._pieces([messages])
        if isinstance(pieces, DataError):
            raise pieces
        return "".join(piece.text for piece in pieces)

    def segments(self, messages: Conversation) -> list[Segment]:
        """`render`'s text, split where targets begin and end, to show what is trained on; the targets are those of
        `tokenize`. Raises DataError as `tokenize` does."""
        (pieces,) = self._pieces([messages])
        if isinstance(pieces, DataError):
            raise pieces
        found: list[Segment] = []
        for first, piece in enumerate(pieces):
            if isinstance(piece, Special):
                found.append(Segment(piece.text, piece.target if first else NO_TARGET))
                continue
            encoding = self._typed(piece, self._backend.encode(piece.text, add_special_tokens=False))
            targets = self._targets(piece, encoding.ids, encoding)
            found += segments_of(piece.text, encoding.offsets, targets)
        return joined(found)

    def _pieces(self, conversations: Sequence[Conversation]) -> list[Sequence[Piece] | DataError]:
        results: list[Any] = []
        for messages in conversations:
            try:
                results.append(checked(messages))
            except ValueError as error:
                results.append(DataError(str(error)))
        good = [i for i, messages in enumerate(results) if not isinstance(messages, DataError)]
        if isinstance(self._source, TokenizerTemplate):
            for i, text in zip(good, self._source.render_batch([results[i] for i in good]), strict=True):
                results[i] = text if isinstance(text, DataError) else (text,)
        else:
            for i in good:
                try:
                    results[i] = self._source.write(results[i], self._special)
                except DataError as error:
                    results[i] = error
        for i in good:
            untrained = {turn for turn, message in enumerate(conversations[i]) if message.get("train") is False}
            if untrained and not isinstance(results[i], DataError):
                results[i] = without(results[i], untrained)
        return results

    def _assemble(self, encoded: Sequence[tuple[Piece, Any]]) -> Tokenized:
        ids: list[int] = []
        targets: list[int] = []
        for piece, encoding in encoded:
            if isinstance(piece, Special):
                ids.append(piece.id)
                targets.append(piece.target)
                continue
            piece_ids = encoding.ids
            ids += piece_ids
            targets += self._targets(piece, piece_ids, encoding) if piece.responses else [NO_TARGET] * len(piece_ids)
        if targets:
            targets[0] = NO_TARGET
        return Tokenized(ids, targets, any(isinstance(piece, Text) and piece.folded for piece, _ in encoded))

    def _targets(self, piece: Text, ids: list[int], encoding: Any) -> list[int]:
        targets = [NO_TARGET] * len(ids)
        for response in piece.responses:
            first = _token_at(encoding, response.start, len(piece.text), len(ids))
            ending = len(ids) if response.limit is None else self._end_token(piece, response, ids, encoding)
            targets[first:ending] = [RESPONSE] * (ending - first)
            if response.limit is not None:
                targets[ending] = END_OF_TURN
        return targets

    def _end_token(self, piece: Text, response: Response, ids: list[int], encoding: Any) -> int:
        token = _token_at(encoding, response.stop, response.limit, len(ids))
        if token < len(ids) and encoding.token_to_chars(token)[0] < response.stop:
            token += 1
        while token < len(ids) and encoding.token_to_chars(token)[0] < response.limit:
            if ids[token] in self._added_ids:
                return token
            token += 1
        raise DataError(
            f"turn {response.turn + 1}: the tokenizer's chat template ends this response with "
            f"{piece.text[response.stop : response.limit]!r}, which contains no special token, so a model trained on "
            "it would never learn to stop. Set model.chat_template to mistral, chatml or plain"
        )

    def _prove(self, tokenizer: Any) -> None:
        try:
            tokenized = self.tokenize(PROBE)
        except DataError as error:
            raise TrainerError(f"chat template '{self.name}' cannot be used: {error}") from error
        response = [i for i, target in zip(tokenized.ids, tokenized.targets, strict=True) if target == RESPONSE]
        found = tokenizer.decode(response, clean_up_tokenization_spaces=False)
        # A Qwen3-like template makes the model write an empty <think> block first; a tokenizer of a few words has none
        # of the probe's.
        if PROBE[1]["content"] not in found and tokenizer.unk_token_id not in response:
            raise TrainerError(
                f"chat template '{self.name}': expected targets that decode to {PROBE[1]['content']!r}, "
                f"found {found!r}. Set model.chat_template to another one: mistral, chatml or plain"
            )


def _texts_of(rendered: list[Sequence[Piece] | DataError]) -> list[str]:
    """What the tokenizer has to encode, in order."""
    pieces = (piece for found in rendered if not isinstance(found, DataError) for piece in found)
    return [piece.text for piece in pieces if isinstance(piece, Text)]


def _last_response(targets: Sequence[int]) -> int:
    """Index of the first token of the last response."""
    start = len(targets) - 1 - targets[::-1].index(END_OF_TURN)
    while targets[start - 1] == RESPONSE:
        start -= 1
    return start


def _token_at(encoding: Any, start: int, stop: int, default: int) -> int:
    """The first token with a character of [start, stop); a normalizer may have dropped some characters."""
    for position in range(start, stop):
        token = encoding.char_to_token(position)
        if token is not None:
            return token
    return default


def _own_template(tokenizer: Any) -> str:
    """The tokenizer's template with its fixed date. Raises TrainerError if it has several and none is the default."""
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise TrainerError(
            f"the tokenizer {tokenizer.name_or_path} has several chat templates and no default one ({str(error).splitlines()[0]}). "
            f"Set model.chat_template to {', '.join(NAMED)}, or keep one template in tokenizer_config.json"
        ) from error
    return dated(template)


def _typed_tokens(tokenizer: Any) -> Callable[[Text, Any], Any]:
    """A function (piece, encoding) → encoding in which the special tokens that messages contain are text."""
    special = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    if not special:
        return lambda piece, encoding: encoding
    ids, plain = frozenset(special.values()), cache(lambda: _private_backend(tokenizer, parse_special=False))
    written = re.compile("|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)))

    def typed(piece: Text, encoding: Any) -> Any:
        """The encoding of a piece."""
        if not any(written.search(piece.text, start, stop) for start, stop in piece.contents):
            return encoding
        return with_contents_as_text(encoding, piece.text, piece.contents, ids, plain())

    return typed


def _private_backend(tokenizer: Any, parse_special: bool) -> Any:
    """A copy of the tokenizer's Rust backend that adds and truncates nothing, and parses special tokens in text only on request.

    It has no post-processor, because ByteLevel's trims white space from the offsets.
    """
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    backend.post_processor = None
    backend.encode_special_tokens = not parse_special
    return backend
