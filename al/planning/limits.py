"""What fits on a machine and in a time: the largest ranks, the longest sequences, settings that fit, the number of rounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from al.config import Config
from al.planning.cost import GIB, STATE_BYTES, Machine, training_memory, training_tokens_per_s
from al.planning.model_shape import ModelShape
from trainer.decoder.retention import ALIGN, RESERVE

RANKS = (8, 16, 32, 64, 128, 256, 512, 1024)
SHOWN_RANKS = (16, 64)
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768)


def largest_rank(config: Config, shape: ModelShape, machine: Machine) -> int | None:
    """The largest of RANKS with which training fits the machine's memory, all else as configured; None if none does."""
    return max((rank for rank in RANKS if fits(config, _with_rank(shape, config.lora.r, rank), machine)), default=None)


def costs_of_ranks(config: Config, shape: ModelShape, machine: Machine, largest: int | None) -> list[dict[str, Any]]:
    """What LoRA costs at the configured rank, at the largest that fits, and at SHOWN_RANKS up to these: {"rank", "lora_gib" of weights and
    optimizer, "tokens_per_s" of training}. Memory that a smaller rank leaves keeps activations, which is faster."""
    most = max(config.lora.r, largest or 0)
    found = []
    for rank in sorted({config.lora.r, largest or config.lora.r, *(r for r in SHOWN_RANKS if r < most)}):
        other = _with_rank(shape, config.lora.r, rank)
        size = other.lora * (4.0 + STATE_BYTES[config.train.optimizer]) / GIB
        speed = training_tokens_per_s(config, other, machine)
        found.append({"rank": rank, "lora_gib": round(size, 2), "tokens_per_s": round(speed)})
    return found


def longest_sequence(config: Config, shape: ModelShape, machine: Machine) -> int | None:
    """The largest of LENGTHS that fits as one pack in a forward pass; None if none does."""

    def packed(length: int) -> Config:
        """The config with packs of one length."""
        train = config.train.model_copy(update={"pack_length": length, "packs_per_batch": 1})
        return config.model_copy(update={"train": train})

    return max((length for length in LENGTHS if fits(packed(length), shape, machine)), default=None)


def rounds_in(first: dict[str, Any], later: dict[str, Any], seconds: float) -> int:
    """How many rounds end within `seconds`, by the plans of the first one and of a later one."""
    left = seconds - first["total_seconds"]
    return 0 if left < 0 else 1 + int(left // max(later["total_seconds"], 1.0))


def usable_bytes(machine: Machine) -> float:
    """Bytes that training may plan with: a GPU's memory without the share left to libraries and fragmentation, a host's free memory."""
    return machine.memory_gib * GIB * (1 - RESERVE if machine.kind == "cuda" else 1.0)


def fits(config: Config, shape: ModelShape, machine: Machine) -> bool:
    """Whether training with `config` fits the machine's memory."""
    return sum(training_memory(config, shape, machine).values()) <= usable_bytes(machine)


def settings_that_fit(config: Config, shape: ModelShape, machine: Machine) -> list[str] | None:
    """`--set` values under which training fits: none ([]) if it fits as configured, None if nothing helps.

    What costs least comes first: smaller batches (the same result), an 8-bit optimizer, shorter packs, then a smaller rank.
    """
    steps = [("train.packs_per_batch", n) for n in (4, 2, 1) if n < config.train.packs_per_batch]
    steps += [("train.optimizer", "adamw_8bit")] * (config.train.optimizer != "adamw_8bit")
    steps += [
        ("train.pack_length", n) for n in reversed(LENGTHS) if config.tokens.max_length <= n < config.train.pack_length
    ]
    steps += [("lora.r", rank) for rank in reversed(RANKS) if rank < config.lora.r]
    chosen: dict[str, Any] = {}
    for key, value in [("", None), *steps]:
        chosen |= {key: value} if key else {}
        train = {name.removeprefix("train."): x for name, x in chosen.items() if name.startswith("train.")}
        changed = config.model_copy(update={"train": config.train.model_copy(update=train)})
        if fits(changed, _with_rank(shape, config.lora.r, chosen.get("lora.r", config.lora.r)), machine):
            return [f"{name}={x}" for name, x in chosen.items()]
    return None


def _with_rank(shape: ModelShape, before: int, rank: int) -> ModelShape:
    """The same model with LoRA of another rank, to which the number of trained weights is proportional."""
    widths = None if shape.widths is None else replace(shape.widths, rank=-(-rank // ALIGN) * ALIGN)
    return replace(shape, lora=shape.lora * rank // before, widths=widths)
