"""What embedding costs in a plan follows from the embedder that the config names."""

from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub import constants
from transformers import BertConfig, BertModel

from al.budget import parse_budget
from al.commands.plan import _embedder_basis
from al.config import CONFIG_DIR, change, load
from al.planning.cards import find_card, machine_of
from al.planning.embedder import embedder_size
from al.planning.model_shape import model_shape
from al.planning.plan import estimate
from al.planning.pool_estimate import PoolEstimate
from selection.config import EmbedConfig

MINILM = EmbedConfig().model
SMALL = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4}


@pytest.fixture(autouse=True)
def without_hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def folder(path, limits=None, **sizes):
    """A folder with the config of an embedder, without its weights."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(sizes))
    if limits is not None:
        (path / "sentence_bert_config.json").write_text(json.dumps(limits))
    return str(path)


def embedding_seconds(model):
    """Seconds to embed a pool that a plan expects with this embedder, on one card."""
    values = load(CONFIG_DIR / "mistral-7b.yaml", ()).model_dump(mode="json")
    config = change(values, [f"embed.model={model}"], "test")
    pool = PoolEstimate(50_000, 150.0, 10**7, new_to_embed=50_000, new_to_map=0, exact=True)
    shape = model_shape(config.model, config.lora)
    document = estimate(config, parse_budget("1000"), pool, shape, machine_of(find_card("RTX 4090")))
    return document["seconds"]["embed"]


def test_the_weights_that_a_token_passes_are_those_of_the_layers(tmp_path):
    found = embedder_size(EmbedConfig(model=folder(tmp_path / "small", **SMALL)))
    with torch.device("meta"):
        layers = BertModel(BertConfig(**SMALL)).encoder
    matrices = sum(weight.numel() for weight in layers.parameters() if weight.dim() == 2)
    assert found.weights == matrices and found.known


def test_a_text_counts_up_to_the_models_limit(tmp_path):
    limited = embedder_size(EmbedConfig(model=folder(tmp_path / "a", {"max_seq_length": 128}, **SMALL)))
    wide = embedder_size(EmbedConfig(model=folder(tmp_path / "b", max_position_embeddings=1024, **SMALL)))
    assert (limited.longest, wide.longest) == (128, 1024)
    assert limited.flops(5000) == limited.flops(128) == 2 * limited.weights * 128 > limited.flops(100)


def test_distilbert_names_its_sizes_otherwise(tmp_path):
    named = embedder_size(EmbedConfig(model=folder(tmp_path / "a", n_layers=3, dim=64, hidden_dim=256)))
    assert named.weights == embedder_size(EmbedConfig(model=folder(tmp_path / "b", **SMALL))).weights


def test_a_plan_takes_longer_with_a_larger_embedder(tmp_path):
    twice = {**SMALL, "num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072}
    large = embedding_seconds(folder(tmp_path / "large", {"max_seq_length": 256}, **twice))
    assert large == pytest.approx(8 * embedding_seconds(MINILM), rel=0.05)


def test_a_distilled_embedder_passes_no_weights():
    assert embedder_size(EmbedConfig(distill=True)).flops(100) == 0 < embedder_size(EmbedConfig()).flops(100)


def test_what_cannot_be_read_is_counted_as_the_default_and_said(tmp_path):
    values = load(CONFIG_DIR / "mistral-7b.yaml", ()).model_dump(mode="json")
    pool = PoolEstimate(10, 150.0, 10**3, new_to_embed=10, new_to_map=0, exact=True)
    unknown = change(values, ["embed.model=someone/unknown"], "test")
    assert embedder_size(unknown.embed).weights == embedder_size(EmbedConfig()).weights
    assert "the size of someone/unknown cannot be read" in _embedder_basis(unknown, pool)["embed"]
    assert _embedder_basis(change(values, [], "test"), pool) == {}
