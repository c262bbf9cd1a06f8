"""`summary.json`: every number of a round in one document, drawn from its artifacts. Pages and terminal show nothing else."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from al.budget import BudgetRequest
from al.config import difference
from al.preparation.stages import Prepared
from al.report.summary.clusters import clusters_part
from al.report.summary.cost import at_random, cost
from al.report.summary.evaluation import evaluation
from al.report.summary.examples import shown_examples
from al.report.summary.review import review_part
from al.report.summary.rounds import drift, learning_curve
from al.report.summary.selection import histograms_part, map_part, picked_rows, pool_part, scoring_part, selection_part
from al.report.summary.training import plan, training
from al.run import rounds
from al.run.artifacts import MANIFEST, Artifact, sha256_file
from al.run.session import Session
from al.run.store import now, versions
from trainer.tokens import TokenTable

SCHEMA = 1


def build_summary(
    session: Session, prepared: Prepared, roles: Mapping[str, Artifact], budget: BudgetRequest, number: int
) -> dict[str, Any]:
    """The summary of round `number`; `roles` are its artifacts by role."""
    table = pq.read_table(roles["selection"].path / "selection.parquet")
    timings, past = _timings(session, number), learning_curve(session, number)
    evaluated, trained = evaluation(session, prepared, roles), training(roles, "", prepared)
    summary = {
        "schema": SCHEMA,
        "run": session.run.path.name,
        "round": number,
        "created": now(),
        "command": "python cli.py " + shlex.join(sys.argv[1:]),
        "versions": {"python": platform.python_version(), **versions()},
        "platform": platform.platform(),
        "seed": session.config.seed,
        "device": _device(session),
        "model": _model(session, roles, number),
        "budget": _budget(budget, roles, prepared, table),
        "pool": pool_part(prepared, table),
        "holdout": prepared.split.json("split.json"),
        "scoring": scoring_part(roles, table, number),
        "selection": selection_part(session, roles, table),
        "review": review_part(roles),
        "clusters": clusters_part(session, prepared, roles, table, number),
        "histograms": histograms_part(table),
        "map": map_part(roles, table),
        "training": {
            "selected": trained,
            "control": training(roles, "control.", prepared) if "control.train" in roles else None,
        },
        "plan": plan(roles, trained, timings),
        **evaluated,
        "cost": cost(timings, session.config.report),
        "at_random": at_random(session, number, evaluated["evaluation"], past),
        "examples": shown_examples(prepared, table),
        "timings": timings,
        "config_diff": _config_diff(session, number),
        "learning_curve": past,
        "drift": drift(session, prepared, roles, table, number),
        "artifacts": {role: f"{a.stage}/{a.fingerprint}" for role, a in roles.items()},
        "hashes": {role: sha256_file(a.path / MANIFEST) for role, a in roles.items()},
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


def _model(session: Session, roles: Mapping[str, Artifact], number: int) -> dict[str, Any]:
    config = session.config
    continued = number - 1 if config.train.mode == "continue" and number > 1 else None
    return {
        "name": config.model.name,
        "quantization": config.model.quantization,
        "lora_r": config.lora.r,
        "lora_alpha": config.lora.alpha,
        "trainable_parameters": _trainable_parameters(roles["train"]),
        "continued_from_round": continued,
    }


def _trainable_parameters(adapter: Artifact) -> int:
    from safetensors import safe_open

    with safe_open(adapter.path / "adapter" / "adapter_model.safetensors", framework="np") as weights:
        return sum(int(np.prod(weights.get_slice(name).get_shape())) for name in weights.keys())


def _budget(
    budget: BudgetRequest, roles: Mapping[str, Artifact], prepared: Prepared, table: pa.Table
) -> dict[str, Any]:

    resolved = roles["selection"].manifest["params"]["budget"]
    picked = picked_rows(table)
    targets = np.asarray(TokenTable.open(prepared.tokens.path).target_counts)
    speed = roles["throughput"].json("throughput.json")["tokens_per_s"] if "throughput" in roles else None
    return {
        "asked": budget.text,
        "unit": resolved["unit"],
        "amount": resolved["amount"],
        "measured_tokens_per_s": speed,
        "examples": int(picked.sum()),
        "tokens": int(table["tokens"].to_numpy()[picked].sum()),
        "target_tokens": int(targets[picked].sum()),
    }


def _timings(session: Session, number: int) -> dict[str, float]:
    """Seconds of the stages that were made for this round, in the order of work; reused ones cost it nothing."""
    started = next(r.started for r in rounds.all_rounds(session.run) if r.number == number)
    stages = {label: seconds for label, (seconds, created) in session.run.timings.items() if created >= started}
    return {**stages, "total": round(sum(stages.values()), 3)}


def _config_diff(session: Session, number: int) -> dict[str, list[Any]]:
    earlier = [r for r in rounds.all_rounds(session.run) if r.number == number - 1]
    return difference(earlier[0].config, session.config.model_dump(mode="json")) if earlier else {}
