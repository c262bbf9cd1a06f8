"""The `tokens:` section of the configuration. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class TokensConfig(BaseModel, extra="forbid", frozen=True):
    """Maximum length of a tokenized conversation, and the treatment of longer ones. Everything dropped is counted."""

    max_length: int = Field(
        2048,
        ge=8,
        description="Maximum tokens of one conversation, at most train.pack_length. Memory and time grow in proportion.",
    )
    overlength: Literal["skip", "truncate", "truncate_turns"] = Field(
        "skip",
        description="A conversation over max_length: skip excludes it; truncate cuts it at max_length, even in the middle "
        "of a response; truncate_turns keeps the longest prefix that ends with a whole response, and excludes it "
        "if not even the first response fits.",
    )
