"""LoRA's narrow products by their own kernels, run here by Triton's interpreter, are those of plain torch."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed (requirements-dev.txt)")

from trainer.decoder import low_rank  # noqa: E402
from trainer.decoder.dropout import Dropout, Keys  # noqa: E402
from trainer.decoder.projections import Joined, Linear, Lora, Scratch  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOKENS = 45


@pytest.fixture
def both(monkeypatch):
    """Run a function on plain torch and on the kernel, with tiles that the shapes below do not fill; returns the two results."""
    monkeypatch.setattr(low_rank, "ROWS", 32)
    monkeypatch.setattr(low_rank, "ALIGN", 8)

    def run(function):
        with monkeypatch.context() as patch:
            patch.setattr(low_rank, "suits", lambda buffers, columns: False)
            plain = function()
        with monkeypatch.context() as patch:
            patch.setattr(low_rank, "suits", lambda buffers, columns: True)
            return plain, function()

    return run


def layers(outputs, ranks, inputs, scale=1.5):
    """Joined layers with random weights."""
    generator = torch.Generator().manual_seed(inputs)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE)

    loras = [
        Lora(random(r, inputs), random(out, r), scale, 0.3) if r else None
        for out, r in zip(outputs, ranks, strict=True)
    ]
    linears = [Linear(random(out, inputs), None, lora) for out, lora in zip(outputs, loras, strict=True)]
    return Joined(linears, Scratch(DEVICE, torch.float32))


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize(
    ("outputs", "ranks"), [((40,), (8,)), ((72, 40, 40), (16, 16, 16)), ((48, 96), (8, 5)), ((40, 24, 56), (24, 0, 16))]
)
def test_every_product_of_a_forward_and_a_backward_pass(both, outputs, ranks, dropped):
    joined = layers(outputs, ranks, 88)
    dropout = Dropout(Keys.of([(TOKENS, 3)], DEVICE), 0, 0.3) if dropped else None
    x, upstream = torch.randn(TOKENS, 88, device=DEVICE), torch.randn(TOKENS, joined.out, device=DEVICE)

    def function():
        X, G = joined.new_input(TOKENS).fill_(float("nan")), joined.new_gradient(TOKENS).fill_(float("nan"))
        X[:, joined.x], G[:, : joined.out] = x, upstream
        joined.project_down(X, dropout)
        joined.complete(G)
        return X, G

    for plain, fast in zip(*both(function), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-3)
        assert not plain.isnan().any()


def test_the_kernels_take_few_columns_of_many_aligned_rows_on_a_gpu():
    rows = torch.empty(4096, 80, dtype=torch.bfloat16)
    assert not low_rank.suits([rows], 16)  # on a CPU

    class Gpu:
        """A buffer that says it is on a GPU."""

        is_cuda = True

        def __init__(self, rows=4096, stride=80, at=0, dtype=torch.bfloat16):
            self.rows, self.step, self.at, self.dtype = rows, stride, at, dtype

        def __len__(self):
            return self.rows

        def stride(self, axis):
            return self.step

        def data_ptr(self):
            return self.at

    assert low_rank.suits([Gpu()], 16) and low_rank.suits([Gpu(1024), Gpu(at=32)], 48)
    for buffers, columns in (
        ([Gpu()], 128), ([Gpu(64)], 16), ([Gpu(), Gpu(stride=72)], 16), ([Gpu(at=6)], 16), ([Gpu(dtype=torch.float32)], 16),
    ):  # fmt: skip
        assert not low_rank.suits(buffers, columns)
