"""A pool that grows: only what is new is tokenized and embedded."""

from __future__ import annotations

import json

import numpy as np

from al.config import load
from al.config.pool import PoolConfig
from al.pool.sources import find_sources
from al.preparation import stages
from al.preparation.stages import embed, import_sources, pool_version, tokenize
from al.run import rounds
from al.run.session import Session
from al.run.store import Run

ROWS = [{"question": f"How high is hill {i} of the county?", "answer": f"{i} feet"} for i in range(5)]


def test_what_is_added_is_tokenized_and_embedded_alone_as_if_all_had_come_at_once(world, tmp_path, monkeypatch):
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    counted, plain = [], stages.tokenize_pool

    def watched(conversations, *args, **kwargs):
        known = list(conversations)
        counted.append(len(known))
        return plain(known, *args, **kwargs)

    monkeypatch.setattr(stages, "tokenize_pool", watched)
    with Run.create_or_open(tmp_path / "run") as run:
        session = Session(run, load(world, []), quiet=True)
        before = pool_version(session)[1]
        tokenize(session, before)
        embed(session, before)
        grown = import_sources(session, find_sources(PoolConfig(files=[str(tmp_path / "more.jsonl")])), before)
        rounds.add_pool(run, grown)
        tokens, embeddings = tokenize(session, grown), embed(session, grown)
        assert counted[1:] == [5] and embeddings.json("embeddings.json")["embedded"] == 5
        assert import_sources(session, find_sources(PoolConfig(files=[str(tmp_path / "more.jsonl")])), grown) == grown
        whole = stages.Pool.open(grown.path)
        at_once = tmp_path / "at-once"
        plain(whole.iter_messages(), session.template, session.config.tokens, at_once)
        for file in at_once.iterdir():
            assert (tokens.path / file.name).read_bytes() == file.read_bytes(), file.name
        assert len(np.load(embeddings.path / "embeddings.npy")) == len(whole)
