"""An adapter goes with the base that it was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from al.config import Config
from al.errors import RunStateError
from al.lineage.history import SELECTED, History
from al.run.artifacts import Artifact
from al.run.base import local_identity, other_base, refuse_other_base
from trainer.config import ModelConfig


def base(path, weights=b"one", tokenizer=b"{}"):
    path.mkdir(exist_ok=True)
    (path / "model.safetensors").write_bytes(weights)
    (path / "tokenizer.json").write_bytes(tokenizer)
    return ModelConfig(name=str(path))


def trained_on(model, **change):
    recorded = {**model.model_dump(mode="json"), "files": local_identity(model.name), **change}
    return Artifact("train", "f00d", Path("run/artifacts/train/f00d"), {"params": {"model": recorded}})


def test_the_same_weights_are_the_same_base_wherever_they_lie(tmp_path):
    adapter = trained_on(base(tmp_path / "a"))
    assert other_base(adapter, base(tmp_path / "b", tokenizer=b'{"later": 1}')) is None


def test_weights_of_the_same_name_and_size_are_told_by_their_content(tmp_path):
    adapter = trained_on(base(tmp_path / "a"))
    with pytest.raises(RunStateError) as error:
        refuse_other_base(adapter, base(tmp_path / "a", weights=b"two"))
    before, now = "7692c3ad3540", "3fc4ccfe7458"
    for words in (before, now, "train/f00d", "base's files back", "new run", "train.mode=retrain"):
        assert words in str(error.value)
    assert error.value.exit_code == 5


@pytest.mark.parametrize(
    ("trained", "named", "differs"),
    [
        ({"name": "a/x"}, {"name": "a/x"}, False),
        ({"name": "a/x"}, {"name": "b/x"}, True),
        ({"name": "a/x", "revision": "1"}, {"name": "a/x", "revision": "2"}, True),
        ({"name": "a/x"}, {"name": "a/x", "revision": "2"}, False),  # pinned later, perhaps to what it was
        ({"name": "gone", "files": {"model.safetensors": "0" * 64}}, {"name": "a/x"}, False),
        (
            {"name": "gone", "files": {"model.safetensors": 12_345}},
            {"name": "LOCAL"},
            False,
        ),  # sizes, of an earlier version
    ],
)
def test_what_can_be_compared_is_compared(tmp_path, trained, named, differs):
    model = base(tmp_path / "m") if named["name"] == "LOCAL" else ModelConfig(**named)
    adapter = trained_on(ModelConfig(), **{"revision": None, **trained})
    assert bool(other_base(adapter, model)) == differs


def test_a_line_of_adapters_goes_on_only_from_scratch_on_another_base(tmp_path):
    history = History(SELECTED, ({"train": trained_on(base(tmp_path / "a"))},))
    config = Config.model_validate({"model": {"name": str(tmp_path / "a")}})
    assert history.on(config).adapter() is not None
    base(tmp_path / "a", weights=b"two")
    with pytest.raises(RunStateError, match="expected the base"):
        history.on(config)
    retrain = Config.model_validate({"model": {"name": str(tmp_path / "a")}, "train": {"mode": "retrain"}})
    assert history.on(retrain).adapter() is None and history.on(retrain).last("train") is not None
