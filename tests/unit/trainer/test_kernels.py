"""The GPU kernels compute what plain torch computes, run here by Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed (requirements-dev.txt)")

from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # noqa: E402

from trainer import loss  # noqa: E402
from trainer.decoder import elementwise, kernels  # noqa: E402
from trainer.decoder.nf4 import Nf4Weight  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


@pytest.fixture
def both(monkeypatch):
    """Run a function on plain torch and on the kernels; returns the two results."""

    def run(function):
        with monkeypatch.context() as patch:
            patch.setattr(elementwise, "_kernels", lambda tensor: None)
            plain = function()
        with monkeypatch.context() as patch:
            patch.setattr(elementwise, "_kernels", lambda tensor: kernels)
            fused = function()
        return plain, fused

    return run


def wide(rows, columns, dtype, left=3, right=5):
    """A random (rows, columns) view into a wider buffer, and the buffer."""
    buffer = torch.randn(
        rows, left + columns + right, dtype=torch.float32, generator=torch.Generator().manual_seed(rows)
    )
    buffer = buffer.to(DEVICE, dtype)
    return buffer[:, left : left + columns], buffer


def close(plain, fused, dtype):
    torch.testing.assert_close(fused, plain, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("add", [False, True])
def test_norm_of_a_sum(both, dtype, add):
    weight = torch.linspace(0.5, 2, 40, device=DEVICE, dtype=dtype)

    def function():
        (x, _), (y, _), (normed, buffer) = (wide(rows, 40, dtype)[:2] for rows in (7, 7, 7))
        total = elementwise.add_rms_norm(x, y if add else None, weight, 1e-5, normed)
        return total.clone(), buffer.clone()

    plain, fused = both(function)
    for one, other in zip(plain, fused, strict=True):
        close(one, other, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("add", [False, True])
def test_gradient_of_the_norm_may_land_on_the_residual(both, dtype, add):
    weight = torch.linspace(0.5, 2, 40, device=DEVICE, dtype=dtype)

    def function():
        gradient, x, (residual, buffer) = wide(6, 40, dtype)[0], wide(6, 40, dtype, 1)[0], wide(6, 40, dtype)
        elementwise.rms_norm_backward(gradient, x, weight, 1e-5, residual if add else None, residual)
        return buffer.clone()

    close(*both(function), dtype)


def test_gradient_of_the_norm_is_that_of_autograd():
    x = torch.randn(5, 12, dtype=torch.float64).float().requires_grad_()
    weight, gradient, out = torch.rand(12), torch.randn(5, 12), torch.empty(5, 12)
    normal = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight
    (expected,) = torch.autograd.grad(normal, x, gradient)
    elementwise.rms_norm_backward(gradient, x.detach(), weight, 1e-5, None, out)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_rotary_embedding(both, dtype, inverse, in_place):
    angles = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    cos, sin = angles.cos().to(DEVICE, dtype), angles.sin().to(DEVICE, dtype)

    def function():
        source, buffer = wide(6, 3 * 8, dtype)
        target = source if in_place else torch.zeros_like(source)
        elementwise.rotate(source, target, cos, sin, inverse)
        return buffer.clone(), target.clone()

    plain, fused = both(function)
    for one, other in zip(plain, fused, strict=True):
        close(one, other, dtype)


@pytest.mark.parametrize("width", [3, 48, 5000])
def test_move_between_strides(both, width):
    def function():
        (source, _), (target, buffer) = wide(9, width, torch.bfloat16), wide(9, width, torch.bfloat16, left=7)
        elementwise.move(source + 1, target)
        return buffer.clone()

    plain, fused = both(function)
    assert torch.equal(plain, fused)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gate(both, dtype):
    def function():
        (gate_up, _), (out, buffer) = wide(4, 2 * 50, dtype), wide(4, 50, dtype)
        elementwise.silu_mul(gate_up, out)
        return buffer.clone()

    close(*both(function), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradient_of_the_gate_in_place(both, dtype, recompute):
    def function():
        (gate_up, first), (product, second) = wide(4, 2 * 50, dtype), wide(4, 50, dtype)
        elementwise.silu_mul_backward_(gate_up, product, recompute)
        return first.clone(), second.clone()

    plain, fused = both(function)
    for one, other in zip(plain, fused, strict=True):
        close(one, other, dtype)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dequantized_values_are_those_of_bitsandbytes(monkeypatch, nested, dtype):
    monkeypatch.setattr(Nf4Weight, "_has_kernel", lambda self, target: True)
    torch.manual_seed(0)
    weight = (torch.randn(96, 448) * torch.logspace(-3, 0, 448)).to(DEVICE, dtype)
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=nested)
    buffer = torch.full((100, 480), 7.0, dtype=dtype, device=DEVICE)
    Nf4Weight(packed, state).dequantize_into(buffer[2:98, 16:464])
    if dtype is torch.bfloat16 and DEVICE == "cpu":  # Triton's interpreter cuts to bfloat16 where a GPU rounds
        torch.testing.assert_close(buffer[2:98, 16:464], dequantize_4bit(packed, state), rtol=2**-7, atol=0)
    else:
        assert torch.equal(buffer[2:98, 16:464], dequantize_4bit(packed, state))
    buffer[2:98, 16:464] = 7.0
    assert (buffer == 7.0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [97, 5000])
def test_cross_entropy_and_its_gradient_in_place(dtype, vocabulary):
    torch.manual_seed(0)
    logits = (torch.randn(5, vocabulary) * 4).to(DEVICE, dtype)
    labels = torch.tensor([0, 3, vocabulary - 1, 50, 50], device=DEVICE)
    expected = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    slope = logits.float().softmax(-1) - torch.nn.functional.one_hot(labels, vocabulary)
    nll = loss.fused_nll_(logits, labels, gradient=True)
    torch.testing.assert_close(nll, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.float(), slope.float(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
