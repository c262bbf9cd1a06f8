"""What the models write themselves after a few dev prompts, so that a reader of the report sees a gain and not only its number.

The prompts are the same in every round as long as the pool holds them out; base answers them once, each round's adapter once.
Greedy, with `generate.max_new_tokens`. Test is never generated from: whoever reads answers begins to tune for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from al.engine.models import Models
from al.evaluation.breakdown import group_sources
from al.excerpt import cut, prompt_and_response
from al.pool.store import Message, Pool, locate
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from selection.holdout import DEV
from trainer.gate import limits

FILE = "generations.json"
TEXT_LIMIT = 2_000


def task_groups(session: Session, pool: Pool, rows: np.ndarray) -> dict[str, str]:
    """{source: task group} of the sources at `rows`: by `evaluate.groups`, else as data presets wrote in their metadata."""
    known = {}
    for source, metadata in zip(pool.sources[rows].tolist(), pool.metadata(rows), strict=True):
        if isinstance(metadata.get("group"), str):
            known.setdefault(source, metadata["group"])
    names = np.unique(pool.sources[rows]).tolist()
    return group_sources(names, session.config.evaluate.groups, known)


def choose_prompts(session: Session, prepared: Prepared, before: Artifact | None) -> np.ndarray:
    """Rows of the at most `evaluate.generations` dev examples to generate from: those of the round before (its generations) that are
    still held out, then others, taking groups in turn and in a group its sources."""
    pool = prepared.open_pool()
    rows = np.flatnonzero(np.load(prepared.split.path / "split.npy") == DEV)
    count = session.config.evaluate.generations
    if not count or not len(rows):
        return rows[:0]
    group_of, sources = task_groups(session, pool, rows), pool.sources[rows].tolist()
    order = turns([group_of.get(source, "") for source in sources], sources, pool.keys[rows])
    asked = [answer["id"] for answer in before.json(FILE)["answers"]] if before is not None else []
    position = {key: i for i, key in enumerate(pool.ids[rows].tolist())}
    kept = [position[key] for key in asked if key in position]
    return rows[np.array([*kept, *(i for i in order.tolist() if i not in kept)], dtype=np.int64)[:count]]


def turns(groups: Sequence[str], sources: Sequence[str], keys: np.ndarray) -> np.ndarray:
    """Positions in the order of drawing: the first of every group, then the second, …; inside a group the first of every source, …

    `keys` (n,) uint64 decide all else.
    """
    mixed = keys * np.uint64(
        0x9E3779B97F4A7C15
    )  # rows are sorted by key already: another order that the keys alone decide
    by_source: dict[tuple[str, str], list[int]] = {}
    for position in np.argsort(mixed, kind="stable").tolist():
        by_source.setdefault((groups[position], sources[position]), []).append(position)
    by_group: dict[str, list[int]] = {}
    for depth in range(max((len(found) for found in by_source.values()), default=0)):
        for (group, _), found in by_source.items():
            if depth < len(found):
                by_group.setdefault(group, []).append(found[depth])
    longest = max((len(found) for found in by_group.values()), default=0)
    return np.array(
        [found[depth] for depth in range(longest) for found in by_group.values() if depth < len(found)], dtype=np.int64
    )


def generate(session: Session, prepared: Prepared, adapter: Artifact | None, rows: np.ndarray, label: str) -> Artifact:
    """Answers of base (adapter None) or base + adapter. Publishes `generations.json`: {"answers": [{"id", "text", "tokens"}]}; the text
    is null where the prompt and `generate.max_new_tokens` do not fit the model's context."""
    ids = prepared.open_pool().ids[rows].tolist()

    def build(out: Path, scratch: Path) -> None:
        """Write the answers."""
        conversations = prepared.open_pool().messages(rows)
        with session.progress(label, len(rows), "prompts") as progress:
            (answers,) = session.gather(partial(_write, session.adapter_path(adapter)), [conversations], progress)
        write_json(out / FILE, {"answers": [{"id": key, **answer} for key, answer in zip(ids, answers, strict=True)]})

    return session.run.stage(
        "generations",
        version=1,
        inputs={"adapter": adapter},
        params={"model": session.model_params(), "max_new_tokens": session.config.generate.max_new_tokens, "ids": ids},
        build=build,
        label=label,
    )


@contextmanager
def _write(
    adapter: Path | None, models: Models
) -> Iterator[Callable[[Sequence[Sequence[Message]], Callable[[int], None]], list[dict[str, Any]]]]:
    with models.adapter(adapter) as model:
        yield lambda conversations, progress: write_answers(
            models, model, prompt_tokens(models, conversations), progress
        )


def prompt_tokens(models: Models, conversations: Sequence[Sequence[Message]]) -> list[list[int] | None]:
    """Token ids of the prompt of each conversation that ends in a response; None for one that the template refuses."""
    found = models.template.prompt_ids_batch([messages[:-1] for messages in conversations])
    return [ids if isinstance(ids, list) else None for ids in found]


def write_answers(
    models: Models, model: Any, prompts: Sequence[list[int] | None], progress: Callable[[int], None]
) -> list[dict[str, Any]]:
    """The model's greedy answer to each prompt: {"text", "tokens", "cut": whether `generate.max_new_tokens` ended it}; all None where both
    do not fit the model's context."""
    from trainer.forward import causal_lm
    from trainer.generate import generate as write

    config = models.config.generate.model_copy(update={"samples": 0})
    limit = limits.context(causal_lm(model).config)
    context = np.inf if limit is None else limit[0]
    fits = [i for i, ids in enumerate(prompts) if ids and len(ids) + config.max_new_tokens <= context]
    progress(len(prompts) - len(fits))
    answers: list[dict[str, Any]] = [{"text": None, "tokens": None, "cut": None} for _ in prompts]
    written = write(
        model,
        [prompts[i] for i in fits],
        config,
        end_ids=models.template.end_ids,
        seed=models.config.seed,
        progress=progress,
    )
    for i, (answer,) in zip(fits, written, strict=True):
        text = models.tokenizer.decode(answer.tolist(), skip_special_tokens=True).strip()
        cut_off = len(answer) == config.max_new_tokens and answer[-1] not in models.template.end_ids
        answers[i] = {"text": text, "tokens": len(answer), "cut": bool(cut_off)}
    return answers


def side_by_side(pool: Pool, models: Mapping[str, Artifact], groups: Mapping[str, str]) -> dict[str, Any]:
    """{"max_new_tokens", "prompts", "equal": {model: answers that are accepted}, "rows"} of the models' generations, among them "selected".

    A row per prompt: {"id", "source", "group", "prompt", "reference", "answers": {model: {"text", "tokens", "equal"}}}. Texts are cut at
    2,000 characters. `equal`: the same as the reference or another accepted answer but for the spaces around it. A model that was given
    other prompts, in a round before the config changed, has no answer to them.
    """
    written = {
        name: {answer["id"]: answer for answer in artifact.json(FILE)["answers"]} for name, artifact in models.items()
    }
    rows, _ = locate(pool.keys, np.array([int(key, 16) for key in written["selected"]], dtype=np.uint64))
    found = []
    for row, messages, others in zip(rows.tolist(), pool.messages(rows), pool.alternatives(rows), strict=True):
        key, source = str(pool.ids[row]), str(pool.sources[row])
        accepted = {text.strip() for text in (messages[-1]["content"], *(others or []))}
        answers = {name: _shown(by_id.get(key), accepted) for name, by_id in written.items()}
        prompt, reference = (cut(text, TEXT_LIMIT) for text in prompt_and_response(messages))
        asked = {"id": key, "source": source, "group": groups.get(source), "prompt": prompt, "reference": reference}
        found.append({**asked, "answers": answers})
    equal = {name: sum(bool(row["answers"][name]["equal"]) for row in found) for name in models}
    limit = models["selected"].manifest["params"]["max_new_tokens"]
    return {"max_new_tokens": limit, "prompts": len(found), "equal": equal, "rows": found}


def _shown(answer: Mapping[str, Any] | None, accepted: set[str]) -> dict[str, Any]:
    if answer is None or answer["text"] is None:
        return {"text": None, "tokens": None, "equal": None}
    return {
        "text": cut(answer["text"], TEXT_LIMIT),
        "tokens": answer["tokens"],
        "equal": answer["text"].strip() in accepted,
    }
