"""Tokenizing a pool in shards: worker processes change no byte, a kill costs a shard, and a small pool starts no process."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import AutoTokenizer

from al.config import load
from al.engine.engine import Engine
from al.preparation import tokens
from al.preparation.stages import pool_version
from al.preparation.tokens import tokenize
from al.run.session import Session
from al.run.store import Run
from trainer.errors import DataError
from trainer.tokens import tokenize_pool


@pytest.fixture
def started(quick_workers, monkeypatch):
    """Shards of 40 conversations for two processes, however few; how many workers each work had."""
    monkeypatch.setattr(tokens, "SHARD", 40)
    monkeypatch.setattr(tokens, "FEW", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    counted, plain = [], Engine._started

    def counting(self, config, gpu):
        workers = plain(self, config, gpu)
        counted.append(workers)
        return workers

    monkeypatch.setattr(Engine, "_started", counting)
    return counted


def files_of(artifact):
    return {file.name: file.read_bytes() for file in artifact.path.iterdir() if file.name != "manifest.json"}


def in_one_process(session, pool, out):
    """{name: bytes} of the table of a whole pool, tokenized at once."""
    tokenize_pool(pool.iter_messages(), session.template, session.config.tokens, out)
    return {file.name: file.read_bytes() for file in out.iterdir()}


def test_processes_write_the_bytes_of_one_and_end(world, tmp_path, started):
    with Run.create_or_open(tmp_path / "run") as run:
        session = Session(run, load(world, []), quiet=True)
        version = pool_version(session)[1]
        found = files_of(tokenize(session, version))
        pool = tokens.Pool.open(version.path)
        assert len(pool) > 4 * tokens.SHARD
        assert found == in_one_process(session, pool, tmp_path / "once")
    (workers,) = started
    assert len(workers) == 2 and not any(place.process.is_alive() for place in workers._places)
    assert not list((tmp_path / "run/scratch").iterdir())


def test_few_conversations_start_no_process(world, tmp_path, started, monkeypatch):
    monkeypatch.setattr(tokens, "FEW", 10_000)
    with Run.create_or_open(tmp_path / "run") as run:
        session = Session(run, load(world, ["engine=processes"]), quiet=True)
        assert tokenize(session, pool_version(session)[1]).json("tokens.json")["tokens"] > 0
    assert started == []


def test_a_kill_costs_one_shard(world, tmp_path, started, monkeypatch):
    monkeypatch.setattr(tokens, "FEW", 10_000)
    calls, plain = [], tokens.tokenize_parts

    def failing(conversations, *args, **kwargs):
        calls.append(0)
        if len(calls) == 3:
            raise RuntimeError("killed")
        return plain(conversations, *args, **kwargs)

    monkeypatch.setattr(tokens, "tokenize_parts", failing)
    with Run.create_or_open(tmp_path / "run") as run:
        session = Session(run, load(world, []), quiet=True)
        version = pool_version(session)[1]
        with pytest.raises(RuntimeError, match="killed"):
            tokenize(session, version)
        assert len(list((tmp_path / "run/scratch").glob("tokens-*/*.npz"))) == 2
        found, pool = files_of(tokenize(session, version)), tokens.Pool.open(version.path)
        assert len(calls) == 1 + -(-len(pool) // tokens.SHARD), "the failed shard alone was done twice"
        assert found == in_one_process(session, pool, tmp_path / "once")


def test_a_template_at_fault_stops_the_processes_with_its_reason(world, tmp_path, started):
    with Run.create_or_open(tmp_path / "run") as run:
        session = Session(run, load(world, []), quiet=True)
        version = pool_version(session)[1]
        model = _model_that_refuses(tmp_path / "model", session.config.model.name)
        session = session.with_config(load(world, [f"model.name={model}", "model.chat_template=auto"]))
        with pytest.raises(DataError, match="refuses all of the first 40 conversations.*no questions today"):
            tokenize(session, version)
    (workers,) = started
    assert not any(place.process.is_alive() for place in workers._places)


def _model_that_refuses(folder, model):
    """A copy of a model whose template takes nothing but the probe of a template."""
    shutil.copytree(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% if 'colour has the sky' not in messages[0]['content'] %}{{ raise_exception('no questions today') }}{% endif %}"
        + tokenizer.chat_template
    )
    tokenizer.save_pretrained(folder)
    return folder
