"""`generate`: a run's models answer prompts of the command line or a file, or chat in the terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from al.commands.options import Options
from al.errors import ConfigError
from al.excerpt import cut
from al.program import PROGRAM
from al.prompting.answers import Answering, Sampling
from al.prompting.chat import chat
from al.prompting.models import find_models, load_base
from al.prompting.prompts import Messages, conversations
from al.run.artifacts import Artifact
from al.run.progress import Progress, stop_on_signals
from al.run.store import Run
from al.terminal import show
from trainer.template import ChatTemplate
from trainer.tokenizer import load_tokenizer

SHOWN_PROMPT = 200


@dataclass(frozen=True)
class Prompted:
    """The options of `generate`. `models`: names separated by commas; `temperature` 0: the most probable tokens."""

    prompts: tuple[str, ...] = ()
    file: Path | None = None
    models: str = "selected"
    system: str | None = None
    answers: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    seed: int | None = None


def answer_prompts(options: Options, asked: Prompted) -> dict[str, Any] | None:
    """Let models of a run answer. Writes nothing into the run, so it also works while a round is under way.

    With one prompt, one answer and text output, answers are printed as they are written. Without prompts and with a terminal it is a
    chat, and the result is None.

    Returns:
        {"run", "models", "streamed", "answers": [{"messages", "answers": {model: [{"text", "tokens", "finished"}]}}]}.

    Raises:
        ConfigError: a model that the run does not have; several answers at temperature 0; nothing to answer. DataError: a file that
            cannot be read, or a prompt that template or context do not allow. RunStateError: no round is finished.
    """
    if asked.answers > 1 and asked.temperature == 0:
        raise ConfigError(
            f"--answers {asked.answers}: at temperature 0 all answers are the same; add --temperature 0.7."
        )
    options = replace(options, run_path=options.existing_run())
    questions = _questions(options, asked)
    config = options.load_config()
    with Run.read(options.run_path) as run:
        names = [name.strip() for name in asked.models.split(",") if name.strip()]
        models = find_models(run, config, names, "--compare")
    sampling = Sampling(
        asked.answers,
        asked.temperature,
        asked.top_p,
        asked.max_new_tokens or config.generate.max_new_tokens,
        config.seed if asked.seed is None else asked.seed,
    )
    tokenizer = load_tokenizer(config.model)
    template = ChatTemplate.resolve(tokenizer, config.model.chat_template)
    answering = Answering(load_base(config, options.as_json), tokenizer, template)
    if questions is None:
        streams = {
            name: lambda messages, adapter=adapter: answering.stream(adapter, messages, sampling)
            for name, adapter in models.items()
        }
        chat(streams, asked.system, lambda: input("> "), _show)
        return None
    streamed = len(questions) == asked.answers == 1 and not options.as_json
    answer = _stream if streamed else _answer
    written = {name: answer(answering, name, adapter, questions, sampling, options) for name, adapter in models.items()}
    return {
        "run": str(options.run_path),
        "models": list(models),
        "streamed": streamed,
        "answers": [
            {"messages": messages, "answers": {name: of_model[i] for name, of_model in written.items()}}
            for i, messages in enumerate(questions)
        ],
    }


def _questions(options: Options, asked: Prompted) -> list[Messages] | None:
    """What to answer; None for a chat."""
    if asked.prompts or asked.file is not None:
        found = conversations(asked.prompts, asked.file, asked.system)
        if not found:
            raise ConfigError(f"--file {asked.file}: expected prompts, found none.")
        return found
    if sys.stdin.isatty():
        if options.as_json:
            raise ConfigError("--json prints one document: give a prompt or --file.")
        return None
    text = sys.stdin.read().strip()
    if not text:
        raise ConfigError(f'expected a prompt: {PROGRAM} generate "…", --file FILE, or a chat in a terminal.')
    return conversations([text], None, asked.system)


def _answer(
    answering: Answering,
    name: str,
    adapter: Artifact | None,
    questions: list[Messages],
    sampling: Sampling,
    options: Options,
) -> list[list[dict[str, Any]]]:
    stop_on_signals()
    with Progress(f"answer with {name}", len(questions), "prompts", quiet=options.as_json) as progress:
        return answering.answer(adapter, questions, sampling, progress)


def _stream(
    answering: Answering,
    name: str,
    adapter: Artifact | None,
    questions: list[Messages],
    sampling: Sampling,
    options: Options,
) -> list[list[dict[str, Any]]]:
    _show(f"{name}: ")
    text = ""
    for piece in answering.stream(adapter, questions[0], sampling):
        text += piece
        _show(piece)
    _show("\n")
    return [[{"text": text.strip()}]]


def _show(text: str) -> None:
    """Print a piece of an answer at once. Control characters become visible signs, so a model cannot drive the terminal."""
    show(text, end="")


def describe_answers(document: dict[str, Any] | None) -> str:
    """The answers as text; empty where they were printed as they were written."""
    if document is None or document["streamed"]:
        return ""
    lines = []
    for number, entry in enumerate(document["answers"], 1):
        prompt = " ".join(entry["messages"][-1]["content"].split())
        lines.append(f"{number}. {cut(prompt, SHOWN_PROMPT)}")
        for name, answers in entry["answers"].items():
            for answer in answers:
                end = "" if answer["finished"] else " …"
                lines.append(f"   {name}: {answer['text']}{end}".replace("\n", "\n     "))
    return "\n".join(lines)
