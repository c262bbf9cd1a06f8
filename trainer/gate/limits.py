"""The longest document that a model computes as it would alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainer.errors import DataError

CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "index_topk")
FIX = "set tokens.max_length to at most this; tokens.overlength says what becomes of longer examples"


def context(config: Any) -> tuple[int, str] | None:
    """(tokens, the field of the model's config that sets them), or None for a model without a limit.

    Beyond the original context, transformers' longrope takes its frequencies from the longest document of a batch, so the others would
    change with it. Its dynamic rope does so beyond max_position_embeddings. Sparse attention (DeepSeek-V3.2) sees every token of a
    document up to index_topk; beyond, it selects, and which of equally good tokens it takes depends on the tokens around the document.
    """
    text = config.get_text_config(decoder=True)
    found = [(getattr(text, name, None), name) for name in CONTEXT_FIELDS]
    for rope in _ropes(getattr(text, "rope_parameters", None)):
        if rope.get("rope_type") == "longrope":
            found.append((rope.get("original_max_position_embeddings"), "original_max_position_embeddings (longrope)"))
    return min((pair for pair in found if isinstance(pair[0], int) and pair[0] > 0), default=None)


def check(config: Any, longest: int, what: str = "a document") -> None:
    """Raises DataError if `what`, of `longest` tokens, is beyond the model's context."""
    limit = context(config)
    if limit is not None and longest > limit[0]:
        raise DataError(
            f"{what}: expected at most the model's {limit[0]:,} tokens ({limit[1]}), found {longest:,}; {FIX}"
        )


def _ropes(parameters: object) -> Iterator[Mapping[str, Any]]:
    """Every set of rotary parameters: one for all layers, or one for each type of layer."""
    if isinstance(parameters, Mapping):
        yield parameters
        yield from (value for value in parameters.values() if isinstance(value, Mapping))
