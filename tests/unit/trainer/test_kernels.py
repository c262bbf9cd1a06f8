"""The GPU kernels compute what plain torch computes, run here by Triton's interpreter."""

from __future__ import annotations

from types import SimpleNamespace

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
@pytest.mark.parametrize("weight_dtype", [None, torch.float32])
def test_norm_of_a_sum(both, dtype, add, weight_dtype):
    weight = torch.linspace(0.5, 2, 40, device=DEVICE, dtype=weight_dtype or dtype)

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


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_the_norm_in_place_leaves_a_copy_of_what_it_was(both, dtype):
    weight = torch.linspace(0.5, 2, 40, device=DEVICE, dtype=dtype)

    def function():
        (gradient, buffer), x, copy = (
            wide(6, 40, dtype),
            wide(6, 40, dtype, 1)[0],
            torch.empty(6, 40, device=DEVICE, dtype=dtype),
        )
        before = gradient.clone()
        elementwise.rms_norm_backward(gradient, x, weight, 1e-5, None, gradient, copy=copy)
        torch.testing.assert_close(copy, before, rtol=0, atol=0)
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
@pytest.mark.parametrize("rotated", [8, 6])
def test_rotary_embedding(both, dtype, inverse, in_place, rotated):
    angles = torch.randn(6, rotated, generator=torch.Generator().manual_seed(0))
    cos, sin = angles.cos().to(DEVICE, dtype), angles.sin().to(DEVICE, dtype)

    def function():
        source, buffer = wide(6, 3 * 8, dtype)
        target = source if in_place else torch.zeros_like(source)
        elementwise.rotate(source, target, cos, sin, inverse, head_width=8)
        return buffer.clone(), target.clone()

    plain, fused = both(function)
    for one, other in zip(plain, fused, strict=True):
        close(one, other, dtype)


HEADS = {"of a head": (3, 8), "of all heads": (3, 24), "of one head alone": (1, 8)}
"""Heads of 8 columns, and columns that a norm is over."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("over", HEADS)
@pytest.mark.parametrize("rotated", [None, 8, 6])
@pytest.mark.parametrize("weight_dtype", [None, torch.float32])
def test_norm_of_heads_before_their_rotary_embedding(both, dtype, over, rotated, weight_dtype):
    count, columns = HEADS[over]
    weight = torch.linspace(0.5, 2, columns, device=DEVICE, dtype=weight_dtype or dtype)
    angles = torch.randn(6, rotated or 8, generator=torch.Generator().manual_seed(0))
    angles = (angles.cos().to(DEVICE, dtype), angles.sin().to(DEVICE, dtype))

    def function():
        (heads, buffer), (_, around) = wide(6, 8 * count, dtype), wide(6, 8 * count, dtype, 1, 2)
        around.zero_()
        raw = around[:, 1:-2] if rotated else None
        elementwise.norm_heads(heads, weight, 1e-5, 8, raw, angles if rotated else None)
        results = [buffer.clone(), around.clone()]
        if rotated:
            gradient = wide(6, 8 * count, dtype, 2, 1)[0]
            elementwise.norm_heads_backward(gradient, raw, weight, 1e-5, 8, angles, heads)
            elementwise.norm_heads_backward(gradient, raw, weight, 1e-5, 8, angles, gradient)  # in place
            results += [buffer.clone(), gradient.clone()]
        return results

    tolerance = 2e-6 if dtype == torch.float32 else 5e-2  # norm and rotation each round, and the interpreter cuts
    for plain, fused in zip(*both(function), strict=True):
        torch.testing.assert_close(fused, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("over", HEADS)
def test_gradient_of_the_norm_of_heads_is_that_of_autograd(over):
    count, columns = HEADS[over]
    generator = torch.Generator().manual_seed(1)
    raw, gradient = (torch.randn(5, 8 * count, generator=generator) for _ in range(2))
    weight, angles = torch.rand(columns, generator=generator), torch.randn(5, 4, generator=generator).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    raw.requires_grad_()
    groups = raw.view(5, -1, columns)
    normed = (groups * torch.rsqrt(groups.pow(2).mean(-1, keepdim=True) + 1e-5) * weight).view(5, count, 8)
    left, right = normed.chunk(2, dim=-1)
    expected = normed * cos[:, None] + torch.cat([-right, left], dim=-1) * sin[:, None]
    made, out = raw.detach().clone(), torch.empty(5, 8 * count)
    elementwise.norm_heads(made, weight, 1e-5, 8, torch.empty_like(made), (cos, sin))
    torch.testing.assert_close(made, expected.flatten(1))
    elementwise.norm_heads_backward(gradient, raw.detach(), weight, 1e-5, 8, (cos, sin), out)
    torch.testing.assert_close(out, torch.autograd.grad(expected.flatten(1), raw, gradient)[0])


@pytest.mark.parametrize("width", [3, 48, 5000])
def test_move_between_strides(both, width):
    def function():
        (source, _), (target, buffer) = wide(9, width, torch.bfloat16), wide(9, width, torch.bfloat16, left=7)
        elementwise.move(source + 1, target)
        return buffer.clone()

    plain, fused = both(function)
    assert torch.equal(plain, fused)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gate(both, dtype, activation):
    def function():
        (gate_up, _), (out, buffer) = wide(4, 2 * 50, dtype), wide(4, 50, dtype)
        elementwise.gated_product(gate_up, out, activation)
        return buffer.clone()

    close(*both(function), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gradient_of_the_gate_in_place(both, dtype, recompute, activation):
    def function():
        (gate_up, first), (product, second) = wide(4, 2 * 50, dtype), wide(4, 50, dtype)
        elementwise.gated_product_backward_(gate_up, product, recompute, activation)
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [1, 7, 2048, 5003])
def test_statistics_of_logits(dtype, vocabulary):
    torch.manual_seed(vocabulary)
    logits = (4 * torch.randn(6, vocabulary)).to(DEVICE, dtype)
    if vocabulary > 7:
        logits[1, vocabulary // 2] = logits[1].max() + 30  # certain
        logits[2] = -torch.inf
        logits[2, 3:5] = 1.5  # two alike, all others impossible: the first counts
        logits[3, 4000 % vocabulary] = logits[3, 5] = 25.0  # two alike, in different lanes
    labels = torch.tensor([0, vocabulary // 2, min(3, vocabulary - 1), min(5, vocabulary - 1), 0, 0], device=DEVICE)
    results = []
    for statistics in (loss.plain_statistics, loss.fused_statistics):
        found = torch.zeros(4, 6, device=DEVICE)
        best = torch.zeros(6, dtype=torch.int64, device=DEVICE)
        statistics(logits.clone(), labels, found, best)
        results.append((found, best))
    (plain, plain_best), (fused, fused_best) = results
    torch.testing.assert_close(fused, plain, rtol=2e-5, atol=2e-6)
    assert fused_best.tolist() == plain_best.tolist()


# The interpreter multiplies bfloat16 matrices as if they were integers.
@pytest.mark.parametrize("dtype", [torch.float32 if DEVICE == "cpu" else torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 1, 32), (3, 3, 32), (6, 2, 64)])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_attention_over_a_pack(monkeypatch, dtype, heads, kv_heads, width, window, softcap):
    from trainer import attention

    borders = (0, 3, 4, 45, 130, 131, 160)
    pack = attention.PackLayout(borders, torch.tensor(borders, dtype=torch.int32, device=DEVICE), 85)
    starts = torch.cat([torch.full((b - a,), a) for a, b in zip(borders, borders[1:], strict=False)])
    places = torch.arange(borders[-1])
    first = starts if window is None else torch.maximum(starts, places - window + 1)
    qkv = torch.randn(borders[-1], (heads + 2 * kv_heads) * width + 8, generator=torch.Generator().manual_seed(1))
    qkv = qkv.to(DEVICE, dtype)[:, :-8]
    expected = torch.zeros(borders[-1], heads * width + 5, device=DEVICE, dtype=dtype)
    found = expected.clone()
    shape = (heads, kv_heads, width)
    angle = torch.randn(borders[-1], width, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    turn = (angle.cos().to(dtype), angle.sin().to(dtype))
    first = first.int().to(DEVICE)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "KERNEL_WIDTHS", ())
        attention.attend_into(expected[:, :-5], qkv.clone(), shape, pack, first, turn, width**-0.5, window, softcap)
    monkeypatch.setattr(attention, "VARLEN_DTYPES", DTYPES)
    tensor = qkv if DEVICE == "cuda" else _claims_to_be_on_a_gpu(qkv)
    attention.attend_into(found[:, :-5], tensor, shape, pack, first, turn, width**-0.5, window, softcap)
    torch.testing.assert_close(found, expected, rtol=3 * TOLERANCE[dtype], atol=3 * TOLERANCE[dtype])
    assert not found[:, -5:].any()


@pytest.mark.parametrize("dtype", [torch.float32 if DEVICE == "cpu" else torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 1, 32), (3, 3, 32), (6, 2, 64)])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("softcap", "rotated"), [(None, 1.0), (0.8, 1.0), (None, 0.75)])
def test_attention_over_a_cache(monkeypatch, dtype, heads, kv_heads, width, window, softcap, rotated):
    from trainer.decoder import cached
    from trainer.decoder.layer import Pass

    q_width, kv_width = heads * width, kv_heads * width
    layer = SimpleNamespace(
        index=1, heads=heads, kv_heads=kv_heads, head_width=width, q_width=q_width, kv_width=kv_width, window=window, scale=0.3,
        softcap=softcap, rope="shared",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(4)
    host = [(90, 0), (0, 3), (7, 80), (100, 64)]  # first row, and tokens before the new one
    begins, places = torch.tensor(host, device=DEVICE).T.contiguous()
    angle = torch.randn(len(host), int(rotated * width), generator=generator).to(DEVICE)
    run = Pass(0, None, {"shared": (angle.cos().to(dtype), angle.sin().to(dtype))}, None)
    qkv = torch.randn(len(host), q_width + 2 * kv_width, generator=generator).to(DEVICE, dtype)
    rows = torch.randn(2, 170, 2 * kv_width, generator=generator).to(DEVICE, dtype)
    found = []
    for kernel in (False, True):
        monkeypatch.setattr(cached, "has_kernel", lambda layer, tensor, kernel=kernel: kernel)
        cache, out = rows.clone(), torch.zeros(len(host), q_width + 5, device=DEVICE, dtype=dtype)
        cached.FromCache(cache, begins, places, host)(layer, run, qkv.clone(), out[:, :q_width])
        found.append((out, cache))
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=3 * TOLERANCE[dtype], atol=3 * TOLERANCE[dtype])
    (out, cache), before = found[1], rows
    changed = (cache != before).any(-1)
    assert not out[:, q_width:].any() and not changed[0].any()
    assert changed[1].nonzero()[:, 0].tolist() == sorted(begin + place for begin, place in host)


class _claims_to_be_on_a_gpu:
    """A CPU tensor whose `is_cuda` is true, for functions that choose their kernel by it."""

    def __init__(self, tensor):
        self.tensor, self.is_cuda = tensor, True

    def __getattr__(self, name):
        return getattr(self.tensor, name)

    def __len__(self):
        return len(self.tensor)


@pytest.mark.parametrize("how", ["given", "norm", "gate", "gelu gate"])
def test_rows_in_eight_bit_floats(both, how):
    weight = torch.linspace(0.5, 2, 72, device=DEVICE, dtype=torch.bfloat16)
    (source, _) = wide(5, 144 if "gate" in how else 72, torch.bfloat16)
    source[1] = 0

    def function():
        out = torch.zeros(5, 80, device=DEVICE, dtype=torch.float8_e4m3fn)
        options = {
            "norm": {"norm": (weight, 1e-5)},
            "gate": {"gate": "silu"},
            "gelu gate": {"gate": "gelu_tanh"},
            "given": {},
        }[how]
        unit = elementwise.fp8_rows(source, out[:, :72], **options)
        return out.float() * unit, unit

    (plain, plain_unit), (fused, fused_unit) = both(function)
    assert not fused[:, 72:].any() and not fused[1].any()
    torch.testing.assert_close(fused_unit, plain_unit, rtol=2e-2, atol=1e-12)
    # The interpreter loses the carry when a mantissa rounds up to the next power of two.
    rtol = 0.13 if DEVICE == "cuda" else 0.51
    torch.testing.assert_close(fused, plain, rtol=rtol, atol=float(plain.abs().max()) / 200)


def test_border_of_eight_bit_rows(both):
    (source, _) = wide(6, 20, torch.bfloat16)
    unit = torch.full((6, 1), 1e-3, device=DEVICE)

    def function():
        out = torch.full((6, 40), 5.0, device=DEVICE).to(torch.float8_e4m3fn)
        elementwise.fp8_border(source, unit, out[:, 4:36], 0.25)
        return out.float()

    plain, fused = both(function)
    torch.testing.assert_close(fused, plain, rtol=0.13 if DEVICE == "cuda" else 0.51, atol=1e-6)
    assert fused[:, 4:24].abs().max() <= 448 and not fused[:, 24:36].any() and (fused[:, :4] == 5).all()
    assert (fused[:, 4:24].abs() == 448).any()  # cut, not lost
