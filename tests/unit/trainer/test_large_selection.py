"""A selection of a million examples: training that was interrupted goes on within seconds."""

from __future__ import annotations

import time

import numpy as np
import pytest
from test_train import LORA, PLAIN
from tiny_models import VOCABULARY, saved

from trainer.errors import Interrupted
from trainer.model import Base
from trainer.packing import PackPlan, plan_packs
from trainer.tokens import TokenTable
from trainer.train import train

MILLION = 1_000_000


def write_tables(path):
    """A token table and a plan of a million short documents, on disk as the stages leave them."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, MILLION)
    total = int(lengths.sum())
    arrays = {
        "ids": rng.integers(3, VOCABULARY, total).astype(np.int32),
        "targets": np.ones(total, np.uint8),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "status": np.zeros(MILLION, np.uint8),
        "dropped": np.zeros(MILLION, np.int32),
        "target_counts": lengths.astype(np.int32),
    }
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    plan_packs(lengths, 16).save(path / "plan")
    np.save(path / "rows.npy", rng.permutation(MILLION))


def test_training_on_a_million_examples_goes_on_within_five_seconds(tmp_path):
    write_tables(tmp_path)
    base = Base.load(saved(tmp_path / "model"))

    def go(stop, on_step=lambda metrics: None):
        tokens, plan, rows = TokenTable.open(tmp_path), PackPlan.open(tmp_path / "plan"), np.load(tmp_path / "rows.npy")
        with base.new_adapter(LORA, seed=0) as model:
            options = {"seed": 0, "round": 1, "steps": None, "scratch": tmp_path, "stop": stop, "on_step": on_step}
            train(model, tokens, plan, rows, PLAIN, **options)

    answers = iter([False, False, True])
    with pytest.raises(Interrupted, match="after step 3"):
        go(lambda: next(answers))
    reached = []
    started = time.perf_counter()
    with pytest.raises(Interrupted, match="after step 4"):
        go(lambda: True, lambda metrics: reached.append(time.perf_counter() - started))
    assert len(reached) == 1 and reached[0] < 5
