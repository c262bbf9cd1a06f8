"""What goes into a selection and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from selection.errors import SelectionError, SelectionUsageError

UNITS = ("examples", "tokens")


@dataclass(frozen=True)
class Candidates:
    """The selectable examples, and only those; all arrays (n,).

    `keys`: uint64, distinct. `cluster`: int, 0 or more. `tokens`: int, length in tokens, 1 or more. `score`: float, higher is
    more worth training on. `loss`: float, mean NLL in nats per response token. NaN where not measured.

    Raises:
        SelectionError: arrays of different lengths, values out of range, repeated keys, or no example at all.
    """

    keys: np.ndarray
    cluster: np.ndarray
    tokens: np.ndarray
    score: np.ndarray
    loss: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.keys)
        if n == 0:
            raise SelectionError(
                "there is no selectable example: all are held out, duplicates, unlabelled, over length or trained."
            )
        for name in ("cluster", "tokens", "score", "loss"):
            if getattr(self, name).shape != (n,):
                raise SelectionError(
                    f"candidates: expected {name} of shape ({n},) like keys, found {getattr(self, name).shape}."
                )
        if self.cluster.min() < 0:
            raise SelectionError(f"candidates: expected clusters from 0 on, found {self.cluster.min()}.")
        if self.tokens.min() < 1:
            raise SelectionError(f"candidates: expected lengths of at least 1 token, found {self.tokens.min()}.")
        for name in ("score", "loss"):
            if np.isinf(getattr(self, name)).any():
                raise SelectionError(
                    f"candidates: expected finite {name} or NaN (not measured), found an infinite one."
                )
        ordered = self.keys if self.is_sorted else np.sort(self.keys)
        if (ordered[1:] == ordered[:-1]).any():
            raise SelectionError("candidates: an example occurs twice (repeated key).")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def is_sorted(self) -> bool:
        """Whether the keys do not decrease, which is how a pool stores them."""
        return bool((self.keys[1:] >= self.keys[:-1]).all())

    @property
    def clusters(self) -> int:
        """Number of clusters: the highest one's index plus one."""
        return int(self.cluster.max()) + 1

    def take(self, rows: np.ndarray) -> Candidates:
        """The candidates at `rows`, in that order."""
        return Candidates(
            **{name: getattr(self, name)[rows] for name in ("keys", "cluster", "tokens", "score", "loss")}
        )


@dataclass(frozen=True)
class Budget:
    """How much may be selected: `amount` examples, met exactly, or tokens, never exceeded.

    Raises:
        SelectionUsageError: another unit, or an amount that is not a whole number above zero.
    """

    unit: str
    amount: int

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise SelectionUsageError(f"budget: expected a unit out of {', '.join(UNITS)}, found {self.unit!r}.")
        if not isinstance(self.amount, (int, np.integer)) or self.amount < 1:
            raise SelectionUsageError(
                f"budget: expected a whole number of {self.unit} above zero, found {self.amount!r}."
            )


@dataclass(frozen=True)
class Strategy:
    """An allocation and a picker by name, with every parameter they read; `selection.config.SelectConfig` describes each."""

    allocation: str
    picker: str
    about: str = ""
    temperature: float = 1.0
    tail_cut: float = 0.05
    length_bins: int = 4
    mid_band: float = 0.5
    shortlist_factor: float = 4.0


@dataclass(frozen=True)
class Quotas:
    """The budget divided over clusters; all (k,), k = highest cluster among the candidates + 1.

    `quota`: int64, in `unit`, the budget's. `reason`: one line each. `loss_mean`: measured mean NLL, NaN where nothing is
    measured. `loss_stderr`: its standard error, NaN where unknown. `loss_expected`: the mean after shrinkage, what weights
    are made of. `measured`: number of measured examples. `weight`: share of the budget before rounding and capacities.
    """

    quota: np.ndarray
    reason: list[str]
    loss_mean: np.ndarray
    loss_stderr: np.ndarray
    loss_expected: np.ndarray
    measured: np.ndarray
    weight: np.ndarray
    unit: str


@dataclass(frozen=True)
class Selection:
    """What was picked and why.

    `picked`: (m,) int64 rows of the candidates in pick order; any first part of it is spread over the clusters as the whole.
    `step`: m lines, why this one. `outcome`: (n,) object, one of OUTCOMES for each candidate. `short_by`: what the budget
    leaves unspent, in its unit; 0 for examples.
    """

    picked: np.ndarray
    step: list[str] = field(repr=False)
    outcome: np.ndarray = field(repr=False)
    short_by: int


OUTCOMES = ("selected", "tail_cut", "quota_full", "no_quota")
"""What became of a candidate: picked; left out as suspected noise; its cluster's quota was full; its cluster had no quota."""
