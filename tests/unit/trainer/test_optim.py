"""Both optimizers learn at the rates they are given, and their state survives a checkpoint bit for bit."""

from __future__ import annotations

import bitsandbytes as bnb
import numpy as np
import pytest
import torch

from trainer.checkpoint import load_newest, save_checkpoint
from trainer.config import TrainConfig
from trainer.optim import (
    build_optimizer,
    learning_rate,
    restore_tensors,
    set_learning_rate,
    step_unless,
    training_tensors,
)

SHAPES = {"layer.lora_A.default.weight": (128, 40), "layer.lora_B.default.weight": (64, 128), "small": (5,)}


DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU that torch can use")
    ),
]


def made(device="cpu", **changes):
    """Parameters, of which the first two are large enough for 8 bits, and their optimizer."""
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator).to(device)) for name, shape in SHAPES.items()
    }
    return parameters, build_optimizer(parameters, TrainConfig(**changes))


def step(parameters, optimizer, number, rate=1e-2):
    generator = torch.Generator().manual_seed(number)
    for parameter in parameters.values():
        parameter.grad = (torch.randn(parameter.shape, generator=generator) + 0.5).to(parameter.device)
    set_learning_rate(optimizer, rate)
    optimizer.step()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_trap_11_state_resumes_exactly_and_is_never_paged(tmp_path, kind, device):
    parameters, optimizer = made(device, optimizer=kind, lora_plus_ratio=4)
    assert not getattr(optimizer, "is_paged", False) and "Paged" not in type(optimizer).__name__
    for number in range(3):
        step(parameters, optimizer, number)
    save_checkpoint(tmp_path, 3, training_tensors(optimizer, parameters), {}, keep=1)
    again, restored = made(device, optimizer=kind, lora_plus_ratio=4)
    restore_tensors(load_newest(tmp_path).tensors, restored, again)
    for number in range(3, 6):
        step(parameters, optimizer, number)
        step(again, restored, number)
    assert all(torch.equal(parameters[name], again[name]) for name in parameters)
    for name in parameters:
        one, other = optimizer.state[parameters[name]], restored.state[again[name]]
        assert one.keys() == other.keys() and len(one) >= 3
        assert all(type(one[key]) is type(other[key]) for key in one)
        assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)


def test_8_bit_state_is_8_bit_and_moves_as_32_bit_state_does():
    found = {}
    for kind in ("adamw", "adamw_8bit"):
        parameters, optimizer = made(optimizer=kind, weight_decay=0.1)
        for number in range(20):
            step(parameters, optimizer, number)
        found[kind] = torch.cat([parameter.detach().flatten() for parameter in parameters.values()])
    assert isinstance(optimizer, bnb.optim.AdamW8bit)
    kinds = [optimizer.state[parameter]["state1"].dtype for parameter in parameters.values()]
    assert kinds == [torch.uint8, torch.uint8, torch.float32]
    start = torch.cat([parameter.detach().flatten() for parameter in made()[0].values()])
    moved = (found["adamw"] - start).norm()
    assert 0 < (found["adamw_8bit"] - found["adamw"]).norm() < 0.05 * moved


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_lora_plus_moves_the_b_matrices_by_the_ratio(kind):
    moved = {}
    for ratio in (1.0, 16.0):
        parameters, optimizer = made(optimizer=kind, lora_plus_ratio=ratio)
        start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        step(parameters, optimizer, 0, rate=1e-3)
        moved[ratio] = {name: (parameter - start[name]).norm().item() for name, parameter in parameters.items()}
    shares = {name: moved[16.0][name] / moved[1.0][name] for name in SHAPES}
    assert shares == pytest.approx(dict(zip(SHAPES, (1, 16, 1), strict=True)), rel=0.01)


def test_the_rate_that_is_set_is_the_base_of_every_groups_rate():
    _, optimizer = made(lora_plus_ratio=8)
    for rate in (1.0, 0.5):
        set_learning_rate(optimizer, rate)
        assert sorted(group["lr"] for group in optimizer.param_groups) == [rate, 8 * rate]


def test_wsd_rises_stays_and_falls_over_the_last_share_of_the_steps():
    config = TrainConfig(learning_rate=1.0, schedule="wsd", warmup_ratio=0.1, decay_ratio=0.25)
    rates = np.array([learning_rate(i, 40, config) for i in range(40)])
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert (rates[4:31] == 1.0).all()
    assert rates[30:] == pytest.approx([i / 10 for i in range(10, 0, -1)])


def test_warm_up_and_decay_must_fit_together():
    with pytest.raises(ValueError, match="warmup_ratio . decay_ratio: expected at most 1, found 0.5 . 0.6"):
        TrainConfig(schedule="wsd", warmup_ratio=0.5, decay_ratio=0.6)
    TrainConfig(schedule="cosine", warmup_ratio=0.5, decay_ratio=0.6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_a_bad_step_leaves_parameters_and_state_as_they_were(optimizer, device):
    parameters, chosen = made(device, optimizer=optimizer)
    step(parameters, chosen, 0)
    before = {name: tensor.clone() for name, tensor in training_tensors(chosen, parameters).items()}
    for bad in (True, False):
        for parameter in parameters.values():
            parameter.grad = torch.full_like(parameter, float("nan") if bad else 1.0)
        step_unless(chosen, torch.tensor(bad, device=device))
        after = training_tensors(chosen, parameters)
        assert all(torch.equal(after[name], before[name]) for name in before) is bad
