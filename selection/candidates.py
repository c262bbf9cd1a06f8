"""The inputs and outputs of a selection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from selection.errors import SelectionError, SelectionUsageError

UNITS = ("examples", "tokens")


@dataclass(frozen=True)
class Vectors:
    """One vector for each candidate that has one.

    `matrix`: (N, d), may be memory-mapped. `row`: (n,) int, each candidate's row of the matrix, -1 for none. `targets`: (t, d), the
    vectors of the target's examples, if the run has a target.
    """

    matrix: np.ndarray
    row: np.ndarray
    targets: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Vectors:
        """The vectors of the candidates at `rows`."""
        return Vectors(self.matrix, self.row[rows], self.targets)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return len(self.row), self.matrix.shape[1]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """(k, d) float32 of the candidates at `rows`, NaN for one without a vector."""
        row = self.row[rows]
        result = np.full((len(row), self.matrix.shape[1]), np.nan, dtype=np.float32)
        known = row >= 0
        result[known] = self.matrix[row[known]]
        return result

    def values(self) -> np.ndarray:
        """(n, d) float32, NaN for a candidate without a vector."""
        return self[np.arange(len(self))]


@dataclass(frozen=True)
class Candidates:
    """The selectable examples, and no others; all arrays (n,).

    `keys`: uint64, distinct. `cluster`: int, 0 or more. `tokens`: int, length in tokens, 1 or more. `score`: float, higher = more
    worth training on. `loss`: float, mean NLL in nats per response token. `confidence`: float, mean probability of the model's
    first choice. Scores, losses and confidences are NaN where not measured. `suspect`: bool, held back as noise. `vectors`: by name,
    only those that `vectors_needed` names: "embedding", "pooled", "hidden_states" (of the base model), "gradient", "trajectory" (losses of
    earlier rounds).

    Raises:
        SelectionError: arrays of different lengths, values out of range, repeated keys, or no example at all.
    """

    keys: np.ndarray
    cluster: np.ndarray
    tokens: np.ndarray
    score: np.ndarray
    loss: np.ndarray
    confidence: np.ndarray | None = None
    suspect: np.ndarray | None = None
    vectors: Mapping[str, Vectors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.keys)
        if n == 0:
            raise SelectionError(
                "there is no selectable example: all are held out, duplicates, unlabelled, over length or already trained on."
            )
        for name in self._arrays():
            if getattr(self, name).shape != (n,):
                raise SelectionError(
                    f"candidates: expected {name} of shape ({n},) like keys, found {getattr(self, name).shape}."
                )
        if self.cluster.min() < 0:
            raise SelectionError(f"candidates: expected clusters from 0 on, found {self.cluster.min()}.")
        if self.tokens.min() < 1:
            raise SelectionError(f"candidates: expected lengths of at least 1 token, found {self.tokens.min()}.")
        for name in ("score", "loss", *(["confidence"] if self.confidence is not None else [])):
            if np.isinf(getattr(self, name)).any():
                raise SelectionError(
                    f"candidates: expected finite {name} or NaN (not measured), found an infinite one."
                )
        for name, vectors in self.vectors.items():
            if vectors.row.shape != (n,) or vectors.row.min() < -1 or vectors.row.max() >= len(vectors.matrix):
                raise SelectionError(
                    f"candidates: expected {name} vectors with a row below {len(vectors.matrix)} (-1: none) for each of {n} "
                    f"candidates, found {len(vectors.row)} from {vectors.row.min(initial=0)} to {vectors.row.max(initial=0)}."
                )
        ordered = self.keys if self.is_sorted else np.sort(self.keys)
        if (ordered[1:] == ordered[:-1]).any():
            raise SelectionError("candidates: an example occurs twice (repeated key).")

    def _arrays(self) -> list[str]:
        optional = [name for name in ("confidence", "suspect") if getattr(self, name) is not None]
        return ["keys", "cluster", "tokens", "score", "loss", *optional]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def is_sorted(self) -> bool:
        """Whether the keys do not decrease. A pool stores them in that order."""
        return bool((self.keys[1:] >= self.keys[:-1]).all())

    @property
    def clusters(self) -> int:
        """Number of clusters: the highest index plus one."""
        return int(self.cluster.max()) + 1

    @property
    def trusted(self) -> np.ndarray:
        """(n,) bool: not held back as noise."""
        return np.ones(len(self), dtype=bool) if self.suspect is None else ~self.suspect

    def take(self, rows: np.ndarray) -> Candidates:
        """The candidates at `rows`, in that order."""
        arrays = {name: getattr(self, name)[rows] for name in self._arrays()}
        return Candidates(**arrays, vectors={name: vectors.take(rows) for name, vectors in self.vectors.items()})


@dataclass(frozen=True)
class PastRound:
    """What an earlier round measured and spent in each of the present clusters; all (k,).

    `loss`, `stderr`: mean NLL before that round's training and its standard error, NaN where unknown. `spent`: the size of the
    picks, in the budget's unit.
    """

    loss: np.ndarray
    stderr: np.ndarray
    spent: np.ndarray


@dataclass(frozen=True)
class Budget:
    """How much to select: exactly `amount` examples, or at most `amount` tokens.

    Raises:
        SelectionUsageError: an unknown unit, or an amount that is not a whole number above zero.
    """

    unit: str
    amount: int

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise SelectionUsageError(f"budget: expected one of the units {', '.join(UNITS)}, found {self.unit!r}.")
        if not isinstance(self.amount, (int, np.integer)) or self.amount < 1:
            raise SelectionUsageError(
                f"budget: expected a whole number of {self.unit} above zero, found {self.amount!r}."
            )


@dataclass(frozen=True)
class Strategy:
    """An allocation and a picker by name, and their parameters; `selection.config.SelectConfig` describes each.

    `about`: what the strategy does and when to use it, for help, docs and reports. `groups`: what the budget is spread over:
    "clusters" of embeddings; the values of the "field" `by`; kinds of prompt by their "wording"; or "kinds", the values of the
    field, each split into kinds of prompt if it has several.
    """

    allocation: str
    picker: str
    about: str = ""
    temperature: float = 1.0
    explore: float = 0.0
    learn: float = 1.0
    tail_cut: float = 0.0
    length_bins: int = 4
    mid_band: float = 0.5
    shortlist_factor: float = 4.0
    rising: bool = False
    groups: str = "clusters"
    by: str = "source"


@dataclass(frozen=True)
class Quotas:
    """The budget divided over clusters; all (k,), k = highest cluster index among the candidates + 1.

    `quota`: int64, in `unit`. `reason`: one line for each cluster, in words. `formula`: one line for each on how its share follows.
    `loss_mean`: measured mean NLL, NaN where nothing is measured. `loss_stderr`: its standard error, NaN where unknown.
    `loss_expected`: the mean after shrinkage, which the weights use.
    `measured`: number of measured examples. `weight`: share of the budget before rounding and capacities. `unit`: the budget's.
    `explored`: keys of the examples picked at random from the whole pool. They count towards the budget, not towards a quota.
    """

    quota: np.ndarray
    reason: list[str]
    formula: list[str]
    loss_mean: np.ndarray
    loss_stderr: np.ndarray
    loss_expected: np.ndarray
    measured: np.ndarray
    weight: np.ndarray
    unit: str
    explored: np.ndarray


@dataclass(frozen=True)
class Selection:
    """The picks, with reasons.

    `picked`: (m,) int64 rows of the candidates in pick order; any first part of it is spread over the clusters like the whole.
    `step`: m reasons, one for each pick. `outcome`: (n,) object, one of OUTCOMES for each candidate. `short_by`: the unspent part
    of the budget, in its unit; 0 for a budget of examples.
    """

    picked: np.ndarray
    step: list[str] = field(repr=False)
    outcome: np.ndarray = field(repr=False)
    short_by: int


OUTCOMES = ("selected", "suspected_noise", "tail_cut", "quota_full", "no_quota")
"""The outcome of a candidate: picked; held back because its prompt makes its response less likely (`selection.noise`); excluded as one
of its cluster's highest losses; its cluster's quota was full; its cluster had no quota."""
