"""Stages of a real run on worker processes and on Ray: every byte is that of one process."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest

from al.commands import label
from al.config import change
from al.evaluation import answering
from al.evaluation.asked import ask_holdout
from al.evaluation.generations import generate
from al.evaluation.stage import evaluate
from al.lineage.history import CONTROL, SELECTED
from al.preparation import embedding
from al.preparation.holdout import held_out
from al.preparation.stages import prepare
from al.round.train import Training
from al.run import rounds, shards
from al.run.session import Session
from al.run.store import Run
from al.scoring.checkpoints import GradientCheckpoint
from al.scoring.passes import passes
from trainer.tokens import TokenTable

ADAPTER = "adapter/adapter_model.safetensors"
WANTED = frozenset({"response", "pooled", "unprompted", "gradient", "reference"})


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    """Parts so small that a tiny pool has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_TOKENS", {"cpu": 400})
        patch.setattr(embedding, "CHUNK", 64)
        patch.setattr(answering, "SHARD", {"cpu": 8})
        patch.setattr(label, "SHARD_TOKENS", 300)
        yield


@contextmanager
def session_on(two_rounds, folder, name, engine=None):
    """A copy of the run without what workers make, opened for work with an engine."""
    path = folder / name
    shutil.copytree(two_rounds[0], path, symlinks=True)
    with Run.create_or_open(path) as run:
        last = rounds.all_rounds(run)[-1]
        config = change(last.config, [f"engine={{kind: {name}, gpus: 2}}"], "test")
        session = Session(run, config, quiet=True)
        if engine is not None:
            session.engine = engine
        prepared = prepare(session, 2)
        for stage in ("embeddings", "evaluate", "answers", "generations"):
            for artifact in run.published(stage):
                run.forget(stage, artifact.fingerprint)
        yield session, prepared


def everything(session, prepared, folder):
    """{name: bytes or arrays} of every stage that workers take part in."""
    adapter = rounds.required(session.run, 1, "train")
    rows = np.flatnonzero(np.asarray(TokenTable.open(prepared.tokens.path).target_counts))[:60]
    table = TokenTable.open(prepared.tokens.path)
    found = {}
    with session.progress("test", None, "examples") as progress:
        checkpoint = GradientCheckpoint(session.adapter_path(adapter), None, 0.5)
        for step in passes(
            prepared.tokens.path, session.adapter_path(adapter), adapter.path / "adapter", WANTED, [checkpoint]
        ):
            parts = shards.token_shards(session, rows, np.asarray(table.lengths))
            assert len(parts) > 4
            paths = shards.finish_shards(session, step.name, step.work, parts, folder, progress)
            found |= {f"{step.name}.{name}": values.tobytes() for name, values in shards.read_columns(paths).items()}
    found["embeddings"] = (embedding.embed(session, prepared.pool).path / "embeddings.npy").read_bytes()
    for name, model in (("base", None), ("adapter", adapter)):
        found[f"evaluate {name}"] = (evaluate(session, prepared, model, "test").path / "examples.parquet").read_bytes()
    asked = ask_holdout(session, prepared)
    assert len(asked.ids) > answering.SHARD["cpu"]
    found["answers"] = (answering.answer(session, asked, adapter, "test").path / answering.FILE).read_bytes()
    written = generate(session, prepared, adapter, held_out(np.load(prepared.split.path / "split.npy"))[:4], "test")
    found["generations"] = (written.path / "generations.json").read_bytes()
    prompts = label.unlabelled_prompts(session, 2)
    continued = label.continue_prompts(session, prompts, adapter, np.arange(10))
    found["label"] = (continued.path / "continuations.parquet").read_bytes()
    found |= trained(session, prepared)
    return found


def trained(session, prepared):
    """The adapters of both lineages, trained again at the same time, and the curve of the selected one."""
    before = [rounds.required(session.run, 1, f"{prefix}train") for prefix in ("", "control.")]
    selected, control = (
        Training(
            session,
            prepared,
            rounds.required(session.run, 1, f"{lineage.prefix}packs"),
            None,
            1,
            lineage,
            adapter.manifest["params"]["steps"],
        )
        for lineage, adapter in zip((SELECTED, CONTROL), before, strict=True)
    )
    for adapter in before:
        session.run.forget("train", adapter.fingerprint)
    after = selected.publish(alongside=control), control.publish()
    assert [artifact.fingerprint for artifact in after] == [artifact.fingerprint for artifact in before]
    adapters = [(artifact.path / ADAPTER).read_bytes() for artifact in after]
    curve = [json.loads(line) for line in (after[0].path / "curve.jsonl").read_text().splitlines()]
    steps = [(step["step"], step["loss"], step["grad_norm"], step.get("dev_loss")) for step in curve]
    session.run.forget("train", after[0].fingerprint)
    assert (selected.publish().path / ADAPTER).read_bytes() == adapters[0], "on all workers as on half of them"
    return {"selected adapter": adapters[0], "control adapter": adapters[1], "curve": steps}


@pytest.fixture(scope="module")
def in_this_process(two_rounds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    with session_on(two_rounds, folder, "local") as (session, prepared):
        return everything(session, prepared, folder)


@pytest.mark.parametrize("name", ["processes", "ray"])
def test_no_engine_changes_a_byte(two_rounds, in_this_process, workers, tmp_path, name):
    engine = workers(name)
    with session_on(two_rounds, tmp_path, name, engine) as (session, prepared):
        found = everything(session, prepared, tmp_path)
        assert len(engine._workers) == 2
        assert "base" not in vars(session.models._model), "the driver loads no model"
    assert len(found["curve"]) > 2 and any(dev for *_, dev in found["curve"])
    assert found.keys() == in_this_process.keys()
    assert [key for key in found if found[key] != in_this_process[key]] == []
