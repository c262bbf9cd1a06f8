"""Forty layouts of published sets, a row of each in our own words: what is asked, what is trained on, and what is left over."""

from __future__ import annotations

from typing import Any

import pytest

from al.pool.convert import Converter
from al.pool.sources import make_sources
from trainer.rendering import RESPONSE
from trainer.template import ChatTemplate

Q, A, C = "Who keeps the lamp?", "Old Ines.", "The lamp of the pier burns all night."
LAMP = [{"label": "A", "text": "lamp"}, {"label": "B", "text": "pier"}]
BOTH = f"{C}\n\n{Q}"
W = "Which burns?"
SCENE = "Which burns?\n\nA. lamp\nB. pier"


def openai(*said: str, **last: Any) -> list[dict[str, Any]]:
    """User and assistant in turn, as OpenAI writes them."""
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
    messages[-1].update(last)
    return messages


def sharegpt(*said: str) -> list[dict[str, str]]:
    """The same as ShareGPT writes them."""
    return [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(said)]


def system(text: str) -> dict[str, str]:
    """A system message."""
    return {"role": "system", "content": text}


# layout → (row, contents that are asked or context, contents that are trained on, left-over fields)
LAYOUTS: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...], set[str]]] = {
    "alpaca": ({"instruction": Q, "input": C, "output": A}, (f"{Q}\n\n{C}",), (A,), set()),
    "alpaca with text": ({"instruction": Q, "input": "", "output": A, "text": f"Ask: {Q} Say: {A}"}, (Q,), (A,), {"text"}),
    "alpaca with history": ({"instruction": Q, "input": "", "output": A, "history": [["Hi", "Ahoy"]]}, ("Hi", Q), ("Ahoy", A), set()),
    "dolly": ({"instruction": Q, "context": C, "response": A, "category": "qa"}, (f"{Q}\n\n{C}",), (A,), {"category"}),
    "openorca": ({"id": "o.1", "system_prompt": "Be brief.", "question": Q, "response": A}, ("Be brief.", Q), (A,), {"id"}),
    "sharegpt": ({"id": "s1", "conversations": sharegpt(Q, A)}, (Q,), (A,), {"id"}),
    "sharegpt, system field": ({"system": "Be brief.", "conversations": sharegpt(Q, A)}, ("Be brief.", Q), (A,), set()),
    "sharegpt that opens with gpt":
        ({"conversations": [{"from": "gpt", "value": "Ahoy."}, *sharegpt(Q, A)]}, ("Ahoy.", Q), (A,), set()),
    "sharegpt, unanswered tail": ({"conversations": sharegpt(Q, A, "And?")}, (Q,), (A,), {"unanswered_turns"}),
    "openai": ({"messages": [system("Be brief."), *openai(Q, A)]}, ("Be brief.", Q), (A,), set()),
    "openai with weights":
        ({"messages": [*openai(Q, "Me.", weight=0), *openai("Sure?", A, weight=1)]}, (Q, "Me.", "Sure?"), (A,), set()),
    "axolotl train flags": ({"messages": [*openai(Q, "Me.", train=False), *openai("Sure?", A)]}, (Q, "Me.", "Sure?"), (A,), set()),
    "messages and a response": ({"messages": openai(Q), "response": A, "model": "m-1"}, (Q,), (A,), {"model"}),
    "ultrachat": ({"id": "1", "data": [Q, A]}, (Q,), (A,), {"id"}),
    "lima": ({"conversations": [Q, A], "source": "made"}, (Q,), (A,), {"source"}),
    "prompt and completion": ({"prompt": Q, "completion": A}, (Q,), (A,), set()),
    "trl conversational": ({"prompt": openai(Q), "completion": [{"role": "assistant", "content": A}]}, (Q,), (A,), set()),
    "kto, good": ({"prompt": Q, "completion": A, "label": True}, (Q,), (A,), set()),
    "kto, bad": ({"prompt": Q, "completion": A, "label": False}, (Q,), (), {"rejected"}),
    "dpo": ({"prompt": Q, "chosen": A, "rejected": "Nobody."}, (Q,), (A,), {"rejected"}),
    "dpo of messages": ({"chosen": openai(Q, A), "rejected": openai(Q, "No.")}, (Q,), (A,), {"rejected"}),
    "ranked sharegpt":
        ({"conversations": sharegpt(Q), "chosen": {"from": "gpt", "value": A}, "rejected": "No."}, (Q,), (A,), {"rejected"}),
    "hh": ({"chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}", "rejected": "No."}, (Q,), (A,), {"rejected"}),
    "gsm8k": ({"question": Q, "answer": A}, (Q,), (A,), set()),
    "svamp": ({"Body": C, "Question": Q, "Answer": 5.0, "Type": "add"}, (BOTH,), ("5",), {"type"}),
    "metamath": ({"query": Q, "response": A, "original_question": Q, "type": "new"}, (Q,), (A,), {"original_question", "type"}),
    "numina": ({"problem": Q, "solution": A, "messages": openai(Q, A)}, (Q,), (A,), {"problem", "solution"}),
    "humaneval":
        ({"prompt": "def lamp():\n", "canonical_solution": "    return 1\n", "task_id": "H/0"},
         ("def lamp():\n",), ("    return 1\n",), {"task_id"}),
    "squad": ({"context": C, "question": Q, "answers": {"text": [A], "answer_start": [0]}}, (BOTH,), (A,), set()),
    "boolean passage": ({"passage": C, "question": Q, "answer": True}, (BOTH,), ("True",), set()),
    "retrieved documents": ({"documents": [{"title": "Pier", "text": C}], "question": Q, "answer": A}, (f"Pier\n{BOTH}",), (A,), set()),
    "arc": ({"question": W, "choices": {"text": ["lamp", "pier"], "label": ["A", "B"]}, "answerKey": "A"}, (SCENE,), ("A",), set()),
    "commonsense as objects": ({"question": W, "choices": LAMP, "answerKey": "A"}, (SCENE,), ("A",), set()),
    "mmlu": ({"question": "Which burns?", "choices": ["lamp", "pier"], "answer": 0, "subject": "fire"}, (SCENE,), ("A",), {"subject"}),
    "mmlu as a table": ({"question": "Which burns?", "A": "lamp", "B": "pier", "answer": "A"}, (SCENE,), ("A",), set()),
    "medqa": ({"question": W, "options": {"A": "lamp", "B": "pier"}, "answer": "lamp", "answer_idx": "A"}, (SCENE,), ("A",), set()),
    "big-bench": ({"input": "Which burns?", "target_scores": {"lamp": 1, "pier": 0}}, (SCENE,), ("A",), set()),
    "flan": ({"inputs": Q, "targets": A, "task": "lamps"}, (Q,), (A,), {"task"}),
    "self-instruct": ({"instruction": Q, "instances": [{"input": C, "output": A}], "name": "lamp"}, (f"{Q}\n\n{C}",), (A,), {"name"}),
    "templated text": ({"text": f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n{A}<|im_end|>"}, (Q,), (A,), set()),
    "evals": ({"input": [system(C), *openai(Q)], "ideal": [A, "Ines."]}, (C, Q), (A,), set()),
}  # fmt: skip


@pytest.fixture(scope="module")
def chatml(byte_tokenizer: Any) -> ChatTemplate:
    """A template that writes every role and trims nothing."""
    return ChatTemplate.resolve(byte_tokenizer, "chatml")


def test_there_are_forty_layouts():
    assert len(LAYOUTS) >= 40


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_of_a_public_layout_is_asked_trained_on_and_left_over_as_it_should(
    chatml: ChatTemplate, layout: str
) -> None:
    row, asked, said, left = LAYOUTS[layout]
    converter = Converter(make_sources(["a.jsonl"])[0])
    (record,) = converter.convert(row)
    messages = [{"role": role, "content": content} for role, content in record.turns]
    for turn in record.unlearned:
        messages[turn]["train"] = False
    trained = [segment.text for segment in chatml.segments(messages) if segment.target == RESPONSE]
    assert tuple(trained) == said
    contents = [message["content"] for message in messages]
    assert sorted(contents) == sorted((*asked, *said)) and [text for text in contents if text in asked] == list(asked)
    assert {entry["field"] for entry in converter.leftovers.listed(converter.formats)} == left
