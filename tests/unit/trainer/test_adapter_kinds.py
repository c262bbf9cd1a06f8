"""Adapters besides plain LoRA: other starts, and DoRA, on a base that stays as it is."""

from __future__ import annotations

import pytest
import torch
from test_model import gradients, logits, shaken
from test_train import PLAIN, run
from tiny_models import saved

from trainer.adapters import trainable_parameters
from trainer.config import LoraConfig
from trainer.model import Base, save_adapter

DORA = LoraConfig(r=4, alpha=8, dropout=0.0, dora=True)


@pytest.fixture(params=["none", "nf4"])
def base(request, tmp_path):
    return Base.load(saved(tmp_path / "model").model_copy(update={"quantization": request.param}))


def test_a_gaussian_start_has_deviation_one_over_the_rank_and_changes_nothing_yet(base):
    before = logits(base.model)
    deviations = {}
    for start in ("default", "gaussian"):
        with base.new_adapter(LoraConfig(r=32, dropout=0.0, init=start), seed=0) as model:
            parameters = trainable_parameters(model).items()
            deviations[start] = torch.cat([p.flatten() for name, p in parameters if "lora_A" in name]).std().item()
            assert torch.equal(logits(model), before)
    assert deviations["gaussian"] == pytest.approx(1 / 32, rel=0.05) and deviations["default"] > 2 / 32


def test_dora_trains_magnitudes_in_float32_and_starts_as_the_base(base):
    before = logits(base.model)
    with base.new_adapter(DORA, seed=0) as model:
        parameters = trainable_parameters(model)
        assert sum("lora_magnitude_vector" in name for name in parameters) == len(parameters) / 3
        assert {p.dtype for p in parameters.values()} == {torch.float32}
        torch.testing.assert_close(logits(model), before)
        found = gradients(shaken(model))
        assert all(gradient.abs().sum() > 0 for gradient in found.values())


def test_dora_computes_the_rows_of_the_changed_weight_at_the_trained_lengths(tmp_path):
    base = Base.load(saved(tmp_path / "model"))
    with base.new_adapter(DORA, seed=0) as model:
        shaken(model)
        layer = model.base_model.model.model.layers[0].self_attn.q_proj
        weight = layer.base_layer.weight + 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        lengths = layer.lora_magnitude_vector["default"].weight
        x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(layer(x), x @ (weight / weight.norm(dim=1, keepdim=True) * lengths[:, None]).T)


def test_a_saved_dora_loads_with_the_same_logits_and_comes_off_without_a_trace(base, tmp_path):
    before = logits(base.model)
    with base.new_adapter(DORA, seed=0) as model:
        expected = logits(shaken(model))
        save_adapter(model, tmp_path / "adapter")
    assert torch.equal(logits(base.model), before) and not torch.equal(expected, before)
    with base.adapter(tmp_path / "adapter", trainable=True) as model:
        assert torch.equal(logits(model), expected) and len(trainable_parameters(model)) == 42


def test_dora_learns(base, tmp_path):
    _, report, _ = run(base, tmp_path, PLAIN.model_copy(update={"epochs": 10}), DORA)
    assert report.last_loss < 0.9 * report.first_loss


@pytest.mark.parametrize("start", ["pissa", "olora", "eva", "orthogonal"])
def test_starts_that_need_the_base_to_change_or_data_are_refused(start):
    with pytest.raises(ValueError, match="Input should be 'default' or 'gaussian'"):
        LoraConfig(init=start)
