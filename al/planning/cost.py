"""The cost of training and measuring on a machine: memory by item, tokens per second. Arithmetic over a model's shape.

docs/performance.md describes how the constants were measured, docs/benchmarks.md the errors of predictions.
"""

from __future__ import annotations

from dataclasses import dataclass

from al.config import Config
from al.planning.model_shape import ModelShape
from trainer.decoder.retention import (
    HOST_SHARE,
    LOGITS_CHUNK,
    RESERVE,
    Memory,
    Retention,
    divide,
    peak_bytes,
)

GIB = 2**30
SHARE = {"cuda": 0.71, "cpu": 0.55}
"""Share of the measured matrix-product speed that whole layers reach."""
TRANSFORMERS_SHARE = {"cuda": 0.67, "cpu": 0.55}
"""The same for models that run through transformers' own forward, once their kernels are launched."""
FORWARD_SHARE = {"cuda": 0.78, "cpu": 0.55}
"""The same in passes without a backward pass."""
LAUNCH_SECONDS = {"cuda": 0.5e-3, "cpu": 0.0}
"""Seconds to launch one decoder layer for one pass: the minimum time of a layer, however small the batch."""
TRANSFORMERS_LAUNCH_SECONDS = {"cuda": 4.1e-3, "cpu": 0.0}
"""The same through transformers and PEFT, where launch and computation hardly overlap."""
PROCESS_GIB = {"cuda": 0.0, "cpu": 0.9}
"""Resident size of the libraries themselves; on a GPU only what torch allocates there is counted."""
STATE_BYTES = {"adamw": 8.0, "adamw_8bit": 2.0}
"""Optimizer state of one trained weight."""
NF4_BYTES = {True: 0.5 + (1 / 64) * (1 + 4 / 256), False: 0.5 + 4 / 64}
"""Bytes of a weight with double quantization (4 bits, an 8-bit scale for 64, a 32-bit scale for 256 of those) and without."""


@dataclass(frozen=True)
class Machine:
    """The device of a plan: kind, bytes per value in the compute dtype, measured matrix-product FLOP/s, memory
    bandwidth in bytes/s, and memory in GiB."""

    kind: str
    bytes_per_value: int
    flops: float
    bandwidth: float
    memory_gib: float


def training_memory(config: Config, shape: ModelShape, machine: Machine) -> dict[str, float]:
    """Peak bytes during training, by item."""
    size, nf4 = machine.bytes_per_value, config.model.quantization == "nf4"
    tokens = config.train.pack_length * config.train.packs_per_batch
    held = NF4_BYTES[config.model.double_quantization] if nf4 else size
    items = {
        "libraries": PROCESS_GIB[machine.kind] * GIB,
        "base weights": shape.linear * held + shape.other * size,
        "LoRA weights, optimizer": shape.lora * (4.0 + STATE_BYTES[config.train.optimizer]),
    }
    if shape.widths is None:
        layer = transformers_layer_bytes(config, shape, machine, tokens)
        return items | {
            "dequantized weights": 2 * shape.largest_linear * size if nf4 else 0.0,
            "activations, gradients": shape.layers * tokens * shape.hidden * size + layer + 4.0 * shape.lora,
            "logits chunk": 2.0 * LOGITS_CHUNK * size if machine.kind == "cuda" else 0.0,
        }
    memory = divided(config, shape, machine)
    return items | {
        "dequantized weights": _matrices(shape, machine) if memory.resident else nf4 * _largest_matrix(shape, machine),
        "activations, gradients": peak_bytes(shape.widths, memory.retentions, tokens, _gradients(shape))
        + _earlier(config, shape),
    }


def divided(config: Config, shape: ModelShape, machine: Machine) -> Memory:
    """How training would divide its memory among layers and dequantized weights; see trainer.activation."""
    tokens = config.train.pack_length * config.train.packs_per_batch
    nf4 = config.model.quantization == "nf4"
    if config.train.activation_memory != "auto":
        budget = config.train.activation_memory * GIB
    elif machine.kind == "cuda":
        weight = NF4_BYTES[config.model.double_quantization] if nf4 else machine.bytes_per_value
        held = shape.linear * weight + shape.other * machine.bytes_per_value
        lora = shape.lora * (4.0 + 8.0) + _earlier(config, shape)
        budget = machine.memory_gib * GIB * (1 - RESERVE) - held - lora - _largest_matrix(shape, machine)
    else:
        budget = HOST_SHARE * machine.memory_gib * GIB
    matrices = _matrices(shape, machine) if nf4 else 0.0
    return divide(
        shape.widths, shape.layers, tokens, budget, matrices, machine.kind == "cuda", gradients=_gradients(shape)
    )


def training_tokens_per_s(config: Config, shape: ModelShape, machine: Machine) -> float:
    """Training speed in tokens/s. Recomputation to save memory is included: all but the last product of a layer."""
    tokens = config.train.pack_length * config.train.packs_per_batch
    head = 4.0 * shape.vocabulary * shape.hidden
    if shape.widths is None:
        flops = 2.0 * (3 * shape.linear + 4 * shape.lora) + head
        launch = 3 * shape.layers * TRANSFORMERS_LAUNCH_SECONDS[machine.kind]
        return tokens / (launch + tokens * flops / (TRANSFORMERS_SHARE[machine.kind] * machine.flops))
    memory = divided(config, shape, machine)
    again = sum(kind in (Retention.INPUT, Retention.OFFLOAD) for kind in memory.retentions) / shape.layers
    repeated = again * (1 - shape.intermediate * shape.hidden * shape.layers / shape.linear)
    flops = shape.training_flops_per_token + head + 2.0 * repeated * (shape.linear + shape.lora)
    dequantizing = 0.0 if memory.resident or config.model.quantization != "nf4" else 2 + again
    return tokens / _seconds(shape, machine, tokens, flops, 2 + again, dequantizing, SHARE[machine.kind])


def forward_tokens_per_s(config: Config, shape: ModelShape, machine: Machine) -> float:
    """Speed of scoring and evaluation in tokens/s."""
    tokens = config.measure.batch_tokens
    flops = 2.0 * (shape.linear + shape.lora + shape.vocabulary * shape.hidden)
    if shape.widths is None:
        launch = shape.layers * TRANSFORMERS_LAUNCH_SECONDS[machine.kind]
        return tokens / (launch + tokens * flops / (TRANSFORMERS_SHARE[machine.kind] * machine.flops))
    dequantizing = float(config.model.quantization == "nf4")
    return tokens / _seconds(shape, machine, tokens, flops, 1, dequantizing, FORWARD_SHARE[machine.kind])


def _seconds(
    shape: ModelShape, machine: Machine, tokens: int, flops: float, passes: float, dequantizing: float, share: float
) -> float:
    """Seconds of a batch: its products, plus reading 4 bits and writing one value of each weight per dequantizing pass;
    or the launch time, if that is longer."""
    moved = dequantizing * shape.linear * (NF4_BYTES[True] + machine.bytes_per_value)
    computing = tokens * flops / (share * machine.flops) + moved / machine.bandwidth
    return max(computing, passes * shape.layers * LAUNCH_SECONDS[machine.kind])


def transformers_layer_bytes(config: Config, shape: ModelShape, machine: Machine, tokens: int) -> float:
    """Bytes that one layer of transformers and PEFT keeps for its backward pass over `tokens` tokens.

    Values per token: the inputs of seven projections, their outputs, rotary copies and the gate. Per projection also the LoRA
    path; with dropout its input is kept again, with a mask of 1 byte.
    """
    d, ff, kv, size = shape.hidden, shape.intermediate, shape.kv_width, machine.bytes_per_value
    lora = (6 * d + ff) * (size + 1 if config.lora.dropout else 0) / size
    return tokens * size * (3 * d + ff + 4 * d + 4 * kv + 4 * ff + lora)


def _earlier(config: Config, shape: ModelShape) -> float:
    """Bytes of the gradients of a step's earlier batches, which stay in memory during later forward passes."""
    return 4.0 * shape.lora if config.train.packs_per_step > config.train.packs_per_batch else 0.0


def _gradients(shape: ModelShape) -> float:
    return 4.0 * shape.lora / shape.layers


def _matrices(shape: ModelShape, machine: Machine) -> float:
    """Bytes of all weights dequantized, with their LoRA borders."""
    return shape.linear * machine.bytes_per_value * (1 + 3 * shape.widths.rank / shape.hidden)


def _largest_matrix(shape: ModelShape, machine: Machine) -> float:
    rank = shape.widths.rank
    return (2 * shape.intermediate + 2 * rank) * (shape.hidden + 2 * rank) * machine.bytes_per_value
