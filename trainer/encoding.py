"""Encoding of a rendered text in which the special tokens of the markup are tokens, and those that messages contain are text.

A tokenizer's own template gives one text, so a `<|im_end|>` that a user typed looks like the markup's. Such a token is replaced by the
tokens of its characters; all others stay as they are.

Byte-level BPE splits a text into words and encodes each word alone. `WordEncoder` keeps the tokens of the words that it has encoded, so
only new words reach the tokenizer.
"""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate, chain
from typing import Any

WORDS_KEPT, LONGEST_KEPT, SECTIONS_KEPT = 2**17, 64, 256
"""Words whose tokens are kept, the characters of the longest of them, and sections (such as a system prompt) whose words are kept."""
_BYTE_LEVEL = r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
"""The pattern of GPT-2, which the tokenizers library has built in, for texts with ASCII letters and digits only."""
_DIGITS = r"[0-9]|'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[^\sA-Za-z0-9]+|\s+(?![^\s0-9])|\s+"
"""The same where each digit was split off before (SmolLM)."""
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    split: split.replace(r"\p{L}\p{N}]", "A-Za-z0-9]").replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]")
    for split in (_LLAMA3, _LLAMA3.replace("{1,3}", ""))
}
"""The patterns of Llama 3 and of Qwen 2 as they are in tokenizer.json, and for texts with ASCII letters and digits only."""
_PROBE = "It's  \n\n a\tTEST: they'll, 12345 x=y\r\n  \u00e9t\u00e9 \u2014 \u4f60\u597d!\u0301 'Re  7 \n"


class Encoded:
    """Tokens with their characters; has the methods of a `tokenizers.Encoding` that templates use."""

    def __init__(self, ids: list[int], offsets: list[tuple[int, int]]):
        self.ids = ids
        self.offsets = offsets
        self._starts = [start for start, _ in offsets]

    def token_to_chars(self, token: int) -> tuple[int, int]:
        """[start, stop) of a token in characters."""
        return self.offsets[token]

    def char_to_token(self, position: int) -> int | None:
        """The first token with the character at `position`, None if a normalizer dropped it."""
        token = bisect_right(self._starts, position) - 1
        while token > 0 and self.offsets[token - 1][1] > position:
            token -= 1
        return token if token >= 0 and self.offsets[token][0] <= position < self.offsets[token][1] else None


def with_contents_as_text(
    encoding: Any, text: str, contents: Sequence[tuple[int, int]], special_ids: frozenset[int], plain: Any
) -> Any:
    """The encoding of `text` with the special tokens inside `contents`, spans of characters, replaced by those of their characters.

    Args:
        special_ids: ids of the special tokens.
        plain: the tokenizer's backend that reads special tokens as text.
    """
    starts = [start for start, _ in contents]

    def is_text(token: int, offset: tuple[int, int]) -> bool:
        """Whether a token is a special one inside a content."""
        span = bisect_right(starts, offset[0]) - 1
        return token in special_ids and span >= 0 and offset[1] <= contents[span][1]

    typed = [
        at
        for at, (token, offset) in enumerate(zip(encoding.ids, encoding.offsets, strict=True))
        if is_text(token, offset)
    ]
    if not typed:
        return encoding
    ids, offsets, position = [], [], 0
    for at in typed:
        ids += encoding.ids[position:at]
        offsets += encoding.offsets[position:at]
        start, stop = encoding.offsets[at]
        for token, (first, last) in _spelled(text[start:stop], plain):
            ids.append(token)
            offsets.append((start + first, start + last))
        position = at + 1
    return Encoded([*ids, *encoding.ids[position:]], [*offsets, *encoding.offsets[position:]])


def _spelled(marker: str, plain: Any) -> list[tuple[int, tuple[int, int]]]:
    """Tokens of a marker as text, with their characters."""
    for before in (
        "x",
        "0",
        "",
    ):  # a tokenizer may add a space in front of a text, so a character goes before the marker
        found = plain.encode(before + marker, add_special_tokens=False)
        spelled = [
            (token, (a - len(before), b - len(before))) for token, (a, b) in zip(found.ids, found.offsets, strict=True)
        ]
        if not any(first < 0 < last for _, (first, last) in spelled):  # no token for both
            return [(token, (first, last)) for token, (first, last) in spelled if last > 0]
    return []


Ids = tuple[int, ...]
Offsets = tuple[tuple[int, int], ...]


@dataclass
class Joined:
    """The encoding of a text, joined from those of its words: ids, and [start, stop) of the tokens in the word's characters. Has the
    methods of a `tokenizers.Encoding` that templates use."""

    words: list[str]
    parts: list[Ids]
    offsets_of: dict[str, Offsets]

    @cached_property
    def ids(self) -> list[int]:
        """Token ids."""
        return list(chain.from_iterable(self.parts))

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """[start, stop) of each token in characters."""
        places = zip(self._chars, self.words, strict=False)
        return [(at + start, at + stop) for at, word in places for start, stop in self.offsets_of[word]]

    def token_to_chars(self, token: int) -> tuple[int, int]:
        """[start, stop) of a token in characters."""
        word = bisect_right(self._tokens, token) - 1
        start, stop = self.offsets_of[self.words[word]][token - self._tokens[word]]
        return self._chars[word] + start, self._chars[word] + stop

    def char_to_token(self, position: int) -> int | None:
        """The first token with the character at `position`, None if the tokenizer dropped it."""
        word = bisect_right(self._chars, position) - 1
        inside = position - self._chars[word]
        for at, (start, stop) in enumerate(self.offsets_of[self.words[word]]):
            if start <= inside < stop:
                return self._tokens[word] + at
        return None

    @cached_property
    def _chars(self) -> list[int]:
        """Characters before each word."""
        return list(accumulate(map(len, self.words), initial=0))

    @cached_property
    def _tokens(self) -> list[int]:
        """Tokens before each word."""
        return list(accumulate(map(len, self.parts), initial=0))


class _Unclear(Exception):
    """A text has white space beyond ASCII, or a character whose class differs between versions of Unicode."""


class _Classes(dict[int, str]):
    """For `str.translate`: for each character beyond ASCII an ASCII character that the patterns treat in the same way."""

    def __missing__(self, code: int) -> str:
        kind = unicodedata.category(chr(code))
        if kind[0] == "Z" or kind in ("Cn", "Cc"):
            raise _Unclear
        self[code] = {"L": "b", "N": "0"}.get(kind[0], "#")  # b is in no contraction
        return self[code]


@dataclass
class WordEncoder:
    """Encodes as `backend` does, each word once. Make one with `encoder_of`.

    Texts with a word longer than LONGEST_KEPT, or with characters that `_Classes` does not take, are encoded by the backend as a whole.
    `added`: the added tokens, None without any; `word`: the pattern of the words between them, for texts that `_Classes` has translated.
    """

    backend: Any
    added: re.Pattern[str] | None
    word: re.Pattern[str]
    _ids: dict[str, Ids] = field(default_factory=dict, repr=False)
    _offsets: dict[str, Offsets] = field(default_factory=dict, repr=False)
    _shared: dict[Any, Any] = field(default_factory=dict, repr=False)
    _classes: _Classes = field(default_factory=lambda: _Classes({code: chr(code) for code in range(128)}), repr=False)

    def __post_init__(self) -> None:
        self._words: Callable[[str], list[str]] = lru_cache(SECTIONS_KEPT)(self._words_of)

    def __call__(self, texts: Sequence[str]) -> list[Any]:
        """The encoding of each text."""
        if len(self._ids) > WORDS_KEPT:  # bound again, because another thread may be reading them
            self._ids, self._offsets, self._shared = {}, {}, {}
        ids, offsets, split = self._ids, self._offsets, [self._split(text) for text in texts]
        found: list[Any] = [_joined(words, ids, offsets) for words in split]
        new = {word for at, words in enumerate(split) if found[at] is None for word in words}.difference(ids)
        short = [word for word in new if len(word) <= LONGEST_KEPT]
        for word, encoding in zip(short, self._by_backend(short), strict=True):
            if len(set(encoding.word_ids)) < 2:  # not so for 'ſa in Llama 3's pattern, where ſ counts as s
                offsets[word] = self._same(tuple(encoding.offsets))
                ids[word] = tuple(map(self._same, encoding.ids))
        found = [_joined(words, ids, offsets) if at is None else at for at, words in zip(found, split, strict=True)]
        whole = [at for at, joined in enumerate(found) if joined is None]
        for at, encoding in zip(whole, self._by_backend([texts[at] for at in whole]), strict=True):
            found[at] = encoding
        return found

    def _same(self, value: Any) -> Any:
        """An equal object of another word, if there is one: halves the memory of the words."""
        return self._shared.setdefault(value, value)

    def _by_backend(self, texts: list[str]) -> list[Any]:
        return self.backend.encode_batch(texts, add_special_tokens=False)

    def _split(self, text: str) -> list[str]:
        """The words of a text, and its added tokens; nothing if it has a character whose class is not clear."""
        try:
            if self.added is None:
                return self._words(text)
            first, *others = self.added.split(text)
            words = [*self._words(first)]
            for token, section in zip(others[::2], others[1::2], strict=True):
                words.append(token)
                words += self._words(section)
            return words
        except _Unclear:
            return []

    def _words_of(self, section: str) -> list[str]:
        if section.isascii():
            return self.word.findall(section)
        return [section[slice(*found.span())] for found in self.word.finditer(section.translate(self._classes))]


def _joined(words: list[str], ids: dict[str, Ids], offsets: dict[str, Offsets]) -> Joined | None:
    """The encoding of words; None if there are none, or one that is not known."""
    try:
        return Joined(words, [ids[word] for word in words], offsets) if words else None
    except KeyError:
        return None


def encoder_of(backend: Any) -> Callable[[Sequence[str]], list[Any]]:
    """A function that encodes many texts, without the special tokens that a post-processor adds: a `WordEncoder` where it gives what the
    backend does, which is where the backend is byte-level BPE with a pattern that is known, else the backend."""

    def plain(texts: Sequence[str]) -> list[Any]:
        """By the backend."""
        return backend.encode_batch(list(texts), add_special_tokens=False)

    described = json.loads(backend.to_str())
    word, added = _word_pattern(described), described["added_tokens"]
    if word is None or any(token[how] for token in added for how in ("lstrip", "rstrip", "single_word")):
        return plain
    added = [token["content"] for token in added if not (token["special"] and backend.encode_special_tokens)]
    pattern = "|".join(re.escape(token) for token in sorted(added, key=len, reverse=True))
    encoder = WordEncoder(backend, re.compile(f"({pattern})") if added else None, re.compile(word, re.ASCII))
    (expected,), (found,) = plain([_PROBE]), encoder([_PROBE])
    return encoder if (found.ids, found.offsets) == (expected.ids, expected.offsets) else plain


def _word_pattern(described: dict[str, Any]) -> str | None:
    """The pattern of the words of a tokenizer, as tokenizer.json describes it; None if a word's tokens may depend on other words, or if the
    pattern is not known."""
    model, before = described["model"], described["pre_tokenizer"] or {}
    if model["type"] != "BPE" or model.get("dropout") or described["normalizer"] is not None:
        return None
    steps = before.get("pretokenizers", [before])
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    own = steps[-1].get("use_regex", True)
    match steps[:-1]:
        case [] if own:
            return _BYTE_LEVEL
        case [{"type": "Digits", "individual_digits": True}] if own:
            return _DIGITS
        case [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}] if not own:
            return _SPLITS.get(pattern)
    return None
