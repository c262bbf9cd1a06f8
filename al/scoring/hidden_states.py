"""Hidden states of the base model, of the pool and the target. The base does not change between rounds, so a run measures them once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from al.lineage.outcomes import CODE
from al.lineage.round_state import RoundState
from al.preparation.pool_state import load_embeddings
from al.run.artifacts import Artifact, write_json
from al.run.rows import rows_digest
from al.run.shards import finish_shards, token_shards
from al.scoring.passes import passes
from al.scoring.stage import gather
from selection.strategy import Vectors, vectors_needed
from selection.turns import round_robin
from trainer.tokens import TokenTable

OPEN = ("selectable", "trained", "dropped_in_review", "banned_in_review")
"""Outcomes of examples that some round of the run may pick or has picked: the same ones in every round."""


def hidden_states(state: RoundState) -> Artifact | None:
    """Measure what the picker compares with the target; None if it compares no hidden states of the base model.

    Publishes `rows.npy` (n,) int64 rows of the pool, ascending, `pool.npy` (n, d) and `target.npy` (t, d) float16 unit vectors:
    position-weighted means of the last layer (RDS+, arXiv 2503.01807, section 3.2), and `score.json`.
    """
    target = state.prepared.target
    if target is None or "hidden_states" not in vectors_needed(state.select):
        return None
    session, rows = state.session, rows_measured(state)
    reference = Path(str(session.config.score.reference))

    def build(out: Path, scratch: Path) -> None:
        """Measure the pool, then the target."""
        parts = {"pool": (state.prepared.tokens, rows), "target": (target.tokens, target.rows)}
        count = sum(len(wanted) for _, wanted in parts.values())
        with session.progress("hidden states", count, "examples") as progress:
            for name, (tokens, wanted) in parts.items():
                part = scratch / name
                part.mkdir(exist_ok=True)
                step = passes(tokens.path, None, reference, frozenset({"response", "pooled"}), ())[0]
                shards = token_shards(session, wanted, table_lengths(tokens))
                gather(
                    finish_shards(session, step.name, step.work, shards, part, progress), len(wanted), part, *step.place
                )
                shutil.move(part / "pooled.npy", out / f"{name}.npy")
        np.save(out / "rows.npy", rows)
        read = {name: int(table_lengths(tokens)[wanted].sum()) for name, (tokens, wanted) in parts.items()}
        write_json(out / "score.json", {"examples": count, "tokens": sum(read.values()), "measured": ["pooled"]})

    return session.run.stage(
        "hidden_states",
        version=1,
        params={"model": session.model_params(), "rows": rows_digest(rows), "weights": session.config.measure.weights},
        build=build,
        label="hidden states",
        inputs={"tokens": state.prepared.tokens, "target": target.artifact, "target_tokens": target.tokens},
    )


def table_lengths(tokens: Artifact) -> np.ndarray:
    """(n,) length in tokens of each example of a token table."""
    return np.asarray(TokenTable.open(tokens.path).lengths)


def rows_measured(state: RoundState) -> np.ndarray:
    """(n,) int64 rows of the pool that any round may pick, ascending; of more than `target.measured`, those that the target's examples take
    by embeddings, in turn."""
    rows = np.flatnonzero(np.isin(state.pool.outcome, [CODE[name] for name in OPEN]))
    most, target = state.session.config.target.measured, state.prepared.target
    if len(rows) <= most or target is None:
        return rows
    aims = load_embeddings(target.embeddings)[target.rows]
    order = round_robin(
        Vectors(load_embeddings(state.prepared.embeddings), rows), np.asarray(aims, dtype=np.float32), most
    )
    return np.sort(rows[order.order])


def hidden_vectors(states: Artifact, n: int, rows: np.ndarray) -> Vectors:
    """The vectors of `rows` of a pool of `n` examples; none where they were not measured."""
    place = np.full(n, -1, dtype=np.int64)
    measured = np.load(states.path / "rows.npy")
    place[measured] = np.arange(len(measured))
    return Vectors(np.load(states.path / "pool.npy", mmap_mode="r"), place[rows], np.load(states.path / "target.npy"))
