"""Formats of one question and its answers. Tried after those of whole conversations; more specific formats first."""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from al.pool.formats.around import in_context
from al.pool.formats.base import (
    AROUND,
    RESPONSES,
    Example,
    Row,
    RowError,
    answers,
    ask,
    has,
    joined,
    kind,
    response_field,
    row_format,
    text,
    with_input,
)
from al.pool.formats.choices import ASKED, CHOICES, KEYS, LETTERS, Choices, is_multiple_choice, read_choices
from al.pool.formats.turns import Notes, read_turns, unanswered


@row_format("self_instruct", "instruction, instances: [{input, output}, …]", lambda names: "instances" in names,
            ("instruction", "instances"), AROUND)  # fmt: skip
@in_context
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
            ("definition", "inputs", "targets"), (*_TASK, *AROUND))  # fmt: skip
@in_context
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
            ("instruction", "context", "response"), AROUND)  # fmt: skip
@in_context
def _dolly(row: Row) -> list[Example]:
    question = with_input(text(row, "instruction"), text(row, "context", ""))
    return ask(question, answers(row, "response"), ("instruction", "context", "response"))


@row_format("multiple_choice", "question (or question_stem), choices or options (texts, or objects of text and label) or columns A, "
            "B, …, and answerKey or answer", is_multiple_choice, ("question", "choices", "answerKey"),
            (*ASKED, *CHOICES, *LETTERS, *KEYS, *AROUND))  # fmt: skip
@in_context
def _multiple_choice(row: Row) -> list[Example]:
    asked = next(name for name in ASKED if name in row)
    choices, used = read_choices(row)
    given = next((name for name in KEYS if row.get(name) not in (None, "", [])), None)
    question = "\n".join([text(row, asked), "", *choices.lines])
    used = (asked, *used, *(name for name in KEYS if name == given or row.get(name) in (None, "")))
    if given is None or (row[given] == -1 and not isinstance(row[given], bool)):
        return ask(question, [], used)
    at = choices.position(row[given], given)
    if at is None:  # a free-text answer
        return ask(question, answers(row, given), used)
    used += tuple(name for name in KEYS if name in row and choices.position(row[name], name) == at)
    return ask(question, choices.accepted(at), used)


@row_format("alpaca", "instruction, input, output or response", lambda names: "instruction" in names,
            ("instruction", "input", "output"), ("question", "prompt", *RESPONSES, *AROUND))  # fmt: skip
@in_context
def _alpaca(row: Row) -> list[Example]:
    more = joined(text(row, "prompt", ""), text(row, "question", ""), text(row, "input", ""))
    question = with_input(text(row, "instruction", "" if more else None), more)
    given = response_field(row, ("output", "response", "answer", "completion", "solution", *RESPONSES))
    # Code Alpaca repeats its `output` as `response`; a repetition is not metadata.
    twice = [name for name in ("output", "response") if row.get(name) in (None, "", row.get(given))]
    return ask(question, answers(row, given), ("instruction", "input", "question", "prompt", given, *twice))


_TARGETS = ("target", "target_scores")


def _is_evals(names: Collection[str]) -> bool:
    return "input" in names and (
        "ideal" in names or not ({"prompt", "query", "problem", *_TARGETS, *RESPONSES} & set(names))
    )


@row_format("evals", "input: a string or [{role, content}, …], ideal: an answer or a list of accepted ones", _is_evals,
            ("input", "ideal"), AROUND)  # fmt: skip
@in_context
def _evals(row: Row) -> list[Example]:
    if "ideal" not in row:
        raise RowError("missing_field", "ideal: missing; expected an answer, a list of answers, or null for none")
    value, responses = row.get("input"), answers(row, "ideal")
    if not isinstance(value, list):
        return ask(text(row, "input"), responses, ("input", "ideal"))
    notes = Notes()
    turns = unanswered(value, "input", "ideal", notes)
    turns += [("assistant", response) for response in responses[:1]]
    return [notes.example(turns, ("input", "ideal"), responses[1:])]


@row_format("input_target", "input, target (an answer or several) or target_scores: {choice: score}",
            lambda names: "input" in names and not set(_TARGETS).isdisjoint(names), ("input", "target"),
            (*_TARGETS, *AROUND))  # fmt: skip
@in_context
def _input_target(row: Row) -> list[Example]:
    scores, used = row.get("target_scores"), ("input", *_TARGETS)
    if not scores:
        return ask(text(row, "input"), answers(row, "target"), ("input", "target"))
    if not isinstance(scores, dict) or not all(isinstance(score, (int, float)) for score in scores.values()):
        raise RowError("wrong_type", f"target_scores: expected an object of choices and scores, found {kind(scores)}")
    choices = Choices.of(list(scores), "target_scores")
    question = text(row, "input")
    if not all(said in question for said in scores):
        question = "\n".join([question, "", *choices.lines])
    best = max(scores, key=lambda said: scores[said])
    return ask(question, choices.accepted(choices.texts.index(best)), used)


_PROMPTS = ("prompt", "query", "question", "problem", "input")


@row_format("prompt_completion", "prompt or query or problem or input, completion or response or output or answer or "
            "solution; strings or lists of messages",
            lambda names: not {"prompt", "query", "problem", "input"}.isdisjoint(names), ("prompt", "completion"),
            (*_PROMPTS, *RESPONSES, *AROUND))  # fmt: skip
@in_context
def _prompt_completion(row: Row) -> list[Example]:
    asked = [name for name in _PROMPTS if row.get(name) is not None] or [next(n for n in _PROMPTS if n in row)]
    given = response_field(row, ("solution", *RESPONSES) if asked[0] == "problem" else RESPONSES)
    if not isinstance(row.get(asked[0]), list):
        question = text(row, asked[0]) if len(asked) == 1 else joined(*(text(row, name) for name in asked))
        return ask(question, answers(row, given), (*asked, given))
    used, notes = (asked[0], given), Notes()
    turns = read_turns(row[asked[0]], asked[0], notes)
    if isinstance(response := row.get(given), list) and any(isinstance(item, dict) for item in response):
        return [notes.example(turns + read_turns(response, given, notes), used)]
    responses = answers(row, given)
    return [notes.example(turns + [("assistant", response) for response in responses[:1]], used, responses[1:])]


@row_format("squad", "context, question, answers: {text: [answer, …]}", has("context", "question", "answers"),
            ("context", "question", "answers"), AROUND)  # fmt: skip
@in_context
def _squad(row: Row) -> list[Example]:
    value = row.get("answers")
    if not isinstance(value, dict) or not isinstance(value.get("text"), list):
        raise RowError("wrong_type", f"answers.text: expected a list of answers, found {kind(value)}")
    found = list(dict.fromkeys(answers(value, "text")))
    question = f"{text(row, 'context')}\n\n{text(row, 'question')}"
    return ask(question, found, ("context", "question", "answers"))


@row_format("question_answer", "question, answer or response", lambda names: "question" in names,
            ("question", "answer"), (*RESPONSES, "answers", *AROUND))  # fmt: skip
@in_context
def _question_answer(row: Row) -> list[Example]:
    given = response_field(row, ("answer", "response", "completion", "output", "solution", "answers", *RESPONSES))
    return ask(text(row, "question"), answers(row, given), ("question", given))


@row_format("flan", "inputs, targets (or inputs_pretokenized, targets_pretokenized)",
            lambda names: has("inputs", "targets")(names) or has("inputs_pretokenized", "targets_pretokenized")(names),
            ("inputs", "targets"), ("inputs_pretokenized", "targets_pretokenized", *AROUND))  # fmt: skip
@in_context
def _flan(row: Row) -> list[Example]:
    if "inputs_pretokenized" in row:  # P3 also has the ids of a T5 tokenizer
        used = ("inputs_pretokenized", "targets_pretokenized", "inputs", "targets")
        return ask(text(row, used[0]).strip(), [said.strip() for said in answers(row, used[1])], used)
    return ask(text(row, "inputs"), answers(row, "targets"), ("inputs", "targets"))
