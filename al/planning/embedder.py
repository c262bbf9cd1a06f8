"""The size of the configured embedder, which decides what embedding a pool costs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from selection.config import EmbedConfig

LONGEST = 512
"""Tokens of a text that are embedded where the model says nothing: the positions of BERT."""
DEFAULT_SIZES = {"layers": 6, "hidden": 384, "intermediate": 1536, "longest": 256}
"""Of all-MiniLM-L6-v2, the default, whose config need not be read: a pool can be planned for without the hub."""


@dataclass(frozen=True)
class EmbedderSize:
    """`weights`: parameters that every token passes, without the embedding tables. `longest`: tokens of a text that are embedded.
    `known`: whether these are the configured model's; else they are those of the default embedder."""

    weights: int
    longest: int
    known: bool = True

    def flops(self, tokens: float) -> float:
        """Operations to embed a text of so many tokens: two for each weight and token."""
        return 2.0 * self.weights * min(tokens, self.longest)


@lru_cache(maxsize=8)
def embedder_size(config: EmbedConfig) -> EmbedderSize:
    """The size of `embed.model`, from its config.json: a folder's, the cache's, or the hub's. A distilled one looks vectors up, so no token
    passes any weights."""
    default = EmbedConfig().model
    found = None if config.model == default else _sizes(config)
    sizes = found or DEFAULT_SIZES
    hidden, wide = sizes["hidden"], sizes["intermediate"]
    weights = sizes["layers"] * (4 * hidden**2 + 2 * hidden * wide)
    return EmbedderSize(
        0 if config.distill else weights, sizes["longest"], found is not None or config.model == default
    )


def _sizes(config: EmbedConfig) -> dict[str, int] | None:
    """The sizes in a model's files, by the names of BERT and of DistilBERT; None if unreadable or without layers."""
    found, limits = _read(config, "config.json"), _read(config, "sentence_bert_config.json") or {}
    if found is None:
        return None
    layers = found.get("num_hidden_layers") or found.get("n_layers")
    hidden = found.get("hidden_size") or found.get("dim")
    if not layers or not hidden:
        return None
    return {
        "layers": int(layers),
        "hidden": int(hidden),
        "intermediate": int(found.get("intermediate_size") or found.get("hidden_dim") or 4 * hidden),
        "longest": int(limits.get("max_seq_length") or found.get("max_position_embeddings") or LONGEST),
    }


def _read(config: EmbedConfig, name: str) -> dict[str, Any] | None:
    """A JSON file of the model; None if it has none or it cannot be read."""
    folder = Path(config.model)
    try:
        if not folder.is_dir():
            from huggingface_hub import hf_hub_download

            folder = Path(hf_hub_download(config.model, name, revision=config.revision)).parent
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
