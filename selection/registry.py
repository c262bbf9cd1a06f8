"""Everything that a config can name: strategies (the table below), allocations, pickers and scores.

A picker or an allocation registers itself with a decorator. Importing this module imports every module of selection/pickers/ and
selection/allocations/, so a new one needs its own file and no other edit. Take PICKERS and ALLOCATIONS from here: in
selection.pick and selection.allocate they are filled only as far as something has imported the modules.
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

__all__ = ["ALLOCATIONS", "PICKERS", "SCORES", "STRATEGIES", "registry"]


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
"""By name. `about` stands in the help, in docs/selection.md and in the report of a comparison."""


def registry(kind: str) -> Mapping[str, Any]:
    """The names that `kind` ("strategy", "allocation", "picker", "score") can take, with what each stands for."""
    return {"strategy": STRATEGIES, "allocation": ALLOCATIONS, "picker": PICKERS, "score": SCORES}[kind]


def _import_modules_of(package: ModuleType) -> None:
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


_import_modules_of(allocations)
_import_modules_of(pickers)
