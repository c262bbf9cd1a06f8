"""Estimates of a round before it runs: rows, tokens, memory by item, time by stage, disk.

Memory and speed are arithmetic (`al.planning.cost`) over the model's shape and the measured speed of a matrix product.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from al.budget import BudgetRequest
from al.config import Config
from al.planning.cost import (
    GIB,
    STATE_BYTES,
    Machine,
    divided,
    forward_tokens_per_s,
    training_memory,
    training_tokens_per_s,
)
from al.planning.embedder import embedder_size
from al.planning.gpus import Speedup, speedup
from al.planning.model_shape import ModelShape
from al.planning.pool_estimate import PoolEstimate
from al.planning.scoring_estimate import (
    examples_of_hidden_states,
    examples_scored,
    examples_warmed_up,
    measured,
    seconds_per_token,
)
from al.preparation.projection import laid_out
from al.preparation.tokens import FEW
from al.scoring.checkpoints import checkpoints_summed
from selection.projection import FITTED

DEAR_SCORING = 0.25
"""A warning appears if measuring takes more than this share of the training time."""
LANGUAGES_PER_S = 2_500
"""Examples per second of language detection (al.cleaning.language)."""
COMPILE_MAP_S, LAID_OUT_PER_S, PLACED_PER_S = 3, 1_100, 3_000
"""The map on one core: seconds to import and compile umap-learn, in every process that makes a map (34 more in the first
process of an installation), examples fitted per second, and examples placed between those per second (selection.projection)."""
DESCRIBED_PER_S = 20_000
"""Examples per second of the terms and exemplars of clusters: 8,000 in 0.4 s."""
STAGES = {
    "import": (0.8, 56_000),
    "tokenize": (3.9, 6_000),
    "near-duplicates": (0.0, 11_800),
    "hold out": (0.7, 33_000),
    "cluster": (1.6, 8_100),
}
"""Seconds that a stage takes to start, and examples per second after that, on two cores: fitted to benchmarks/results/scale_cpu.json,
10,000 to 1,000,000 examples of 105 tokens. Longer ones take longer."""
TOKENIZED_IN_PROCESSES = (10.3, 12_500)
"""The same where tokenizing starts processes (al.preparation.tokens)."""
EMBED_SHARE = 0.25
"""Share of the measured matrix-product speed that embedding is taken to reach: small models spend most time outside of products."""


def estimate(
    config: Config,
    request: BudgetRequest,
    pool: PoolEstimate,
    shape: ModelShape,
    machine: Machine,
    number: int = 1,
    gpus: int = 1,
) -> dict[str, Any]:
    """The plan as a document: {"pool", "round", "memory_gib", "peak_gib", "seconds", "disk_gib", "warnings"}; memory in GiB, of each GPU.
    `gpus`: how many like `machine` do the work."""
    faster, held = speedup(config, gpus), examples_held_out(config, pool)
    speed = training_tokens_per_s(config, shape, machine)
    tokens = _budget_tokens(config, request, pool, speed * faster.training, number)
    examples = int(request.amount) if request.unit == "examples" else int(tokens / max(pool.mean_tokens, 1))
    trained = tokens * _passes(config, number)
    steps = max(1, -(-int(trained * config.train.epochs) // (config.train.pack_length * config.train.packs_per_step)))
    memory = training_memory(config, shape, machine)
    scored = examples_scored(config, pool, tokens, number)
    models = 1 + bool(config.control) + (number == 1)  # answers of the base and the previous round exist
    warmed = examples_warmed_up(config, pool, tokens, number)
    alone = _seconds(config, pool, shape, machine, trained, speed, scored, models, number, warmed)
    seconds = _on_all(alone, faster)
    document = {
        "pool": {
            "examples": pool.examples,
            "mean_tokens": round(pool.mean_tokens, 1),
            "exact": pool.exact,
            "held_out": held,
            **_selectable(pool, held),
            "first": None if pool.first is None else asdict(pool.first),
        },
        "model": config.model.name,
        "round": {
            "number": number,
            "unit": request.unit,
            "examples": examples,
            "tokens": int(tokens),
            "epochs": config.train.epochs,
            "steps": steps,
            "lora_parameters": shape.lora,
        },
        "memory_gib": {name: round(value / GIB, 3) for name, value in memory.items()},
        "peak_gib": round(sum(memory.values()) / GIB, 2),
        "layers": _layers(config, shape, machine),
        "device": {
            "kind": machine.kind,
            "matmul_tflops": round(machine.flops / 1e12, 2),
            "memory_gib": round(machine.memory_gib, 1),
        },
        "gpus": faster.as_dict(),
        "tokens_per_s": round(speed * faster.lineage, 1),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "total_seconds": round(sum(seconds.values()), 1),
        "disk_gib": round(_disk(config, pool, shape, scored, number) / GIB, 6),
    }
    return {**document, "warnings": [*pool.notes, *_warnings(config, document, request, pool)]}


def _selectable(pool: PoolEstimate, held: int) -> dict[str, Any]:
    """How many examples can be picked, at most and at least, and what that rests on: near-duplicates that the run has "counted", that were
    "searched" for here among all examples or in a "sample" of them, or that are "unknown"."""
    free, found = (pool.examples if pool.labelled is None else pool.labelled), pool.distinct
    if pool.pickable is not None:
        return {"selectable": pool.pickable, "selectable_at_least": pool.pickable, "selectable_is": "counted"}
    if found is None or not found.searched:
        why = {} if found is None else {"not_searched": found.why}
        return {"selectable": max(0, free - held), "selectable_at_least": 0, "selectable_is": "unknown", **why}
    return {
        "selectable": max(0, found.most - held),
        "selectable_at_least": max(0, found.least - held),
        "selectable_is": "searched" if found.searched == found.examples else "sample",
        "near_duplicates": {
            "searched": found.searched,
            "of": found.examples,
            "seconds": round(found.seconds, 1),
            "in_order": found.ordered,
        },
    }


def _layers(config: Config, shape: ModelShape, machine: Machine) -> dict[str, int]:
    """Number of layers by what they keep for the backward pass (trainer.decoder.retention)."""
    if shape.widths is None:
        return {"input": shape.layers}
    return dict(Counter(str(kind) for kind in divided(config, shape, machine).retentions))


def _budget_tokens(config: Config, request: BudgetRequest, pool: PoolEstimate, speed: float, number: int) -> float:
    if request.unit == "examples":
        return request.amount * pool.mean_tokens
    if request.unit == "tokens":
        return request.amount
    replayed = _passes(config, number) if config.train.mode == "continue" else 1.0
    return request.amount * speed / (config.train.epochs * replayed)


def _passes(config: Config, number: int) -> float:
    """The training size of round `number` in budgets, including earlier picks as set by `train.mode`. Assumes equal rounds."""
    if config.train.mode == "retrain":
        return float(number)
    return 1.0 + config.train.replay * (number > 1)


def _seconds(
    config: Config,
    pool: PoolEstimate,
    shape: ModelShape,
    machine: Machine,
    trained: float,
    speed: float,
    scored: float,
    models: int,
    number: int,
    warmed: int,
) -> dict[str, float]:
    forward = forward_tokens_per_s(config, shape, machine)
    held = examples_held_out(config, pool)
    train = trained * config.train.epochs / speed
    languages = {"languages": pool.examples / LANGUAGES_PER_S} if config.clean.languages else {}
    states = examples_of_hidden_states(config, pool, number)
    warm_up = {"warm up": warmed * pool.mean_tokens * config.train.epochs / speed} if warmed else {}
    return {
        "import": stage_seconds("import", pool.new * (not pool.imported)),
        **languages,
        "tokenize": stage_seconds("tokenize", pool.new),
        "embed": pool.new_to_embed
        * embedder_size(config.embed).flops(pool.mean_tokens)
        / (EMBED_SHARE * machine.flops),
        "near-duplicates": stage_seconds("near-duplicates", pool.new),
        "hold out": stage_seconds("hold out", pool.new),
        "cluster": stage_seconds("cluster", pool.new),
        **warm_up,
        **({"hidden states": states * pool.mean_tokens / forward} if states else {}),
        "score": scored * pool.mean_tokens * seconds_per_token(config, forward, speed, number),
        "train": train,
        "train control": train if config.control else 0.0,
        "evaluate": models * held * pool.mean_tokens / forward,
        "map": _seconds_of_map(pool.new_to_map),
        "describe clusters": pool.new_to_map / DESCRIBED_PER_S,
    }


def stage_seconds(stage: str, examples: int) -> float:
    """Seconds that a stage of STAGES takes for so many examples, on two cores; 0 where it has nothing to do."""
    if not examples:
        return 0.0
    in_processes = stage == "tokenize" and examples > FEW
    start, per_second = TOKENIZED_IN_PROCESSES if in_processes else STAGES[stage]
    return start + examples / per_second


def _on_all(alone: dict[str, float], faster: Speedup) -> dict[str, float]:
    """Seconds by stage on all GPUs, from those on one. The driver's own stages stay."""
    times = dict.fromkeys(("embed", "hidden states", "score", "evaluate"), faster.shards)
    times |= dict.fromkeys(("warm up", "train", "train control"), faster.lineage)
    seconds = {name: value / times.get(name, 1.0) for name, value in alone.items()}
    return seconds | {"train control": 0.0 if faster.at_once else seconds["train control"]}


def examples_held_out(config: Config, pool: PoolEstimate) -> int:
    """Examples that become dev and test."""
    sizes = (config.holdout.dev, config.holdout.test)
    return sum(int(size * pool.examples) if isinstance(size, float) else size for size in sizes)


def _seconds_of_map(examples: int) -> float:
    if not laid_out(examples):
        return 0.0
    fitted = min(examples, FITTED)
    return COMPILE_MAP_S + fitted / LAID_OUT_PER_S + (examples - fitted) / PLACED_PER_S


def bytes_written(config: Config, shape: ModelShape) -> float:
    """Bytes of the adapters of a round and of the checkpoints that a training keeps."""
    adapters = 1 + bool(config.control)
    kept = config.train.keep_checkpoints + 1 + (config.train.eval_every is not None)
    return adapters * 4.0 * shape.lora + (4.0 + STATE_BYTES[config.train.optimizer]) * shape.lora * kept


def _disk(config: Config, pool: PoolEstimate, shape: ModelShape, scored: float, number: int) -> float:
    wanted, summed = measured(config), checkpoints_summed(config)
    numbers = summed * config.score.gradient_dimension * ("gradient" in wanted) + shape.hidden * ("pooled" in wanted)
    moments = 8.0 * shape.lora * ("gradient" in wanted)
    trainings = 1 + (number == 1)  # a warm-up keeps as much
    earlier = (
        trainings * 2 * 12.0 * shape.lora * (summed - 1)
    )  # adapter and moments of each, in scratch, then published
    return (
        pool.bytes * 1.2
        + pool.examples * (pool.mean_tokens * 5 + 384 * 2 + 200)
        + bytes_written(config, shape)
        + moments
        + earlier
        + 2 * 2.0 * numbers * scored  # vectors in scratch, then published
        + 2 * 2.0 * shape.hidden * examples_of_hidden_states(config, pool, number)
    )


def _warnings(config: Config, document: dict[str, Any], request: BudgetRequest, pool: PoolEstimate) -> list[str]:
    warnings = []
    held, examples = examples_held_out(config, pool), document["round"]["examples"]
    if examples > pool.examples:
        warnings.append(f"the budget of {request.text} is larger than the pool ({pool.examples:,} examples)")
    elif examples > pool.examples - held:
        warnings.append(
            f"the budget of {request.text} is larger than what is left of the pool: {pool.examples:,} examples, of which {held:,} "
            "become dev and test"
        )
    seconds = document["seconds"]
    scoring, training = seconds["score"] + seconds.get("warm up", 0.0), seconds["train"]
    if scoring > DEAR_SCORING * training:
        warnings.append(
            f"measuring takes {scoring / max(training, 1e-9):.0%} of the training time, which rarely pays: raise the "
            "budget, lower score.sample_per_cluster or cluster.k, or use --strategy uniform, which measures nothing"
        )
    return warnings
