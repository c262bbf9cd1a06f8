"""How weights are held while measuring changes nothing (dequantized) or little (8-bit floats), and leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import build, table

from trainer import activation
from trainer.activation import measuring
from trainer.config import LoraConfig, ModelConfig
from trainer.errors import MachineError
from trainer.measure import measure
from trainer.model import Base

LENGTHS = [12, 30, 40, 5, 25, 7, 60, 33]
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def nf4(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    build("llama", **SIZES).save_pretrained(path)
    return Base.load(ModelConfig(name=str(path), compute_dtype="float32", device="cpu"))


@pytest.fixture
def worn(nf4):
    with nf4.new_adapter(LoraConfig(r=4, alpha=8), seed=0) as model:
        for i, (name, parameter) in enumerate(model.named_parameters()):
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(i))
        yield model


def nll(model, **options):
    return measure(model, table(LENGTHS), np.arange(len(LENGTHS)), batch_tokens=64, **options).nll_mean


def test_dequantized_weights_give_the_same_numbers(nf4, worn):
    expected = nll(worn)
    with measuring(worn, "dequantized", 64) as held:
        assert held == "dequantized" and all(joined.resident is not None for joined in nf4.decoder.nf4)
        np.testing.assert_array_equal(nll(worn), expected)
    assert all(joined.resident is None for joined in nf4.decoder.nf4)
    np.testing.assert_array_equal(nll(worn), expected)


@pytest.mark.parametrize(("free", "held"), [(10**12, "dequantized"), (1000, "nf4")])
def test_auto_dequantizes_what_fits(monkeypatch, worn, free, held):
    monkeypatch.setattr(activation, "_free_bytes", lambda *arguments: free)
    with measuring(worn, "auto", 64) as found:
        assert found == held


def test_eight_bit_floats_change_little_and_nothing_stays(monkeypatch, nf4, worn):
    monkeypatch.setattr(activation, "check_fp8", lambda device: None)
    expected = nll(worn)
    with worn.disable_adapter():
        bare = nll(worn)
    with measuring(worn, "fp8", 64) as held:
        assert held == "fp8"
        found = nll(worn)
    error = np.abs(found / expected - 1).max()
    assert 1e-6 < error < 0.06  # a random model with large weights
    # The adapter is in it: results are nearer to the model with it than the adapter itself moves them.
    assert np.abs(found - expected).mean() < 0.4 * np.abs(bare - expected).mean()
    np.testing.assert_array_equal(nll(worn), expected)


def test_an_adapter_changed_between_passes_is_seen_in_eight_bits(monkeypatch, nf4, worn):
    monkeypatch.setattr(activation, "check_fp8", lambda device: None)
    with measuring(worn, "fp8", 64):
        before = nll(worn)
        with torch.no_grad():
            for name, parameter in worn.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(0.5)
        after = nll(worn)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, nll(worn), rtol=0.1)


def test_eight_bit_floats_are_refused_where_they_cannot_be(worn):
    with pytest.raises(MachineError, match=r"measure\.weights: fp8 needs a GPU"), measuring(worn, "fp8", 64):
        pass


def test_dense_weights_stay_as_they_are(tmp_path):
    build("llama").save_pretrained(tmp_path)
    base = Base.load(ModelConfig(name=str(tmp_path), quantization="none", compute_dtype="float32", device="cpu"))
    with measuring(base.model, "auto", 64) as held:
        assert held == "own"
