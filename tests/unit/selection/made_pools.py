"""Made-up pools whose true losses are known, and the flow of a round on them: sample, quotas, shortlist, picks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from selection.pick import most_suspects
from selection.sample import stratified_sample
from selection.strategy import Budget, Candidates, Quotas, Selection, allocate, resolve, select, shortlist

SEED = (7, 1)


def candidates(cluster, *, tokens=100, loss=np.nan, score=None, keys=None):
    """Candidates out of one cluster index per example; scalars are repeated, score is the loss unless given."""
    cluster = np.asarray(cluster)
    n = len(cluster)
    loss = np.broadcast_to(np.asarray(loss, dtype=float), n).copy()
    score = loss if score is None else np.broadcast_to(np.asarray(score, dtype=float), n).copy()
    keys = np.asarray(np.arange(1, n + 1) * 7919 if keys is None else keys, dtype=np.uint64)
    return Candidates(keys, cluster, np.broadcast_to(tokens, n).astype(np.int32), score, loss)


def reveal(truth: Candidates, rows) -> Candidates:
    """The candidates with nothing but `rows` measured."""
    loss, score = np.full(len(truth), np.nan), np.full(len(truth), np.nan)
    loss[rows], score[rows] = truth.loss[rows], truth.score[rows]
    return replace(truth, loss=loss, score=score)


@dataclass(frozen=True)
class Round:
    """What one round came to. `known`: the candidates as `select` saw them; `measured`: rows measured in all."""

    known: Candidates
    measured: np.ndarray
    quotas: Quotas
    selection: Selection

    @property
    def keys(self) -> list[int]:
        return self.known.keys[self.selection.picked].tolist()


def play(truth: Candidates, budget: Budget, config, seed=SEED, per_cluster=4) -> Round:
    """A round as `al.selecting` plays it: quotas from a sample, the shortlist measured in between, picks at the end."""
    sample = stratified_sample(truth.cluster, truth.keys, np.ones(len(truth), bool), per_cluster, seed)
    seen = reveal(truth, sample)
    quotas = allocate(seen, budget, config, seed)
    measured = np.union1d(sample, shortlist(seen, quotas, config, seed))
    known = reveal(truth, measured)
    return Round(known, measured, quotas, select(known, quotas, budget, config, seed))


def pick_from(known: Candidates, budget: Budget, config, seed=SEED) -> Selection:
    """Quotas and picks from what is known, nothing more measured."""
    return select(known, allocate(known, budget, config, seed), budget, config, seed)


def most_examples(pool: Candidates, config) -> int:
    """The largest budget of examples that this pool can be asked for."""
    size = np.bincount(pool.cluster)
    return int((size - most_suspects(size, resolve(config).tail_cut)).sum())


def fewest_tokens(pool: Candidates) -> int:
    """A budget of tokens into which something fits whatever the tail cut takes, which leaves one of each cluster."""
    longest = np.zeros(pool.clusters, dtype=np.int64)
    np.maximum.at(longest, pool.cluster, pool.tokens)
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
_TOKENS = {
    "even": lambda rng, n: np.full(n, 50),
    "mixed": lambda rng, n: rng.integers(1, 400, n),
    "huge": lambda rng, n: np.where(rng.random(n) < 0.2, rng.integers(10**6, 5 * 10**8, n), rng.integers(1, 30, n)),
}


@st.composite
def pools(draw):
    """True candidates: uneven clusters, empty and single ones among them, tied, constant, missing and extreme losses,
    scores that need not follow the losses, and lengths from one token to more than an int32 can sum."""
    sizes = draw(st.lists(st.one_of(st.just(0), st.just(1), st.integers(0, 60)), min_size=1, max_size=7).filter(any))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = sum(sizes)
    cluster = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    loss = _LOSSES[draw(st.sampled_from(sorted(_LOSSES)))](rng, n)
    score = draw(st.sampled_from([loss, -loss, rng.normal(size=n)]))
    loss = np.where(rng.random(n) < draw(st.sampled_from([0.0, 0.3])), np.nan, loss)
    tokens = _TOKENS[draw(st.sampled_from(sorted(_TOKENS)))](rng, n)
    keys = rng.integers(0, 2**64, n, dtype=np.uint64) if draw(st.booleans()) else np.arange(n)
    return candidates(cluster, tokens=tokens, loss=loss, score=score, keys=keys)
