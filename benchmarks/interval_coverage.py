"""Coverage of the 95% intervals of macro differences, in simulations.

    python benchmarks/interval_coverage.py [--simulations 500]

Test sets of several compositions are drawn repeatedly from a world in which every source has its own true difference of NLL, its spread
and the accuracies of both models. Two models are "measured" on each, and `paired_bootstrap` gives intervals. The script counts how
often these contain the mean of the sources' true differences, and compares with the bootstrap over the whole test set, in which
a small source is missing from many resamples. A 95% interval should contain the truth in 95% of the simulations; with 500
simulations the count has a standard error of 1 point.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from common import device_name, now  # noqa: E402

from al.evaluation.bootstrap import paired_bootstrap  # noqa: E402
from al.evaluation.metrics import Measured, metrics  # noqa: E402

SIZES = {
    "6 sources of 20": [20] * 6,
    "50 sources of 1 to 10": [1] * 20 + [2] * 15 + [4] * 10 + [10] * 5,
    "50 of 1 and 3 of 20": [1] * 50 + [20] * 3,
    "8 of 1 to 13": [1, 2, 2, 3, 3, 5, 8, 13],
    "40 of 2": [2] * 40,
    "60 of 1": [1] * 60,
}
"""{name: number of examples of each source of the test set}."""
RESAMPLES, METRICS = 400, ("macro_nll", "macro_em")
Ends = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class World:
    """The truth of each source: `gain` nats between the models, `spread` of an example's gain, and each model's accuracy."""

    source: np.ndarray
    gain: np.ndarray
    spread: np.ndarray
    right: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, sizes: list[int]) -> World:
        """A world with sources of these sizes; sources of one example have a larger gain."""
        rng, count = np.random.default_rng(11), len(sizes)
        gain = rng.normal(-0.1, 0.25, count) - 0.2 * (np.array(sizes) == 1)
        before = rng.uniform(0, 0.6, count)
        spread = rng.uniform(0.2, 0.6, count)
        return cls(np.repeat(np.arange(count), sizes), gain, spread, (before + 0.1, before))

    @property
    def truth(self) -> dict[str, float]:
        """The true macro differences."""
        return {"macro_nll": float(self.gain.mean()), "macro_em": float((self.right[0] - self.right[1]).mean())}

    def measured(self, rng: np.random.Generator) -> tuple[Measured, Measured]:
        """Both models on one test set drawn from this world; they share how hard each example is."""
        n = len(self.source)
        tokens, hard = rng.integers(3, 30, n).astype(float), 2 + rng.normal(0, 0.5, n)
        nll = hard + self.gain[self.source] + self.spread[self.source] * rng.standard_normal(n), hard
        none = np.zeros(n)
        return tuple(
            Measured(
                tokens * loss,
                tokens,
                (rng.random(n) < right[self.source]).astype(float),
                none,
                tokens,
                none,
                self.source,
            )
            for loss, right in zip(nll, self.right, strict=True)
        )


def by_source(a: Measured, b: Measured, seed: int) -> Ends:
    """Winnow's intervals."""
    return {name: (found["low"], found["high"]) for name, found in paired_bootstrap(a, b, RESAMPLES, seed).items()}


def from_the_whole(a: Measured, b: Measured, seed: int) -> Ends:
    """Percentile intervals of a bootstrap over the whole test set."""
    n = len(a.nll)
    weights = np.random.default_rng([seed, 1]).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    first, second = metrics(a, weights), metrics(b, weights)
    return {name: tuple(np.quantile(first[name] - second[name], [0.025, 0.975])) for name in METRICS}


def coverage(world: World, intervals: Callable[..., Ends], simulations: int) -> dict[str, float]:
    """Share of simulations whose interval contains the truth, by metric."""
    held = dict.fromkeys(METRICS, 0)
    for seed in range(simulations):
        ends = intervals(*world.measured(np.random.default_rng([5, seed])), seed)
        for name in METRICS:
            held[name] += ends[name][0] <= world.truth[name] <= ends[name][1]
    return {name: round(count / simulations, 3) for name, count in held.items()}


def main() -> None:
    """Simulate every composition and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/interval_coverage.json")
    asked = parser.parse_args()
    rows = []
    for name, sizes in SIZES.items():
        world = World.of(sizes)
        found = {way.__name__: coverage(world, way, asked.simulations) for way in (by_source, from_the_whole)}
        rows.append({"test_set": name, "examples": sum(sizes), **found})
        print(json.dumps(rows[-1]), flush=True)
    record = {
        "date": now(),
        "command": f"python benchmarks/interval_coverage.py --simulations {asked.simulations}",
        "device": device_name().split(",")[0],
        "versions": {name: metadata.version(name) for name in ("numpy", "scipy")},
        "simulations": asked.simulations,
        "resamples": RESAMPLES,
        "rows": rows,
    }
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
