"""Joined projections: one bordered matrix gives the outputs and gradients of separate linear layers with LoRA."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from trainer.decoder.dropout import Dropout, Keys
from trainer.decoder.nf4 import Nf4Weight
from trainer.decoder.projections import Joined, Linear, Lora, Scratch

TOKENS = 7


def linear(outputs, inputs, r, nf4, bias, seed):
    """A layer with random weights, and its dense weight."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(outputs, inputs, generator=generator)
    weight = torch.nn.Parameter(dense.clone(), requires_grad=False)
    if nf4:
        weight = Nf4Weight(*quantize_4bit(dense, quant_type="nf4", compress_statistics=True))
        dense = dequantize_4bit(weight.packed, weight.state)
    lora = None
    if r:
        a, b = torch.randn(r, inputs, generator=generator), torch.randn(outputs, r, generator=generator)
        lora = Lora(torch.nn.Parameter(a), torch.nn.Parameter(b), 1.5, 0.0)
    return Linear(weight, torch.randn(outputs, generator=generator) if bias else None, lora), dense


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("inputs", [64, 1024])
@pytest.mark.parametrize(
    "ranks", [(4,), (0,), (4, 4), (0, 0), (3, 8), (4, 4, 4), (4, 0, 4), (0, 5, 0), (8, 8), (16, 16, 16)]
)
def test_outputs_and_gradients_are_those_of_separate_layers(ranks, inputs, nf4, resident):
    made = [linear(64 + 32 * i, inputs, r, nf4, bias=i == 1, seed=i) for i, r in enumerate(ranks)]
    linears, dense = [m[0] for m in made], [m[1] for m in made]
    scratch = Scratch(torch.device("cpu"), torch.float32)
    joined = Joined(linears, scratch)
    scratch.take(joined.rows, joined.width).fill_(float("nan"))  # what another matrix may have left
    if resident:
        joined.make_resident()
    dropout = Dropout(Keys.of([(TOKENS, 3)], torch.device("cpu")), 0, 0.5)
    mask = dropout.keep(inputs) * 2.0
    x = torch.randn(TOKENS, inputs, requires_grad=True)
    upstream = torch.randn(TOKENS, joined.out)
    expected = torch.cat([_apply(*pair, x, mask) for pair in zip(linears, dense, strict=True)], dim=1)
    wanted = torch.autograd.grad(expected, [x, *joined.parameters()], upstream)

    X, G = joined.new_input(TOKENS).fill_(float("nan")), joined.new_gradient(TOKENS).fill_(float("nan"))
    X[:, joined.x] = x.detach()
    joined.project_down(X, dropout)
    out = torch.empty(TOKENS, joined.out)
    joined.forward(X, out)
    torch.testing.assert_close(out, expected.detach(), rtol=1e-4, atol=1e-3)
    G[:, : joined.out] = upstream
    found = [joined.backward_input(G, dropout if joined.rank else None), *joined.backward_lora(G, X, dropout)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def _apply(layer, dense, x, mask):
    out = torch.nn.functional.linear(x, dense, layer.bias)
    if layer.lora:
        out = out + layer.lora.scale * ((x * mask) @ layer.lora.a.t()) @ layer.lora.b.t()
    return out


def test_one_product_where_zeros_cost_little_and_two_where_they_do_not():
    def products(inputs, r):
        return len(Joined([linear(8, inputs, r, False, False, i)[0] for i in range(3)], _scratch()).products())

    assert products(1024, 16) == 1 and products(1024, 64) == 2 and products(1024, 0) == 1


def test_a_pass_sees_the_parameters_as_they_are_when_it_begins():
    layer, _ = linear(8, 16, 4, True, False, 0)
    scratch = _scratch()
    joined = Joined([layer], scratch)
    for resident in (False, True):
        if resident:
            joined.make_resident()
        scratch.generation += 1
        before = joined.matrix().clone()
        with torch.no_grad():
            layer.lora.a.add_(1.0)
        assert torch.equal(joined.matrix(), before)
        scratch.generation += 1
        assert not torch.equal(joined.matrix(), before)


def test_two_matrices_share_the_scratch():
    scratch = _scratch()
    one, other = (Joined([linear(8, 16, 4, True, False, i)[0]], scratch) for i in range(2))
    first = one.matrix().clone()
    other.matrix()
    assert one.matrix().data_ptr() == other.matrix().data_ptr()
    assert torch.equal(one.matrix(), first)


def _scratch():
    return Scratch(torch.device("cpu"), torch.float32)
