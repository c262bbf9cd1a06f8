"""Two rounds of twenty steps with dropout and NEFTune, cut off at any of the forty: the adapter has the same bytes in the end."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from fuzz import cases
from tiny_models import plan, saved, table

from trainer.config import LoraConfig, TrainConfig
from trainer.model import Base, save_adapter
from trainer.train import train

TOKENS = table([9, 20, 6, 14, 30, 3, 11, 8])
PACKS = plan([[0, 1], [2, 3], [4], [5, 6], [7]])
LORA = LoraConfig(r=4, alpha=8, dropout=0.2)
# Five packs, two a step: every fifth step crosses from one epoch into the next.
CONFIG = TrainConfig(learning_rate=5e-3, packs_per_step=2, packs_per_batch=1, neftune_alpha=5, checkpoint_every=3)
STEPS, ROUNDS = 20, 2
TRAININGS = cases(2, ROUNDS * STEPS)
"""Trainings among which the forty steps are shared out; with WINNOW_FUZZ=full each is cut off once."""


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def uninterrupted(model, tmp_path_factory):
    return rounds(model, tmp_path_factory.mktemp("whole"), [])


def rounds(model, directory, kill_at):
    """Train both rounds; at each of the steps `kill_at` (1 … 40, counted over rounds) everything in memory is lost once. Returns the
    bytes of both adapters."""
    pending = set(kill_at)
    for number in range(ROUNDS):
        target = directory / f"adapter-{number}"
        while not target.exists():
            with suppress(Killed):
                one_round(model, directory, number, pending)
    assert not pending, "a step was never taken"
    return [(directory / f"adapter-{number}" / "adapter_model.safetensors").read_bytes() for number in range(ROUNDS)]


def one_round(model, directory, number, pending):
    base = Base.load(model)  # as a new process would

    def die(metrics):
        step = number * STEPS + metrics["step"]
        if step in pending:
            pending.remove(step)
            raise Killed

    previous = directory / f"adapter-{number - 1}"
    worn = base.adapter(previous, trainable=True) if number else base.new_adapter(LORA, seed=0)
    with worn as adapter:
        rows = np.arange(len(TOKENS.documents))
        options = {"seed": 1, "round": number, "steps": STEPS, "scratch": directory / f"scratch-{number}"}
        report = train(adapter, TOKENS, PACKS, rows, CONFIG, on_step=die, **options)
        assert report.steps == STEPS
        save_adapter(adapter, directory / f"adapter-{number}")


@pytest.mark.parametrize("first", range(1, TRAININGS + 1))
def test_trap_14_killed_at_any_step_of_two_rounds(model, uninterrupted, tmp_path, first):
    assert rounds(model, tmp_path, range(first, ROUNDS * STEPS + 1, TRAININGS)) == uninterrupted


def test_noise_and_dropout_are_in_it(model, uninterrupted, tmp_path, monkeypatch):
    import sys

    here = sys.modules[__name__]
    for name, value in (
        ("CONFIG", CONFIG.model_copy(update={"neftune_alpha": 0})),
        ("LORA", LORA.model_copy(update={"dropout": 0.0})),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(here, name, value)
            assert rounds(model, tmp_path / name, [])[0] != uninterrupted[0]
