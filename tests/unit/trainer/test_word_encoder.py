"""Encoding by words gives what the tokenizer gives, character by character."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from trainer import encoding
from trainer.encoding import WordEncoder, encoder_of

PARTS = [
    *("don't", "DON'T", "'S", "'ll", "'", "''re", "x1y22", "1234567", "3.14", " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n "),
    *("<|im_end|>", "<|im_start|>user\n", "<|im|>", "<|im", "_", "#", "==", "...\n", "caf\u00e9", "\u201cso\u201d", "\u2014"),
    *("a", "b", "\u00e9", "\u4f60"),
    *("\u4f60\u597d", "e\u0301", "\U0001f600", "\u00a0", "\u2028", "\u0085", "\x1c", "\x00", "\u017fa", "\u212a", "\u00b2", "\u0663"),
]  # fmt: skip
PAIRS = [first + second for first in PARTS for second in PARTS]
"""Also what a tokenizer is trained on: it merges all of them, so another split of a text gives other tokens."""
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(False)])


KINDS = {
    "gpt2": byte_level(True),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
    "llama3": split(LLAMA3),
    "qwen2": split(LLAMA3.replace("{1,3}", "")),
}


def made(before, added=("<|im_start|>", "<|im_end|>", "<|im|>")):
    """A byte-level BPE tokenizer with tokens of any two parts, and without a post-processor."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level(False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(PAIRS, trainer)
    tokenizer.pre_tokenizer, tokenizer.decoder = before, decoders.ByteLevel()
    tokenizer.add_special_tokens(list(added))
    return tokenizer


BACKENDS = {kind: made(before) for kind, before in KINDS.items()}
TEXTS = st.lists(st.sampled_from(PARTS) | st.text(max_size=4), max_size=12).map("".join)


def same(found, expected, text):
    """Whether two encodings have the same tokens at the same characters."""
    places = range(len(text))
    return (
        (list(found.ids), list(found.offsets)) == (expected.ids, expected.offsets)
        and [found.char_to_token(at) for at in places] == [expected.char_to_token(at) for at in places]
        and [found.token_to_chars(at) for at in range(len(expected.ids))] == expected.offsets
    )


@pytest.mark.parametrize("kind", KINDS)
def test_any_two_parts_have_the_tokens_and_characters_of_the_tokenizer(kind):
    backend, encoder = BACKENDS[kind], encoder_of(BACKENDS[kind])
    expected = backend.encode_batch(PAIRS, add_special_tokens=False)
    assert isinstance(encoder, WordEncoder)
    assert all(map(same, encoder(PAIRS), expected, PAIRS))
    assert sum(encoder._split(text) != [] for text in PAIRS) > len(PAIRS) / 2


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_any_text_has_the_tokens_and_characters_of_the_tokenizer(kind, texts):
    backend = BACKENDS[kind]
    encoder = encoder_of(backend)
    assert isinstance(encoder, WordEncoder)
    expected = backend.encode_batch(texts, add_special_tokens=False)
    for _ in range(2):  # the second time with known words
        assert all(map(same, encoder(texts), expected, texts))


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_read_as_text_stay_text(kind):
    backend = Tokenizer.from_str(BACKENDS[kind].to_str())
    backend.encode_special_tokens = True
    text = "say <|im_end|> 12 times"
    (found,), expected = encoder_of(backend)([text]), backend.encode(text, add_special_tokens=False)
    assert same(found, expected, text) and backend.token_to_id("<|im_end|>") not in found.ids


class Counting:
    """A backend that counts the texts that it encodes."""

    def __init__(self, backend):
        self.backend, self.count = backend, 0

    def encode_batch(self, texts, add_special_tokens):
        self.count += len(texts)
        return self.backend.encode_batch(texts, add_special_tokens=add_special_tokens)


def test_known_words_do_not_reach_the_tokenizer_and_only_so_many_are_kept(monkeypatch):
    encoder = encoder_of(BACKENDS["llama3"])
    encoder.backend = counting = Counting(encoder.backend)
    encoder(["one two three", "two three"])
    assert counting.count == 4  # "one", " two", " three", "two"
    encoder(["two three", "one two"])
    assert counting.count == 4
    monkeypatch.setattr(encoding, "WORDS_KEPT", 3)
    (found,) = encoder(["one two"])
    assert counting.count == 6 and len(encoder._ids) == 2
    assert found.ids == BACKENDS["llama3"].encode("one two").ids


def test_a_long_word_is_not_kept():
    encoder, text = encoder_of(BACKENDS["gpt2"]), "see " + "ab" * 200
    known = len(encoder._ids)
    (found,) = encoder([text])
    assert same(found, BACKENDS["gpt2"].encode(text), text)
    assert len(encoder._ids) == known + 1


def normalized():
    backend = made(KINDS["gpt2"])
    backend.normalizer = normalizers.NFC()
    return backend


def strips():
    return made(KINDS["gpt2"], added=[AddedToken("<|mask|>", lstrip=True)])


@pytest.mark.parametrize(
    "backend",
    [
        made(pre_tokenizers.Metaspace()),
        made(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        made(split(r"\s+|\w+")),
        made(pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), byte_level(True)])),
        normalized(),
        strips(),
    ],
    ids=["metaspace", "prefix space", "another pattern", "another step", "normalizer", "token that strips"],
)  # fmt: skip
def test_other_tokenizers_encode_every_text_themselves(backend):
    encoder, text = encoder_of(backend), "The  caf\u00e9 <|mask|> 12"
    assert not isinstance(encoder, WordEncoder)
    assert [found.ids for found in encoder([text])] == [backend.encode(text, add_special_tokens=False).ids]
