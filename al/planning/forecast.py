"""The plan of a round, saved before it runs, so that its report can compare it with the measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from al.budget import BudgetRequest
from al.planning.gpus import gpus_of
from al.planning.machine import probe_machine
from al.planning.model_shape import model_shape
from al.planning.plan import estimate
from al.planning.pool_estimate import PoolEstimate, added_since
from al.preparation.groups import spread_over
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact, write_json
from al.run.session import Session
from trainer.tokens import TokenTable

NO_PART_OF_IT = {"report", "evaluate", "label", "pool", "track", "engine"}


def planned(session: Session, prepared: Prepared, budget: BudgetRequest, number: int) -> dict[str, Any]:
    """The plan of round `number` over its tokenized pool, as `al.planning.plan.estimate` gives it. Probes the machine."""
    config = session.config
    lengths = np.asarray(TokenTable.open(prepared.tokens.path).lengths)
    size = sum(entry["bytes"] for entry in prepared.pool.manifest["files"].values())
    to_map = added_since(session.run, prepared.pool, "projection")
    groups = spread_over(prepared.clusters) != "clusters"
    pool = PoolEstimate(len(lengths), float(lengths.mean()), size, 0, to_map, exact=True, several_sources=groups)
    machine, gpus = probe_machine(config), gpus_of(config, session.engine)
    shape = model_shape(config.model, config.lora, machine.bytes_per_value)
    return estimate(config, budget, pool, shape, machine, number, gpus)


def forecast(session: Session, prepared: Prepared, budget: BudgetRequest, number: int) -> Artifact:
    """The plan of round `number` over its tokenized pool, as `plan` prints it. Publishes `plan.json`. Takes under a second."""
    config = session.config

    def build(out: Path, scratch: Path) -> None:
        """Write `plan.json`."""
        write_json(out / "plan.json", planned(session, prepared, budget, number))

    return session.run.stage(
        "plan",
        version=3,
        inputs={"pool": prepared.pool, "tokens": prepared.tokens, "clusters": prepared.clusters},
        params={
            "round": number,
            "budget": budget.text,
            "config": config.model_dump(mode="json", exclude=NO_PART_OF_IT),
        },
        build=build,
        label="plan",
    )
