"""Which prompts should people answer first? Answers are known here and hidden; each rule asks for as many, and the model trains on them.

label            what `label` does: prompts of every cluster alike, the model answers them, the most uncertain of each first
label, entropy   the same by the entropy of the greedy answer alone: a fifth of the writing
kind_uniform     kinds of prompt alike, a quarter of all at random: the model writes nothing
random           random prompts

python -m benchmarks.proving_ground unsure --work WORK      what the base models write, measured once for all seeds
"""

from __future__ import annotations

import math
from bisect import bisect_left
from pathlib import Path

import numpy as np

from benchmarks.proving_ground.work import whole

POOLS = ("evals-flat", "few-large", "sums")
BUDGET, CANDIDATES, SAMPLES, NEW_TOKENS, BATCH_TOKENS = 300, 4.0, 4, 128, 65_536
"""Answers asked for; candidates for each of them, sampled answers and their length as `label` has them by default; tokens of a batch
that measures the entropy."""
STRATEGIES = ("label", "label, entropy")


def candidates(keys: np.ndarray, cluster: np.ndarray, seed: int, budget: int = BUDGET) -> np.ndarray:
    """Places of the prompts that are measured, as many of each cluster (as `al.commands.label` draws them)."""
    from selection.sample import stratified_sample

    sizes = np.bincount(cluster)
    wanted = min(len(keys), math.ceil(CANDIDATES * budget))
    each = 1 + bisect_left(range(1, int(sizes.max()) + 1), wanted, key=lambda k: int(np.minimum(sizes, k).sum()))
    return stratified_sample(cluster, keys, np.ones(len(keys), dtype=bool), each, (seed, 1))


def most_unsure(
    strategy: str,
    keys: np.ndarray,
    cluster: np.ndarray,
    entropy: np.ndarray,
    disagreement: np.ndarray,
    budget: int = BUDGET,
) -> np.ndarray:
    """Of m measured prompts the `budget` that people are asked first; all arrays (m,)."""
    from al.commands.label import Order

    used = disagreement if strategy == "label" else np.full(len(keys), np.nan)
    return Order.of(cluster, keys, entropy, used).taken(budget)


def pick(
    strategy: str, keys: np.ndarray, rows: np.ndarray, cluster: np.ndarray, seed: int, budget: int, measured: Path
) -> np.ndarray:
    """Places of the picks in a pool of `rows` of the token table, with `keys` and clusters of embeddings (n,); `measured`: what
    `measure` wrote.

    Raises:
        SystemExit: a candidate was not measured.
    """
    places = candidates(keys, cluster, seed, budget)
    with np.load(measured) as found:
        at = np.searchsorted(found["rows"], rows[places]).clip(max=len(found["rows"]) - 1)
        if (found["rows"][at] != rows[places]).any():
            raise SystemExit(
                f"{measured}: {int((found['rows'][at] != rows[places]).sum())} candidates were not measured"
            )
        entropy, disagreement = found["entropy"][at], found["disagreement"][at]
    return places[most_unsure(strategy, keys[places], cluster[places], entropy, disagreement, budget)]


def measure(model: Path, inputs: Path, rows: np.ndarray, out: Path, device: str = "auto") -> None:
    """Write what the base model answers to the prompts of `rows` of the token table: `rows`, `entropy` and `disagreement` (n,)."""
    from benchmarks.proving_ground.writing import end_tokens, prompt_of_row
    from trainer.config import GenerateConfig, ModelConfig
    from trainer.generate import generate
    from trainer.measure import measure as measure_rows
    from trainer.model import Base
    from trainer.tokens import TokenTable
    from trainer.uncertainty import continuation_documents, disagreement

    base, table = Base.load(ModelConfig(name=str(model), device=device)), TokenTable.open(inputs / "tokens")
    ends = end_tokens(table, rows)
    prompts = [prompt_of_row(table, int(row)) for row in rows]
    config = GenerateConfig(max_new_tokens=NEW_TOKENS, samples=SAMPLES)
    answers = generate(base.model, prompts, config, end_ids=ends, seed=0)
    documents = continuation_documents(prompts, [of_prompt[0] for of_prompt in answers], ends)
    measured = measure_rows(base.model, documents, np.arange(len(rows)), batch_tokens=BATCH_TOKENS)
    disagrees = np.array([disagreement(of_prompt[1:], ends) for of_prompt in answers])
    with whole(out) as file, file.open("wb") as stream:
        np.savez_compressed(stream, rows=rows, entropy=measured.entropy_mean, disagreement=disagrees)
