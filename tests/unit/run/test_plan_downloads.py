"""What a plan says of downloads, of the cost of ranks, and of files that the next machine needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from al.commands.plan import _download, _from_here
from al.config import Config
from al.planning import downloads as module
from al.planning.cards import find_card, machine_of
from al.planning.downloads import downloads
from al.planning.limits import costs_of_ranks, largest_rank
from al.planning.model_shape import PUBLISHED, ModelShape, model_shape
from trainer.config import LoraConfig, ModelConfig

MISTRAL = "mistralai/Mistral-7B-v0.1"


@pytest.fixture(autouse=True)
def without_hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def shape_of(rank: int) -> ModelShape:
    assert MISTRAL in PUBLISHED
    return model_shape(ModelConfig(name=MISTRAL), LoraConfig(r=rank))


@pytest.mark.parametrize("cached", [False, True])
def test_base_and_embedder_are_named_with_their_sizes(monkeypatch, cached):
    monkeypatch.setattr(module, "is_cached", lambda name, revision: cached)
    monkeypatch.setattr(module, "embedder_here", lambda config: config if cached else None)
    base, embedder = downloads(Config.model_validate({"model": {"name": MISTRAL}}), shape_of(16))
    assert (base["name"], base["here"], embedder["here"]) == (MISTRAL, cached, cached)
    assert 14.4e9 < base["bytes"] < 14.6e9 and 8e7 < embedder["bytes"] < 1e8
    (line,) = _download([base, embedder])
    assert ("14.5 GB" in line, "this machine has it" in line) == (not cached, cached)


def test_folders_are_not_downloaded_and_data_sets_are(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "is_cached", lambda name, revision: False)
    here = {"model": {"name": str(tmp_path)}, "embed": {"model": str(tmp_path)}}
    assert downloads(Config.model_validate(here), shape_of(16)) == [] == _download([])
    (found,) = downloads(Config.model_validate(here | {"pool": {"hub": ["someone/letters"]}}), shape_of(16))
    assert "someone/letters" in found["name"] and found["bytes"] is None and not found["here"]
    assert "size not known" in _download([found])[0]


def test_a_higher_rank_takes_more_memory_and_time():
    config, machine = Config.model_validate({"lora": {"r": 32}}), machine_of(find_card("24GB"))
    shape = shape_of(32)
    most = largest_rank(config, shape, machine)
    found = costs_of_ranks(config, shape, machine, most)
    assert [one["rank"] for one in found] == [16, 32, 64, most]
    assert [one["lora_gib"] for one in found] == sorted(one["lora_gib"] for one in found)
    assert [one["tokens_per_s"] for one in found] == sorted((one["tokens_per_s"] for one in found), reverse=True)
    assert found[1]["lora_gib"] == pytest.approx(2 * found[0]["lora_gib"], rel=0.02)


def test_paths_below_the_current_folder_are_printed_from_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert _from_here(str(tmp_path / "data/mine.csv")) == str(Path("data/mine.csv"))
    for typed in ("mine.csv", "../mine.csv", "/elsewhere/mine.csv", "hub:someone/letters"):
        assert _from_here(typed) == typed
