"""Everything that a config can name: strategies (the table below), allocations, pickers and scores.

A picker or an allocation registers itself with a decorator. This module imports every module of selection/pickers/ and
selection/allocations/, so a new one needs its own file and no other edit. Import PICKERS and ALLOCATIONS from here, because only then
are they complete.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from selection import allocations, pickers
from selection.allocate import ALLOCATIONS
from selection.candidates import Strategy
from selection.pick import PICKERS
from selection.scores import SCORES

__all__ = ["ALLOCATIONS", "PICKERS", "SCORES", "STRATEGIES", "described", "registry"]


STRATEGIES: dict[str, Strategy] = {
    "default": Strategy(
        "adaptive",
        "random",
        "start here: source_kinds where rows come from several sources, else kind_uniform where kinds of prompt are uneven; else distinct "
        "clusters alike, later more where loss is high and falls; with a target rds_centered, with goal: pool proportional",
        learn=0.5,
        explore=0.02,
    ),
    "random": Strategy("random", "random", "uniform over the whole pool: the baseline"),
    "uniform": Strategy("uniform", "random", "the same share for every cluster; for uneven pools, without measuring"),
    "proportional": Strategy(
        "size",
        "random",
        "every cluster its share of the pool: random picks that cannot miss one by chance; what goal: pool asks for",
    ),
    "size": Strategy(
        "size",
        "random",
        "clusters by the square root of their size; between random and uniform",
        temperature=0.5,
    ),
    "source_uniform": Strategy(
        "even", "random", "the same share for every source, or value of select.by; without measuring", groups="field"
    ),
    "source_size": Strategy(
        "size",
        "random",
        "sources by the square root of their size; if rows carry a source and rare tasks count",
        temperature=0.5,
        groups="field",
    ),
    "source_kinds": Strategy(
        "even",
        "random",
        "sources, each split into kinds of prompt if it has several; a quarter of the budget at random",
        explore=0.25,
        groups="kinds",
    ),
    "kind_uniform": Strategy(
        "even",
        "random",
        "the same share for every kind of prompt; without sources; a quarter of the budget at random",
        explore=0.25,
        groups="wording",
    ),
    "kind_size": Strategy(
        "size",
        "random",
        "kinds of prompt by the square root of their size; without sources",
        temperature=0.5,
        groups="wording",
    ),
    "loss": Strategy(
        "loss", "random", "clusters by the current adapter's loss, without the default's memory", tail_cut=0.05
    ),
    "top": Strategy(
        "loss",
        "top",
        "clusters by loss, inside them the highest scores of each length; for clean labels",
        tail_cut=0.05,
    ),
    "mid": Strategy(
        "loss", "mid", "clusters by loss, inside them the middle of the scores; for noisy labels", tail_cut=0.05
    ),
    "rising": Strategy(
        "loss", "mid", "as mid, with harder examples in every round: a curriculum", tail_cut=0.05, rising=True
    ),
    "confidence": Strategy("confidence", "random", "clusters by the model's uncertainty"),
    "learnability": Strategy(
        "learnability", "random", "clusters by how fast their loss falls; if parts of the pool cannot be learned"
    ),
    "k_center": Strategy(
        "uniform", "k_center", "inside every cluster the examples farthest from each other; for variety"
    ),
    "facility_location": Strategy(
        "uniform", "facility_location", "inside every cluster the examples that cover it best; for variety"
    ),
    "badge": Strategy("loss", "badge", "clusters by loss, inside them large gradients far apart; for small budgets"),
    "deita": Strategy(
        "loss",
        "deita",
        "clusters by loss, inside them the highest scores that are not similar; for small budgets",
        tail_cut=0.05,
    ),
    "qdit": Strategy(
        "loss", "qdit", "clusters by loss, inside them score and coverage; for small budgets", tail_cut=0.05
    ),
    "s2l": Strategy(
        "uniform",
        "s2l",
        "inside every cluster all kinds of loss trajectory alike; from the third round, with score.sample_per_cluster=all",
    ),
    "longest": Strategy("uniform", "longest", "inside every cluster the longest examples: a baseline"),
    "target": Strategy(
        "target", "random", "clusters by their share of the target; more variety than nearest; needs a target"
    ),
    "nearest": Strategy("uniform", "nearest", "nearest to the target by embeddings, target examples take turns"),
    "rds_centered": Strategy(
        "uniform",
        "rds_centered",
        "nearest to the target by the base model's hidden states less their mean, target examples take turns; measured once for all rounds",
    ),
    "rds": Strategy("uniform", "rds", "nearest to the target by hidden states (RDS+), target examples take turns"),
    "less": Strategy("uniform", "less", "nearest to the target by gradients (LESS), target examples take turns"),
}
"""By name. The help, docs/strategies.md and the comparison report show `about`."""


def registry(kind: str) -> Mapping[str, Any]:
    """All entries of a `kind` by name: "strategy", "allocation", "picker" or "score"."""
    return {"strategy": STRATEGIES, "allocation": ALLOCATIONS, "picker": PICKERS, "score": SCORES}[kind]


def described(kind: str) -> str:
    """All strategies or scores for a help text: one line each, with its name and `about`."""
    return "".join(f"\n      {name}: {entry.about}" for name, entry in registry(kind).items())


def _import_modules_of(package: ModuleType) -> None:
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


_import_modules_of(allocations)
_import_modules_of(pickers)
