"""A holdout that came after an adapter had learned what is in it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from al.lineage.training_rows import late_holdout
from selection.holdout import POOL, SHADOW, TEST

KEYS = np.array([3, 5, 7, 9, 11], dtype=np.uint64)


@pytest.mark.parametrize(
    ("mode", "picked", "told"),
    [("continue", [5, 7, 9], "2 examples"), ("continue", [3, 4], None), ("retrain", [5, 7, 9], None)],
)
def test_an_adapter_that_goes_on_from_held_out_examples_is_told_of(tmp_path, mode, picked, told):
    np.save(tmp_path / "split.npy", np.array([POOL, TEST, SHADOW, POOL, TEST]))
    session = SimpleNamespace(config=SimpleNamespace(train=SimpleNamespace(mode=mode)))
    prepared = SimpleNamespace(open_pool=lambda: SimpleNamespace(keys=KEYS), split=SimpleNamespace(path=tmp_path))
    history = SimpleNamespace(all_picked=lambda: np.array(picked, dtype=np.uint64))
    found = late_holdout(session, prepared, history)
    assert ([line.split(" that ")[0] for line in found] or [None]) == [told]
