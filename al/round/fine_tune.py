"""Plain fine-tuning of whole data sets: no embedding, no selection. The baseline that selection is measured against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from al.cleaning.stage import leave_out, role, wanted
from al.evaluation.stage import compare_models, evaluate
from al.lineage.history import SELECTED
from al.planning.needs import require
from al.pool.store import Pool
from al.preparation.holdout import SIDES, drawn_sizes, name_sides, named_files, named_sides
from al.preparation.pool_state import trainable
from al.preparation.stages import Tokenized, check_trainable, pool_version
from al.preparation.tokens import tokenize
from al.release.stage import publish_fine_tuned
from al.round import train as stages
from al.run.artifacts import Artifact, write_json
from al.run.rounds import ADAPTER
from al.run.session import Session
from selection.holdout import POOL, TEST, hold_out


def fine_tune(session: Session) -> dict[str, Any]:
    """Import, tokenize, hold out, train on all the rest, and evaluate; resumes like a round.

    Returns:
        {"examples", "training", "evaluation", "adapter": the path of its folder}.
    """
    require(session.config, session.run.path, embedder=False)
    version, pool = pool_version(session)
    tokens = tokenize(session, pool)
    cleaned = leave_out(session, pool)
    check_trainable(session, pool, tokens, cleaned)
    data = Tokenized(version, pool, tokens, split_plainly(session, pool, tokens, cleaned))
    usable = trainable(pool, tokens) & (np.load(data.split.path / "split.npy") == POOL)
    usable &= wanted(cleaned, len(usable))
    packs = stages.plan_packs(session, data, np.flatnonzero(usable), SELECTED)
    adapter = stages.train(session, data, packs, None, 1, SELECTED)
    evaluations = {
        "base": evaluate(session, data, None, "evaluate base"),
        "selected": evaluate(session, data, adapter, "evaluate adapter"),
    }
    result = compare_models(evaluations, TEST, session.config.evaluate.bootstrap, session.config.seed)
    made = {"packs": packs, "train": adapter, **{f"evaluate.{name}": found for name, found in evaluations.items()}}
    folder = publish_fine_tuned(session, data, made, result)
    return {
        "examples": int(usable.sum()),
        "training": adapter.json("train.json"),
        "evaluation": result,
        "adapter": str(folder.path / ADAPTER),
    }


def split_plainly(session: Session, pool: Artifact, tokens: Artifact, cleaned: Artifact | None = None) -> Artifact:
    """Dev and test stratified by source. Near-duplicates are not looked for here: `round` does that."""
    named = name_sides(session) if named_files(session) else None

    def build(out: Path, scratch: Path) -> None:
        """Write `split.npy` and `split.json`: what is trained on, and dev and test."""
        reader, usable = Pool.open(pool.path), trainable(pool, tokens)
        kept = named_sides(named, reader.keys, usable) if named is not None else None
        dev, test = drawn_sizes(session)
        usable &= wanted(cleaned, len(reader))
        alone = np.arange(len(reader))
        split = hold_out(reader.keys, reader.sources, alone, usable, dev, test, session.config.seed, kept)
        np.save(out / "split.npy", split)
        write_json(out / "split.json", {name: int((split == code).sum()) for name, code in SIDES.items()})

    return session.run.stage(
        "plain_split",
        version=1,
        inputs={"pool": pool, "tokens": tokens, **({"named": named} if named is not None else {}), **role(cleaned)},
        build=build,
        label="hold out",
        params={"holdout": session.config.holdout.model_dump(mode="json"), "seed": session.config.seed},
    )
