"""What a round will take, before anything runs: rows, tokens, memory by item, time by stage, disk.

Memory is arithmetic over the model's shape. Time is arithmetic over operations divided by a speed that is measured on the spot (a
short matrix product) times a share of it, plus a fixed time to launch each layer. docs/performance.md says how share and launch
time were measured and how far predictions were off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from al.budget import BudgetRequest, parse_budget
from al.config import Config
from al.model_shape import ModelShape, model_shape
from al.pool_estimate import PoolEstimate, estimate_pool
from al.workflow import Options

GIB = 2**30
SHARE = {"cuda": 0.67, "cpu": 0.55}
"""Share of the measured matrix-product speed that a decoder's layers reach once they run."""
LAUNCH_SECONDS = {"cuda": 4.1e-3, "cpu": 0.0}
"""Time to launch one decoder layer with LoRA for one pass, whatever the batch: what small batches on a fast card are made of."""
PROCESS_GIB = {"cuda": 0.0, "cpu": 0.9}
"""Resident size of the libraries themselves; on a GPU only what torch allocates there is counted."""
EMBED_FLOP_PER_TOKEN = 2 * 21e6
"""MiniLM-L6: 21 million parameters outside the embedding table."""


@dataclass(frozen=True)
class Machine:
    """What a plan assumes of the device: kind, bytes per value in the compute dtype, and measured matrix-product FLOP/s."""

    kind: str
    bytes_per_value: int
    flops: float
    memory_gib: float


def plan_round(options: Options, budget: str) -> dict[str, Any]:
    """Estimate the next round of a run (new or existing) under `budget`."""
    config, request = options.load_config(), parse_budget(budget)
    pool = estimate_pool(config, options.run_directory())
    machine, shape = probe_machine(config), model_shape(config.model, config.lora)
    return estimate(config, request, pool, shape, machine)


def estimate(
    config: Config, request: BudgetRequest, pool: PoolEstimate, shape: ModelShape, machine: Machine
) -> dict[str, Any]:
    """The plan as a document: {"pool", "round", "memory_gib", "peak_gib", "seconds", "disk_gib", "warnings"}; memory in GiB."""
    speed = training_tokens_per_s(config, shape, machine)
    tokens = _budget_tokens(config, request, pool, speed)
    examples = int(request.amount) if request.unit == "examples" else int(tokens / max(pool.mean_tokens, 1))
    steps = max(1, -(-int(tokens * config.train.epochs) // (config.train.pack_length * config.train.packs_per_step)))
    memory = training_memory(config, shape, machine)
    seconds = _seconds(config, pool, shape, machine, tokens, speed)
    document = {
        "pool": {"examples": pool.examples, "mean_tokens": round(pool.mean_tokens, 1), "exact": pool.exact},
        "round": {"examples": examples, "tokens": int(tokens), "steps": steps, "lora_parameters": shape.lora},
        "memory_gib": {name: round(value / GIB, 3) for name, value in memory.items()},
        "peak_gib": round(sum(memory.values()) / GIB, 2),
        "device": {
            "kind": machine.kind,
            "matmul_tflops": round(machine.flops / 1e12, 2),
            "memory_gib": round(machine.memory_gib, 1),
        },
        "tokens_per_s": round(speed, 1),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "total_seconds": round(sum(seconds.values()), 1),
        "disk_gib": round(_disk(config, pool, shape) / GIB, 6),
    }
    return {**document, "warnings": _warnings(document, request, pool)}


def _budget_tokens(config: Config, request: BudgetRequest, pool: PoolEstimate, speed: float) -> float:
    if request.unit == "examples":
        return request.amount * pool.mean_tokens
    return request.amount if request.unit == "tokens" else request.amount * speed / config.train.epochs


def activation_bytes(config: Config, shape: ModelShape, machine: Machine, tokens: int) -> float:
    """Bytes that one decoder layer keeps for its backward pass over `tokens` tokens.

    Per token, in values: the inputs of seven projections, their outputs, rotary copies and the gate; and per projection the
    LoRA path, whose input is kept once more with its dropout mask (1 byte) when there is dropout.
    """
    d, ff, kv, size = shape.hidden, shape.intermediate, shape.kv_width, machine.bytes_per_value
    inputs = 3 * d + ff
    outputs = 4 * d + 4 * kv + 4 * ff
    lora = (6 * d + ff) * (size + 1 if config.lora.dropout else 0) / size
    return tokens * size * (inputs + outputs + lora)


def training_memory(config: Config, shape: ModelShape, machine: Machine) -> dict[str, float]:
    """Peak bytes while training, by item."""
    from trainer.loss import CHUNK_ELEMENTS

    size, nf4 = machine.bytes_per_value, config.model.quantization == "nf4"
    tokens = config.train.pack_length * config.train.packs_per_batch
    layer = activation_bytes(config, shape, machine, tokens)
    boundaries = shape.layers * tokens * shape.hidden * size
    cached = nf4 and machine.kind == "cpu" and config.model.cache_dequantized in ("auto", True)
    held = shape.linear * ((0.5 + (1 / 64) * (1 + 4 / 256)) if nf4 else size)
    return {
        "libraries": PROCESS_GIB[machine.kind] * GIB,
        "base weights": held + shape.other * size,
        "dequantized cache": shape.linear * size if cached else 0.0,
        "dequantized layer": 0.0 if cached or not nf4 else 2 * shape.largest_linear * size,
        "LoRA weights, gradients, optimizer": shape.lora * 16.0,
        "activations": boundaries + layer if config.train.gradient_checkpointing else shape.layers * layer,
        "logits chunk": 3 * 4.0 * CHUNK_ELEMENTS[machine.kind],
    }


def training_tokens_per_s(config: Config, shape: ModelShape, machine: Machine) -> float:
    """Training speed: a frozen weight takes part in the forward and in one backward product, a LoRA weight in two; with
    checkpointing the forward runs twice."""
    passes = 3 if config.train.gradient_checkpointing else 2
    tokens = config.train.pack_length * config.train.packs_per_batch
    return tokens / _batch_seconds(
        shape, machine, tokens, passes, 2.0 * (passes * shape.linear + (passes + 1) * shape.lora)
    )


def forward_tokens_per_s(config: Config, shape: ModelShape, machine: Machine) -> float:
    """Speed of scoring and evaluation."""
    tokens = config.measure.batch_tokens
    return tokens / _batch_seconds(shape, machine, tokens, 1, 2.0 * (shape.linear + shape.lora))


def _batch_seconds(shape: ModelShape, machine: Machine, tokens: int, passes: int, flop_per_token: float) -> float:
    launch = passes * shape.layers * LAUNCH_SECONDS[machine.kind]
    return launch + tokens * flop_per_token / (SHARE[machine.kind] * machine.flops)


def _seconds(
    config: Config, pool: PoolEstimate, shape: ModelShape, machine: Machine, tokens: float, speed: float
) -> dict[str, float]:
    forward = forward_tokens_per_s(config, shape, machine)
    scored = _examples_scored(config, pool, tokens)
    held = sum(int(x * pool.examples) if isinstance(x, float) else x for x in (config.holdout.dev, config.holdout.test))
    models = 2 + int(config.control)
    train = tokens * config.train.epochs / speed
    return {
        "tokenize": pool.examples / 5_000,
        "embed": pool.new_to_embed * min(pool.mean_tokens, 256) * EMBED_FLOP_PER_TOKEN / (0.5 * machine.flops),
        "score": scored * pool.mean_tokens / forward,
        "train": train,
        "train control": train if config.control else 0.0,
        "evaluate": models * held * pool.mean_tokens / forward,
    }


def _examples_scored(config: Config, pool: PoolEstimate, tokens: float) -> float:
    """The sample of every cluster, and what the picker looks at inside the quotas; at most the pool."""
    from selection.cluster import choose_k
    from selection.pick import PICKERS
    from selection.strategy import needs_losses, resolve

    if not needs_losses(config.select):
        return 0.0
    per_cluster, strategy = config.score.sample_per_cluster, resolve(config.select)
    if per_cluster == "all":
        return float(pool.examples)
    picked = tokens / max(pool.mean_tokens, 1)
    looked_at = (
        picked * (strategy.shortlist_factor if PICKERS[strategy.picker].uses_score else 1.0) / (1 - strategy.tail_cut)
    )
    return min(float(pool.examples), choose_k(config.cluster.k, pool.examples) * per_cluster + looked_at)


def _disk(config: Config, pool: PoolEstimate, shape: ModelShape) -> float:
    adapters = 1 + int(config.control)
    checkpoint = 12.0 * shape.lora * (config.train.keep_checkpoints + 1)
    return (
        pool.bytes * 1.2
        + pool.examples * (pool.mean_tokens * 5 + 384 * 2 + 200)
        + adapters * 4.0 * shape.lora
        + checkpoint
    )


def _warnings(document: dict[str, Any], request: BudgetRequest, pool: PoolEstimate) -> list[str]:
    warnings = []
    if document["peak_gib"] > document["device"]["memory_gib"]:
        warnings.append(
            f"training needs about {document['peak_gib']} GiB, the {document['device']['kind']} device has "
            f"{document['device']['memory_gib']}: lower train.packs_per_batch, or set train.gradient_checkpointing=true"
        )
    if document["round"]["examples"] > pool.examples:
        warnings.append(f"the budget of {request.text} is larger than the pool ({pool.examples:,} examples)")
    if not pool.exact:
        warnings.append("the pool is not imported yet: its size is estimated from a sample of its files")
    return warnings


def probe_machine(config: Config) -> Machine:
    """The device of the config, with the speed of a matrix product in its compute dtype (under half a second)."""
    import time

    import psutil
    import torch

    from trainer.model import resolve_device, resolve_dtype

    device = resolve_device(config.model)
    dtype = resolve_dtype(config.model, device)
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = np.inf
    for _ in range(6):
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    memory = (
        torch.cuda.get_device_properties(0).total_memory if device.type == "cuda" else psutil.virtual_memory().available
    )
    return Machine(device.type, dtype.itemsize, 2 * n**3 / best, memory / GIB)


def describe_plan(document: dict[str, Any]) -> str:
    """A plan for the terminal."""
    pool, planned, device = document["pool"], document["round"], document["device"]
    about = "" if pool["exact"] else "about "
    lines = [
        f"pool      {about}{pool['examples']:,} examples, {pool['mean_tokens']:.0f} tokens each on average",
        f"round     {planned['examples']:,} examples, {planned['tokens']:,} tokens, {planned['steps']:,} steps, "
        f"{planned['lora_parameters']:,} trainable parameters",
        f"memory    {document['peak_gib']:.2f} GiB at peak on {device['kind']} ({device['memory_gib']:.0f} GiB)",
    ]
    lines += [f"            {value:>8.3f}  {name}" for name, value in document["memory_gib"].items() if value >= 0.001]
    lines.append(
        f"time      {_duration(document['total_seconds'])} ({document['tokens_per_s']:,.0f} training tokens/s expected)"
    )
    lines += [
        f"            {_duration(value):>8}  {name}" for name, value in document["seconds"].items() if value >= 0.5
    ]
    lines.append(f"disk      {document['disk_gib']:.2f} GiB")
    return "\n".join([*lines, *(f"warning   {text}" for text in document["warnings"])])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
