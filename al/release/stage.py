"""Publishes the adapter's folder as the last stage of a round, or of a plain fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from al.config import difference
from al.lineage.history import SELECTED, History
from al.lineage.outcomes import find_rows
from al.preparation.stages import Tokenized
from al.release.card import card
from al.release.data import data_part
from al.release.portable import portable, portable_name
from al.run import rounds
from al.run.artifacts import Artifact, write_json
from al.run.base import refuse_other_base
from al.run.rounds import ADAPTER
from al.run.session import Session
from al.terminal import displayable
from trainer.tokens import TokenTable

SCHEMA = 1
BUDGET = ("asked", "unit", "amount", "examples", "tokens", "target_tokens")
TRAINED = ("steps", "examples", "tokens", "target_tokens")
EVALUATED = ("examples", "sources", "models", "differences", "measures", "cut")
"""What of an evaluation in summary.json the card shows; a part that the summary lacks is left out."""
MADE_FROM = ("pool", "tokens", "split", "selection", "packs", "train")


def publish_adapter(session: Session, prepared: Tokenized, roles: Mapping[str, Artifact], number: int) -> Artifact:
    """Publish the folder of round `number`, whose report is published, and link it as `rounds/NNN/adapter`."""
    report, line = rounds.required(session.run, number, "report"), History.recorded(session.run, SELECTED, number + 1)
    past = _rounds_so_far(session, number)

    def numbers() -> dict[str, Any]:
        """What the summary of the round says."""
        summary = report.json("summary.json")
        parts: dict[str, Any] = {part: _evaluated(summary[part]) for part in ("evaluation", "dev")}
        if summary["answers"] is not None:
            answers = {
                part: _evaluated(summary["answers"][part]) for part in ("test", "dev") if summary["answers"][part]
            }
            parts["answers"] = answers | {"max_new_tokens": summary["answers"]["max_new_tokens"]}
        budget = {key: summary["budget"][key] for key in BUDGET}
        return {"round": number, "rounds": past, "reviewed": summary["review"] is not None, "budget": budget, **parts}

    def rows() -> np.ndarray:
        """Pool rows of the examples that the adapter was trained on, in all rounds that it continues."""
        if not roles["train"].manifest["inputs"]["adapter"]:
            return np.load(roles["packs"].path / "rows.npy")
        return find_rows(prepared.open_pool().keys, line.all_picked())

    artifact = _publish(session, prepared, roles, {"report": report}, {"round": number, "rounds": past}, numbers, rows)
    rounds.link(session.run.path, number, ADAPTER, artifact.path / ADAPTER)
    return artifact


def publish_fine_tuned(
    session: Session, data: Tokenized, roles: Mapping[str, Artifact], evaluation: Mapping[str, Any]
) -> Artifact:
    """Publish the folder of a plain fine-tuning. `roles`: packs, train and the evaluations; `evaluation`: their comparison on test."""
    evaluated = {role: artifact for role, artifact in roles.items() if role.startswith("evaluate.")}
    bootstrap = session.config.evaluate.bootstrap
    return _publish(
        session,
        data,
        roles,
        evaluated,
        {"bootstrap": bootstrap},
        lambda: {"round": None, "evaluation": _evaluated(displayable(evaluation))},
        lambda: np.load(roles["packs"].path / "rows.npy"),
    )


def _publish(
    session: Session,
    data: Tokenized,
    roles: Mapping[str, Artifact],
    evaluated: Mapping[str, Artifact],
    params: Mapping[str, Any],
    numbers: Callable[[], dict[str, Any]],
    rows: Callable[[], np.ndarray],
) -> Artifact:
    config = session.config.model_dump(
        mode="json", exclude={"engine", "artifacts"}
    )  # who did the work and where is no part of it
    refuse_other_base(roles["train"], session.config.model)

    def build(out: Path, scratch: Path) -> None:
        """Write the folder."""
        from trainer.published.folder import write_folder

        folder, model, template = out / ADAPTER, session.config.model, session.template
        folder.mkdir()
        trained, base = roles["train"].path / "adapter", portable_name(model.name)
        likeness = write_folder(folder, trained, session.tokenizer, template, base, model.trust_remote_code)
        ends = {"name": template.name, "hash": template.hash, "end_ids": sorted(template.end_ids)}
        document = {**_origin(session, data, roles, rows()), **numbers(), "chat_template": {**ends, **asdict(likeness)}}
        write_json(folder / "winnow.json", document)
        text = yaml.safe_dump(portable(config), sort_keys=False, allow_unicode=True)
        (folder / "winnow.yaml").write_text(text, encoding="utf-8")
        (folder / "README.md").write_text(card(document), encoding="utf-8")

    return session.run.stage(
        "adapter",
        version=1,
        inputs={"train": roles["train"], "pool": data.pool, "tokens": data.tokens, **evaluated},
        params={"run": session.run.path.name, "model": session.model_params(), "config": config, **params},
        build=build,
        label="publish adapter",
    )


def _origin(session: Session, data: Tokenized, roles: Mapping[str, Artifact], rows: np.ndarray) -> dict[str, Any]:
    """The part of winnow.json that every adapter has: base, data at the pool's `rows`, training, files and versions."""
    model, train, pool = session.config.model, roles["train"], data.open_pool()
    name = portable_name(model.name)
    made_from = {"pool": data.pool, "tokens": data.tokens, "split": data.split, **roles}
    return {
        "schema": SCHEMA,
        "run": session.run.path.name,
        "base": {**model.model_dump(mode="json"), "name": name, "local": Path(model.name).is_dir() and "/" not in name},
        "lora": session.config.lora.model_dump(mode="json"),
        "seed": session.config.seed,
        "data": data_part(pool, rows, np.asarray(TokenTable.open(data.tokens.path).lengths)),
        "training": {key: value for key, value in train.json("train.json").items() if key in TRAINED},
        "files": [{key: file[key] for key in ("file", "sha256", "rows")} for file in pool.stats["files"]],
        "artifacts": {role: made_from[role].fingerprint for role in MADE_FROM if role in made_from},
        "versions": train.manifest["versions"],
    }


def _rounds_so_far(session: Session, number: int) -> list[dict[str, Any]]:
    """Of each round up to this one its budget, and what of the config changed since the round before: {key: [before, after]}."""
    found, before = [], None
    for entry in rounds.all_rounds(session.run):
        if entry.number <= number:
            config = portable({key: value for key, value in entry.config.items() if key != "engine"})
            changed = difference(before, config) if before is not None else {}
            found.append({"round": entry.number, "budget": entry.budget, "changed": changed})
            before = config
    return found


def _evaluated(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: part[key] for key in EVALUATED if key in part}
