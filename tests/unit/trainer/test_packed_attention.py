"""Our own attention kernels for packs compute attention inside each document, forward and backward; run here by Triton's interpreter."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="triton is not installed (requirements-dev.txt)")

from tiny_models import build, table  # noqa: E402

from trainer import attention  # noqa: E402
from trainer.attention import Method, PackLayout  # noqa: E402
from trainer.decoder import packed_attention, packed_attention_kernels  # noqa: E402
from trainer.decoder.packed_attention import (  # noqa: E402
    FLASH_FROM,
    SMALLER,
    TILINGS,
    Call,
    Tiling,
    Tilings,
    faster_than_flash,
    supports,
    tiles_of,
    tilings_of,
)
from trainer.forward import collate  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter multiplies bfloat16 matrices as if they were integers, and a GPU has no float32 in these kernels.
DTYPES = [torch.bfloat16, torch.float16] if DEVICE == "cuda" else [torch.float32, torch.float16]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
SMALL = Tilings(Tiling(32, 16, 4, 1), Tiling(16, 32, 4, 1), Tiling(16, 16, 4, 1))
BORDERS = (0, 1, 4, 40, 43)
H200, A100, RTX, OLD = 232_448, 166_912, 101_376, 49_152
"""Bytes of shared memory that a block may have (CUDA C++ Programming Guide, compute capabilities 9.0, 8.0, 8.6 and 8.9, 6.0)."""
CAPABILITIES = {H200: (9, 0), A100: (8, 0), RTX: (8, 9), OLD: (6, 0)}


def layout(borders):
    longest = max(b - a for a, b in pairwise(borders))
    return PackLayout(borders, torch.tensor(borders, dtype=torch.int32, device=DEVICE), longest)


def inputs(borders, heads, kv_heads, width, dtype):
    """q, k, v as columns of one buffer, and the gradient of the result."""
    generator = torch.Generator().manual_seed(borders[-1])
    buffer = torch.randn(borders[-1], (heads + 2 * kv_heads) * width + 8, generator=generator).to(DEVICE, dtype)
    parts = buffer[:, :-8].split([heads * width, kv_heads * width, kv_heads * width], dim=1)
    gradient = torch.randn(borders[-1], heads, width, generator=generator).to(DEVICE, dtype)
    return *(part.unflatten(1, (-1, width)) for part in parts), gradient


def results(call, q, k, v, gradient, pad=8):
    """(out, dq, dk, dv, log_sums), written into columns of wider buffers whose other columns must not change."""
    buffers = [torch.full((len(x), x[0].numel() + pad), 7.0, dtype=x.dtype, device=DEVICE) for x in (q, q, k, v)]
    out, *into = (b[:, :-pad].unflatten(1, x.shape[1:]) for b, x in zip(buffers, (q, q, k, v), strict=True))
    log_sums = call.forward(q, k, v, out)
    call.backward(gradient, q, k, v, out, log_sums, tuple(into))
    assert all((buffer[:, -pad:] == 7).all() for buffer in buffers)
    return out, *into, log_sums


def expected(call, q, k, v, gradient):
    """The same in float64, with one matrix of scores for the whole pack."""
    q, k, v = (x.double().requires_grad_() for x in (q, k, v))
    document = torch.repeat_interleave(torch.tensor(np.diff(call.pack.borders)))
    at = torch.arange(len(q))
    seen = (document[:, None] == document) & (at[:, None] >= at)
    if call.window:
        seen &= at[:, None] - at < call.window
    groups = q.shape[1] // k.shape[1]
    scores = torch.einsum("ihd,jhd->hij", q, k.repeat_interleave(groups, 1)) * call.scale
    if call.softcap:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    scores = scores.masked_fill(~seen.to(DEVICE), -torch.inf)
    out = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v.repeat_interleave(groups, 1))
    gradients = torch.autograd.grad(out, (q, k, v), gradient.double())
    return out, *gradients, scores.logsumexp(-1).t() / np.log(2)


def assert_close(found, wanted, dtype):
    for one, other in zip(found, wanted, strict=True):
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "window", "softcap", "dtype"),
    [
        (4, 2, 64, None, None, DTYPES[0]),
        (4, 2, 64, 21, 1.5, DTYPES[1]),
        (2, 2, 24, 18, None, DTYPES[0]),
        (3, 1, 80, 17, 1.5, DTYPES[0]),
        (4, 1, 128, None, 1.5, DTYPES[1]),
        (1, 1, 96, 5, None, DTYPES[0]),
        (2, 1, 112, 64, 1.5, DTYPES[0]),
        (2, 1, 256, 21, 1.5, DTYPES[0]),
    ],
)
def test_attention_and_its_gradients(heads, kv_heads, width, window, softcap, dtype):
    call = Call(layout(BORDERS), 1.5 * width**-0.5, window, softcap, SMALL)
    tensors = inputs(BORDERS, heads, kv_heads, width, dtype)
    assert_close(results(call, *tensors), expected(call, *tensors), dtype)


@pytest.mark.parametrize(
    ("width", "window", "card"), [(64, None, H200), (128, 70, H200), (256, None, H200), (256, 70, A100), (256, 70, RTX)]
)
def test_the_tiles_in_use(width, window, card):
    borders = (0, 9, 139)
    call = Call(layout(borders), width**-0.5, window, 2.0, tilings_of(width, card))
    tensors = inputs(borders, 2, 1, width, DTYPES[-1])
    assert_close(results(call, *tensors), expected(call, *tensors), DTYPES[-1])


def test_rows_that_the_kernels_cannot_read_are_copied():
    call = Call(layout(BORDERS), 0.2, tilings=SMALL)
    q, k, v, gradient = inputs(BORDERS, 2, 1, 24, DTYPES[0])
    whole = results(call, q, k, v, gradient)
    odd = [torch.nn.functional.pad(x.flatten(1), (0, 1))[:, :-1].unflatten(1, x.shape[1:]) for x in (q, k, v, gradient)]
    assert all(x.stride(0) % 8 for x in odd)
    for one, other in zip(results(call, *odd, pad=3), whole, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("window", [None, 12])
def test_no_bit_of_a_document_depends_on_the_rest_of_the_pack(window):
    tensors = inputs(BORDERS, 2, 1, 16, DTYPES[0])
    alone = slice(4, 40)
    found = results(Call(layout((0, 36)), 0.3, window, 1.5, SMALL), *(x[alone] for x in tensors))
    for x in tensors:
        x[:4], x[40:] = torch.nan, torch.inf
    packed = results(Call(layout(BORDERS), 0.3, window, 1.5, SMALL), *tensors)
    for one, other in zip(found, packed, strict=True):
        assert torch.equal(one, other[alone])


def test_sums_have_one_order_whatever_program_runs_first():
    assert "atomic" not in inspect.getsource(packed_attention_kernels).split('"""', 2)[2]
    tensors = inputs(BORDERS, 4, 2, 16, DTYPES[0])
    first = results(Call(layout(BORDERS), 0.3, None, None, SMALL), *tensors)
    pack = layout(BORDERS)
    for keys, size in ((False, SMALL.forward.rows // 2), (False, SMALL.queries.rows // 2), (True, SMALL.keys.keys)):
        pack._tiles[size, keys] = pack.tiles(size, keys).flip(0).contiguous()
    for one, other in zip(results(Call(pack, 0.3, None, None, SMALL), *tensors), first, strict=True):
        assert torch.equal(one, other)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=12), st.sampled_from([1, 8, 16, 64]), st.booleans())
def test_tiles_cover_every_token_once_and_no_two_documents(lengths, size, keys):
    borders = [0, *np.cumsum(lengths).tolist()]
    tiles = tiles_of(borders, size, keys)
    covered = np.concatenate([np.arange(first, min(first + size, end)) for _, end, first in tiles])
    assert sorted(covered) == list(range(borders[-1]))
    assert {(begin, end) for begin, end, _ in tiles.tolist()} == set(pairwise(borders))
    assert all((first - begin) % size == 0 for begin, _, first in tiles)
    work = [end - first if keys else min(first + size, end) - begin for begin, end, first in tiles]
    assert work == sorted(work, reverse=True)


def test_tiles_are_made_once_for_all_layers():
    pack = layout(BORDERS)
    assert pack.tiles(16) is pack.tiles(16)
    assert not torch.equal(pack.tiles(16), pack.tiles(16, keys=True))


def test_widths_and_groups_that_the_kernels_support():
    assert all(supports(32, 8, width) for width in (8, 64, 80, 96, 112, 128, 256))
    assert supports(14, 2, 64) and supports(8, 1, 256)
    assert not supports(32, 8, 264) and not supports(32, 8, 100) and not supports(71, 1, 64)
    assert supports(32, 1, 256, H200) and supports(32, 1, 256, A100)
    assert supports(16, 1, 256, RTX) and not supports(17, 1, 256, RTX)
    for tilings in (*TILINGS.values(), *SMALLER[256]):
        assert all(x.rows % 16 == x.keys % 16 == 0 for x in (tilings.forward, tilings.queries, tilings.keys))


@pytest.mark.parametrize("head", TILINGS)
def test_a_card_has_the_measured_tiles_where_they_fit(head):
    smaller = (TILINGS[head], TILINGS[head]) if head < 256 else SMALLER[head]
    assert [tilings_of(head, card) for card in (None, H200, A100, RTX)] == [TILINGS[head], TILINGS[head], *smaller]
    assert tilings_of(256, OLD) is None and not supports(8, 1, 256, OLD)


def test_a_call_takes_the_tiles_of_the_card_of_its_inputs(monkeypatch):
    memory = {torch.device("meta"): RTX, torch.device("cpu"): None}
    monkeypatch.setattr(packed_attention, "shared_memory", memory.get)
    call = Call(layout(BORDERS), 1.0)
    found = [call._tilings(torch.empty(0, 2, 256, device=device)) for device in memory]
    assert found == [SMALLER[256][-1], TILINGS[256]]


@pytest.mark.parametrize(
    ("kernel", "head", "tiling", "taken"),
    [
        ("forward", 256, (128, 64, 8, 2), 147_456),
        ("forward", 256, (64, 32, 4, 2), 69_632),
        ("forward", 128, (64, 64, 4, 3), 90_112),
        ("queries", 256, (128, 32, 8, 2), 172_032),
        ("queries", 256, (64, 32, 8, 2), 102_400),
        ("queries", 256, (32, 32, 4, 2), 67_584),
        ("queries", 128, (64, 32, 4, 3), 69_632),
        ("keys", 256, (32, 64, 8, 2), 102_656),
        ("keys", 256, (16, 32, 4, 2), 50_304),
        ("keys", 128, (32, 64, 4, 2), 53_504),
    ],
)
def test_shared_memory_is_what_triton_took(kernel, head, tiling, taken):
    """Compiled with Triton 3.7.1 for sm_80 and sm_89."""
    least = Tiling(16, 16, 4, 1)
    tilings = {"forward": least, "queries": least, "keys": least} | {kernel: Tiling(*tiling)}
    assert Tilings(**tilings).shared_bytes(head) == taken


COMPILE = """
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from trainer.decoder import packed_attention_kernels as kernels
from trainer.decoder.packed_attention import SMALLER

KINDS = {"log_sums": "*fp32", "deltas": "*fp32", "tiles": "*i32", "scale": "fp32", "softcap": "fp32", "slope": "fp32"}
NUMBERS = ("heads", "groups", "window")

def shared(kernel, tiling):
    constants = {"CAPPED": False, "WINDOWED": False, "GROUPS": 2, "ROWS": tiling.rows, "KEYS": tiling.keys, "WIDTH": 256, "HEAD": 256}
    names = kernel.arg_names
    kinds = {name: "i32" if name in NUMBERS or name.endswith("stride") else KINDS.get(name, "*bf16") for name in names}
    kinds |= dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if kinds[name].startswith("*")}
    source = ASTSource(kernel, kinds, {(names.index(name),): value for name, value in constants.items()}, aligned)
    backend = make_backend(GPUTarget("cuda", 89, 32))
    options = backend.parse_options({"num_warps": tiling.warps, "num_stages": tiling.stages})
    context, stages, found = ir.context(), {}, {}
    ir.load_dialects(context)
    backend.load_dialects(context)
    code = backend.get_codegen_implementation(options)
    module = source.make_ir(backend.target, options, code, backend.get_module_map(), context)
    backend.add_stages(stages, options, source.language)
    for stage in ("ttir", "ttgir", "llir"):  # machine code is not needed
        module = stages[stage](module, found)
    return found["shared"]

tilings = SMALLER[256][-1]
print(shared(kernels.forward_kernel, tilings.forward))
"""
"""Triton's compiler needs no GPU; but a process whose kernels are interpreted cannot compile them."""


def test_shared_memory_is_what_triton_takes_on_a_small_card():
    root = Path(__file__).resolve().parents[3]
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    assert int(done.stdout) == SMALLER[256][-1].shared_bytes(256) <= RTX


@pytest.mark.parametrize("method", [Method.LOOP, Method.PACKED])
def test_a_buffer_next_to_attention_is_made_only_where_its_kernel_writes_there(monkeypatch, method):
    """Otherwise the backward pass would hold one buffer as large as q, k and v more at its peak."""
    import peft

    from trainer.decoder import layer
    from trainer.forward import bind_decoder, bound_decoder, hidden_states

    causal = build("llama", num_hidden_layers=1)
    model = peft.get_peft_model(causal, peft.LoraConfig(r=2, target_modules="all-linear"))
    bind_decoder(causal)
    qkv, events = bound_decoder(causal).layers[0].qkv, []
    backward, new_gradient = layer.attend_backward, type(qkv).new_gradient

    def attended(*given):
        events.append("attention")
        return backward(*given)

    def made(joined, tokens):
        events.extend(["buffer"] * (joined is qkv))
        return new_gradient(joined, tokens)

    monkeypatch.setattr(attention, "_method", lambda *given: method)
    monkeypatch.setattr(layer, "attend_backward", attended)
    monkeypatch.setattr(type(qkv), "new_gradient", made)
    hidden_states(model.train(), collate(table([5, 11]), [0, 1])).pow(2).sum().backward()
    assert events == (["buffer", "attention"] if method is Method.PACKED else ["attention", "buffer"])


@pytest.mark.parametrize("width", [64, 80, 256])
def test_long_documents_go_to_flash_attention(width):
    least = FLASH_FROM[max(64, packed_attention.padded(width))]
    assert faster_than_flash(width, [0, least - 1]) and not faster_than_flash(width, [0, least])
    short = list(range(0, 2001, 100))
    assert faster_than_flash(width, short) and not faster_than_flash(width, [*short, 2000 + 4 * least])


class _OnAGpu:
    """Shape and dtype of queries or keys of a GPU."""

    is_cuda, device = True, torch.device("cuda")

    def __init__(self, heads, width, dtype=torch.bfloat16):
        self.shape, self.dtype = (0, heads, width), dtype


@pytest.mark.parametrize(
    ("heads", "width", "dtype", "longest", "softcap", "card", "method"),
    [
        (32, 128, torch.bfloat16, 100, None, H200, Method.PACKED),
        (32, 64, torch.bfloat16, 8192, None, H200, Method.FLASH),
        (32, 128, torch.bfloat16, 8192, None, H200, Method.PACKED),
        (32, 128, torch.bfloat16, 8192, 50.0, H200, Method.PACKED),
        (32, 128, torch.float16, 8192, 50.0, H200, Method.PACKED),
        (32, 128, torch.float32, 100, None, H200, Method.LOOP),
        (32, 128, torch.float32, 100, 50.0, H200, Method.LOOP),
        (1024, 64, torch.bfloat16, 100, None, H200, Method.FLASH),
        (1024, 64, torch.bfloat16, 100, 50.0, H200, Method.LOOP),
        (32, 256, torch.bfloat16, 100, None, RTX, Method.PACKED),
        (256, 256, torch.bfloat16, 100, None, A100, Method.PACKED),
        (256, 256, torch.bfloat16, 100, None, RTX, Method.FLASH),
        (256, 256, torch.bfloat16, 100, 50.0, RTX, Method.LOOP),
        (32, 256, torch.float16, 100, None, OLD, Method.LOOP),  # FlashAttention 2 needs 8.0 too
        (32, 256, torch.bfloat16, 100, 50.0, OLD, Method.LOOP),
        (32, 512, torch.bfloat16, 100, None, H200, Method.LOOP),
    ],
)
def test_the_method_goes_by_heads_lengths_cap_and_card(
    monkeypatch, heads, width, dtype, longest, softcap, card, method
):
    monkeypatch.setattr(packed_attention, "shared_memory", lambda device: card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: CAPABILITIES[card])
    pack = PackLayout((0, longest), torch.zeros(2, dtype=torch.int32), longest)
    assert attention._method(_OnAGpu(heads, width, dtype), _OnAGpu(8, width, dtype), pack, softcap) is method


def test_on_a_cpu_nothing_changes():
    pack = PackLayout((0, 8), torch.zeros(2, dtype=torch.int32), 8)
    assert attention._method(torch.zeros(8, 2, 64), torch.zeros(8, 2, 64), pack, 30.0) is Method.LOOP


@pytest.mark.parametrize(("kind", "own"), [("gemma2", True), ("phi3", True), ("gemma2", False)])
def test_a_model_computes_the_same_with_either_method(monkeypatch, kind, own):
    """Through our own decoder, and through transformers' modules and autograd."""
    import peft

    from trainer.adapters import trainable_parameters
    from trainer.forward import bind_decoder, hidden_states
    from trainer.gate.architecture import prepare_attention

    changes = {"head_dim": 8} if kind == "gemma2" else {}
    causal = build(kind, **changes)
    model = peft.get_peft_model(causal, peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    if own:
        bind_decoder(causal)
    else:
        prepare_attention(causal)
    batch = collate(table([5, 11]), [0, 1])
    found = {}
    for method in (Method.LOOP, Method.PACKED):
        with monkeypatch.context() as patch:
            patch.setattr(attention, "_method", lambda *given, method=method: method)
            for tile in packed_attention.TILINGS:
                patch.setitem(packed_attention.TILINGS, tile, SMALL)
            model.zero_grad()
            hidden = hidden_states(model.train(), batch)
            hidden.pow(2).sum().backward()
        found[method] = [hidden.detach(), *(p.grad for p in trainable_parameters(model).values())]
    assert len(found[Method.LOOP]) > 10
    for one, other in zip(found[Method.PACKED], found[Method.LOOP], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
