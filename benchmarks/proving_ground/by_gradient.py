"""Picks by gradients that gradients.py measured of a pool.

    less to dev         the dev rows take turns, each with the row whose gradient is nearest to its own (LESS, arXiv 2402.04333, with the
                        turns of Winnow's picker `less`)
    less, dattri-llm    the same with the cosines of dattri-llm 0.1.0, on the smallest of the pools

peer_picks.py has two rules of DataFlex that see the same cosines and losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.proving_ground.aiming import Aim

OWN, DATTRI = "less to dev", "less, dattri-llm"
STRATEGIES = (OWN, DATTRI)
DATTRI_POOLS = ("p3-power",)
"""Its gradients take a pass of one row each, without packing."""


def file_of(folder: Path, strategy: str, pool: str) -> Path:
    """Where a model's folder of gradients has what the strategy picks from."""
    return (folder / "dattri" if strategy == DATTRI else folder) / f"{pool}.npz"


def measured(file: Path) -> Mapping[str, np.ndarray]:
    """The arrays that gradients.py wrote to a file. Raises SystemExit if there are none."""
    if not file.exists():
        raise SystemExit(f"{file}: not there; run `python -m benchmarks.proving_ground gradients`")
    return dict(np.load(file))


def pick(cosines: np.ndarray, keys: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """Places of the picks among n rows with `keys` (n,), by their `cosines` (n, t) to the dev rows."""
    return in_one_space(cosines, keys).nearest(budget, seed, strategy="less")


def in_one_space(cosines: np.ndarray, keys: np.ndarray) -> Aim:
    """Vectors of t + 1 dimensions whose cosines are these, divided by one number: the picker takes vectors, and those of the gradients are
    too many to keep. The last dimension makes them equally long."""
    found = cosines.astype(np.float32)
    squares = np.square(found, dtype=np.float64).sum(axis=1)
    rest = np.sqrt(np.maximum(squares.max() - squares, 0)).astype(np.float32)
    targets = np.eye(found.shape[1], found.shape[1] + 1, dtype=np.float32)
    return Aim(np.concatenate([found, rest[:, None]], axis=1), targets, keys)
