"""Responses without their prompts: whole, in the frame of their template, each turn for itself."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.forward import collate
from trainer.template import ChatTemplate
from trainer.tokens import TokenTable
from trainer.unprompted import Unprompted, response_frame, response_spans

CONVERSATIONS = [
    [("user", "Name a colour."), ("assistant", "Red.")],
    [("user", "One?"), ("assistant", "Two."), ("user", "Three?"), ("assistant", "Four five.")],
    [("user", "nothing")],
]


TEMPLATES = [
    ("byte_tokenizer", "chatml"),
    ("byte_tokenizer", "plain"),
    ("mistral_tokenizer", "mistral"),
    ("smollm2_tokenizer", "auto"),
]


@pytest.fixture(params=TEMPLATES, ids=lambda pair: pair[1])
def template(request):
    tokenizer, name = request.param
    found = ChatTemplate.resolve(request.getfixturevalue(tokenizer), name)
    return found, request.getfixturevalue(tokenizer)


def test_trap_18_with_and_without_prompt_the_same_tokens_are_predicted_behind_the_same_frame(template):
    template, _ = template
    made = [template.tokenize([{"role": r, "content": c} for r, c in turns]) for turns in CONVERSATIONS]
    table = TokenTable.build(made)
    frame = response_frame(template)
    alone = Unprompted(table, np.array([1, 0, 2]), frame)
    assert alone.owner.tolist() == [0, 0, 1]
    spans = response_spans(table.targets(1))
    for document, (start, stop) in enumerate(spans):
        ids, targets = alone.ids(document), alone.targets(document)
        assert ids[: len(frame)].tolist() == frame.tolist() and not targets[: len(frame)].any()
        assert ids[len(frame) :].tolist() == table.ids(1)[start:stop].tolist()
        # The tokens directly before the response are the same as with its prompt.
        assert frame[-1] == table.ids(1)[start - 1]
    assert len(collate(alone, [0, 1]).labels) == (table.targets(1) > 0).sum()


def test_the_frame_holds_nothing_of_a_prompt(template):
    template, tokenizer = template
    frame = response_frame(template).tolist()
    new = list(template.prompt_ids([{"role": "user", "content": "zebras kick"}]))
    # Its end is that of any prompt; before it at most the token that any prompt begins with.
    assert new[len(new) - len(frame) :] == frame or (
        new[:1] == frame[:1] and new[len(new) - len(frame) + 1 :] == frame[1:]
    )
    text = tokenizer.decode(frame)
    assert not any(word in text for word in ("Name", "things", "red", "1 + 1"))


def test_responses_end_at_their_end_tokens_or_where_others_speak():
    assert response_spans(np.array([0, 1, 1, 2, 1, 2, 0, 1, 0, 2])) == [(1, 4), (4, 6), (7, 8), (9, 10)]
    assert response_spans(np.array([1, 1, 0])) == [(1, 2)]
    assert response_spans(np.array([2, 0, 0])) == [] == response_spans(np.array([], dtype=int))
