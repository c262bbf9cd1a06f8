"""The checkpoints of a training that score `less` sums over, as LESS does (arXiv 2402.04333, section 3).

A round's training keeps a few, evenly over its steps, in its artifact:

    adapter/, moments.safetensors         the last one, which is the round's result
    checkpoints/step-000010/…             the same of each earlier one
    checkpoints.json                      [{"step", "learning_rate"}], earliest first

In the first round there is no adapter. A warm-up training on a few random examples (al.round.warmup) takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from al.config import Config
from al.lineage.round_state import RoundState
from al.run.artifacts import Artifact
from selection.scores import needs
from selection.strategy import aims, measures
from trainer.schedule import spread

ADAPTER, MOMENTS = "adapter", "moments.safetensors"
"""Names in a train artifact, and in the folder of each earlier checkpoint."""
FOLDER, INDEX = "checkpoints", "checkpoints.json"


@dataclass(frozen=True)
class GradientCheckpoint:
    """A model that gradients are computed with: the folder of its adapter (None: a new one), the optimizer's moments or None, and the
    share of its cosines in the sum over checkpoints."""

    adapter: Path | None
    moments: Path | None
    share: float


def checkpoints_summed(config: Config) -> int:
    """Number of checkpoints that gradients are summed over: `score.checkpoints` for score and picker `less`, else 1."""
    by_less = "gradient" in needs(config.score.by, *config.score.also)
    return config.score.checkpoints if by_less or (aims(config.select) and "gradient" in measures(config.select)) else 1


def gradient_source(state: RoundState) -> Artifact | None:
    """The training whose checkpoints give the gradients of a round: that of the round before, or the warm-up; None for neither."""
    return state.adapter or state.warmup


def gradient_checkpoints(source: Artifact | None, count: int, adam: bool) -> list[GradientCheckpoint]:
    """At most `count` checkpoints of a train artifact, evenly over those it kept, earliest first; the last is the adapter itself.

    Shares are proportional to mean learning rates and sum to 1. `adam`: whether moments are wanted; they are None where the artifact
    has none. Without an artifact, or with one of an earlier version, there is one checkpoint.
    """
    if source is None:
        return [GradientCheckpoint(None, None, 1.0)]
    kept = source.json(INDEX) if (source.path / INDEX).exists() else [{"step": None, "learning_rate": 1.0}]
    chosen = [kept[number - 1] for number in spread(len(kept), count)]
    total = sum(entry["learning_rate"] for entry in chosen)
    found = []
    for entry in chosen:
        folder = source.path if entry is kept[-1] else source.path / FOLDER / f"step-{entry['step']:06d}"
        moments = folder / MOMENTS if adam and (folder / MOMENTS).exists() else None
        found.append(GradientCheckpoint(folder / ADAPTER, moments, entry["learning_rate"] / total))
    return found
