"""Picks of the study by gradients: what is measured of a pool, and that the picker sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_models import saved, table

from benchmarks.proving_ground import by_gradient, gradients
from benchmarks.proving_ground.aiming import Aim
from benchmarks.proving_ground.gradients import Gradients, Pool
from selection.config import ScoreConfig
from selection.vectors import unit
from trainer.gradients import Moments, project_gradients
from trainer.measure import measure
from trainer.model import Base

TOKENS = table(np.random.default_rng(0).integers(6, 14, 60).tolist())
POOL = Pool("p3-power", np.arange(3, 53), np.arange(53, 58), 5e-3)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base model."""
    return Base.load(saved(tmp_path_factory.mktemp("model")))


def test_cosines_give_the_picks_that_the_vectors_would():
    rng = np.random.default_rng(1)
    vectors, targets = unit(rng.normal(size=(300, 24))), unit(rng.normal(size=(7, 24)))
    keys, cosines = np.arange(300, dtype=np.uint64), vectors @ targets.T
    same = by_gradient.in_one_space(cosines, keys)
    lengths = np.linalg.norm(same.vectors, axis=1)
    assert np.allclose(lengths, lengths[0]) and np.allclose(same.vectors @ same.targets.T, cosines, atol=1e-6)
    for seed in (1, 2):
        expected = Aim(vectors, targets, keys).nearest(50, seed, strategy="less")
        assert by_gradient.pick(cosines, keys, 50, seed).tolist() == expected.tolist()
    assert expected.tolist() != by_gradient.pick(cosines, keys, 50, 1).tolist()  # the dev rows' order is drawn


def test_a_pool_is_measured_with_its_warm_up_and_its_moments(base, tmp_path):
    assert Gradients(base, TOKENS, tmp_path, minutes=5, at_once=20).measure(POOL)
    found, folder = by_gradient.measured(tmp_path / "p3-power.npz"), tmp_path / "p3-power"
    settings = {"dimension": ScoreConfig().gradient_dimension, "batch_tokens": 4096, "seed": gradients.SEED}
    with base.adapter(folder / "adapter", trainable=True) as model:
        moments = Moments.open(folder / "moments.safetensors", base.device)
        ours, plain, aims = (
            project_gradients(model, TOKENS, rows, moments=adam, **settings).astype(np.float32)
            for rows, adam in ((POOL.rows, moments), (POOL.rows, None), (POOL.dev, None))
        )
        nll = measure(model, TOKENS, POOL.rows, batch_tokens=4096).nll_mean
    assert np.abs(found["cosines"] - ours @ aims.T).max() < 2e-3 < np.abs(found["cosines"] - plain @ aims.T).max()
    assert np.allclose(found["nll"], nll, atol=1e-4)
    assert np.abs(nll - measure(base.model, TOKENS, POOL.rows, batch_tokens=4096).nll_mean).max() > 1e-3
    assert sorted(file.name for file in folder.iterdir()) == ["adapter", "moments.safetensors"]


def test_measuring_stops_when_the_time_is_over_and_goes_on_there(base, tmp_path, monkeypatch):
    once = Gradients(base, TOKENS, tmp_path / "once", minutes=5)
    assert once.measure(POOL)
    left = iter([1.0, 1.0, 1.0, 0.0])
    monkeypatch.setattr(Gradients, "left", lambda self: next(left))
    assert not Gradients(base, TOKENS, tmp_path / "again", minutes=5, at_once=20).measure(POOL)
    kept = sorted((tmp_path / "again/p3-power").glob("part-*"))
    assert [file.name for file in kept] == ["part-000.npy", "part-001.npy"]
    np.save(kept[1], np.load(kept[1]) * 0)  # to be recognised
    monkeypatch.setattr(Gradients, "left", lambda self: 60.0)
    trained = []
    monkeypatch.setattr(Gradients, "_warm_up", lambda self, *given: trained.append(given))
    assert Gradients(base, TOKENS, tmp_path / "again", minutes=5, at_once=20).measure(POOL) and not trained
    first, second = (by_gradient.measured(tmp_path / name / "p3-power.npz") for name in ("once", "again"))
    measured, old = first["cosines"], second["cosines"] == 0
    assert old[17:34].all() and not old[:17].any() and not old[34:].any()
    assert np.allclose(np.where(old, 0, measured), second["cosines"], atol=2e-3)


PEER = """
import json, pathlib, sys
import numpy as np
import dattri_llm
folder = pathlib.Path(sys.argv[1])
task = json.loads((folder / "task.json").read_text())
assert (folder / "adapter/adapter_config.json").exists() and (folder / "moments.safetensors").exists()
documents, count = task["documents"], task["candidates"]
targets = [sum(label >= 0 for label in document["labels"]) for document in documents]
np.save(folder / f"peer-{sys.argv[2]}.npy", np.outer(targets[:count], targets[count:]) / dattri_llm.SCALE)
"""


def test_the_peer_gets_the_same_warm_up_and_documents(base, tmp_path, monkeypatch):
    packages = tmp_path / "peers"
    packages.mkdir()
    (packages / "dattri_llm.py").write_text("SCALE = 1000\n")
    (tmp_path / "driver.py").write_text(PEER)
    monkeypatch.setattr(gradients, "DRIVER", tmp_path / "driver.py")
    measuring, lines = Gradients(base, TOKENS, tmp_path, minutes=5), []
    measuring.measure_by_dattri(POOL, packages, lines.append)  # before the warm-up there is nothing to do
    assert measuring.measure(POOL) and not (tmp_path / "dattri").exists()
    measuring.measure_by_dattri(POOL, packages, lines.append)
    file = by_gradient.file_of(tmp_path, by_gradient.DATTRI, POOL.name)
    count = np.array([np.count_nonzero(TOKENS.targets(row)) for row in (*POOL.rows, *POOL.dev)])
    assert np.allclose(by_gradient.measured(file)["cosines"], np.outer(count[:50], count[50:]) / 1000, rtol=1e-3)
    file.unlink()
    (tmp_path / "driver.py").write_text("raise ValueError('no hooks')")
    measuring.measure_by_dattri(POOL, packages, lines.append)
    assert "no hooks" in lines[-1] and not file.exists()
    with pytest.raises(SystemExit, match="proving_ground gradients"):
        by_gradient.measured(file)
    assert not list(Path(tmp_path / "p3-power").glob("tmp*"))
