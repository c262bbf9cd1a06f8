"""Which runs the study wants.

Strategies that measure nothing need one training on their final picks and not a round after round of retraining: the same picks, the same
adapter. Stages: "rates" tunes the learning rate on dev, "baselines" and "defaults" are the matrix of the study, "curve" is random at other
budgets, "former" the default without sources before kinds of prompt, "noise" pools with wrong answers, "near" pools that are searched for
near-duplicates, "written" models that also write answers, "early" first rounds and "second" what follows those that leave open whether
selecting pays, "goal" what serves the pool's own mix of tasks.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.proving_ground import aiming, by_gradient, by_loss, labelling, near, peer_picks
from benchmarks.proving_ground.ground import CLUSTERS, KIND, POWER, PROPORTIONAL, WITH
from benchmarks.proving_ground.player import KEY, Run, identity, name_of

LIST = json.loads(Path(__file__).with_name("pools.json").read_text())
POOLS = list(LIST["pools"])
BUDGET, EARLY, ROUNDS = 1000, 300, 4
GOAL = (WITH, PROPORTIONAL, POWER)
"""What is compared where tasks count as they do in the pool."""
COMPARED = ("random", *GOAL)
"""Strategies whose tasks are compared with random's one by one, in one round and in two."""


def run(
    model: str, pool: str, strategy: str, seed: int, budget: int = BUDGET, rate: float | None = None, **more: Any
) -> Run:
    """One run of the plan; the model's tuned learning rate unless another is given."""
    rate = rate or LIST["learning_rates"]["tuned"][model]
    sources = strategy.startswith(("source", "split", "oracle"))
    return {
        "model": model, "pool": pool, "noise": "none", "sources": sources, "budget": budget, "strategy": strategy, "seed": seed,
        "learning_rate": rate, "split": "test", "order": 0, **more,
    }  # fmt: skip


def rates(model: str) -> Iterator[Run]:
    """Random at 1,000 with every rate that is tried, on dev, one seed."""
    for rate in (*LIST["learning_rates"]["tried"], LIST["learning_rates"]["shipped"]):
        for pool in POOLS:
            yield run(model, pool, "random", 1, rate=rate, split="dev")


def core(model: str, strategies: tuple[str, ...], seeds: int = 5) -> Iterator[Run]:
    """Every pool, clean, at the budget of the study; the first seeds first."""
    for seed in LIST["seeds"][:seeds]:
        for pool in POOLS:
            for strategy in strategies:
                yield run(model, pool, strategy, seed, order=0.5 if seed < 3 else 1.5)


def curve(model: str, seeds: int = 3) -> Iterator[Run]:
    """Random at other budgets."""
    for seed in LIST["seeds"][:seeds]:
        for pool in POOLS:
            for budget in (300, 2000, 4000):
                yield run(model, pool, "random", seed, budget, order=3 if seed == 1 else 4)


def longer(model: str, seeds: int = 3) -> Iterator[Run]:
    """evals at 4,000 examples, and random's curve there far enough to read a small share off it."""
    for seed in LIST["seeds"][:seeds]:
        for strategy in ("source_kinds", "kind_uniform, 25% random", "split_uniform, 10% random", "oracle_size"):
            yield run(model, "evals", strategy, seed, 4000, order=3)
        for budget in (8000, 16000):
            yield run(model, "evals", "random", seed, budget, order=4 if seed == 1 else 6)


def former(model: str, seeds: int = 3) -> Iterator[Run]:
    """The former default without sources on every pool."""
    return core(model, (CLUSTERS,), seeds)


def noise(model: str, seeds: int = 3) -> Iterator[Run]:
    """Every pool with wrong answers. Of the noisy pools the rows are compared with other answers where these were planted inside the
    task; the others came later, because four pools cannot say whether the default gains over pools."""
    for seed in LIST["seeds"][:seeds]:
        for pool in POOLS:
            first = pool in LIST["noisy_pools"]
            for kind, order in (("inside", 2.5), ("exchanged", 2.6)):
                for strategy in ("random", WITH, KIND)[: 3 if first else 2]:
                    more = {"compare": True} if first and kind == "inside" and strategy != KIND else {}
                    later = 0.05 * (not more) if first else seed
                    yield run(model, pool, strategy, seed, noise=kind, order=order + later, **more)


def near_copies(model: str, seeds: int = 3) -> Iterator[Run]:
    """Pools with near copies: random from all of it, and random and the defaults from what the search for near-duplicates leaves. And
    every clean pool once it is searched, four also at 4,000: other runs pick from the whole pool."""
    for seed in LIST["seeds"][:seeds]:
        for pool in LIST["noisy_pools"]:
            for strategy in (near.ALL, "random", WITH, KIND):
                yield run(model, pool, strategy, seed, noise=near.NOISE, order=2.7)
        for pool in POOLS:
            for strategy in ("random", WITH, KIND):
                order = 2.75 if pool in LIST["noisy_pools"] else 5.8
                yield run(model, pool, strategy, seed, noise=near.SEARCHED, order=order)
        for pool in LIST["noisy_pools"]:
            for strategy in ("random", WITH):
                yield run(model, pool, strategy, seed, 4000, noise=near.SEARCHED, order=6)


def written(model: str) -> Iterator[Run]:
    """Runs whose models write answers to the test rows, one of random at 4,000 to the dev rows too."""
    for seed in (1, 4, 5):
        for pool in POOLS:
            for strategy in ("random", WITH, KIND):
                yield run(model, pool, strategy, seed, order=7, write=["test"])
    for seed in (1, 4, 5):
        for pool in POOLS:
            for budget in (300, 2000, 4000):
                parts = ["test", "dev"] if budget == 4000 and seed == 1 else ["test"]
                yield run(model, pool, "random", seed, budget, order=8 if seed == 1 else 9, write=parts)


def targets(model: str, seeds: int = 3) -> Iterator[Run]:
    """Every strategy that aims at a target, on every target; the first seed first."""
    for seed in LIST["seeds"][:seeds]:
        for name in LIST["targets"]:
            for strategy in aiming.STRATEGIES:
                later = 5 if strategy in aiming.SET_ASIDE else 0
                yield aimed(model, name, strategy, seed, order=later + (0 if seed == 1 else 2))


def aimed(model: str, name: str, strategy: str, seed: int, **more: Any) -> Run:
    """A run on a target; picks that hidden states decide are the model's own."""
    found = run(model, name, strategy, seed, **more)
    return own(found) if strategy in aiming.HIDDEN else found


def budgets(model: str, seeds: int = 3) -> Iterator[Run]:
    """The defaults and the oracle at a smaller and a larger budget on the pools that peers play on."""
    for seed in LIST["seeds"][:seeds]:
        for pool in LIST["noisy_pools"]:
            for budget in (300, 4000):
                for strategy in ("random", "source_kinds", KIND, CLUSTERS, "oracle_size"):
                    yield run(model, pool, strategy, seed, budget, order=3 if seed == 1 else 4)


def early(model: str, seeds: int = 3) -> Iterator[Run]:
    """The default and random with about the examples of a first round, on every pool; their tasks are compared one by one, as a round's
    control is."""
    for seed in LIST["seeds"][:seeds]:
        for pool in POOLS:
            for strategy in ("random", WITH):
                yield run(model, pool, strategy, seed, EARLY, order=2 if seed == 1 else 3, paired=True)


def second(model: str, seeds: int = 3) -> Iterator[Run]:
    """The second round of each run of `early`: as many examples again, going on with its adapter. `stages` plans those whose first round
    leaves the question open."""
    for seed in LIST["seeds"][:seeds]:
        for pool in POOLS:
            for strategy in ("random", WITH):
                once = run(model, pool, strategy, seed, 2 * EARLY, order=2 if seed == 1 else 3, paired=True)
                more = {"picked_as": strategy, "rounds": 2, "nested": True}
                yield {**once, "strategy": in_rounds(strategy, 2), **more}


def goal(model: str, seeds: int = 3) -> Iterator[Run]:
    """What serves the pool's own mix of tasks, on every pool; random is played once more where its tasks are needed."""
    for seed in LIST["seeds"][:seeds]:
        for pool in POOLS:
            for strategy in ("random", *GOAL):
                yield run(model, pool, strategy, seed, order=2 if seed == 1 else 3, paired=True)


def in_rounds(strategy: str, rounds: int) -> str:
    """The record's name of a strategy whose adapter goes on over so many rounds."""
    return f"{strategy}, {rounds} rounds"


def compared_with(strategy: str) -> str | None:
    """The random run that a run of the strategy is compared with task by task: one of as many rounds. None if it is not compared."""
    for rounds in ("", in_rounds("", 2)):
        if strategy.removesuffix(rounds) in COMPARED and strategy.endswith(rounds):
            return f"random{rounds}"
    return None


def alike(run: Run) -> tuple:
    """What a run shares with the random run that it is compared with."""
    return tuple(run[key] for key in KEY if key not in ("strategy", "sources"))


def four(model: str) -> Iterator[Run]:
    """Random and the defaults on the four pools that a larger model plays."""
    for seed in (1, 4, 5):
        for pool in LIST["noisy_pools"]:
            for strategy in ("random", WITH, KIND):
                yield run(model, pool, strategy, seed, order=1)


def peers(model: str, seeds: int = 3) -> Iterator[Run]:
    """Other projects' rules on four pools; their picks are the model's own."""
    for seed in LIST["seeds"][:seeds]:
        for pool in LIST["noisy_pools"]:
            for strategy in peer_picks.STRATEGIES:
                if strategy != by_gradient.DATTRI or pool in by_gradient.DATTRI_POOLS:
                    later = 4 if strategy in peer_picks.LATER else 0
                    yield own(run(model, pool, strategy, seed, order=later + (1 if seed == 1 else 3)))


def by_losses(model: str, seeds: int = 3) -> Iterator[Run]:
    """Kinds balanced as in the defaults, the base model's losses on top; the picks are the model's own."""
    for seed in LIST["seeds"][:seeds]:
        for pool in POOLS:
            for strategy in by_loss.STRATEGIES:
                yield own(run(model, pool, strategy, seed, order=1 if seed == 1 else 2))
        for strategy in by_loss.STRATEGIES[:2]:
            yield own(run(model, "evals", strategy, seed, 4000, order=4))


def own(found: Run) -> Run:
    """The run, its picks being the model's own."""
    return {**found, "picks": f"{found['model']}|{name_of(found)}"}


def answered(model: str) -> Iterator[Run]:
    """Whose answers to ask for first: the rules of `label`, kinds alike, and random; five seeds."""
    for seed in LIST["seeds"]:
        for pool in labelling.POOLS:
            for strategy in ("random", KIND):
                yield run(model, pool, strategy, seed, labelling.BUDGET, order=3)
            for strategy in labelling.STRATEGIES:
                yield own(run(model, pool, strategy, seed, labelling.BUDGET, order=3))


def rounds(model: str, seeds: int = 3) -> Iterator[Run]:
    """The picks of random and of the defaults in four rounds of 250, each continuing the adapter of the round before."""
    for seed in LIST["seeds"][:seeds]:
        for pool in LIST["noisy_pools"]:
            for strategy in ("random", WITH, KIND):
                once = run(model, pool, strategy, seed, order=3)
                more = {"picks": name_of(once), "picked_as": strategy, "rounds": ROUNDS}
                yield {**once, "strategy": in_rounds(strategy, ROUNDS), **more}


STAGES = {
    "rates": rates,
    "baselines": lambda model: core(model, ("random", "source_size", "oracle_size")),
    "alike": lambda model: (
        {**r, "order": r["order"] + 0.5} for r in core(model, ("source_uniform", "oracle_uniform"), 3)
    ),
    "defaults": lambda model: core(model, ("kind_uniform, 25% random", "source_kinds")),
    "design": lambda model: (
        *core(model, ("kind_uniform, 10% random",), 3),
        *core(model, ("split_uniform, 10% random",)),
    ),
    "curve": curve,
    "longer": longer,
    "former": former,
    "noise": noise,
    "near": near_copies,
    "written": written,
    "four": four,
    "targets": targets,
    "budgets": budgets,
    "peers": peers,
    "rounds": rounds,
    "early": early,
    "second": second,
    "goal": goal,
    "by_loss": by_losses,
    "label": answered,
}


def plan(model: str, stages: Sequence[str], pools: Collection[str]) -> list[Run]:
    """The runs of these stages on these pools and targets, each once, with the first of its stages as "stage" and what any asks of it."""
    found: dict[tuple, Run] = {}
    for stage in stages:
        for entry in STAGES[stage](model):
            if entry["pool"] in pools:
                kept = found.setdefault(identity(entry), {**entry, "stage": stage})
                kept.update({key: entry[key] for key in ("write", "compare", "paired") if key in entry})
    return list(found.values())
