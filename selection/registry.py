"""The strategies that have a name."""

from __future__ import annotations

from selection.candidates import Strategy

STRATEGIES: dict[str, Strategy] = {
    "default": Strategy(
        "adaptive",
        "random",
        "kinds of example alike, then more where loss remains and falls; as the pool where there are no kinds",
        learn=0.5,
        explore=0.02,
    ),
    "random": Strategy("random", "random", "uniform over the whole pool, no clusters: the control"),
    "uniform": Strategy("uniform", "random", "every cluster alike, random inside"),
    "size": Strategy("size", "random", "clusters by the square root of their size, random inside", temperature=0.5),
    "source_uniform": Strategy("uniform", "random", "every source alike, random inside", groups="field"),
    "source_size": Strategy(
        "size", "random", "sources by the square root of their size, random inside", temperature=0.5, groups="field"
    ),
    "source_kinds": Strategy(
        "uniform",
        "random",
        "sources, split into kinds of prompt where they hold several, alike; a quarter at random",
        explore=0.25,
        groups="kinds",
    ),
    "kind_uniform": Strategy("uniform", "random", "every kind of prompt alike, random inside", groups="wording"),
    "kind_size": Strategy(
        "size",
        "random",
        "kinds of prompt by the square root of their size, random inside",
        temperature=0.5,
        groups="wording",
    ),
    "loss": Strategy("loss", "random", "clusters by what the current adapter gets wrong, random inside", tail_cut=0.05),
    "top": Strategy(
        "loss", "top", "clusters by loss, inside the highest scores of each length, tail cut", tail_cut=0.05
    ),
    "mid": Strategy("loss", "mid", "clusters by loss, inside the middle of the scores, tail cut", tail_cut=0.05),
    "rising": Strategy(
        "loss", "mid", "as mid, from harder examples in every round: a curriculum", tail_cut=0.05, rising=True
    ),
    "confidence": Strategy("confidence", "random", "clusters by how unsure the model is, random inside"),
    "learnability": Strategy("learnability", "random", "clusters by how fast their loss falls, random inside"),
    "k_center": Strategy("uniform", "k_center", "every cluster alike, inside the farthest from each other"),
    "facility_location": Strategy("uniform", "facility_location", "every cluster alike, inside what covers it best"),
    "badge": Strategy("loss", "badge", "clusters by loss, inside gradients far apart and long"),
    "deita": Strategy("loss", "deita", "clusters by loss, inside the highest scores that are not alike", tail_cut=0.05),
    "qdit": Strategy("loss", "qdit", "clusters by loss, inside score and coverage, half and half", tail_cut=0.05),
    "s2l": Strategy("uniform", "s2l", "every cluster alike, inside every kind of loss trajectory alike"),
    "longest": Strategy("uniform", "longest", "every cluster alike, inside the longest"),
    "target": Strategy("target", "random", "clusters by their share of the target's kind, random inside"),
    "nearest": Strategy("uniform", "nearest", "to the target by embedding, target examples taking turns"),
    "rds": Strategy("uniform", "rds", "to the target by hidden states (RDS+), target examples taking turns"),
    "less": Strategy("uniform", "less", "to the target by gradients (LESS), target examples taking turns"),
}
