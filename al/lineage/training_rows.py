"""Which pool rows a lineage trains on in a round."""

from __future__ import annotations

import numpy as np

from al.cleaning.stage import wanted
from al.lineage.history import History
from al.lineage.outcomes import find_rows, removed_in_reviews
from al.preparation.stages import Prepared
from al.run.artifacts import Artifact
from al.run.session import Session
from selection.holdout import POOL


def training_rows(session: Session, prepared: Prepared, selection: Artifact, history: History) -> np.ndarray:
    """Pool rows that this round trains on: its picks, plus replayed or all earlier ones as `train.mode` says."""
    keys = prepared.open_pool().keys
    picked, earlier = np.load(selection.path / "picked.npy"), history.all_picked()
    split = np.load(prepared.split.path / "split.npy")  # nor is what a holdout that came later holds, or nearly so
    earlier = np.setdiff1d(earlier, keys[split != POOL], assume_unique=True)
    if prepared.target is not None:  # a target that came later: what it holds is not trained on again
        earlier = np.setdiff1d(earlier, keys[prepared.target.excluded], assume_unique=True)
    if prepared.cleaned is not None:  # nor what was asked to be left out since
        earlier = np.setdiff1d(earlier, keys[~wanted(prepared.cleaned, len(keys))], assume_unique=True)
    reviews = history.then({"selection": selection})
    for _, removed in removed_in_reviews(prepared.open_pool(), reviews, session.config.review.forget):
        earlier = np.setdiff1d(earlier, keys[removed], assume_unique=True)
    if session.config.train.mode == "continue":
        count = min(len(earlier), round(session.config.train.replay * len(picked)))
        rng = np.random.default_rng([session.config.seed, history.number, 0x2E91A7])
        earlier = rng.choice(earlier, size=count, replace=False) if count else earlier[:0]
    return find_rows(keys, np.concatenate([picked, earlier]))


def late_holdout(session: Session, prepared: Prepared, history: History) -> list[str]:
    """A note for the user if the adapter is continued although it was trained on examples that were held out later."""
    if session.config.train.mode != "continue":
        return []
    rows = find_rows(prepared.open_pool().keys, history.all_picked())
    late = int((np.load(prepared.split.path / "split.npy")[rows] != POOL).sum())
    if not late:
        return []
    return [
        f"{late:,} examples that earlier rounds trained on are by now held out, or nearly in what is held out, and the adapter goes "
        "on from them: its figures flatter it; train.mode=retrain leaves them out"
    ]
