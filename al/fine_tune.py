"""Plain fine-tuning of whole data sets: no embedding, no selection. The baseline that selection is measured against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from al import stages
from al.artifacts import Artifact, write_json
from al.evaluate import compare, evaluate
from al.lineage import SELECTED
from al.pool.store import Pool
from al.prepare import SIDES, Tokenized, check_trainable, pool_version, tokenize, trainable
from al.session import Session
from selection.holdout import POOL, TEST


def fine_tune(session: Session) -> dict[str, Any]:
    """Import, tokenize, hold out, train on all the rest, and evaluate; resumes like a round.

    Returns:
        {"examples", "training", "evaluation", "adapter"}.
    """
    session.check_machine()
    version, pool = pool_version(session)
    tokens = tokenize(session, pool)
    check_trainable(session, pool, tokens)
    data = Tokenized(version, pool, tokens, split_plainly(session, pool, tokens))
    usable = trainable(pool, tokens) & (np.load(data.split.path / "split.npy") == POOL)
    packs = stages.pack(session, data, np.flatnonzero(usable), SELECTED)
    adapter = stages.train(session, data, packs, None, 1, SELECTED)
    evaluations = {
        "base": evaluate(session, data, None, "evaluate base"),
        "selected": evaluate(session, data, adapter, "evaluate adapter"),
    }
    result = compare(evaluations, TEST, session.config.evaluate.bootstrap, session.config.seed)
    return {
        "examples": int(usable.sum()),
        "training": adapter.json("train.json"),
        "evaluation": result,
        "adapter": str(adapter.path / "adapter"),
    }


def split_plainly(session: Session, pool: Artifact, tokens: Artifact) -> Artifact:
    """Dev and test stratified by source. Near-duplicates are not looked for here: `round` does that."""
    from selection.holdout import hold_out

    config = session.config.holdout

    def build(out: Path, scratch: Path) -> None:
        reader = Pool.open(pool.path)
        split = hold_out(
            reader.keys,
            reader.sources,
            np.arange(len(reader)),
            trainable(pool, tokens),
            config.dev,
            config.test,
            session.config.seed,
            None,
        )
        np.save(out / "split.npy", split)
        write_json(out / "split.json", {name: int((split == code).sum()) for name, code in SIDES.items()})

    return session.run.stage(
        "plain_split",
        version=1,
        inputs={"pool": pool, "tokens": tokens},
        build=build,
        label="hold out",
        params={"holdout": config.model_dump(mode="json"), "seed": session.config.seed},
    )
