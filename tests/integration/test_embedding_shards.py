"""Embedding a pool: what is embedded stays after a kill, and static embedders work as transformers do."""

from __future__ import annotations

import numpy as np
import pytest

from al.config import load
from al.preparation import embedding
from al.preparation.embedding import embed
from al.preparation.stages import pool_version
from al.run.session import Session
from al.run.store import Run


@pytest.fixture
def embedded(monkeypatch):
    """The number of texts of each call of the embedder, whose third call fails."""
    calls, plain = [], embedding.embed_texts

    def watched(texts, *args, **kwargs):
        calls.append(len(texts))
        if len(calls) == 3:
            raise RuntimeError("killed")
        return plain(texts, *args, **kwargs)

    monkeypatch.setattr(embedding, "embed_texts", watched)
    monkeypatch.setattr(embedding, "CHUNK", 40)
    return calls


def vectors_of(world, run, *more):
    """The pool's vectors, and what the artifact says of them."""
    with Run.create_or_open(run) as opened:
        session = Session(opened, load(world, list(more)), quiet=True)
        artifact = embed(session, pool_version(session)[1])
        return np.load(artifact.path / "embeddings.npy"), artifact.json("embeddings.json")


def test_a_kill_costs_one_shard_and_the_vectors_are_those_of_an_undisturbed_run(world, tmp_path, embedded):
    with pytest.raises(RuntimeError, match="killed"):
        vectors_of(world, tmp_path / "run")
    assert len(list((tmp_path / "run/scratch").glob("embeddings-*/*.npz"))) == 2
    vectors, facts = vectors_of(world, tmp_path / "run")
    before, after = embedded[:3], embedded[3:]
    assert before == [40, 40, 40] and sum(after) == len(vectors) - 80 == facts["embedded"] - 80
    assert not list((tmp_path / "run/scratch").glob("embeddings-*"))
    assert np.array_equal(vectors_of(world, tmp_path / "other")[0], vectors)


def test_a_distilled_embedder_embeds_a_pool(world, tmp_path):
    vectors, _ = vectors_of(world, tmp_path / "run", "embed.distill=true")
    assert np.allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)
    assert len(np.unique(vectors, axis=0)) > len(vectors) / 2
