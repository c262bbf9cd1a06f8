"""Whether a checkpoint has every weight of its model, and a tokenizer no token without an embedding."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from trainer.errors import TrainerError

logger = logging.getLogger(__name__)

SHOWN = 5
NAMED_MARKERS = ("<|im_start|>", "<|im_end|>")
"""Special tokens that a template of trainer/named_templates.py writes, besides those that begin and end a text."""


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
    """Raises TrainerError if `tokenizer` has a token without a row in the embeddings of a model with `config` that a text may become.

    A special token that no template needs is none: in messages it is read as characters. Gemma 3's text models have one, for images.
    """
    rows = config.get_text_config(decoder=True).vocab_size
    beyond = {text: token for text, token in tokenizer.get_vocab().items() if token >= rows}
    if not beyond:
        return
    unneeded = _unneeded(tokenizer)
    wrong = {text: token for text, token in beyond.items() if text not in unneeded}
    if wrong:
        text, token = max(wrong.items(), key=lambda pair: pair[1])
        raise TrainerError(
            f"model.name: expected token ids below the model's {rows:,} embeddings, found {text!r} with id {token:,} in "
            "the tokenizer; take the tokenizer of this model, or remove the added token"
        )
    logger.info("tokens that the model has no embeddings of, read as characters: %s", _list(sorted(beyond)))


def _unneeded(tokenizer: Any) -> set[str]:
    """Special tokens that neither begin, end or fill a text nor stand in a chat template, the tokenizer's or a named one."""
    needed = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token, *NAMED_MARKERS}
    templates = tokenizer.chat_template or ""
    templates = templates if isinstance(templates, str) else "\n".join(templates.values())
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {text for text in special - needed if text not in templates}


def _names(keys: Any) -> list[str]:
    return sorted(key if isinstance(key, str) else f"{key[0]} {tuple(key[1])} for {tuple(key[2])}" for key in keys)


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
