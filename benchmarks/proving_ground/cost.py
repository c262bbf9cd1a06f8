"""GPU seconds that selection takes to reach what random reaches with 2,000 examples, over random's own.

Both train in the same player, so a token costs the same and the ratio is one of tokens: those of the examples that selection needs, with
those of its control (as many random examples, trained as long: Winnow's default), over those of 2,000 random examples. `source_kinds`
measures nothing, so scoring adds no GPU seconds; kinds are found on the CPU, and embeddings against near-duplicates are made for
random picks too. How many examples selection needs is read off its own curve where it played several budgets; elsewhere its share
of random's examples is taken to be at 2,000 what it is at 1,000. A share is kept within 0.1 to 2, as elsewhere.

The control costs what `control: auto` lets it cost over four rounds: the first round always has one, and the others have none if that one
answers by a run's own rule (`al.round.standing`). What a first round says is read off runs of EARLY examples, task by task, and what the
second says where the first is no answer off runs that go on with as many again. Two that say "costs" are an answer: the default then picks
at random. What two rounds leave open, and a round that was not played, is counted as if all later rounds had a control too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

import numpy as np

from al.round.standing import Answer, Evidence, worth_of_examples
from benchmarks.proving_ground.ground import BOUNDS, BUDGET, BUDGETS, Cell, Ground, drawn, examples_for, figure
from benchmarks.proving_ground.planning import EARLY, ROUNDS, in_rounds

AT = 2000
REACH = 1.96
"""Standard errors of the report's interval."""


def needed(ground: Ground, cell: Cell, strategy: str, drawn: np.ndarray) -> float | None:
    """Examples, over AT, with which the strategy reaches random's macro NLL at AT; None where random's curve lacks it.

    Args:
        drawn: (s,) macro NLL of the strategy's runs at BUDGET, or a bootstrap sample of them.
    """
    at = ground.values(cell, "random", budget=AT)
    if not len(at) or not len(drawn):
        return None
    curve = [(b, ground.values(cell, strategy, budget=b)) for b in BUDGETS if b != BUDGET]
    own = sorted([(b, float(values.mean())) for b, values in curve if len(values)] + [(BUDGET, float(drawn.mean()))])
    if len(own) > 1:
        return float(np.clip(examples_for(own, float(at.mean())) / AT, *BOUNDS))
    return ground.share(cell, float(drawn.mean()))


def seconds_ratio(
    ground: Ground, cells: list[Cell], strategy: str, control: float | dict[Cell, float] = 1.0
) -> dict[str, Any]:
    """Geometric mean over cells, with a 95% interval by drawing pools and, inside them, seeds again.

    Args:
        control: examples of the control over those that were selected, of all cells or of each: 1 is a control in every round, 0 none.
    """
    usable = [cell for cell in cells if needed(ground, cell, strategy, ground.values(cell, strategy)) is not None]
    if not usable:
        return figure(None, note="not measured")
    length = {cell: tokens_over_randoms(ground, cell, strategy) for cell in usable}
    parts = control if isinstance(control, dict) else dict.fromkeys(usable, control)
    logs = []
    for of_draw, rng in drawn(usable, 3):
        found = []
        for cell in of_draw:
            values = ground.values(cell, strategy)
            values = values if rng is None else rng.choice(values, len(values))
            found.append(np.log(needed(ground, cell, strategy, values) * (length[cell] + parts[cell])))
        logs.append(np.mean(found))
    low, high = np.percentile(logs[1:], [2.5, 97.5])
    seeds = min(len(ground.values(cell, strategy)) for cell in usable)
    return figure(
        np.exp(logs[0]),
        np.exp(low),
        np.exp(high),
        seeds,
        f"{len(usable)} cells, a control of {np.mean([parts[cell] for cell in usable]):.2g}",
    )


def tokens_over_randoms(ground: Ground, cell: Cell, strategy: str) -> float:
    """Mean tokens of an example that the strategy picks over those of a random one."""
    ours, theirs = (ground.values(cell, name, "tokens").mean() for name in (strategy, "random"))
    return float(ours / theirs)


def answers(
    ground: Ground, strategy: str, base: dict[str, dict[str, float]], number: int = 1
) -> dict[Cell, dict[int, Answer]]:
    """{cell: {seed: what round `number` of EARLY examples says by itself}}, of the rounds whose tasks were compared.

    Args:
        base: {model: {pool: macro NLL of the base}}. number: 1, or 2 for the round that goes on with the first one's adapter.
    """
    found: dict[Cell, dict[int, Answer]] = {}
    ours, randoms = (name if number == 1 else in_rounds(name, number) for name in (strategy, "random"))
    for cell in ground.cells:
        runs, random = (ground.of(cell, name, number * EARLY) for name in (ours, randoms))
        of_base = base.get(cell[0], {}).get(cell[1])
        said = {
            seed: evidence(run["paired"], of_base, random[seed]["macro_nll"], number * EARLY).answer
            for seed, run in sorted(runs.items())
            if "paired" in run and seed in random
        }
        if said:
            found[cell] = said
    return found


def evidence(paired: dict[str, Any], base: float | None, control: float, examples: int = EARLY) -> Evidence:
    """What a comparison with random says. `base`, `control`: macro NLL of the base model and of the random run of so many `examples`,
    nats."""

    def gain(metric: str) -> tuple[float, float, float]:
        """What selecting gained, with the ends of its 95% interval."""
        mean, error = paired[metric]
        mean = -mean if metric == "nll" else mean
        return mean, mean - REACH * error, mean + REACH * error

    worth = None if base is None else worth_of_examples(base, control, examples, EARLY)
    return Evidence(gain(paired["decides"]), gain("nll"), any(gain(metric)[2] < 0 for metric in ("nll", "em")), worth)


def asks_again(answer: Answer) -> bool:
    """Whether a round after one that says this trains a control too."""
    return answer in ("open", "costs")


def rounds_with_control(first: Answer, second: Answer | None) -> int:
    """Of ROUNDS rounds, those that train a control; `second` is None where that round was not played."""
    if not asks_again(first):
        return 1
    answered = second is not None and (not asks_again(second) or first == second == "costs")
    return 2 if answered else ROUNDS


def controls(
    first: dict[Cell, dict[int, Answer]], second: Mapping[Cell, dict[int, Answer]] = MappingProxyType({})
) -> dict[Cell, float]:
    """Of each cell: examples of its controls over those that were selected, mean over seeds."""
    return {
        cell: float(
            np.mean([rounds_with_control(said, second.get(cell, {}).get(seed)) for seed, said in of_cell.items()])
        )
        / ROUNDS
        for cell, of_cell in first.items()
    }


def figures(
    ground: Ground, with_headroom: list[Cell], strategy: str, base: dict[str, dict[str, float]]
) -> dict[str, dict[str, Any]]:
    """The ratio over all cells, and over those with headroom and without a control. `base` as in `answers`."""
    more = {
        "pools with headroom": seconds_ratio(ground, with_headroom, strategy),
        "without a control": seconds_ratio(ground, ground.cells, strategy, 0.0),
        "with a control of a quarter": seconds_ratio(ground, ground.cells, strategy, 0.25),
        "pools with headroom, without a control": seconds_ratio(ground, with_headroom, strategy, 0.0),
    }
    full = seconds_ratio(ground, ground.cells, strategy)
    first, second = (answers(ground, strategy, base, number) for number in (1, 2))
    parts = controls(first, second)
    if not parts:
        return {"gpu_seconds_ratio": full, "gpu_seconds": more}
    parts = dict.fromkeys(ground.cells, 1.0) | parts
    more |= {
        "with a control in every round": full,
        "pools with headroom, control: auto": seconds_ratio(ground, with_headroom, strategy, parts),
    }
    then = {"second_rounds": counted(second)} if second else {}
    return {
        "gpu_seconds_ratio": seconds_ratio(ground, ground.cells, strategy, parts),
        "gpu_seconds": more,
        "first_rounds": counted(first) | then,
    }


def counted(said: dict[Cell, dict[int, Answer]]) -> dict[str, Any]:
    """How many rounds say what."""
    found = Counter(answer for of_cell in said.values() for answer in of_cell.values())
    return {name: found[name] for name in get_args(Answer)}
