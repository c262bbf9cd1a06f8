"""Formats of one question and its answers. Tried after those of whole conversations; more specific formats first."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec.structs import replace

from al.pool.formats.base import (
    RESPONSES,
    Example,
    Row,
    RowError,
    answers,
    ask,
    has,
    kind,
    response_field,
    row_format,
    text,
    with_input,
)
from al.pool.formats.turns import read_turns, unanswered

_SYSTEM = ("system", "system_prompt")


def _system(row: Row) -> str:
    for name in _SYSTEM:
        if name in row and (said := text(row, name, "")).strip():
            return said
    return ""


@row_format("self_instruct", "instruction, instances: [{input, output}, …]", lambda names: "instances" in names,
            ("instruction", "instances"))  # fmt: skip
def _self_instruct(row: Row) -> list[Example]:
    instances = row.get("instances")
    if not isinstance(instances, list) or not instances or not all(isinstance(item, dict) for item in instances):
        raise RowError("wrong_type", f"instances: expected objects with input and output, found {kind(instances)}")
    examples = []
    for instance in instances:
        question = with_input(text(row, "instruction"), text(instance, "input", ""))
        examples += ask(question, answers(instance, "output"), ("instruction", "instances"))
    return examples


_TASK = ("Definition", "Instances", "Positive Examples", "Negative Examples")


def _defined(definition: str, given: str) -> str:
    """The zero-shot encoding of Super-NaturalInstructions (Wang et al. 2022, arXiv 2204.07705, figure 4)."""
    return f"Definition: {definition.strip()}\n\nNow complete the following example -\nInput: {given.strip()}\nOutput:"


@row_format("natural_instructions", "Definition, Instances: [{id, input, output: [text, …]}, …] (a task file), or "
            "definition, inputs, targets",
            lambda names: has("Definition", "Instances")(names) or has("definition", "inputs", "targets")(names),
            ("definition", "inputs", "targets"))  # fmt: skip
def _natural_instructions(row: Row) -> list[Example]:
    if "Instances" not in row:
        question = _defined(text(row, "definition"), text(row, "inputs"))
        return ask(question, answers(row, "targets"), ("definition", "inputs", "targets"))
    definition, instances = row.get("Definition"), row.get("Instances")
    definition = "\n".join(answers(row, "Definition")) if isinstance(definition, list) else text(row, "Definition")
    if not isinstance(instances, list) or not instances:
        raise RowError("wrong_type", f"Instances: expected objects with input and output, found {kind(instances)}")
    shared = {key: value for key, value in row.items() if key not in _TASK and len(str(value)) <= 200}
    shown = sum(len(row[name]) for name in _TASK[2:] if isinstance(row.get(name), list))
    examples: list[Example] = []
    for index, instance in enumerate(instances):
        if not isinstance(instance, dict) or not isinstance(instance.get("input"), str):
            raise RowError("wrong_type", f"Instances[{index}].input: expected a string, found {kind(instance)}")
        found = ask(_defined(definition, instance["input"]), answers(instance, "output"), _TASK)[0]
        adjusted = ("task_examples_left_out",) * shown if not examples else ()
        own = {key: value for key, value in instance.items() if key not in ("input", "output")}
        examples.append(replace(found, adjusted=adjusted, metadata={**shared, **own}))
    return examples


@row_format("dolly", "instruction, context, response", has("instruction", "context", "response"),
            ("instruction", "context", "response"))  # fmt: skip
def _dolly(row: Row) -> list[Example]:
    question = with_input(text(row, "instruction"), text(row, "context", ""))
    return ask(question, answers(row, "response"), ("instruction", "context", "response"))


@row_format("alpaca", "instruction, input, output or response", lambda names: "instruction" in names,
            ("instruction", "input", "output"))  # fmt: skip
def _alpaca(row: Row) -> list[Example]:
    question = with_input(text(row, "instruction"), text(row, "input", ""))
    given = response_field(row, ("output", "response", "answer", "completion", "solution"))
    # Code Alpaca repeats its `output` as `response`; a repetition is not metadata.
    twice = [name for name in ("output", "response") if row.get(name) in (None, "", row.get(given))]
    used = ("instruction", "input", given, *_SYSTEM, *twice)
    return ask(question, answers(row, given), used, _system(row))


@row_format("multiple_choice", "question (or question_stem), choices: {text, label} or [text, …], answerKey or answer",
            lambda names: "choices" in names and bool({"question", "question_stem"} & set(names))
            and bool({"answerKey", "answer"} & set(names)),
            ("question", "choices", "answerKey"))  # fmt: skip
def _multiple_choice(row: Row) -> list[Example]:
    asked = "question" if "question" in row else "question_stem"
    given = "answerKey" if "answerKey" in row else "answer"
    labels, texts = _choices(row.get("choices"))
    question = "\n".join(
        [text(row, asked), "", *(f"{label}. {said}" for label, said in zip(labels, texts, strict=True))]
    )
    answer, used = row.get(given), (asked, "choices", given)
    if answer is None or (answer == "" and isinstance(answer, str)) or answer == -1:
        return ask(question, [], used)
    at = answer if isinstance(answer, int) and not isinstance(answer, bool) else None
    if isinstance(answer, str):
        at = next((where.index(answer.strip()) for where in (labels, texts) if answer.strip() in where), None)
        if at is None:  # a free-text answer
            return ask(question, [answer], used)
    if at is None or not 0 <= at < len(labels):
        raise RowError(
            "wrong_type", f"{given}: expected one of {', '.join(labels)} or its number, found {answer!r:.60}"
        )
    return ask(question, [labels[at], texts[at], f"{labels[at]}. {texts[at]}"], used)


def _choices(value: Any) -> tuple[list[str], list[str]]:
    labels, texts = (value.get("label"), value.get("text")) if isinstance(value, dict) else (None, value)
    if not isinstance(texts, list) or not texts or not all(isinstance(said, str) for said in texts) or len(texts) > 26:
        raise RowError("wrong_type", f"choices: expected a list of texts, or text and label, found {kind(value)}")
    if not isinstance(labels, list) or len(labels) != len(texts) or not all(isinstance(item, str) for item in labels):
        labels = [chr(ord("A") + index) for index in range(len(texts))]
    return labels, texts


def _is_evals(names: Collection[str]) -> bool:
    return "input" in names and ("ideal" in names or not ({"prompt", "query", "problem", *RESPONSES} & set(names)))


@row_format("evals", "input: a string or [{role, content}, …], ideal: an answer or a list of accepted ones", _is_evals,
            ("input", "ideal"))  # fmt: skip
def _evals(row: Row) -> list[Example]:
    if "ideal" not in row:
        raise RowError("missing_field", "ideal: missing; expected an answer, a list of answers, or null for none")
    value, responses = row.get("input"), answers(row, "ideal")
    if not isinstance(value, list):
        return ask(text(row, "input"), responses, ("input", "ideal"))
    turns = unanswered(value, "input", "ideal")
    turns += [("assistant", response) for response in responses[:1]]
    return [Example(turns, ("input", "ideal"), responses[1:])]


_PROMPTS = ("prompt", "query", "problem", "input")


@row_format("prompt_completion", "prompt or query or problem or input, completion or response or output or answer or "
            "solution; strings or lists of messages", lambda names: not set(_PROMPTS).isdisjoint(names),
            ("prompt", "completion"))  # fmt: skip
def _prompt_completion(row: Row) -> list[Example]:
    asked = next((name for name in _PROMPTS if name in row), "prompt")
    given = response_field(row, ("solution", *RESPONSES) if asked == "problem" else RESPONSES)
    used = (asked, given, *_SYSTEM)
    if not isinstance(row.get(asked), list):
        return ask(text(row, asked), answers(row, given), used, _system(row))
    turns = read_turns(row[asked], asked)
    if isinstance(response := row.get(given), list) and any(isinstance(item, dict) for item in response):
        return [Example(turns + read_turns(response, given), used)]
    responses = answers(row, given)
    return [Example(turns + [("assistant", response) for response in responses[:1]], used, responses[1:])]


@row_format("squad", "context, question, answers: {text: [answer, …]}", has("context", "question", "answers"),
            ("context", "question", "answers"))  # fmt: skip
def _squad(row: Row) -> list[Example]:
    value = row.get("answers")
    if not isinstance(value, dict) or not isinstance(value.get("text"), list):
        raise RowError("wrong_type", f"answers.text: expected a list of answers, found {kind(value)}")
    found = list(dict.fromkeys(answers(value, "text")))
    question = f"{text(row, 'context')}\n\n{text(row, 'question')}"
    return ask(question, found, ("context", "question", "answers"))


@row_format("question_answer", "question, answer or response", lambda names: "question" in names,
            ("question", "answer"))  # fmt: skip
def _question_answer(row: Row) -> list[Example]:
    given = response_field(row, ("answer", "response", "completion", "output", "solution", "answers"))
    return ask(text(row, "question"), answers(row, given), ("question", given, *_SYSTEM), _system(row))


@row_format("flan", "inputs, targets (or inputs_pretokenized, targets_pretokenized)",
            lambda names: has("inputs", "targets")(names) or has("inputs_pretokenized", "targets_pretokenized")(names),
            ("inputs", "targets"))  # fmt: skip
def _flan(row: Row) -> list[Example]:
    if "inputs_pretokenized" in row:  # P3 also has the ids of a T5 tokenizer
        used = ("inputs_pretokenized", "targets_pretokenized", "inputs", "targets")
        return ask(text(row, used[0]).strip(), [said.strip() for said in answers(row, used[1])], used)
    return ask(text(row, "inputs"), answers(row, "targets"), ("inputs", "targets"))
