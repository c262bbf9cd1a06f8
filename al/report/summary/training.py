"""The part of summary.json on training: what was trained, how it went step by step, and what had been planned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from al.report.summary.cost import kind_of
from al.report.summary.facts import RoundFacts
from al.run.artifacts import Artifact
from trainer.tokens import TRUNCATED

KEPT = ("steps", "tokens", "target_tokens", "seconds", "tokens_per_s", "peak_gib", "best_step", "best_dev_loss",
        "stopped_early", "out_of_memory")  # fmt: skip
CURVE = {"step": "step", "loss": "loss", "dev_loss": "dev_loss", "lr": "learning_rate", "tokens_per_s": "tokens_per_s",
         "grad_norm": "grad_norm", "memory_gib": "memory_gib"}  # fmt: skip
"""What of a step is kept, and its name in curve.jsonl."""


def training(facts: RoundFacts, prefix: str) -> dict[str, Any]:
    """Counts and curve of one lineage's training; `prefix` of its roles. `truncated` examples lost `tokens_dropped` to the limit."""
    train, packs = facts.roles[f"{prefix}train"], facts.roles[f"{prefix}packs"]
    lines = (train.path / "curve.jsonl").read_text(encoding="utf-8").splitlines()
    report, packed = train.json("train.json"), packs.json("pack.json")
    picks = np.load(facts.roles[f"{prefix}selection"].path / "picked.npy")
    table, rows = facts.tokens, np.load(packs.path / "rows.npy")
    cut = rows[np.asarray(table.status)[rows] == TRUNCATED]
    return {
        **{key: report.get(key) for key in KEPT},
        "examples": packed["examples"],
        "replayed": packed["examples"] - len(picks),
        "truncated": len(cut),
        "tokens_dropped": int(np.asarray(table.dropped)[cut].sum()),
        "packs": packed["packs"],
        "packing_efficiency": packed["efficiency"],
        "curve": [{name: step.get(key) for name, key in CURVE.items()} for step in map(json.loads, lines)],
    }


def plan(
    roles: Mapping[str, Artifact], trained: Mapping[str, Any], timings: Mapping[str, float]
) -> dict[str, dict[str, float | None]] | None:
    """{what: {"planned", "measured"}} of training speed, peak memory and seconds by kind of work; None where no plan was written."""
    if "plan" not in roles:
        return None
    expected = roles["plan"].json("plan.json")
    seconds = expected["seconds"]
    selecting = sum(amount for label, amount in timings.items() if kind_of(label) == "selecting")
    evaluating = [amount for label, amount in timings.items() if label.startswith("evaluate ")]
    control = seconds["train control"] if "control.train" in roles else None
    found = {
        "tokens_per_s": (expected["tokens_per_s"], trained["tokens_per_s"]),
        "peak_gib": (expected["peak_gib"], trained["peak_gib"]),
        "selecting": (sum(seconds.get(name, 0.0) for name in ("score", "warm up", "hidden states")), selecting),
        "train": (seconds["train"], timings.get("train")),
        "train control": (control, timings.get("train control")),
        "evaluate": (seconds["evaluate"], sum(evaluating) if evaluating else None),
    }
    return {key: {"planned": planned, "measured": measured} for key, (planned, measured) in found.items()}
