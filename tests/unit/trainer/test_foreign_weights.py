"""Models and embedders of others: weights that would run code, code that comes with a model, damaged files. One line, and nothing runs."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tiny_models import saved

from selection.config import EmbedConfig
from selection.embed import load_embedder
from selection.errors import SelectionError
from trainer.config import ModelConfig
from trainer.errors import TrainerError
from trainer.model import Base
from trainer.tokenizer import load_config, load_tokenizer


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def model(world, tmp_path) -> Path:
    return Path(shutil.copytree(yaml.safe_load(world.read_text())["model"]["name"], tmp_path / "model"))


@pytest.fixture
def embedder(world, tmp_path) -> Path:
    return Path(shutil.copytree(yaml.safe_load(world.read_text())["embed"]["model"], tmp_path / "embedder"))


def planted(tmp_path: Path) -> bytes:
    return pickle.dumps({"model.embed_tokens.weight": Planted(tmp_path / "it_ran")})


def load(path: Path) -> None:
    Base.load(ModelConfig(name=str(path), quantization="none", compute_dtype="float32", device="cpu"))


def only_pickled(path: Path, tmp_path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(planted(tmp_path))


def honest_pickle(path: Path, tmp_path: Path) -> None:
    (path / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": torch.zeros(2)}, path / "pytorch_model.bin")


def with_code(path: Path, tmp_path: Path) -> None:
    (path / "modeling_own.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\nclass C: pass\n")
    document = json.loads((path / "config.json").read_text())
    document |= {
        "model_type": "own",
        "auto_map": {name: "modeling_own.C" for name in ("AutoConfig", "AutoModelForCausalLM")},
    }
    (path / "config.json").write_text(json.dumps(document))


def cut_off(path: Path, tmp_path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[:100])


def no_config(path: Path, tmp_path: Path) -> None:
    (path / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (only_pickled, ("safetensors", "Pickled")),
        (honest_pickle, ("safetensors", "Pickled")),
        (with_code, ("--trust-remote-code", "not run")),
        (cut_off, ("model.name",)),
        (no_config, ("model.name",)),
    ],
)
def test_a_model_that_cannot_be_trusted_is_one_line(model, tmp_path, spoil, words):
    spoil(model, tmp_path)
    with pytest.raises(TrainerError) as caught:
        load(model)
    assert all(word in str(caught.value) for word in (*words, str(model))) and "\n" not in str(caught.value)
    assert caught.value.exit_code in (2, 4) and not (tmp_path / "it_ran").exists()


def test_pickled_weights_next_to_safetensors_are_not_read(model, tmp_path):
    (model / "pytorch_model.bin").write_bytes(planted(tmp_path))
    load(model)
    assert not (tmp_path / "it_ran").exists()


def test_a_tokenizer_with_code_is_one_line(model, tmp_path):
    (model / "tokenization_own.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\nclass T: pass\n")
    document = json.loads((model / "tokenizer_config.json").read_text())
    document |= {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": [None, "tokenization_own.T"]}}
    (model / "tokenizer_config.json").write_text(json.dumps(document))
    try:
        load_tokenizer(ModelConfig(name=str(model)))
    except TrainerError as error:
        assert "\n" not in str(error)
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("spoil", [only_pickled, cut_off])
def test_an_embedder_that_cannot_be_trusted_is_one_line(embedder, tmp_path, spoil):
    spoil(embedder, tmp_path)
    with pytest.raises(SelectionError, match="embed.model") as caught:
        load_embedder(EmbedConfig(model=str(embedder), device="cpu", dtype="float32"))
    assert "\n" not in str(caught.value) and not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("kind", ["os.system", "modeling_own.C", "sentence_transformers.models.Nothing"])
def test_an_embedder_with_foreign_modules_is_one_line(embedder, tmp_path, kind):
    (embedder / "modeling_own.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\nclass C: pass\n")
    modules = json.loads((embedder / "modules.json").read_text())
    modules[0]["type"] = kind
    (embedder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(SelectionError, match="embed.model") as caught:
        load_embedder(EmbedConfig(model=str(embedder), device="cpu", dtype="float32"))
    assert "\n" not in str(caught.value) and not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    ("name", "size"),
    [("num_hidden_layers", -1), ("num_hidden_layers", 10**9), ("hidden_size", 0), ("vocab_size", 10**12)],
)
def test_a_size_that_no_model_has_is_named_before_anything_is_built(tmp_path, name, size):
    config = saved(tmp_path / "model")
    document = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**document, name: size}))
    with pytest.raises(TrainerError, match=f"sizes that no model has: {name} {size} \\(1 to "):
        load_config(config)


def test_a_size_that_is_text_is_one_line(tmp_path):
    config = saved(tmp_path / "model")
    document = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**document, "hidden_size": "32"}))
    with pytest.raises(TrainerError, match="hidden_size"):
        load_config(config)
    with pytest.raises(TrainerError, match="hidden_size"):
        Base.load(config)
