"""What fits on a machine and in a time: the largest ranks, the longest sequences, the number of rounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from al.config import Config
from al.planning.cost import GIB, Machine, training_memory
from al.planning.model_shape import ModelShape
from trainer.decoder.retention import ALIGN

RANKS = (8, 16, 32, 64, 128, 256, 512, 1024)
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768)


def largest_rank(config: Config, shape: ModelShape, machine: Machine) -> int | None:
    """The largest of RANKS with which training fits the machine's memory, all else as configured; None if none does."""
    return max((rank for rank in RANKS if _fits(config, _with_rank(shape, config.lora.r, rank), machine)), default=None)


def longest_sequence(config: Config, shape: ModelShape, machine: Machine) -> int | None:
    """The largest of LENGTHS that fits as one pack in a forward pass; None if none does."""

    def packed(length: int) -> Config:
        """The config with packs of one length."""
        train = config.train.model_copy(update={"pack_length": length, "packs_per_batch": 1})
        return config.model_copy(update={"train": train})

    return max((length for length in LENGTHS if _fits(packed(length), shape, machine)), default=None)


def rounds_in(first: dict[str, Any], later: dict[str, Any], seconds: float) -> int:
    """How many rounds end within `seconds`, by the plans of the first one and of a later one."""
    left = seconds - first["total_seconds"]
    return 0 if left < 0 else 1 + int(left // max(later["total_seconds"], 1.0))


def _fits(config: Config, shape: ModelShape, machine: Machine) -> bool:
    return sum(training_memory(config, shape, machine).values()) <= machine.memory_gib * GIB


def _with_rank(shape: ModelShape, before: int, rank: int) -> ModelShape:
    """The same model with LoRA of another rank, to which the number of trained weights is proportional."""
    widths = None if shape.widths is None else replace(shape.widths, rank=-(-rank // ALIGN) * ALIGN)
    return replace(shape, lora=shape.lora * rank // before, widths=widths)
