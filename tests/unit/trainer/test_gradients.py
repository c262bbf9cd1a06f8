"""Projected gradients represent the gradient of one document alone, whatever its pack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import build, table

from trainer import gradients
from trainer.adapters import trainable_parameters
from trainer.config import LoraConfig, ModelConfig, TrainConfig
from trainer.errors import CheckpointError, TrainerError
from trainer.forward import collate, hidden_states, output_head
from trainer.gradients import Moments, Projector, project_gradients
from trainer.loss import target_nll
from trainer.model import Base
from trainer.optim import build_optimizer, save_moments, set_learning_rate

LENGTHS = [12, 30, 40, 5, 25, 7, 2, 33, 21, 18]
ROWS = np.arange(len(LENGTHS))
STEPS = 7
"""Steps after which the moments of these tests were taken."""
FORMS = ["adamw", "less"]


def base(tmp_path, kind):
    build(kind).save_pretrained(tmp_path)
    return Base.load(ModelConfig(name=str(tmp_path), quantization="none", compute_dtype="float32", device="cpu"))


@pytest.fixture(params=["llama", "qwen3", "gpt_neox"])
def model(request, tmp_path):
    """Models of our own decoder, and one that runs through transformers; with an adapter whose B is not zero."""
    with base(tmp_path, request.param).new_adapter(LoraConfig(r=4, alpha=6), seed=0) as worn:
        shake(worn)
        yield worn


def shake(worn):
    for i, (name, parameter) in enumerate(worn.named_parameters()):
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(i))


def tokens():
    made = table(LENGTHS)
    for row, length in enumerate(LENGTHS):
        made.marks[row][: length // 2] = 0
    return made


def exact(model, tokens, row):
    """{name: gradient} of one document's mean loss by autograd."""
    batch, parameters = collate(tokens, [row]), trainable_parameters(model)
    loss = target_nll(hidden_states(model, batch)[batch.predictors], output_head(model), batch.labels).mean()
    found = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


def flat(gradient):
    return torch.cat([part.flatten() for part in gradient.values()]).double()


def cosines(vectors):
    vectors = np.asarray(vectors, dtype=np.float64)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def some_moments(model):
    """As after a few steps of training; squares far from even."""
    generator = torch.Generator().manual_seed(5)
    mean, square = {}, {}
    for name, parameter in trainable_parameters(model).items():
        mean[name] = 1e-3 * torch.randn(parameter.shape, generator=generator)
        square[name] = 1e-4 * torch.rand(parameter.shape, generator=generator) ** 4
    return Moments(mean, square, STEPS)


def through_adam(gradient, moments, form):
    """Both forms, written out."""
    found = {}
    for name, g in gradient.items():
        m, v = 0.9 * moments.mean[name] + 0.1 * g, 0.999 * moments.square[name] + 0.001 * g**2
        of_adamw = (m / (1 - 0.9 ** (STEPS + 1))) / (torch.sqrt(v / (1 - 0.999 ** (STEPS + 1))) + 1e-8)
        found[name] = of_adamw if form == "adamw" else m / torch.sqrt(v + 1e-8)
    return found


@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_trap_38_the_direction_is_that_of_the_optimizers_next_step(tmp_path, ratio):
    """Parameters move by what `Moments` predicts and by weight decay, after few steps and with gradients around ε."""
    names = {"x.lora_A.w": (4, 20), "x.lora_B.w": (30, 4)}
    generator = torch.Generator().manual_seed(2)
    parameters = {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in names.items()}
    config = TrainConfig(lora_plus_ratio=ratio, weight_decay=0.1)
    optimizer = build_optimizer(parameters, config)

    def step():
        for parameter in parameters.values():
            size = 10.0 ** -torch.randint(2, 11, parameter.shape, generator=generator)
            parameter.grad = size * torch.randn(parameter.shape, generator=generator)
        set_learning_rate(optimizer, 0.5)
        optimizer.step()

    for _ in range(STEPS):
        step()
    save_moments(optimizer, parameters, tmp_path / "moments.safetensors")
    moments = Moments.open(tmp_path / "moments.safetensors", "cpu")
    assert moments.steps == STEPS
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    step()
    for name, parameter in parameters.items():
        direction = moments.adam(name, "adamw").direction(parameter.grad)
        decay = 0.5 * (ratio if "lora_B" in name else 1.0) * 0.1
        predicted = before[name] * (1 - decay) - 0.5 * direction
        torch.testing.assert_close(parameter.detach(), predicted, rtol=0, atol=1e-6)
        assert direction.abs().max() > 0.1


@pytest.mark.parametrize("form", [None, *FORMS])
def test_cosines_are_those_of_exact_gradients(model, form):
    made, moments = tokens(), some_moments(model) if form else None
    parts = [exact(model, made, row) for row in ROWS]
    parts = [through_adam(part, moments, form) for part in parts] if form else parts
    expected = cosines(torch.stack([flat(part) for part in parts]).numpy())
    found = project_gradients(model, made, ROWS, dimension=65536, batch_tokens=70, seed=3, moments=moments, form=form)
    assert found.dtype == np.float16 and found.shape == (len(ROWS), 65536)
    error = cosines(found) - expected
    assert np.sqrt((error**2).mean()) < 0.02 and np.abs(error).max() < 0.1
    assert np.ptp(expected) > 0.2  # the values differ


def test_each_vector_is_the_sketch_of_the_exact_gradient(model):
    made, parameters, moments = tokens(), trainable_parameters(model), some_moments(model)
    found = project_gradients(model, made, ROWS, dimension=50, batch_tokens=1000, seed=1, moments=moments)
    projector = Projector(parameters, 50, 1, moments)
    for row in ROWS:
        into = torch.zeros(50)
        for name, gradient in exact(model, made, row).items():
            projector.add_gradient(into, gradient, name)
        np.testing.assert_allclose(found[row], into / into.norm(), atol=2e-3)


def test_order_and_batches_change_nothing_but_rounding(model):
    made = tokens()
    expected = project_gradients(model, made, ROWS, dimension=64, batch_tokens=10**6, seed=1)
    order = np.array([4, 0, 9, 2, 6, 1, 3])
    found = project_gradients(model, made, order, dimension=64, batch_tokens=35, seed=1)
    np.testing.assert_allclose(found, expected[order], atol=2e-3)


def test_a_sketch_is_linear_and_keeps_lengths_on_average():
    parameters = {
        "x.lora_A.default.weight": torch.nn.Parameter(torch.zeros(4, 300)),
        "x.lora_B.default.weight": torch.nn.Parameter(torch.zeros(90, 4)),
    }
    gradient = {
        name: torch.randn(p.shape, generator=torch.Generator().manual_seed(2)) for name, p in parameters.items()
    }
    squares = []
    for seed in range(300):
        into = torch.zeros(64)
        for name in parameters:
            Projector(parameters, 64, seed).add_gradient(into, gradient[name], name)
        squares.append(float(into.square().sum()))
    assert np.mean(squares) == pytest.approx(float(flat(gradient).square().sum()), rel=0.05)
    one, two = torch.zeros(64), torch.zeros(64)
    projector, name = Projector(parameters, 64, 0), "x.lora_A.default.weight"
    projector.add_gradient(one, 3 * gradient[name], name)
    projector.add_gradient(two, gradient[name], name)
    torch.testing.assert_close(one, 3 * two)


def test_documents_without_targets_have_no_gradient(model):
    made = tokens()
    made.marks[1][:] = 0
    found = project_gradients(model, made, np.array([0, 1]), dimension=32, batch_tokens=100, seed=0)
    assert not found[1].any() and found[0].any()


def test_of_dora_its_matrices_count(tmp_path):
    with base(tmp_path, "llama").new_adapter(LoraConfig(r=4, dora=True), seed=0) as worn:
        shake(worn)
        found = project_gradients(worn, tokens(), ROWS, dimension=64, batch_tokens=64, seed=0)
        np.testing.assert_allclose(np.linalg.norm(found.astype(float), axis=1), 1, atol=1e-2)


def test_nothing_is_left_behind(tmp_path):
    from trainer.measure import measure

    with base(tmp_path, "llama").new_adapter(LoraConfig(r=4), seed=0) as worn:
        shake(worn)
        before = measure(worn, tokens(), ROWS, batch_tokens=64).nll_total
        project_gradients(worn, tokens(), ROWS, dimension=32, batch_tokens=64, seed=0)
        np.testing.assert_array_equal(measure(worn, tokens(), ROWS, batch_tokens=64).nll_total, before)
        assert all(parameter.grad is None for parameter in worn.parameters())


def test_a_frozen_adapter_and_foreign_moments_are_refused(tmp_path, model):
    moments = some_moments(model)
    moments.mean.popitem()
    with pytest.raises(CheckpointError, match="another adapter"):
        project_gradients(model, tokens(), ROWS, dimension=8, batch_tokens=64, seed=0, moments=moments)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(TrainerError, match="no trainable parameters"):
        project_gradients(model, tokens(), ROWS, dimension=8, batch_tokens=64, seed=0)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_moments_are_written_and_read(tmp_path, kind):
    names = {"small.lora_A.w": (4, 20), "large.lora_B.w": (600, 16)}
    parameters = {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in names.items()}
    optimizer = build_optimizer(parameters, TrainConfig(optimizer=kind))
    first, square = {}, {}
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for name, parameter in parameters.items():
            parameter.grad = 1 + torch.rand(parameter.shape, generator=generator)
            first[name] = 0.9 * first.get(name, 0) + 0.1 * parameter.grad
            square[name] = 0.999 * square.get(name, 0) + 0.001 * parameter.grad**2
        optimizer.step()
    save_moments(optimizer, parameters, tmp_path / "moments.safetensors")
    found = Moments.open(tmp_path / "moments.safetensors", "cpu")
    rtol = 1e-5 if kind == "adamw" else 0.05
    for name in names:
        torch.testing.assert_close(found.mean[name], first[name], rtol=rtol, atol=0)
        torch.testing.assert_close(found.square[name], square[name], rtol=3 * rtol, atol=0)
    (tmp_path / "bad").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="expected the moments"):
        Moments.open(tmp_path / "bad", "cpu")


@pytest.mark.parametrize("form", [None, *FORMS])
@pytest.mark.parametrize(("rank", "width", "dimension"), [(4, 40, 512), (20, 300, 128)])
def test_the_kernel_computes_what_torch_does(form, rank, width, dimension):
    pytest.importorskip("triton")
    from trainer.attention import PackLayout

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(device)

    parameters = {"x.lora_B.w": torch.nn.Parameter(random(width, rank))}
    mean, square = ({"x.lora_B.w": random(width, rank) ** power} for power in (1, 2))
    projector = Projector(parameters, dimension, 0, Moments(mean, square, STEPS, 2.0) if form else None, form)
    borders = (0, 3, 70, 71, 200)
    pack = PackLayout(borders, torch.tensor(borders, dtype=torch.int32, device=device), 129)
    left, right = random(200, rank + 3)[:, :rank], random(200, width + 5)[:, 5:]
    sketch = projector._sketches[id(parameters["x.lora_B.w"])]
    fused = torch.zeros(4, dimension, device=device)
    gradients._fused_products(fused, left, right, 0.5, sketch, pack)
    plain = torch.zeros(4, dimension, device=device)
    products = [left[a:b].t() @ right[a:b] for a, b in zip(borders, borders[1:], strict=False)]
    gradients._add_gradients(plain, torch.stack(products) * 0.5, sketch)
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-3)
