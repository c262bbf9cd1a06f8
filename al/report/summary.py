"""`summary.json`: every number of a round in one document, drawn from its artifacts. Pages and terminal show nothing else."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from al import rounds
from al.artifacts import Artifact
from al.budget import BudgetRequest
from al.candidates import OUTCOMES
from al.config import difference
from al.evaluate import compare
from al.prepare import Prepared
from al.report.shown import shown_examples
from al.session import Session
from al.store import now, versions
from selection.holdout import DEV, TEST

SCHEMA = 1
MAP_POINTS = 5_000
BINS = 24


def build_summary(
    session: Session, prepared: Prepared, roles: Mapping[str, Artifact], budget: BudgetRequest, number: int
) -> dict[str, Any]:
    """The summary of round `number`; `roles` are its artifacts by role."""
    table = pq.read_table(roles["selection"].path / "selection.parquet")
    models = {
        name: roles[f"evaluate.{name}"]
        for name in ("base", "previous", "selected", "control")
        if f"evaluate.{name}" in roles
    }
    settings = session.config.evaluate
    test = compare(models, TEST, settings.bootstrap, session.config.seed, prepared.open_pool())
    dev = compare(models, DEV, settings.bootstrap, session.config.seed)
    summary = {
        "schema": SCHEMA,
        "run": session.run.path.name,
        "round": number,
        "created": now(),
        "command": "python cli.py " + shlex.join(sys.argv[1:]),
        "versions": versions(),
        "seed": session.config.seed,
        "device": _device(session),
        "model": _model(session, roles, number),
        "budget": _budget(budget, roles, prepared, table),
        "pool": _pool(prepared, table),
        "holdout": prepared.split.json("split.json"),
        "scoring": _scoring(roles, table, number),
        "selection": _selection(session, roles, table),
        "clusters": roles["selection"].json("quotas.json"),
        "histograms": _histograms(table),
        "map": _map(roles, table),
        "training": {
            "selected": _training(roles, "", prepared),
            "control": _training(roles, "control.", prepared) if "control.train" in roles else None,
        },
        "evaluation": {"split": "test", **test},
        "dev": {key: dev[key] for key in ("examples", "models", "differences")},
        "examples": shown_examples(prepared, table),
        "timings": _timings(session, number),
        "config_diff": _config_diff(session, number),
        "learning_curve": _learning_curve(session, number),
        "artifacts": {role: f"{a.stage}/{a.fingerprint}" for role, a in roles.items()},
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
    from trainer.tokens import TokenTable

    resolved = roles["selection"].manifest["params"]["budget"]
    picked = _picked(table)
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


def _picked(table: pa.Table) -> np.ndarray:
    """(n,) bool: selected in this round; rows are those of the pool."""
    return pc.equal(table["outcome"].cast(pa.string()), "selected").to_numpy(zero_copy_only=False)


def _pool(prepared: Prepared, table: pa.Table) -> dict[str, Any]:
    from trainer.tokens import SKIPPED, TRUNCATED, TokenTable

    pool, tokens = prepared.pool.json("pool.json"), prepared.tokens.json("tokens.json")
    token_table = TokenTable.open(prepared.tokens.path)
    outcomes = _outcomes(table)
    selectable = sum(outcomes[name] for name in ("selected", "quota_full", "no_quota", "tail_cut", "suspected_noise"))
    return {
        "version": prepared.version,
        "examples": pool["examples"],
        "labelled": pool["labelled"],
        "unlabelled": pool["unlabelled"],
        "exact_duplicates": pool["duplicates"],
        "quarantined": pool["quarantined"],
        "sources": pool["sources"],
        "overlength": int((token_table.status == SKIPPED).sum()),
        "truncated": int((token_table.status == TRUNCATED).sum()),
        "tokens_dropped": int(token_table.dropped.sum()),
        "tokens": int(token_table.lengths.sum()),
        "near_duplicates": outcomes["near_duplicate"],
        "selectable": selectable,
        "template": tokens.get("template"),
    }


def _outcomes(table: pa.Table) -> dict[str, int]:
    counts = {
        entry["values"]: entry["counts"] for entry in pc.value_counts(table["outcome"].cast(pa.string())).to_pylist()
    }
    return {name: counts.get(name, 0) for name in OUTCOMES if name != "selectable"}


def _scoring(roles: Mapping[str, Artifact], table: pa.Table, number: int) -> dict[str, Any]:
    from selection.scores import SCORES, length_correlation

    parts = [roles["score"], roles["shortlist"]]
    facts = [a.json("score.json") for a in parts]
    nll, tokens = table["nll"].to_numpy(), table["tokens"].to_numpy()
    known = np.isfinite(nll)
    scores = [name for name in SCORES if name in table.column_names]
    fp8 = [f["fp8_rank_correlation"] for f in facts if f.get("fp8_rank_correlation") is not None]
    return {
        "measured": int(known.sum()),
        "tokens": sum(f["tokens"] for f in facts),
        "seconds": sum(a.manifest["seconds"] for a in parts),
        "adapter": f"round {number - 1}" if number > 1 else "base",
        "nll_mean": float(nll[known].mean()) if known.any() else None,
        "length_correlation": {name: length_correlation(table[name].to_numpy(), tokens) for name in scores},
        "fp8_rank_correlation": min(fp8, default=None),
        "gradients_through_adam": next((f["adam_moments"] for f in facts if "adam_moments" in f), None),
        "target": roles["target"].json("target.json") if "target" in roles else None,
    }


def _selection(session: Session, roles: Mapping[str, Artifact], table: pa.Table) -> dict[str, Any]:
    from selection.config import SelectConfig
    from selection.scores import describe
    from selection.strategy import resolve

    used = SelectConfig.model_validate(roles["selection"].manifest["params"]["select"])
    strategy = resolve(used)
    return {
        "strategy": used.strategy,
        "allocation": strategy.allocation,
        "picker": strategy.picker,
        "score": describe(session.config.score.by),
        "outcomes": _outcomes(table),
    }


def _histograms(table: pa.Table) -> dict[str, Any]:
    picked = _picked(table)
    result = {}
    for name, column, other in (
        ("nll", "nll", "measured"),
        ("entropy", "entropy", "measured"),
        ("length", "tokens", "left"),
    ):
        values = table[column].to_numpy().astype(np.float64)
        known = np.isfinite(values)
        edges = np.histogram_bin_edges(values[known], bins=BINS) if known.any() else np.array([0.0, 1.0])
        rest = known if other == "measured" else known & ~picked
        result[name] = {
            "edges": edges,
            other: np.histogram(values[rest], edges)[0],
            "picked": np.histogram(values[known & picked], edges)[0],
        }
    return result


def _map(roles: Mapping[str, Artifact], table: pa.Table) -> dict[str, Any]:
    points = pq.read_table(roles["clusters"].path / "clusters.parquet", columns=["x", "y", "cluster"])
    picked = _picked(table)
    rows = np.arange(len(picked))
    if len(rows) > MAP_POINTS:
        rest = np.random.default_rng([0x3A9]).permutation(rows[~picked])[: max(0, MAP_POINTS - int(picked.sum()))]
        rows = np.sort(np.concatenate([rows[picked][:MAP_POINTS], rest]))
    return {
        "x": np.round(points["x"].to_numpy()[rows], 4),
        "y": np.round(points["y"].to_numpy()[rows], 4),
        "cluster": points["cluster"].to_numpy()[rows],
        "picked": picked[rows].astype(int),
        "sampled_from": len(picked),
    }


def _training(roles: Mapping[str, Artifact], prefix: str, prepared: Prepared) -> dict[str, Any]:
    train, packs = roles[f"{prefix}train"], roles[f"{prefix}packs"].json("pack.json")
    curve = [json.loads(line) for line in (train.path / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    report = train.json("train.json")
    picks = np.load(roles["selection" if not prefix else "control.selection"].path / "picked.npy")
    keep = ("steps", "tokens", "target_tokens", "seconds", "tokens_per_s", "peak_gib")
    return {
        **{key: report[key] for key in keep},
        "examples": packs["examples"],
        "replayed": packs["examples"] - len(picks),
        "packs": packs["packs"],
        "packing_efficiency": packs["efficiency"],
        "curve": [
            {
                "step": c["step"],
                "loss": c["loss"],
                "lr": c["learning_rate"],
                "tokens_per_s": c["tokens_per_s"],
                "grad_norm": c["grad_norm"],
            }
            for c in curve
        ],
    }


def _timings(session: Session, number: int) -> dict[str, float]:
    """Seconds of the stages that were made for this round, in the order of work; reused ones cost it nothing."""
    started = next(r.started for r in rounds.all_rounds(session.run) if r.number == number)
    stages = {label: seconds for label, (seconds, created) in session.run.timings.items() if created >= started}
    return {**stages, "total": round(sum(stages.values()), 3)}


def _config_diff(session: Session, number: int) -> dict[str, list[Any]]:
    earlier = [r for r in rounds.all_rounds(session.run) if r.number == number - 1]
    return difference(earlier[0].config, session.config.model_dump(mode="json")) if earlier else {}


def _learning_curve(session: Session, number: int) -> list[dict[str, Any]]:
    """Macro NLL on test and what was picked, one entry per finished round before this one."""
    curve = []
    for n in range(1, number):
        report = rounds.recorded(session.run, n, "report")
        if report is not None:
            past = report.json("summary.json")
            curve.append(
                {
                    "round": n,
                    "examples": past["budget"]["examples"],
                    "tokens": past["budget"]["tokens"],
                    "models": {k: v["macro_nll"] for k, v in past["evaluation"]["models"].items()},
                }
            )
    return curve
