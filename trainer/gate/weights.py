"""Whether a checkpoint has every weight of its model, and a tokenizer no token without an embedding."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from trainer.errors import TrainerError

logger = logging.getLogger(__name__)

SHOWN = 5


def check_complete(name: str, info: Mapping[str, Any]) -> None:
    """Raises TrainerError if transformers' loading info of model `name` has missing or mismatched weights.

    transformers draws such weights at random, different ones in each process, and only logs it. Unexpected ones are logged.
    """
    problems = {kind: _names(info.get(f"{kind}_keys") or ()) for kind in ("missing", "mismatched", "unexpected")}
    if problems["unexpected"]:
        logger.warning(
            "%s: weights of the checkpoint that the model has no place for: %s", name, _list(problems["unexpected"])
        )
    wrong = [f"{kind}: {_list(problems[kind])}" for kind in ("missing", "mismatched") if problems[kind]]
    if wrong:
        raise TrainerError(
            f"model.name: expected every weight of the model in the checkpoint {name}, found {'; '.join(wrong)}; "
            "download the checkpoint again, or take the original one"
        )


def check_tokens(tokenizer: Any, config: Any) -> None:
    """Raises TrainerError if `tokenizer` has a token without a row in the embeddings of a model with `config`."""
    rows = config.get_text_config(decoder=True).vocab_size
    largest = max(tokenizer.get_vocab().items(), key=lambda pair: pair[1], default=("", -1))
    if largest[1] >= rows:
        raise TrainerError(
            f"model.name: expected token ids below the model's {rows:,} embeddings, found {largest[0]!r} with id {largest[1]:,} in "
            "the tokenizer; take the tokenizer of this model, or remove the added token"
        )


def _names(keys: Any) -> list[str]:
    return sorted(key if isinstance(key, str) else f"{key[0]} {tuple(key[1])} for {tuple(key[2])}" for key in keys)


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
