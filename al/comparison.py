"""Strategies side by side on one pool: each selects, trains and is evaluated, for several seeds; run by run, so that it goes on
where it stopped.

All runs live in one run directory and share what they have in common (the pool's stages, the base model's evaluation, the first
round's scores). A seed changes the clustering, every draw and the training, and never the holdout. Each example is
seen as often as `train.epochs` says, and a step holds as many examples for every strategy, so that strategies that pick
longer examples do not get more steps for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from al.artifacts import Artifact
from al.config import Config, parse
from al.evaluate import evaluate, load_measured
from al.lineage import History, Lineage
from al.loop import choose, train_lineage
from al.metrics import metrics
from al.prepare import Prepared, cluster
from al.session import Session
from selection.holdout import TEST

BASELINE = "random"


@dataclass(frozen=True)
class Member:
    """One run of a comparison. `changes`: config keys and values that it has of its own."""

    strategy: str
    seed: int
    changes: tuple[tuple[str, Any], ...] = ()

    def config(self, config: Config) -> Config:
        """The comparison's config with this member's strategy and seed."""
        values = config.model_dump(mode="json")
        values["seed"] = self.seed
        values["select"]["strategy"] = self.strategy
        for key, value in self.changes:
            *sections, leaf = key.split(".")
            node = values
            for section in sections:
                node = node[section]
            node[leaf] = value
        return parse(values, f"--strategies {self.strategy}")


def play(
    session: Session,
    prepared: Prepared,
    member: Member,
    budget: Any,
    rounds: int,
    split: int = TEST,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Select, train and evaluate one member, whatever of it is not done yet.

    A strategy that looks at nothing the adapter could change has one round.

    Args:
        budget: of all rounds together. split: what is evaluated, TEST or DEV.

    Returns:
        {"strategy", "seed", "rounds": [{"round", "examples", "tokens", "response_tokens", metrics…, "seconds"}]}.
    """
    from selection.strategy import Budget

    session = session.with_config(member.config(session.config))
    prepared = dataclasses.replace(prepared, clusters=cluster(session, prepared.pool, prepared.embeddings))
    if not learns(session.config, rounds):
        rounds = 1
    history, found = History(Lineage(member.strategy, "train")), []
    totals = {"examples": 0, "tokens": 0, "response_tokens": 0}
    for number in range(1, rounds + 1):
        told(f"{member.strategy}, seed {member.seed}, round {number} of {rounds}")
        roles: dict[str, Artifact] = {"pool": prepared.pool}

        def keep(role: str, artifact: Artifact, roles: dict[str, Artifact] = roles) -> Artifact:
            roles[role] = artifact
            return artifact

        amount = budget.amount * number // rounds - budget.amount * (number - 1) // rounds
        selection = choose(session, prepared, history, Budget(budget.unit, amount), keep)
        paced = session.with_config(_with_examples_a_step(session, prepared, history, selection))
        adapter = train_lineage(paced, prepared, history, selection, None, keep)
        measured = evaluate(session, prepared, adapter, f"evaluate {member.strategy}")
        for name, value in _picked(prepared, selection).items():
            totals[name] += value
        result = {metric: float(values[0]) for metric, values in metrics(load_measured(measured, split)[0]).items()}
        found.append({"round": number, **totals, **result, "seconds": _seconds(roles, measured, selection)})
        history = history.then(roles)
    return {"strategy": member.strategy, "seed": member.seed, "rounds": found}


def learns(config: Config, rounds: int) -> bool:
    """Whether anything the strategy does in any round depends on what was trained before."""
    from selection.strategy import needs_losses

    return any(needs_losses(config.select, number) for number in range(1, rounds + 1))


def _with_examples_a_step(session: Session, prepared: Prepared, history: History, selection: Artifact) -> Config:
    """The config with so many packs a step that a step holds as many examples as it would of the pool's average."""
    from al.selecting import training_rows
    from trainer.tokens import TokenTable

    config = session.config
    lengths = np.asarray(TokenTable.open(prepared.tokens.path).lengths)
    rows = training_rows(session, prepared, selection, history)
    pool = pool_lengths(prepared, lengths)
    ratio = float(lengths[rows].mean() / pool.mean())
    packs = max(1, round(config.train.packs_per_step * ratio))
    values = config.model_dump(mode="json")
    values["train"] |= {"packs_per_step": packs, "packs_per_batch": min(packs, config.train.packs_per_batch)}
    return parse(values, "compare")


def pool_lengths(prepared: Prepared, lengths: np.ndarray) -> np.ndarray:
    """Lengths of the examples that a first round may pick, in tokens."""
    from al.candidates import candidates

    return lengths[candidates(prepared, prepared.clusters, History(Lineage("pool", ""))).rows]


def _picked(prepared: Prepared, selection: Artifact) -> dict[str, int]:
    from al.candidates import find_rows
    from trainer.tokens import TokenTable

    table = TokenTable.open(prepared.tokens.path)
    rows = find_rows(prepared.open_pool().keys, np.load(selection.path / "picked.npy"))
    return {
        "examples": len(rows),
        "tokens": int(np.asarray(table.lengths)[rows].sum()),
        "response_tokens": int(np.asarray(table.target_counts)[rows].sum()),
    }


def _seconds(roles: dict[str, Artifact], measured: Artifact, selection: Artifact) -> dict[str, float]:
    scored = [roles[role] for role in ("score", "score.target", "shortlist") if role in roles]
    groups = {"score": scored, "select": [selection], "train": [roles["packs"], roles["train"]], "evaluate": [measured]}
    return {name: round(sum(float(a.manifest["seconds"]) for a in artifacts), 3) for name, artifacts in groups.items()}


def members(strategies: Sequence[str], seeds: Sequence[int]) -> list[Member]:
    """Every strategy with every seed, all strategies of a seed before the next seed: a comparison cut short is still fair."""
    return [Member(strategy, seed) for seed in seeds for strategy in strategies]
