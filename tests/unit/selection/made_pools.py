"""Made-up pools whose true losses are known, and the flow of a round on them: sample, quotas, shortlist, picks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from selection.pick import most_suspects
from selection.sample import stratified_sample
from selection.shortlist import shortlist
from selection.strategy import (
    Budget,
    Candidates,
    PastRound,
    Quotas,
    Selection,
    Vectors,
    allocate,
    needs_losses,
    resolve,
    select,
    vectors_needed,
)

SEED = (7, 1)
MEASURED_VECTORS = ("pooled", "gradient")


def candidates(cluster, *, tokens=100, loss=np.nan, score=None, keys=None, **more):
    """Candidates out of one cluster index per example; scalars are repeated, score is the loss unless given."""
    cluster = np.asarray(cluster)
    n = len(cluster)
    loss = np.broadcast_to(np.asarray(loss, dtype=float), n).copy()
    score = loss if score is None else np.broadcast_to(np.asarray(score, dtype=float), n).copy()
    keys = np.asarray(np.arange(1, n + 1) * 7919 if keys is None else keys, dtype=np.uint64)
    return Candidates(keys, cluster, np.broadcast_to(tokens, n).astype(np.int32), score, loss, **more)


def vectors(rng, cluster, *, dimension=5, targets=3, rounds=2):
    """Vectors of every name: embeddings that lie by cluster, what is measured anywhere, and trajectories with gaps; their rows
    are not those of the candidates, as a pool's are not."""
    n, where = len(cluster), rng.permutation(len(cluster))
    centre = 3 * rng.normal(size=(int(np.max(cluster)) + 1, dimension))
    found = {}
    for name, values in (
        ("embedding", (centre[cluster] + rng.normal(size=(n, dimension))).astype(np.float16)),
        *((name, rng.normal(size=(n, dimension)).astype(np.float32)) for name in MEASURED_VECTORS),
    ):
        matrix = np.empty_like(values)
        matrix[where] = values
        found[name] = Vectors(matrix, where, rng.normal(size=(targets, dimension)).astype(np.float32))
    trajectory = np.where(rng.random((n, rounds)) < 0.5, np.nan, rng.integers(0, 3, (n, rounds)))
    found["trajectory"] = Vectors(trajectory.astype(np.float32), np.arange(n))
    states, aims = (rng.normal(size=(count, dimension)).astype(np.float32) for count in (n, targets))
    found["hidden_states"] = Vectors(states, np.arange(n), aims)  # of the base: known of every candidate
    return found


def past_rounds(rng, k, rounds):
    """So many earlier rounds, in which not every cluster was measured or had anything."""
    loss = rng.gamma(4, 0.5, k) * 0.8 ** np.arange(rounds)[:, None]
    loss[rng.random((rounds, k)) < 0.2] = np.nan
    stderr = np.where(rng.random((rounds, k)) < 0.3, np.nan, 0.1)
    return [PastRound(a, b, c) for a, b, c in zip(loss, stderr, rng.integers(0, 30, (rounds, k)), strict=True)]


def reveal(truth: Candidates, rows) -> Candidates:
    """The candidates with nothing but `rows` measured."""
    seen = np.zeros(len(truth), dtype=bool)
    seen[rows] = True
    hidden = {
        name: np.where(seen, getattr(truth, name), np.nan)
        for name in ("loss", "score", "confidence")
        if getattr(truth, name) is not None
    }
    shown = {
        name: Vectors(v.matrix, np.where(seen, v.row, -1), v.targets) if name in MEASURED_VECTORS else v
        for name, v in truth.vectors.items()
    }
    return replace(truth, **hidden, vectors=shown)


def handed(pool: Candidates, config) -> Candidates:
    """The candidates as a round hands them to selection: with the vectors that `vectors_needed` names, and no others."""
    needed = vectors_needed(config)
    return replace(pool, vectors={name: found for name, found in pool.vectors.items() if name in needed})


@dataclass(frozen=True)
class Round:
    """What one round came to. `known`: the candidates as `select` saw them; `sampled`, `measured`: rows measured for the quotas,
    and in all."""

    truth: Candidates
    known: Candidates
    sampled: np.ndarray
    measured: np.ndarray
    quotas: Quotas
    selection: Selection

    @property
    def keys(self) -> list[int]:
        return self.known.keys[self.selection.picked].tolist()

    @property
    def explored(self) -> np.ndarray:
        """(n,) bool: picked at random from the whole pool."""
        return np.isin(self.known.keys, self.quotas.explored)


def play(truth: Candidates, budget: Budget, config, seed=SEED, per_cluster=4, past=(), distinct=1.0) -> Round:
    """A round as `al.choosing.stage` plays it: quotas from a sample, the shortlist measured in between, picks at the end."""
    eligible = np.full(len(truth), needs_losses(config, seed[-1]))
    sample = stratified_sample(truth.cluster, truth.keys, eligible, per_cluster, seed)
    given = handed(truth, config)
    seen = reveal(given, sample)
    quotas = allocate(seen, budget, config, seed, past, distinct)
    measured = np.union1d(sample, shortlist(seen, quotas, config, seed))
    known = reveal(given, measured)
    return Round(truth, known, sample, measured, quotas, select(known, quotas, budget, config, seed))


def pick_from(known: Candidates, budget: Budget, config, seed=SEED) -> Selection:
    """Quotas and picks from what is known, nothing more measured."""
    known = handed(known, config)
    return select(known, allocate(known, budget, config, seed), budget, config, seed)


def most_examples(pool: Candidates, config) -> int:
    """A budget of examples that this pool can be asked for whatever is explored, and the most where nothing is."""
    size = np.bincount(pool.cluster[pool.trusted])
    return int((size - most_suspects(size, resolve(config).tail_cut)).sum())


def fewest_tokens(pool: Candidates) -> int:
    """A budget of tokens into which something fits whatever the tail cut takes, which leaves one of each cluster."""
    longest = np.zeros(pool.clusters, dtype=np.int64)
    np.maximum.at(longest, pool.cluster[pool.trusted], pool.tokens[pool.trusted])
    return int(longest[longest > 0].min())


def budget_for(pool: Candidates, unit: str, share: float, config) -> Budget:
    """A budget `share` of the way from the least to the most that can be asked for."""
    if unit == "examples":
        low, high = 1, most_examples(pool, config)
    else:
        low, high = fewest_tokens(pool), int(pool.tokens.sum()) + 10
    return Budget(unit, low + int(share * (high - low)))


_LOSSES = {
    "smooth": lambda rng, n: rng.gamma(2.0, 0.5, n),
    "equal": lambda rng, n: np.full(n, 0.7),
    "zero": lambda rng, n: np.zeros(n),
    "ties": lambda rng, n: rng.integers(0, 3, n) / 2,
    "outliers": lambda rng, n: np.where(rng.random(n) < 0.1, 1e6, rng.random(n)),
    "unmeasurable": lambda rng, n: np.full(n, np.nan),
}
_SCORES = {
    "the loss": lambda rng, loss: loss,
    "its negative": lambda rng, loss: -loss,
    "another": lambda rng, loss: rng.normal(size=len(loss)),
}
_TOKENS = {
    "even": lambda rng, n: np.full(n, 50),
    "mixed": lambda rng, n: rng.integers(1, 400, n),
    "huge": lambda rng, n: np.where(rng.random(n) < 0.2, rng.integers(10**6, 5 * 10**8, n), rng.integers(1, 30, n)),
}
_SHARES = (0.0, 0.1, 0.6)
SHAPES = {
    "loss": sorted(_LOSSES),
    "score": sorted(_SCORES),
    "tokens": sorted(_TOKENS),
    "lost": (0.0, 0.3),
    "suspected": _SHARES,
    "rounds": (0, 1, 3),
    "distinct": (0.0, 0.4, 1.0),
    "plain_keys": (False, True),
}
"""What a made-up pool varies in, besides the sizes of its clusters."""


@dataclass(frozen=True)
class Case:
    """True candidates, what earlier rounds left, and how far the clusters are kinds of example."""

    pool: Candidates
    past: list[PastRound]
    distinct: float


def case(sizes, seed, loss, score, tokens, lost, suspected, rounds, distinct, plain_keys) -> Case:
    """Uneven clusters; tied, constant, missing and extreme losses; scores that need not follow them; lengths from one token to more
    than an int32 can sum; suspects, of which at least one example is none; vectors that are not always there."""
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    cluster = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    true_loss = _LOSSES[loss](rng, n)
    true_score = _SCORES[score](rng, true_loss)
    suspect = rng.random(n) < suspected
    suspect[rng.integers(n)] = False
    pool = candidates(
        cluster,
        tokens=_TOKENS[tokens](rng, n),
        loss=np.where(rng.random(n) < lost, np.nan, true_loss),
        score=true_score,
        keys=np.arange(n) if plain_keys else rng.integers(0, 2**64, n, dtype=np.uint64),
        confidence=rng.random(n) if rng.random() < 0.8 else None,
        suspect=suspect if suspected else None,
        vectors=vectors(rng, cluster),
    )
    for name in MEASURED_VECTORS:
        pool.vectors[name].row[rng.random(n) < lost] = -1
    return Case(pool, past_rounds(rng, len(sizes), rounds), distinct)


@st.composite
def cases(draw):
    """Cases that shrink."""
    sizes = draw(st.lists(st.one_of(st.just(0), st.just(1), st.integers(0, 60)), min_size=1, max_size=7).filter(any))
    shape = {name: draw(st.sampled_from(values)) for name, values in SHAPES.items()}
    return case(sizes, draw(st.integers(0, 2**32 - 1)), **shape)


def drawn_case(rng) -> Case:
    """As `cases`, but out of a random generator: without shrinking, for what is tried on hundreds of strategies."""
    sizes = rng.choice([0, 1, int(rng.integers(2, 12)), int(rng.integers(12, 40))], size=rng.integers(1, 7))
    sizes[0] = max(sizes[0], 1)
    shape = {name: values[rng.integers(len(values))] for name, values in SHAPES.items()}
    return case([int(size) for size in sizes], int(rng.integers(2**32)), **shape)
