"""The figures of the proving ground are what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.proving_ground.summary import (
    WITH,
    Ground,
    examples_for,
    geometric_share,
    longer_share,
    mean_difference,
    oracle_part,
    worse_cells,
)

CURVE = [(300, 2.0), (1000, 1.6), (2000, 1.4), (4000, 1.2)]


def row(strategy: str, seed: int, nll: float, budget: int = 1000, pool: str = "a", em: float = 0.3) -> dict:
    where = {"model": "m", "pool": pool, "budget": budget, "strategy": strategy, "seed": seed, "split": "test"}
    return {**where, "macro_nll": nll, "macro_em": em}


def ground(ours: list[float], oracle: list[float], em: list[float] | None = None, pool: str = "a") -> Ground:
    noise = [0.01, -0.01, 0.02, -0.02, 0.0]
    rows = [row("random", s, nll + noise[s], budget, pool) for budget, nll in CURVE for s in range(5)]
    rows += [row(WITH, s, nll + noise[s], pool=pool, em=(em or [0.3] * 5)[s]) for s, nll in enumerate(ours)]
    rows += [row("oracle_size", s, nll + noise[s], pool=pool) for s, nll in enumerate(oracle)]
    return Ground(rows)


@pytest.mark.parametrize("nll, examples", [(1.6, 1000), (1.4, 2000), (1.3, 2828), (1.0, 8000), (2.1, 222)])
def test_random_needs_as_many_examples_as_its_curve_says(nll, examples):
    assert examples_for(CURVE, nll) == pytest.approx(examples, rel=0.01)


def test_a_share_is_kept_between_a_tenth_and_two():
    found = ground([1.6] * 5, [1.4] * 5)
    assert found.share(("m", "a"), 1.4) == pytest.approx(0.5)
    assert found.share(("m", "a"), 0.2) == 0.1 and found.share(("m", "a"), 3.0) == 2.0


def test_a_pool_has_headroom_where_the_oracle_gains_two_standard_errors():
    assert ground([1.5] * 5, [1.5, 1.45, 1.5, 1.45, 1.5]).headroom(("m", "a"))
    assert not ground([1.5] * 5, [1.3, 1.9, 1.5, 1.8, 1.4]).headroom(("m", "a"))


def test_gains_are_parts_of_the_oracles():
    assert oracle_part(ground([1.5] * 5, [1.4] * 5), WITH)["value"] == pytest.approx(0.5)


def test_the_mean_share_is_geometric():
    found = Ground([])
    for pool, nll in (("a", 1.4), ("b", 1.2)):
        found.runs.update(ground([nll] * 5, [1.2] * 5, pool=pool).runs)
    assert geometric_share(found, [("m", "a"), ("m", "b")], WITH)["value"] == pytest.approx(
        np.sqrt(0.5 * 0.25), rel=1e-3
    )


def test_a_cell_is_worse_when_its_measures_say_so_together():
    assert worse_cells(ground([1.8, 1.81, 1.79, 1.8, 1.8], [1.4] * 5), WITH)["which"] == ["m, a, macro_nll"]
    assert worse_cells(ground([1.5, 1.7, 1.6, 1.65, 1.55], [1.4] * 5), WITH)["value"] == 0
    lost = worse_cells(ground([1.5, 1.7, 1.6, 1.65, 1.55], [1.4] * 5, em=[0.2, 0.21, 0.19, 0.2, 0.2]), WITH)
    assert lost["which"] == ["m, a, macro_em"]


def test_a_larger_budget_is_compared_with_random_at_larger_ones():
    found = Ground(
        [row("random", 1, nll, budget, "evals") for budget, nll in CURVE]
        + [row(WITH, seed, nll, 2000, "evals") for seed, nll in enumerate((1.15, 1.2, 1.25))]
    )
    share = longer_share(found, "m", WITH, 2000)
    assert share["value"] == pytest.approx(0.5) and share["low"] < 0.5 < share["high"]
    assert longer_share(found, "m", "oracle_size", 2000)["value"] is None


def test_differences_are_the_strategys_less_randoms():
    found = Ground([])
    for pool, nll, em in (("a", 1.5, 0.32), ("b", 1.3, 0.36)):
        found.runs.update(ground([nll] * 5, [1.2] * 5, em=[em] * 5, pool=pool).runs)
    assert mean_difference(found, found_cells := [("m", "a"), ("m", "b")], WITH)["value"] == pytest.approx(-0.2)
    assert mean_difference(found, found_cells, WITH, "macro_em")["value"] == pytest.approx(4.0)
