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


BYTES = byte_level()
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
