"""What a training keeps of earlier steps is what shorter trainings end with, and no interruption changes it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import plan, saved, table

from trainer.checkpoint import Snapshots
from trainer.config import LoraConfig, TrainConfig
from trainer.gradients import Moments
from trainer.model import Base, save_adapter
from trainer.schedule import spread
from trainer.train import train

TOKENS = table([9, 20, 6, 14])
PACKS = plan([[0, 1], [2, 3]])
CONFIG = TrainConfig(learning_rate=5e-3, schedule="constant", packs_per_step=1, packs_per_batch=1, checkpoint_every=2)
KEPT, STEPS = (3, 6), 8


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return Base.load(saved(tmp_path_factory.mktemp("model")))


def trained(base, directory, kept=KEPT, steps=STEPS, kill_at=None):
    """Train, perhaps to a kill, and return the bytes of what was kept."""
    snapshots = Snapshots(directory / "kept", kept)

    def die(metrics):
        if metrics["step"] == kill_at:
            raise Killed

    with base.new_adapter(LoraConfig(r=2, dropout=0.1), seed=0) as model:
        options = {"seed": 1, "round": 1, "steps": steps, "scratch": directory / "scratch", "on_step": die}
        moments = directory / "moments.safetensors"
        train(model, TOKENS, PACKS, np.arange(4), CONFIG, snapshots=snapshots, moments=moments, **options)
        save_adapter(model, directory / "adapter")
    return contents(directory / "kept")


def contents(directory):
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    return trained(base, tmp_path_factory.mktemp("whole"))


def test_a_snapshot_is_what_a_training_of_so_many_steps_ends_with(base, whole, tmp_path):
    trained(base, tmp_path, kept=(), steps=KEPT[0])
    name = f"step-{KEPT[0]:06d}"
    assert (
        whole[f"{name}/adapter/adapter_model.safetensors"]
        == (tmp_path / "adapter/adapter_model.safetensors").read_bytes()
    )
    assert whole[f"{name}/moments.safetensors"] == (tmp_path / "moments.safetensors").read_bytes()
    assert Moments.open(tmp_path / "moments.safetensors", "cpu").steps == KEPT[0]


@pytest.mark.parametrize("step", [3, 4, 6, 7])
def test_killed_and_continued_it_keeps_the_same_bytes(base, whole, tmp_path, step):
    with pytest.raises(Killed):
        trained(base, tmp_path, kill_at=step)
    assert trained(base, tmp_path) == whole


def test_a_lost_snapshot_is_made_again(base, whole, tmp_path):
    with pytest.raises(Killed):
        trained(base, tmp_path, kill_at=5)
    shutil.rmtree(tmp_path / "kept/step-000003")
    assert trained(base, tmp_path) == whole


def test_half_a_snapshot_of_a_killed_process_is_replaced(base, whole, tmp_path):
    (tmp_path / "kept/.tmp-step-000003/adapter").mkdir(parents=True)
    (tmp_path / "kept/step-000006").mkdir()
    assert trained(base, tmp_path) == whole


@given(st.integers(1, 500), st.integers(1, 16))
def test_steps_are_spread_evenly_and_end_with_the_last(steps, count):
    found = spread(steps, count)
    assert found == sorted(set(found)) and found[0] >= 1 and found[-1] == steps
    assert len(found) == min(steps, count)
    gaps = np.diff([0, *found])
    assert gaps.max() - gaps.min() <= 1
