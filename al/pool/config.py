"""Where the candidate examples come from and how strictly their files are read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

FormatName = Literal[
    "auto",
    "labelling",
    "messages",
    "sharegpt",
    "self_instruct",
    "dolly",
    "alpaca",
    "evals",
    "prompt_completion",
    "question_answer",
]


class PoolConfig(BaseModel, extra="forbid", frozen=True):
    """The `pool:` section."""

    files: list[str] = Field(
        default=[],
        description="Files, folders or glob patterns to import: .jsonl, .ndjson, .json, .csv, .tsv (each also .gz) and "
        ".parquet. A folder stands for every such file below it.",
    )
    hub: list[str] = Field(
        default=[],
        description="Hugging Face datasets as `owner/name[config]:split` (config and split optional, split is `train` "
        "unless named; `owner/name@revision` pins a version). Streamed; needs network unless it is a local folder.",
    )
    format: FormatName = Field(
        default="auto",
        description="Row format. `auto` recognises each row by its fields, so formats may be mixed; a name forces it, "
        "and rows that do not fit are quarantined.",
    )
    source_field: str = Field(
        default="auto",
        description="Field that names an example's source (its task or dataset). `auto` takes the first of source, "
        "dataset, task, category that is a short string, else the file name; `file` always takes the file name.",
        min_length=1,
    )
    strict: bool = Field(
        default=False,
        description="Stop at the first unusable row (exit code 3) instead of putting it into quarantine.",
    )
    max_row_bytes: int = Field(
        default=8 * 2**20,
        description="Longest row in bytes; a longer line is quarantined without being parsed. It bounds the memory one "
        "damaged line can take.",
        ge=1024,
        le=2**30,
    )
