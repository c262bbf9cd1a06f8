"""Text that grows by tokens is the text of all tokens, up to a stop sequence."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from al.serving.models import ServedModels
from al.serving.problems import Problem
from al.serving.text import TextStream


def byte_level():
    """A token for each byte."""
    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def byte_fallback():
    """A token for each byte, of which those of an invalid run are all unfinished characters; as of Llama 2 and Mistral."""
    tokenizer = Tokenizer(models.BPE(vocab={f"<0x{i:02X}>": i for i in range(256)}, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


BYTES, FALLBACK = byte_level(), byte_fallback()
END = BYTES.token_to_id("<end>")
TEXT = st.text(st.sampled_from("aab é→日🙂\n"), max_size=12)


def written(prompt, text, stops=(), backend=BYTES):
    stream = TextStream(backend, backend.encode(prompt).ids, stops)
    pieces = [stream.add(token) for token in backend.encode(text).ids]
    return [*pieces, stream.finish()], stream


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT)
def test_pieces_are_whole_characters_and_together_the_whole_text(prompt, text):
    pieces, stream = written(prompt, text)
    assert "".join(pieces) == text == stream.text and not stream.stopped
    assert all("\ufffd" not in piece for piece in pieces)


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.lists(st.text(st.sampled_from("aab é"), min_size=1, max_size=3), min_size=1, max_size=3))
def test_the_text_ends_before_the_first_complete_stop_sequence_and_no_part_of_it_is_shown(prompt, text, stops):
    pieces, stream = written(prompt, text, stops)
    read = next((text[:n] for n in range(len(text) + 1) if any(stop in text[:n] for stop in stops)), text)
    places = [read.find(stop) for stop in stops if stop in read]
    assert "".join(pieces) == stream.text == (text[: min(places)] if places else text)
    assert stream.stopped == bool(places)


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("a é→日🙂"), max_size=30))
def test_characters_of_several_tokens_are_whole_however_many_follow_each_other(text):
    for backend in (BYTES, FALLBACK):
        pieces, _ = written("é", text, backend=backend)
        assert "".join(pieces) == text and all("\ufffd" not in piece for piece in pieces)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(BYTES.encode("aé日🙂").ids), max_size=60))
def test_no_text_is_lost_among_or_after_unfinished_characters(tokens):
    for after in ([], [END] * 30):
        stream = TextStream(BYTES, ())
        assert "".join([*map(stream.add, tokens + after), stream.finish()]) == BYTES.decode(tokens)


@pytest.mark.parametrize("token", [END, BYTES.encode("é").ids[0]], ids=["special", "unfinished"])
def test_a_token_costs_the_same_after_any_number_of_tokens_without_text(token):
    """The event loop reads prompts token by token; a prompt of 8,000 special tokens stopped the server for 15 s."""
    decoded = []

    class Counted:
        def decode(self, ids, skip_special_tokens):
            decoded.append(len(ids))
            return BYTES.decode(ids, skip_special_tokens=skip_special_tokens)

    stream = TextStream(Counted(), ())
    for _ in range(300):
        stream.add(token)
    assert sum(decoded[-150:]) <= sum(decoded[:150]) + 150


def test_what_may_begin_a_stop_sequence_is_held_back_until_it_is_certain():
    stream = TextStream(BYTES, (), ["abc"])
    assert [stream.add(token) for token in BYTES.encode("xabab").ids] == ["x", "", "", "ab", ""]
    assert (stream.length, stream.finish(), stream.text) == (5, "ab", "xabab")


@pytest.mark.parametrize("text", ["word", " word"])
def test_a_space_before_the_first_word_is_kept_where_the_decoder_would_drop_it(text):
    pieces = {"▁and": 0, "▁word": 1, "word": 2}
    backend = Tokenizer(models.WordLevel(pieces, unk_token="word"))
    backend.decoder = decoders.Metaspace()
    stream = TextStream(backend, [0])
    assert stream.add(1 if text.startswith(" ") else 2) == text
    assert backend.decode([1]) == "word", "alone it has no space"


def test_a_character_that_is_never_finished_is_shown_at_the_end():
    stream = TextStream(BYTES, ())
    first, _ = BYTES.encode("é").ids
    assert stream.add(first) == "" and stream.finish() == "\ufffd"


def test_special_tokens_have_no_text():
    stream = TextStream(BYTES, ())
    assert stream.add(BYTES.token_to_id("<end>")) == stream.finish() == ""


def test_a_prompt_with_a_token_that_the_model_lacks_is_a_problem_not_a_crash():
    """A special token beyond the embeddings is characters in a message; a raw prompt has it as a token."""
    rows = BYTES.get_vocab_size() - 1
    served = ServedModels(("base",), BYTES, rows, 0, None, None, 16, 0)
    assert served.raw_prompt("a é") == BYTES.encode("a é").ids
    for prompt in ("a<end>", [rows]):
        with pytest.raises(Problem, match=f"from 0 to {rows - 1}, found {rows}") as caught:
            served.raw_prompt(prompt)
        assert caught.value.status == 400 and caught.value.param == "prompt"
