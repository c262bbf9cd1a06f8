"""Groups as the defaults have them, and the base model's losses on top: does measuring pay once kinds are balanced?

    source_kinds, drawn by loss     the default's quotas; inside a group rows are drawn with probability in proportion to their loss
    source_kinds, shares by loss    a group's share in proportion to its mean loss, shrunk; inside a group at random
    and the same two for kinds of prompt without sources

A quarter of the budget is random in each, as in the defaults. Losses are mean NLLs of the responses under the base model, in nats.
"""

from __future__ import annotations

import numpy as np

from benchmarks.proving_ground.ground import KIND, WITH
from selection.config import SelectConfig
from selection.randomness import keyed_draw

DRAWN, SHARES = "drawn by loss", "shares by loss"
OVER = {f"{name}, {how}": (name, how) for name in (WITH, KIND) for how in (DRAWN, SHARES)}
"""Of each strategy: the one whose groups it has, and what losses decide."""
STRATEGIES = tuple(OVER)
PURPOSE = 301
"""Of the draws here; the strategies of `selection` have others."""


def pick(
    strategy: str, keys: np.ndarray, cluster: np.ndarray, loss: np.ndarray, budget: int, seed: int, explore: float
) -> np.ndarray:
    """Places of the picks among rows with `keys` (n,), in the groups `cluster` (n,), of `loss` (n,), NaN where it was not measured."""
    from selection.strategy import Budget, Candidates, allocate, select

    loss = np.where(np.isfinite(loss) & (loss > 0), loss, np.nan)
    score = in_proportion(keys, loss, seed)
    candidates = Candidates(keys, cluster, np.ones(len(keys), dtype=np.int64), score, loss)
    common = {"explore": explore, "tail_cut": 0.0}
    if OVER[strategy][1] == DRAWN:
        config = SelectConfig(strategy="size", temperature=0.0, picker="top", length_bins=1, **common)
    else:
        config = SelectConfig(strategy="loss", **common)
    wanted, seeds = Budget("examples", min(budget, len(keys))), (seed, 1)
    quotas = allocate(candidates, wanted, config, seeds)
    return select(candidates, quotas, wanted, config, seeds).picked


def in_proportion(keys: np.ndarray, weight: np.ndarray, seed: int) -> np.ndarray:
    """(n,) of which the k highest are k rows drawn without replacement in proportion to `weight` (Efraimidis and Spirakis 2006, doi
    10.1016/j.ipl.2005.11.003), whatever k is; NaN where the weight is."""
    uniform = (keyed_draw(keys, seed, PURPOSE).astype(np.float64) + 0.5) / 2.0**64
    return np.log(np.clip(uniform, 1e-300, 1 - 1e-16)) / weight
