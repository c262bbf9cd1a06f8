"""Budgets of training time, turned into tokens once by measuring, and published so that a resumed round keeps them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from al.budget import BudgetRequest
from al.lineage.artifacts import RoundArtifacts
from al.planning.gpus import gpus_of, speedup
from al.preparation.pool_state import trainable
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from selection.strategy import Budget
from trainer.packing import PLANNERS
from trainer.tokens import TokenTable

PROBE_STEPS = 3
"""Steps timed after one that warms up."""


def resolve_budget(session: Session, prepared: Prepared, budget: BudgetRequest, done: RoundArtifacts) -> Budget:
    """The budget as selection takes it (examples or tokens).

    Training time becomes tokens: measured tokens/s of one GPU × what all of them are assumed to reach (`al.planning.gpus`) × seconds /
    epochs, less what is replayed in rounds after the first.
    """
    if budget.unit != "seconds":
        return Budget(unit=budget.unit, amount=int(budget.amount))
    measured = done.keep("throughput", throughput(session, prepared, done.number)).json("throughput.json")
    gpus = measured.get("gpus", 1)
    faster = speedup(session.config, gpus)
    if gpus > 1:
        session.tell(f"note: {budget.text} of training: {faster.described()}")
    train = session.config.train
    share = train.epochs * (1 + (train.replay if train.mode == "continue" and done.number > 1 else 0))
    return Budget(unit="tokens", amount=int(measured["tokens_per_s"] * faster.training * budget.amount / share))


def throughput(session: Session, prepared: Prepared, number: int) -> Artifact:
    """Measure training tokens/s of one GPU with a throw-away adapter on real packs of the pool. Publishes `throughput.json`, also with how
    many GPUs the round had when it began: one that is resumed with another number keeps its budget."""
    no_part = {"checkpoint_every", "keep_checkpoints", "max_loss_ratio", "eval_every", "patience", "epochs"}
    params = {
        "model": session.model_params(),
        "lora": session.config.lora.model_dump(mode="json"),
        "train": session.config.train.model_dump(mode="json", exclude=no_part),
        "round": number,
    }

    def build(out: Path, scratch: Path) -> None:
        """Write `throughput.json`."""
        gpus = gpus_of(session.config, session.engine)
        write_json(out / "throughput.json", _measure(session, prepared, scratch) | {"gpus": gpus})

    return session.run.stage(
        "throughput", version=1, inputs={"tokens": prepared.tokens}, params=params, build=build, label="measure speed"
    )


def _measure(session: Session, prepared: Prepared, scratch: Path) -> dict[str, Any]:
    from trainer.train import train

    config = session.config.train
    tokens = TokenTable.open(prepared.tokens.path)
    rows = np.flatnonzero(trainable(prepared.pool, prepared.tokens))
    need = (PROBE_STEPS + 1) * config.packs_per_step * config.pack_length
    order = np.random.default_rng([session.config.seed, 0x59EED]).permutation(rows)
    rows = order[: 1 + int(np.searchsorted(np.cumsum(tokens.lengths[order]), need))]
    plan = PLANNERS[config.batching](np.asarray(tokens.lengths)[rows], config.pack_length)
    moments: list[tuple[float, int]] = []
    with session.base.new_adapter(session.config.lora, session.config.seed) as model:
        train(
            model,
            tokens,
            plan,
            rows,
            config,
            seed=session.config.seed,
            round=0,
            steps=PROBE_STEPS + 1,
            scratch=scratch / "probe",
            on_step=lambda metrics: moments.append((time.monotonic(), metrics["tokens"])),
            stop=lambda: False,
            failpoint=lambda name: None,
        )
    seconds = moments[-1][0] - moments[0][0]
    trained = sum(count for _, count in moments[1:])
    return {"tokens_per_s": trained / max(seconds, 1e-9), "steps": PROBE_STEPS, "tokens": trained, "seconds": seconds}
