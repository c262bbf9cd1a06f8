"""`doctor` finds what a round would lack before one is started: disk, locks, model, weights, context, embedder, pool files."""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from command_line import winnow
from huggingface_hub import constants

from al.config import parse
from al.planning import needs as needs_module
from al.planning.cards import find_card, machine_of
from al.planning.model_shape import model_shape
from al.planning.needs import cache_if_hub_is_silent, require, unmet
from al.run import disk
from al.run.disk import nearest_folder, probe_disk
from trainer.config import LoraConfig, ModelConfig
from trainer.errors import TrainerError
from trainer.tokenizer import not_read

MISTRAL = "mistralai/Mistral-7B-v0.1"


@pytest.fixture
def values(world, tmp_path):
    """The small world's config as a dictionary, with a copy of its model."""
    found = yaml.safe_load(Path(world).read_text())
    shutil.copytree(found["model"]["name"], tmp_path / "model")
    found["model"]["name"] = str(tmp_path / "model")
    return found


def needs(values) -> list[str]:
    return [str(problem) for problem in unmet(parse(values, "test"))]


def test_a_whole_config_lacks_nothing(values):
    assert needs(values) == []


def test_the_package_of_an_engine_is_a_need(values, monkeypatch):
    monkeypatch.setattr("al.planning.needs.find_spec", lambda name: None)
    (found,) = needs({**values, "engine": "ray"})
    assert found == "engine.kind: ray needs the package ray: pip install 'winnow-al[ray]'"


def without_weights(values, model):
    (model / "model.safetensors").unlink()


def without_a_shard(values, model):
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "model.safetensors"}})
    )


def without_tokenizer(values, model):
    for path in model.glob("tokenizer*"):
        path.unlink()


def without_config(values, model):
    (model / "config.json").write_text("{")


def empty(parent):
    (parent / "empty").mkdir()
    return str(parent / "empty")


LACKING = {
    "weights": (without_weights, "model.name: .* holds no weights"),
    "a shard": (without_a_shard, "lacks one.safetensors .* of its 2 files"),
    "tokenizer": (without_tokenizer, "model.name: expected a model directory"),
    "config": (without_config, "model.name: expected a model directory"),
    "model": (lambda values, model: shutil.rmtree(model), "model.name: expected a model directory"),
    "context": (
        lambda values, model: values["tokens"].update(max_length=600),
        "tokens.max_length: expected at most the model's 512 tokens .* found 600",
    ),
    "template": (lambda values, model: values["model"].update(chat_template="nobody"), "model.chat_template"),
    "embedder": (lambda values, model: values["embed"].update(model=str(model / "absent")), "embed.model: expected"),
    "embedder's weights": (
        lambda values, model: values["embed"].update(model=empty(model.parent)),
        "embed.model: .* holds no weights",
    ),
}


@pytest.mark.parametrize("what", LACKING)
def test_what_a_config_lacks_is_one_line(values, what, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    change, message = LACKING[what]
    change(values, Path(values["model"]["name"]))
    found = needs(values)
    assert found and all("\n" not in line for line in found)
    assert any(re.search(message, line) for line in found), found


@pytest.mark.parametrize("what", ["weights", "tokenizer", "context", "template", "embedder", "GPU"])
def test_a_round_says_at_its_start_what_doctor_says_and_leaves_no_run(values, what, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    change = LACKING[what][0] if what in LACKING else lambda values, model: values["model"].update(device="cuda")
    change(values, Path(values["model"]["name"]))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    config = ("--config", tmp_path / "config.yaml")
    (problem,) = winnow("doctor", *config, "--json").document["problems"]
    started = winnow("round", *config, "--run", tmp_path / "runs/new", "--budget", 9)
    assert started.code in (2, 3, 4) and started.err == f"error: {problem}\n"
    assert not (tmp_path / "runs").exists()


def test_several_lacks_are_counted_where_the_first_one_ends_a_round(values):
    values["model"]["chat_template"], values["embed"]["model"] = "nobody", "/nowhere"
    with pytest.raises(TrainerError, match=r"model\.chat_template.* `.* doctor` lists what else is missing \(1 more\)"):
        require(parse(values, "test"))


def test_a_disk_without_room_for_the_adapters_and_the_download_is_a_problem(values, tmp_path, monkeypatch):
    free = SimpleNamespace(free=3 * 2**30)
    monkeypatch.setattr("al.planning.needs.shutil.disk_usage", lambda folder: free)
    config = parse(values, "test")
    assert unmet(config, tmp_path) == []
    monkeypatch.setattr("al.planning.needs.bytes_written", lambda config, shape: 4.0 * 2**30)
    (problem,) = unmet(config, tmp_path)
    assert "expected 4.0 GiB of free disk for a round, found 3.0" in str(problem)


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ("24GB", None),
        ("12GB", "--set train.packs_per_batch=1 --set train.optimizer=adamw_8bit"),
        ("2GB", "choose a smaller model"),
    ],
)
def test_a_gpu_that_is_too_small_is_a_problem_with_the_settings_that_fit(memory, said, values, tmp_path, monkeypatch):
    monkeypatch.setattr(needs_module, "bytes_written", lambda config, shape: 0.0)
    monkeypatch.setattr(needs_module, "_gpu", lambda config: machine_of(find_card(memory)))
    monkeypatch.setattr(
        needs_module, "model_shape", lambda *_: model_shape(ModelConfig(name=MISTRAL), LoraConfig(r=256))
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    values["lora"]["r"], values["train"] = 256, {"pack_length": 2048, "packs_per_step": 8, "packs_per_batch": 4}
    values["model"]["quantization"] = "nf4"
    found = [str(problem) for problem in unmet(parse(values, "test"), tmp_path)]
    assert [said in line for line in found] == [True] if said else found == []


def test_a_hub_that_is_silent_is_asked_once_in_a_command(values, monkeypatch):
    asked = []

    def head(url, timeout):
        asked.append(url)
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.get_session", lambda: SimpleNamespace(head=head))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with cache_if_hub_is_silent(parse(values, "test")):
        assert not asked and not constants.HF_HUB_OFFLINE, "folders need no hub"
    values["embed"]["model"] = "somebody/embedder"
    with cache_if_hub_is_silent(parse(values, "test")), cache_if_hub_is_silent(parse(values, "test")):
        assert len(asked) == 1 and constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE, "the next command asks again"


def test_a_gated_model_names_its_page_and_the_login(monkeypatch):
    text = not_read("owner/base", OSError("You are trying to access a gated repo. 401 Client Error"))
    assert "https://huggingface.co/owner/base" in text and "hf auth login" in text


def test_the_command_ends_with_4_and_names_what_the_config_lacks(world, tmp_path):
    assert winnow("doctor", "--config", world).code == 0
    lacking = winnow("doctor", "--config", world, "--set", f"pool.files=[{tmp_path}/absent.jsonl]", "--json")
    assert lacking.code == 4
    assert [line for line in lacking.document["problems"] if "absent.jsonl" in line]


def test_a_disk_that_works_gives_facts_and_is_left_as_it_was(tmp_path):
    facts, problems = probe_disk(tmp_path)
    assert problems == [] and facts["fsync ms"] > 0 and facts["free disk GiB"] > 0
    assert list(tmp_path.iterdir()) == []
    assert nearest_folder(tmp_path / "runs/a/b") == tmp_path


def test_a_disk_that_cannot_flush_or_lock_is_a_problem(tmp_path, monkeypatch):
    def fails(handle):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("al.run.atomic.os.fsync", fails)
        facts, problems = probe_disk(tmp_path)
        assert facts["fsync ms"] is None and "Input/output error" in problems[0]
    monkeypatch.setattr(disk, "_locks", lambda path: False)
    assert "locks have no effect" in probe_disk(tmp_path)[1][0]
    assert list(tmp_path.iterdir()) == []


def test_two_locks_of_one_file_keep_each_other_out(tmp_path, monkeypatch):
    assert disk._locks(tmp_path / "lock")
    monkeypatch.setattr(disk.filelock, "FileLock", disk.filelock.SoftFileLock)
    assert disk._locks(tmp_path / "soft")
