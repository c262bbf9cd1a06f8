"""Conversations → token ids and targets, in shards of a row group. Templates are programs in Python, so a large pool takes a process for
each core."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from al.config.engine import EngineConfig
from al.engine.models import Models
from al.pool.store import Pool
from al.run.artifacts import Artifact
from al.run.base import local_identity
from al.run.session import Session
from al.run.shards import Arrays, finish_shards, read_shards
from selection.vectors import blocks
from trainer.tokens import Part, join_parts, merge_tables, tokenize_parts, write_table

TOKENS_VERSION = 2
SHARD = 8192
"""Conversations of a shard: a row group of a pool, about a second's work. The number of processes never changes shards."""
FEW = 2**16
"""Conversations that one process tokenizes about as fast as several, which take 5 s to start."""
MOST_PROCESSES = 8
"""Each takes up to 0.35 GiB, most of it libraries."""


def tokenize(session: Session, pool: Artifact) -> Artifact:
    """Conversations → token ids and targets through the chat template. Those that an earlier pool version tokenized are copied. What was
    tokenized before a kill is in scratch and is not tokenized again."""
    params = {
        "tokens": session.config.tokens.model_dump(mode="json"),
        "template": session.config.model.chat_template,
        "tokenizer": session.config.model.name,
        "revision": session.config.model.revision,
        "files": {k: v for k, v in local_identity(session.config.model.name).items() if not k.endswith(".safetensors")},
    }

    def build(out: Path, scratch: Path) -> None:
        """Write the token table."""
        keys = Pool.open(pool.path).keys
        earlier, new = _tokenized_before(session, keys, params)
        if earlier is None:
            tokenize_rows(session, pool.path, np.arange(len(keys)), out, scratch)
            return
        rows = np.flatnonzero(new)
        tokenize_rows(session, pool.path, rows, scratch / "added", scratch, may_refuse_all=True)
        merge_tables([earlier.path, scratch / "added"], [np.flatnonzero(~new), rows], out)

    return session.run.stage(
        "tokens", version=TOKENS_VERSION, inputs={"pool": pool}, params=params, build=build, label="tokenize"
    )


def tokenize_rows(
    session: Session, pool: Path, rows: np.ndarray, out: Path, scratch: Path, may_refuse_all: bool = False
) -> None:
    """Write the token table of `rows` (n,), ascending, of the pool at `pool` into the directory `out`. Finished shards stay in `scratch`.

    Raises trainer.errors.DataError if the template refuses all of the first 1,024 conversations, unless it may.
    """
    shards = [rows[start : start + SHARD] for start in range(0, len(rows), SHARD)]
    work = partial(_tokenizing, pool, None if may_refuse_all or not len(rows) else int(rows[0]))
    with session.progress("tokenize", len(rows), "examples") as progress, _on_all_cores(session, len(rows)) as workers:
        paths = finish_shards(workers, "tokens", work, shards, scratch, progress, point="tokenize.shard")
    parts = (Part(**arrays) for arrays in read_shards(paths))
    write_table(parts, session.template, session.config.tokens, out)


@contextmanager
def _on_all_cores(session: Session, conversations: int) -> Iterator[Session]:
    """A session whose shards are done by a process for each core that torch uses, which end after the block; for few conversations, by this
    process alone."""
    import torch

    config, processes = session.config, min(torch.get_num_threads(), MOST_PROCESSES)
    if conversations <= FEW or processes == 1:
        yield session.with_config(config.model_copy(update={"engine": EngineConfig(kind="local")}))
        return
    parts = {
        "engine": EngineConfig(kind="processes", gpus=processes),
        "model": config.model.model_copy(update={"device": "cpu"}),
    }
    workers = Session(session.run, config.model_copy(update=parts), session.quiet)
    try:
        yield workers
    finally:
        workers.engine.close()


@contextmanager
def _tokenizing(
    pool: Path, first: int | None, models: Models
) -> Iterator[Callable[[np.ndarray, Callable[[int], None]], Arrays]]:
    """The work of a process that tokenizes rows of a pool. The template must take some of the first conversations from row `first` on."""
    if models.config.engine.kind == "processes":
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the other cores have processes of their own
    reader, template, config = Pool.open(pool), models.template, models.config.tokens

    def run(rows: np.ndarray, progress: Callable[[int], None]) -> Arrays:
        """The part of the table that `rows` are."""
        conversations = (messages for some in blocks(rows, 2048) for messages in reader.messages(some))
        parts = []
        for part in tokenize_parts(conversations, template, config, may_refuse_all=rows[0] != first):
            parts.append(part)
            progress(part.columns.shape[1])
        return dict(vars(join_parts(parts)))

    yield run


def _tokenized_before(session: Session, keys: np.ndarray, params: dict[str, Any]) -> tuple[Artifact | None, np.ndarray]:
    """The newest token table in the same form of a pool version whose examples are all among `keys` (n,), and which rows are new to it;
    None and all rows if there is none."""
    for artifact in session.run.published("tokens"):
        made, version = artifact.manifest, session.run.find("pool", artifact.manifest["inputs"]["pool"])
        if version is None or (made["params"], made["version"]) != (json.loads(json.dumps(params)), TOKENS_VERSION):
            continue
        known = Pool.open(version.path).keys
        if np.isin(known, keys).all() and artifact.json("tokens.json")["template_hash"] == session.template.hash:
            return artifact, ~np.isin(keys, known)
    return None, np.ones(len(keys), dtype=bool)
