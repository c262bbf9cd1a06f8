"""The part of summary.json on evaluation: test and dev compared, by source and task group, and answers side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from al.evaluation.generations import FILE, side_by_side, task_groups
from al.evaluation.stage import compare_models
from al.pool.store import locate
from al.report.summary.facts import RoundFacts
from selection.holdout import DEV, TEST

MODELS = ("base", "previous", "selected", "control")


def evaluation(facts: RoundFacts) -> dict[str, Any]:
    """{"evaluation", "dev", "generations"} of the round."""
    roles, config = facts.roles, facts.session.config
    models = {name: roles[f"evaluate.{name}"] for name in MODELS if f"evaluate.{name}" in roles}
    settings, seed = config.evaluate, config.seed
    split = np.load(facts.prepared.split.path / "split.npy")
    groups = task_groups(facts.session, facts.pool, np.flatnonzero((split == TEST) | (split == DEV)))
    test = compare_models(models, TEST, settings.bootstrap, seed, groups)
    dev = compare_models(models, DEV, settings.bootstrap, seed)
    return {
        "evaluation": {"split": "test", **test},
        "dev": {key: dev[key] for key in ("examples", "models", "differences")},
        "generations": _generations(facts, groups),
    }


def _generations(facts: RoundFacts, groups: Mapping[str, str]) -> dict[str, Any] | None:
    """{"max_new_tokens", "prompts", "equal": {model: count}, "rows"}; None where nothing was generated."""
    models = {name: facts.roles[f"generations.{name}"] for name in MODELS if f"generations.{name}" in facts.roles}
    if "selected" not in models:
        return None
    keys = [int(answer["id"], 16) for answer in models["selected"].json(FILE)["answers"]]
    at, _ = locate(facts.pool.keys, np.array(keys, dtype=np.uint64))
    rows = side_by_side(facts.prepared, at, models, groups)
    equal = {name: sum(bool(row["answers"][name]["equal"]) for row in rows) for name in models}
    limit = models["selected"].manifest["params"]["max_new_tokens"]
    return {"max_new_tokens": limit, "prompts": len(rows), "equal": equal, "rows": rows}
