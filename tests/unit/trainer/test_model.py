"""Loading in 4 bits, and adapters that come on and off without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import bitsandbytes as bnb
import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import build, saved, table

from trainer.adapters import trainable_parameters
from trainer.config import PROJECTIONS, LoraConfig, ModelConfig
from trainer.decoder.retention import Memory, Retention
from trainer.errors import CheckpointError, MachineError, TrainerError
from trainer.forward import collate, hidden_states, output_head
from trainer.loss import target_nll
from trainer.measure import measure
from trainer.model import Base, resolve_device, resolve_dtype, save_adapter
from trainer.quantization import nf4_layers
from trainer.tokenizer import load_tokenizer

LORA = LoraConfig(r=4, alpha=8, dropout=0.0)
TOKENS = table([9, 20, 6])


def logits(model):
    batch = collate(TOKENS, range(3))
    with torch.no_grad():
        return output_head(model).logits(hidden_states(model, batch))


def gradients(model):
    batch = collate(TOKENS, range(3))
    model.zero_grad()
    target_nll(hidden_states(model, batch)[batch.predictors], output_head(model), batch.labels).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in trainable_parameters(model).items()}


def shaken(model, seed=1):
    """The model with all LoRA weights random, so that its adapter does something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.normal_(0, 0.3, generator=generator)
    return model


@pytest.fixture
def nf4(tmp_path):
    return saved(tmp_path / "model").model_copy(update={"quantization": "nf4"})


def test_trap_6_every_linear_layer_but_the_head_is_nf4_with_double_quantization(nf4):
    base = Base.load(nf4)
    assert len(nf4_layers(base.model)) == 2 * len(PROJECTIONS)
    for layer in nf4_layers(base.model):
        assert isinstance(layer, bnb.nn.Linear4bit)
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.quant_state.quant_type == "nf4" and layer.weight.quant_state.nested
        assert layer.support_avx512bf16_for_cpu is False
    assert base.model.lm_head.weight.dtype == torch.float32


def test_trap_8_nothing_16_bit_is_turned_into_float32(nf4):
    base = Base.load(nf4.model_copy(update={"compute_dtype": "bfloat16"}))
    with base.new_adapter(LORA, seed=0) as model:
        kinds = {
            name: p.dtype for name, p in model.named_parameters() if "lora_" not in name and p.dtype != torch.uint8
        }
        assert len(kinds) > 4 and set(kinds.values()) == {torch.bfloat16}


def test_trap_13_adapters_are_float32_and_used_in_the_models_dtype(nf4):
    base = Base.load(nf4.model_copy(update={"compute_dtype": "bfloat16"}))
    with base.new_adapter(LORA, seed=0) as model:
        assert {p.dtype for p in trainable_parameters(model).values()} == {torch.float32}
        with torch.no_grad():
            assert hidden_states(model, collate(TOKENS, range(3))).dtype == torch.bfloat16


def test_trap_6_a_layer_left_unquantized_is_an_error(nf4, monkeypatch):
    from trainer import quantization

    settings = quantization.nf4_settings

    def skipping(*args):
        made = settings(*args)
        made.llm_int8_skip_modules = ["down_proj", "lm_head"]
        return made

    monkeypatch.setattr(quantization, "nf4_settings", skipping)
    with pytest.raises(TrainerError, match="down_proj"):
        Base.load(nf4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_held_dequantized_change_neither_logits_nor_gradients(nf4, dtype):
    base, found = Base.load(nf4.model_copy(update={"compute_dtype": dtype})), []
    names = set(base.model.state_dict())
    with base.new_adapter(LORA, seed=0) as model:
        shaken(model)
        for resident in (False, True):
            base.decoder.settle(Memory([Retention.KEEP] * 2, resident))
            assert base.decoder.resident is resident
            assert all((joined.resident is not None) is resident for joined in base.decoder.nf4)
            found.append((logits(model), gradients(model)))
        assert len(base.decoder.nf4) == 8
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])
    assert set(base.model.state_dict()) == names


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trap_7_gradients_after_scoring_are_those_before(nf4, resident, dtype):
    base = Base.load(nf4.model_copy(update={"compute_dtype": dtype}))
    with base.new_adapter(LORA, seed=0) as model:
        base.decoder.settle(Memory([Retention.KEEP] * 2, resident))
        before = gradients(shaken(model))
        measure(model, TOKENS, np.arange(3), batch_tokens=64)
        after = gradients(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert max(value.abs().max() for value in before.values()) > 0


def test_nf4_gradients_equal_those_of_the_dequantized_model(nf4):
    base = Base.load(nf4.model_copy(update={"cache_dequantized": False}))
    with base.new_adapter(LORA, seed=0) as model:
        found = gradients(shaken(model))
    plain = Base.load(nf4.model_copy(update={"quantization": "none"}))
    for name, layer in base.model.named_modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            values = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            plain.model.get_submodule(name).weight.data.copy_(values)
    with plain.new_adapter(LORA, seed=0) as model:
        expected = gradients(shaken(model))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_base_is_bitwise_itself_after_an_adapter_came_off(nf4, tmp_path, quantization):
    base = Base.load(nf4.model_copy(update={"quantization": quantization}))
    before, structure = logits(base.model), repr(base.model)
    with base.new_adapter(LORA, seed=0) as model:
        assert not torch.equal(logits(shaken(model)), before)
        save_adapter(model, tmp_path / "adapter")
    assert torch.equal(logits(base.model), before)
    with base.adapter(tmp_path / "adapter", trainable=True) as model:
        gradients(model)
    with pytest.raises(RuntimeError, match="on the way"), base.adapter(tmp_path / "adapter"):
        raise RuntimeError("on the way")
    assert torch.equal(logits(base.model), before)
    assert repr(base.model) == structure
    assert not base.model.training and not any(p.requires_grad for p in base.model.parameters())


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_saved_adapter_loads_through_peft_with_the_same_logits(nf4, tmp_path, quantization):
    config = nf4.model_copy(update={"quantization": quantization})
    base = Base.load(config)
    with base.new_adapter(LORA, seed=0) as model:
        expected = logits(shaken(model))
        save_adapter(model, tmp_path / "adapter")
    with base.adapter(tmp_path / "adapter") as model:
        assert torch.equal(logits(model), expected)
        assert not any(p.requires_grad for p in model.parameters())
    fresh = Base.load(config)
    assert torch.equal(logits(peft.PeftModel.from_pretrained(fresh.model, tmp_path / "adapter").eval()), expected)


def test_equal_adapters_are_equal_bytes_in_every_process(tmp_path):
    config = saved(tmp_path / "model")
    program = (
        "import sys; from trainer.config import *; from trainer.model import *; from pathlib import Path\n"
        "base = Base.load(ModelConfig.model_validate_json(sys.argv[1]))\n"
        "with base.new_adapter(LoraConfig(r=2), seed=5) as model: save_adapter(model, Path(sys.argv[2]))\n"
    )
    with Base.load(config).new_adapter(LoraConfig(r=2), seed=5) as model:
        save_adapter(model, tmp_path / "a")
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.getcwd()}
    arguments = [sys.executable, "-c", program, config.model_dump_json(), str(tmp_path / "b")]
    subprocess.run(arguments, check=True, env=environment)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_trap_10_initial_weights_come_from_the_seed_and_global_state_is_left_alone(tmp_path):
    base = Base.load(saved(tmp_path / "model"))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    drawn = []
    for seed in (0, 0, 1):
        with base.new_adapter(LORA, seed) as model:
            drawn.append(
                {name: p.detach().clone() for name, p in trainable_parameters(model).items() if "lora_A" in name}
            )
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not any(torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])


def test_lora_settings_reach_the_adapter(tmp_path):
    base = Base.load(saved(tmp_path / "model"))
    with base.new_adapter(LoraConfig(r=4, alpha=8, rslora=True, targets=["q_proj", "down_proj"]), seed=0) as model:
        names = {name.split(".")[-4] for name in trainable_parameters(model)}
        assert names == {"q_proj", "down_proj"}
        assert model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] == 8 / 4**0.5
        assert {p.dtype for p in trainable_parameters(model).values()} == {torch.float32}


def test_trap_10_frozen_adapter_has_nothing_to_train(tmp_path):
    base = Base.load(saved(tmp_path / "model"))
    with base.new_adapter(LORA, seed=0) as model:
        save_adapter(model, tmp_path / "adapter")
    with base.adapter(tmp_path / "adapter") as model, pytest.raises(TrainerError, match="no trainable parameters"):
        trainable_parameters(model)
    with base.adapter(None) as model:
        assert model is base.model
    with pytest.raises(TrainerError, match="new_adapter"), base.adapter(None, trainable=True):
        pass


def test_damaged_absent_and_foreign_adapters_are_errors(tmp_path):
    base = Base.load(saved(tmp_path / "model"))
    with base.new_adapter(LORA, seed=0) as model:
        save_adapter(model, tmp_path / "adapter")
    before = logits(base.model)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    good = weights.read_bytes()

    def refused(match):
        with pytest.raises(CheckpointError, match=match), base.adapter(tmp_path / "adapter"):
            pass
        assert torch.equal(logits(base.model), before)

    weights.write_bytes(good[:100])
    refused("expected an adapter")
    tensors = load_file(_rewritten(weights, good))
    some = dict(list(tensors.items())[1:])
    save_file(some, weights)
    refused("does not fit")
    save_file({name: torch.cat([tensor, tensor]) for name, tensor in tensors.items()}, weights)
    refused("does not fit")
    weights.unlink()
    refused("expected an adapter")


def _rewritten(path, content):
    path.write_bytes(content)
    return path


def test_adapter_config_names_the_base_as_configured(tmp_path):
    config = saved(tmp_path / "model")
    with Base.load(config).new_adapter(LORA, seed=0) as model:
        save_adapter(model, tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == config.name
    assert settings["inference_mode"] is True and settings["target_modules"] == sorted(PROJECTIONS)


def test_absent_gpu_and_absent_model_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MachineError, match="set model.device to cpu") as caught:
        resolve_device(ModelConfig(device="cuda"))
    assert caught.value.exit_code == 4
    absent = ModelConfig(name=str(tmp_path / "nowhere"), device="cpu")
    for load in (Base.load, load_tokenizer):
        with pytest.raises(MachineError, match="model.name"):
            load(absent)


def test_compute_dtype_auto_follows_the_processor(monkeypatch):
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert resolve_dtype(ModelConfig(), torch.device("cpu")) is expected
    assert resolve_dtype(ModelConfig(compute_dtype="bfloat16"), torch.device("cpu")) is torch.bfloat16


def test_checkpoint_quantized_another_way_is_refused(tmp_path):
    config = saved(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    with pytest.raises(TrainerError, match="gptq"):
        Base.load(config)


def test_unknown_targets_are_refused_when_the_config_is_read(tmp_path):
    with pytest.raises(ValueError, match="wq"):
        LoraConfig(targets=["wq"])
    build("gpt2").save_pretrained(tmp_path / "gpt2")
    base = Base.load(ModelConfig(name=str(tmp_path / "gpt2"), quantization="none", device="cpu"))
    with pytest.raises(TrainerError, match="lora.targets"), base.new_adapter(LoraConfig(targets=["q_proj"]), seed=0):
        pass
