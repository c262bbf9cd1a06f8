"""The section of the configuration that says how conversations become tokens. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class TokensConfig(BaseModel, extra="forbid", frozen=True):
    """Length of one tokenized conversation, and what becomes of longer ones. Whatever is dropped is counted."""

    max_length: int = Field(
        2048,
        ge=8,
        description="Tokens of one conversation, at most train.pack_length. Memory and time grow in proportion.",
    )
    overlength: Literal["skip", "truncate", "truncate_turns"] = Field(
        "skip",
        description="A conversation over max_length: skip leaves it out; truncate cuts it at max_length, in the middle "
        "of a response if need be; truncate_turns keeps the longest start that ends with a whole response, and skips it "
        "where not even the first fits.",
    )
