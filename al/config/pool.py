"""The `pool:` section of the configuration: sources of the examples and how strictly files are read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

FormatName = Literal[
    "auto",
    "exported",
    "labelling",
    "preference",
    "messages",
    "sharegpt",
    "ultrachat",
    "oasst",
    "oasst_tree",
    "self_instruct",
    "natural_instructions",
    "dolly",
    "alpaca",
    "multiple_choice",
    "evals",
    "input_target",
    "prompt_completion",
    "squad",
    "question_answer",
    "flan",
    "text",
]


class PoolConfig(BaseModel, extra="forbid", frozen=True):
    """Sources of the pool, their formats, and limits of reading."""

    files: list[str] = Field(
        default=[],
        description="Files, folders or glob patterns to import: .jsonl, .ndjson, .json, .csv, .tsv, .txt (each also .gz, .zst, "
        ".bz2), .parquet, .arrow and .feather. A folder means every such file below it (.txt only with `text_template`), "
        "following links, without hidden files. A file with another extension is identified by its first bytes.",
    )
    root: str | None = Field(
        default=None,
        description="Folder that must contain every file, after following links; other paths are refused. Null allows all "
        "files. Use it with configs that others write.",
    )
    hub: list[str] = Field(
        default=[],
        description="Hugging Face datasets as `owner/name[config]:split` (config and split optional, split is `train` "
        "unless named; `owner/name@revision` pins a version). Streamed; needs network unless it is a local folder.",
    )
    format: FormatName = Field(
        default="auto",
        description="Row format. `auto` detects the format of each row by its fields, so formats may be mixed. A name forces a format, "
        "and rows that do not match go to quarantine.",
    )
    map: dict[str, str] = Field(
        default={},
        description="Map from fields of a known format to fields of your rows, as {question: q, answer: choices.0.text}; "
        "a value with braces is a text built from fields: {question: '{passage} {query}'}. Only mapped fields make the "
        "conversation, the others are metadata. For files of one layout; presets ignore it.",
    )
    ignore: list[str] = Field(
        default=[],
        description="Fields that may be left out of the conversation although they look like content; they stay metadata.",
    )
    leftover: Literal["stop", "warn"] = Field(
        default="stop",
        description="What a field does that the format does not use and that looks like content (`context`, `options`, long distinct "
        "texts): `stop` the import (exit code 3), or `warn`: only list it.",
    )
    text_template: str | None = Field(
        default=None,
        description="Template of rows with a whole conversation as plain `text`, for example "
        "'### Human: {user}### Assistant: {assistant}', optionally with {system} first. Turns repeat. A text that does "
        "not match goes to quarantine.",
    )
    source_field: str = Field(
        default="auto",
        description="Field that names an example's source (its task or dataset). `auto` uses the first of source, dataset, "
        "task, category, data_source, task_name that is a short string, else the file name; `file` always uses the file name.",
        min_length=1,
    )
    strict: bool = Field(
        default=False,
        description="Stop at the first unusable row (exit code 3) instead of quarantining it.",
    )
    max_row_bytes: int = Field(
        default=8 * 2**20,
        description="Maximum size of a row in bytes; a longer line goes to quarantine without parsing. It bounds the memory of one "
        "damaged line.",
        ge=1024,
        le=2**30,
    )
    max_unpack_ratio: float = Field(
        default=200.0,
        description="Maximum ratio of unpacked to compressed bytes, checked after 16 MiB are unpacked. Text reaches 5 "
        "to 20; a decompression bomb reaches 1,000 or more. Reading stops there (`zip_bomb`).",
        ge=10,
    )
