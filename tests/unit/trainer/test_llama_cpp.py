"""llama.cpp reads the GGUF files that Winnow writes: the same tokens for a text, the same logits and greedy answers as base and adapter.

docs/export.md says how to run this file; without llama-cpp-python, test_gguf_file.py reads the files back."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_models import KINDS, MORE, Published, greedy, publish

from trainer.model import plain_attention
from trainer.published.gguf_file import check_writable, write_gguf
from trainer.published.merged import adapted_base, logits_of, merged_weights

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (docs/export.md)")
TEXTS = (
    "Hello, how are you? I'M FINE, they've said.",
    "1234567 and 3.14 1/2 1.000.000",
    "  two  spaces\n\nlines\n \n\ttab  ",
    "naïve façade Übung 日本語 🙂",
    "def f(x):\n    return [x+1, {'a': \"b\"}]  # done!!",
    "a",
)
ANSWER = 16
FLOAT32 = 0
"""GGML's number of the type, for the cache of keys and values."""
ROUNDING = 0.01
"""Mean absolute error of a logit in standard deviations, from float16. Measured: 0.0003 to 0.002."""
CLOSE = 0.015
"""Two best tokens whose logits are closer than this may change places."""


def chats(made: Published) -> list[list[int]]:
    asked = [[{"role": "user", "content": text}] for text in TEXTS]
    return [made.tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in asked]


def opened(made: Published, path: Path, outtype: str = "f16", **settings: Any) -> Any:
    """Write the GGUF file of `made` to `path` and load it into llama.cpp."""
    written = check_writable(made.config, made.folder, made.tokenizer)
    with adapted_base(made.model, made.adapter) as (_, model):
        weights = merged_weights(model)
        write_gguf(path, weights, made.config, written, made.tokenizer, made.ends, name="tiny", outtype=outtype)
    settings = {"n_ctx": 128, "n_threads": 1, "verbose": False, "type_k": FLOAT32, "type_v": FLOAT32} | settings
    return llama_cpp.Llama(str(path), **settings)


def error(llama: Any, ids: list[int], logits: np.ndarray) -> float:
    """Mean absolute error of llama.cpp's logits after each of `ids`, in standard deviations of `logits`."""
    llama.reset()
    llama.eval(ids)
    return float(np.abs(np.array(llama.scores[: len(ids)]) - logits).mean() / logits.std())


def answer(llama: Any, ids: list[int], count: int = ANSWER) -> list[int]:
    return list(itertools.islice(llama.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0), count))


@pytest.mark.parametrize("kind", [*KINDS, *MORE])
def test_logits_and_greedy_answers_in_float16_are_those_of_base_and_adapter(kind, byte_tokenizer, tmp_path):
    made = publish(tmp_path, kind, byte_tokenizer, chat_template="chatml")
    with adapted_base(made.model, made.adapter) as (_, model), plain_attention(model):
        expected = [logits.numpy() for logits in logits_of(model, [np.array(ids) for ids in chats(made)])]
        answers = [greedy(model, ids, ANSWER, margin=CLOSE) for ids in chats(made)]
    llama = opened(made, tmp_path / "f16.gguf", logits_all=True)
    for ids, logits, written in zip(chats(made), expected, answers, strict=True):
        assert error(llama, ids, logits) < ROUNDING
        assert answer(llama, ids, len(written)) == written
    assert sum(map(len, answers)) >= 10


def test_eight_bits_stay_near(byte_tokenizer, tmp_path):
    made = publish(tmp_path, "llama", byte_tokenizer, chat_template="chatml")
    (ids, *_) = chats(made)
    with adapted_base(made.model, made.adapter) as (_, model), plain_attention(model):
        (expected,) = logits_of(model, [np.array(ids)])
    llama = opened(made, tmp_path / "q8_0.gguf", "q8_0", logits_all=True)
    assert ROUNDING / 2 < error(llama, ids, expected.numpy()) < 5 * ROUNDING


@pytest.mark.parametrize("name", ["byte", "mistral", "gemma", "smollm2", "qwen2", "llama3", "olmo2"])
def test_a_text_and_a_chat_have_the_same_tokens(name, request, tmp_path):
    tokenizer = request.getfixturevalue(f"{name}_tokenizer")
    template = "auto" if tokenizer.chat_template else ("mistral" if name == "mistral" else "chatml")
    made = publish(tmp_path, "llama", tokenizer, chat_template=template)
    llama = opened(made, tmp_path / "f16.gguf")

    def tokens(text: str) -> list[int]:
        """As llama.cpp reads a prompt: special tokens in it are tokens, and none is added."""
        return llama.tokenize(text.encode(), add_bos=False, special=True)

    for text in TEXTS:
        turns = ("user", text), ("assistant", "Yes."), ("user", "And?")
        chat = [{"role": role, "content": content} for role, content in turns]
        rendered = made.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        expected = made.tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        assert tokens(rendered) == expected, text
        if name != "mistral":  # its tokenizer puts a space in front of a whole text, which a chat never needs
            assert tokens(text) == made.tokenizer.encode(text, add_special_tokens=False), text
    assert llama.token_eos() == made.tokenizer.eos_token_id
    assert llama.metadata["tokenizer.chat_template"] == made.tokenizer.chat_template
