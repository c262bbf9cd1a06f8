"""The part of summary.json on evaluation: test and dev compared, by source and task group, and answers side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from al.evaluation.generations import FILE, side_by_side, task_groups
from al.evaluation.stage import compare_models
from al.pool.store import locate
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact
from al.run.session import Session
from selection.holdout import DEV, TEST

MODELS = ("base", "previous", "selected", "control")


def evaluation(session: Session, prepared: Prepared, roles: Mapping[str, Artifact]) -> dict[str, Any]:
    """{"evaluation", "dev", "generations"} of the round with these artifacts."""
    models = {name: roles[f"evaluate.{name}"] for name in MODELS if f"evaluate.{name}" in roles}
    settings, seed = session.config.evaluate, session.config.seed
    split = np.load(prepared.split.path / "split.npy")
    groups = task_groups(session, prepared.open_pool(), np.flatnonzero((split == TEST) | (split == DEV)))
    test = compare_models(models, TEST, settings.bootstrap, seed, groups)
    dev = compare_models(models, DEV, settings.bootstrap, seed)
    return {
        "evaluation": {"split": "test", **test},
        "dev": {key: dev[key] for key in ("examples", "models", "differences")},
        "generations": _generations(session, prepared, roles, groups),
    }


def _generations(
    session: Session, prepared: Prepared, roles: Mapping[str, Artifact], groups: Mapping[str, str]
) -> dict[str, Any] | None:
    """{"max_new_tokens", "prompts", "equal": {model: count}, "rows"}; None where nothing was generated."""
    models = {name: roles[f"generations.{name}"] for name in MODELS if f"generations.{name}" in roles}
    if "selected" not in models:
        return None
    keys = [int(answer["id"], 16) for answer in models["selected"].json(FILE)["answers"]]
    at, _ = locate(prepared.open_pool().keys, np.array(keys, dtype=np.uint64))
    rows = side_by_side(prepared, at, models, groups)
    equal = {name: sum(bool(row["answers"][name]["equal"]) for row in rows) for name in models}
    limit = models["selected"].manifest["params"]["max_new_tokens"]
    return {"max_new_tokens": limit, "prompts": len(rows), "equal": equal, "rows": rows}
