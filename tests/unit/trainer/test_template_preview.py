"""A built-in template without a tokenizer: the same text and the same marks as with one."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.errors import DataError
from trainer.named_templates import preview
from trainer.template import ChatTemplate

ONE = [{"role": "user", "content": "Which bird sings?"}, {"role": "assistant", "content": "The wren."}]
TWO = [{"role": "system", "content": "Be short."}, *ONE, {"role": "user", "content": "Why?"}]
CONTEXT = [ONE[0], {**ONE[1], "train": False}, *ONE]


@pytest.mark.parametrize("messages", [ONE, TWO, CONTEXT, ONE[:1]], ids=["one", "open end", "context", "no response"])
def test_mistral_is_shown_as_its_own_tokenizer_would(mistral_tokenizer: Any, messages: list[dict[str, Any]]):
    assert preview("mistral", messages) == ChatTemplate.resolve(mistral_tokenizer, "mistral").segments(messages)


@pytest.mark.parametrize("messages", [ONE, TWO, CONTEXT], ids=["one", "open end", "context"])
@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_other_templates_mark_the_same_texts(byte_tokenizer: Any, name: str, messages: list[dict[str, Any]]):
    shown, exact = preview(name, messages), ChatTemplate.resolve(byte_tokenizer, name).segments(messages)
    assert [part for part in shown if part.target == 1] == [part for part in exact if part.target == 1]
    assert [part.target for part in shown] == [part.target for part in exact]


def test_what_the_template_refuses_is_an_error():
    with pytest.raises(DataError, match="tool"):
        preview("mistral", [*ONE[:1], {"role": "tool", "content": "4"}])
    with pytest.raises(DataError, match="at least one message"):
        preview("mistral", [])
