"""Where the candidate examples come from and how strictly their files are read."""

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
    "prompt_completion",
    "squad",
    "question_answer",
    "flan",
    "text",
]


class PoolConfig(BaseModel, extra="forbid", frozen=True):
    """The `pool:` section."""

    files: list[str] = Field(
        default=[],
        description="Files, folders or glob patterns to import: .jsonl, .ndjson, .json, .csv, .tsv, .txt (each also .gz, .zst, "
        ".bz2), .parquet, .arrow and .feather. A folder stands for every such file below it (.txt only with `text_template`), "
        "links followed, hidden files left out. A file with another ending is told by its first bytes.",
    )
    root: str | None = Field(
        default=None,
        description="Folder that every file must lie in, links followed; a path that leads out of it is refused. Null allows all "
        "files. It is for configs that others write.",
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
    map: dict[str, str] = Field(
        default={},
        description="Which field of a row stands for which field of a known format, as {question: q, answer: choices.0.text}; "
        "a value with braces is a text made of fields: {question: '{passage} {query}'}. Only what is mapped makes the "
        "conversation, the rest is metadata. It is for files of one layout; presets are not touched by it.",
    )
    text_template: str | None = Field(
        default=None,
        description="How rows that hold a whole conversation as plain `text` are taken apart, as "
        "'### Human: {user}### Assistant: {assistant}', with {system} before if there is one. Turns repeat. A text that does "
        "not fit is quarantined.",
    )
    source_field: str = Field(
        default="auto",
        description="Field that names an example's source (its task or dataset). `auto` takes the first of source, dataset, "
        "task, category, data_source, task_name that is a short string, else the file name; `file` always takes the file name.",
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
    max_unpack_ratio: float = Field(
        default=200.0,
        description="How many bytes a byte of a compressed file may unpack to, on average, once 16 MiB are unpacked. Text reaches 5 "
        "to 20; a file made to fill the disk or the memory reaches 1,000 and more, and is not read on (`zip_bomb`).",
        ge=10,
    )
