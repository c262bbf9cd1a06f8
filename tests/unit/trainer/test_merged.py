"""The merged model: dequantized weights plus the adapter's update, in files that plain transformers loads."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from exported_models import publish
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from trainer.config import LoraConfig
from trainer.published.merged import (
    adapted_base,
    logits_of,
    measure_difference,
    merged_weights,
    unmerged_logits,
    write_merged,
)
from trainer.quantization import nf4_layers

DOCUMENTS = [np.arange(3, 40), np.arange(50, 60)]


def stored(folder, name: str) -> torch.Tensor:
    (path,) = [path for path in folder.glob("*.safetensors") if name in safe_open(path, "pt").keys()]
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


def test_weights_are_the_dequantized_ones_plus_the_update(byte_tokenizer, tmp_path):
    made = publish(tmp_path, "mistral", byte_tokenizer, quantization="nf4", chat_template="chatml")
    with adapted_base(made.model, made.adapter) as (base, model):
        before = unmerged_logits(model, DOCUMENTS)
        write_merged(tmp_path, merged_weights(model), AutoConfig.from_pretrained(made.model.name))
        assert len(nf4_layers(base.model)) == 14, "the model in memory stays as it is"
        assert all(map(torch.equal, unmerged_logits(model, DOCUMENTS), before))
        layer = nf4_layers(base.model)[0]
        with safe_open(made.adapter / "adapter_model.safetensors", "pt") as file:
            a, b = (file.get_tensor(f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight") for x in "AB")
        identity = torch.eye(layer.in_features)
        expected = layer(identity).T + 8.0 * b @ a  # alpha 32 / r 4
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(stored(tmp_path, name), expected.to(torch.bfloat16))
    original = AutoModelForCausalLM.from_pretrained(made.model.name).state_dict()[name]
    assert (stored(tmp_path, name) - original - 8.0 * b @ a).abs().max() > 0.01, "NF4 has moved the weights"
    found = measure_difference(tmp_path, torch.float32, torch.device("cpu"), DOCUMENTS, before)
    assert (found.documents, found.positions) == (2, 47)
    assert 0 < found.mean < found.largest < 0.1 and found.same_top > 0.8 and 0 < found.divergence < 1e-3


@pytest.mark.parametrize("lora", [{}, {"dora": True}, {"rslora": True}], ids=["lora", "dora", "rslora"])
def test_every_kind_of_adapter_computes_the_same_merged(lora, byte_tokenizer, tmp_path):
    made = publish(tmp_path, "qwen2", byte_tokenizer, LoraConfig(r=4, **lora), chat_template="chatml")
    with adapted_base(made.model, made.adapter) as (_, model):
        expected = unmerged_logits(model, DOCUMENTS)
        weights = {weight.name: weight.load() for weight in merged_weights(model)}
    plain = AutoModelForCausalLM.from_pretrained(made.model.name, dtype=torch.float32)
    alone = logits_of(plain, DOCUMENTS)
    missing, unexpected = plain.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], []), "tied weights appear once"
    for logits, wanted, base in zip(logits_of(plain, DOCUMENTS), expected, alone, strict=True):
        torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)
        assert (wanted - base).abs().max() > 0.1, "the adapter has an effect"


def test_shards_are_bounded_and_load_as_one_model(byte_tokenizer, tmp_path):
    made = publish(tmp_path, "llama", byte_tokenizer, chat_template="chatml")
    seen: list[int] = []
    with adapted_base(made.model, made.adapter) as (_, model):
        weights = merged_weights(model)
        write_merged(tmp_path, weights, AutoConfig.from_pretrained(made.model.name), seen.append, shard_bytes=12_000)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert len(files) > 3 and sum(seen) == len(weights)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == {weight.name for weight in weights}
    assert max(path.stat().st_size for path in tmp_path.glob("model-*")) < 25_000, "the embeddings alone are larger"
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched"))
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["dtype"] == "bfloat16" and str(tmp_path) not in json.dumps(settings)


def test_a_weight_is_computed_when_it_is_asked_for(byte_tokenizer, tmp_path, monkeypatch):
    """So the memory of one weight is enough, and no second model is made."""
    made = publish(tmp_path, "llama", byte_tokenizer, quantization="nf4", chat_template="chatml")
    computed: list[tuple[int, ...]] = []

    def counted(packed: torch.Tensor, state: Any) -> torch.Tensor:
        computed.append(tuple(state.shape))
        return dequantize_4bit(packed, state)

    monkeypatch.setattr("trainer.published.merged.dequantize_4bit", counted)
    with adapted_base(made.model, made.adapter) as (_, model):
        weights = merged_weights(model)
        assert computed == []
        (weight, *_) = [weight for weight in weights if "k_proj" in weight.name]
        assert weight.load().shape == weight.shape == (16, 32)
    assert computed == [(16, 32)]
