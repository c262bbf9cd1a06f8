"""What a round downloads before it starts: the base, the embedder and data sets of the hub, with their bytes where they are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from al.config import Config
from al.errors import UserError
from al.planning.model_shape import ModelShape
from al.planning.near_duplicates import embedder_here
from al.pool.presets import find, local_copy
from al.preparation.sources import pool_sources
from selection.config import EmbedConfig

BYTES_PER_WEIGHT = 2.0
"""Checkpoints of decoders are published in 16 bits."""
MINILM_BYTES = 90_868_376
"""Weights of all-MiniLM-L6-v2, the default embedder, as model.safetensors."""


def downloads(config: Config, shape: ModelShape) -> list[dict[str, Any]]:
    """{"name", "bytes" (None: not known), "here": whether this machine has it} of what the config names on the hub."""
    found = []
    if not Path(config.model.name).is_dir():
        size = BYTES_PER_WEIGHT * (shape.linear + shape.other)
        found.append(_entry(config.model.name, size, is_cached(config.model.name, config.model.revision)))
    if not Path(config.embed.model).is_dir():
        size = MINILM_BYTES if config.embed.model == EmbedConfig().model else None
        found.append(_entry(config.embed.model, size, embedder_here(config.embed) is not None))
    for source in _of_hub(config):
        copied = source.is_preset and local_copy(find(source.path)[0]) is not None
        found.append(_entry(source.label, None, copied))
    return found


def is_cached(name: str, revision: str | None) -> bool:
    """Whether the hub's cache on this machine has the weights of a model."""
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in files)


def _of_hub(config: Config) -> list[Any]:
    try:
        return [source for source in pool_sources(config) if source.is_hub]
    except UserError:  # a run has its pool already, and its files may be gone
        return []


def _entry(name: str, size: float | None, here: bool) -> dict[str, Any]:
    return {"name": name, "bytes": None if size is None else int(size), "here": here}
