"""`summary.json`: every number of a round in one document, drawn from its artifacts. Pages and terminal show nothing else."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from al.budget import BudgetRequest
from al.config import difference
from al.program import invocation
from al.report.summary.clusters import clusters_part
from al.report.summary.cost import at_random, cost, work
from al.report.summary.evaluation import evaluation
from al.report.summary.examples import shown_examples
from al.report.summary.facts import RoundFacts
from al.report.summary.rounds import drift, learning_curve
from al.report.summary.selection import histograms_part, map_part, pool_part, review_part, scoring_part, selection_part
from al.report.summary.training import plan, training
from al.run.artifacts import Artifact, versions
from al.run.integrity import MANIFEST, sha256_file
from al.run.session import Session
from al.run.store import now
from selection.holdout import DEV, TEST

SCHEMA = 1


def build_summary(facts: RoundFacts, budget: BudgetRequest) -> dict[str, Any]:
    """The summary of a round."""
    session, roles, timings = facts.session, facts.roles, facts.timings
    past, evaluated, trained = learning_curve(facts), evaluation(facts), training(facts, "")
    control = training(facts, "control.") if "control.train" in roles else None
    split = np.load(facts.prepared.split.path / "split.npy")
    held = int(facts.tokens.lengths[(split == DEV) | (split == TEST)].sum())
    worked = work(facts, {"selected": trained, "control": control}, held)
    summary = {
        "schema": SCHEMA,
        "run": session.run.path.name,
        "round": facts.number,
        "created": now(),
        "command": invocation(),
        "versions": {"python": platform.python_version(), **versions()},
        "platform": platform.platform(),
        "seed": session.config.seed,
        "device": _device(session),
        "model": _model(facts),
        "budget": _budget(facts, budget),
        "pool": pool_part(facts),
        "holdout": facts.prepared.split.json("split.json"),
        "scoring": scoring_part(facts),
        "selection": selection_part(facts),
        "review": review_part(facts),
        "clusters": clusters_part(facts),
        "histograms": histograms_part(facts.scores, facts.table["tokens"].to_numpy(), facts.picked),
        "map": map_part(facts),
        "training": {"selected": trained, "control": control},
        "plan": plan(roles, trained, timings),
        **evaluated,
        "cost": cost(timings, session.config.report),
        "work": worked,
        "at_random": at_random(facts, evaluated["evaluation"], past, worked["tokens_per_s"]),
        "examples": shown_examples(facts),
        "timings": timings,
        "config_diff": _config_diff(facts),
        "learning_curve": past,
        "drift": drift(facts),
        "artifacts": {role: f"{a.stage}/{a.fingerprint}" for role, a in roles.items()},
        "hashes": {role: sha256_file(a.directory / MANIFEST) for role, a in roles.items()},
        "config": yaml.safe_dump(session.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    }
    return _plain(summary)


def _plain(value: Any) -> Any:
    """JSON values only: NumPy scalars unwrapped, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _device(session: Session) -> str:
    import torch

    from trainer.model import resolve_device

    device = resolve_device(session.config.model)
    return torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def _model(facts: RoundFacts) -> dict[str, Any]:
    config = facts.session.config
    continued = facts.number - 1 if config.train.mode == "continue" and facts.number > 1 else None
    return {
        "name": config.model.name,
        "quantization": config.model.quantization,
        "lora_r": config.lora.r,
        "lora_alpha": config.lora.alpha,
        "trainable_parameters": _trainable_parameters(facts.roles["train"]),
        "continued_from_round": continued,
    }


def _trainable_parameters(adapter: Artifact) -> int:
    from safetensors import safe_open

    with safe_open(adapter.path / "adapter" / "adapter_model.safetensors", framework="np") as weights:
        return sum(int(np.prod(weights.get_slice(name).get_shape())) for name in weights.keys())


def _budget(facts: RoundFacts, budget: BudgetRequest) -> dict[str, Any]:
    resolved, picked = facts.roles["selection"].manifest["params"]["budget"], facts.picked
    speed = facts.roles["throughput"].json("throughput.json")["tokens_per_s"] if "throughput" in facts.roles else None
    return {
        "asked": budget.text,
        "unit": resolved["unit"],
        "amount": resolved["amount"],
        "measured_tokens_per_s": speed,
        "examples": int(picked.sum()),
        "tokens": int(facts.table["tokens"].to_numpy()[picked].sum()),
        "target_tokens": int(np.asarray(facts.tokens.target_counts)[picked].sum()),
    }


def _config_diff(facts: RoundFacts) -> dict[str, list[Any]]:
    earlier = [entry for entry in facts.rounds if entry.number == facts.number - 1]
    return difference(earlier[0].config, facts.session.config.model_dump(mode="json")) if earlier else {}
