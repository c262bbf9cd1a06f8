"""When memory runs out, batches are halved and work goes on: the result is the same to rounding, and nothing is lost.

Everything runs in float32 on the CPU. Sums over fewer documents differ in the last bits: numbers agree to 1e-5, weights to 1e-4.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from test_train import LENGTHS, PLAIN, run
from tiny_models import build, saved, table

from trainer import gradients, measure, step
from trainer.activation import ActivationMemory, measuring
from trainer.config import GenerateConfig, LoraConfig
from trainer.errors import MachineError
from trainer.forward import bind_decoder
from trainer.generate import generate
from trainer.generation.cached import CachedEngine
from trainer.generation.plain import PlainEngine
from trainer.model import Base
from trainer.shortage import GPU, HOST, attempt, listening, shortage

ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "host": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: 9 bytes"
    ),
    "python": MemoryError(),
}
NOISY = PLAIN.model_copy(
    update={"packs_per_step": 4, "packs_per_batch": 4, "neftune_alpha": 5, "epochs": 3, "checkpoint_every": 2}
)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return Base.load(saved(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def undisturbed(base, tmp_path_factory):
    return run(base, tmp_path_factory.mktemp("undisturbed"), NOISY)


@pytest.fixture
def heard():
    """The lines that are reported during a test."""
    lines = []
    with listening(lines.append):
        yield lines


def failing(work, error, calls, before=True):
    """`work`, whose calls of these numbers (from 0) raise `error`, before doing anything or afterwards."""
    number = -1

    def wrapped(*arguments, **options):
        nonlocal number
        number += 1
        if before and number in calls:
            raise error
        result = work(*arguments, **options)
        if number in calls:
            raise error
        return result

    return wrapped


def assert_same_weights(one, other):
    for name in one:
        torch.testing.assert_close(one[name], other[name], **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "memory"), [("cuda", GPU), ("cublas", GPU), ("host", HOST), ("python", HOST)], ids=list(ERRORS)
)
def test_every_way_in_which_memory_runs_out_is_recognised(name, memory):
    found = attempt(failing(dict, ERRORS[name], {0}))
    assert found.memory == memory and "\n" not in found.message


def test_any_other_error_is_none_and_passes():
    assert shortage(RuntimeError("CUDA error: an illegal memory access was encountered")) is None
    with pytest.raises(KeyError):
        attempt(lambda: {}["absent"])


def test_what_a_failed_attempt_held_is_free_when_it_returns():
    class Held:
        alive = 0

        def __init__(self):
            Held.alive += 1

        def __del__(self):
            Held.alive -= 1

    def work():
        held, circle = Held(), []
        circle.append((circle, Held()))
        raise MemoryError(held, circle)

    attempt(work)
    assert Held.alive == 0


@pytest.mark.parametrize("error", [ERRORS["cublas"], ERRORS["python"]], ids=["cublas", "python"])
def test_training_goes_on_with_half_the_packs_and_ends_the_same(base, undisturbed, tmp_path, monkeypatch, heard, error):
    """Call 1 is the only micro-batch of the second step, call 3 the second half of its repetition, of four packs."""
    monkeypatch.setattr(step, "_accumulate", failing(step._accumulate, error, {1, 3}))
    weights, report, metrics = run(base, tmp_path, NOISY)
    expected, _, untroubled = undisturbed
    assert_same_weights(weights, expected)
    np.testing.assert_allclose([m["loss"] for m in metrics], [m["loss"] for m in untroubled], rtol=1e-5)
    assert [m["step"] for m in metrics] == [1, 2, 3]
    records = [(record["step"], record["packs_per_batch"]) for record in report.out_of_memory]
    assert records == [(2, 2), (2, 1)]
    assert [("step 2 of 3" in line, "packs per forward pass" in line) for line in heard] == [(True, True)] * 2


def test_the_division_into_micro_batches_changes_training_only_by_rounding(base, undisturbed, tmp_path):
    weights, _, _ = run(base, tmp_path, NOISY.model_copy(update={"packs_per_batch": 1}))
    assert_same_weights(weights, undisturbed[0])


@pytest.mark.parametrize("before", [True, False], ids=["before the update", "after it"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_update_that_may_be_half_made_is_taken_back(base, undisturbed, tmp_path, monkeypatch, before, at):
    """Checkpoints are written after every second step: step 1 and 2 are repeated from the start, step 3 from the checkpoint."""

    def torn(optimizer, bad):
        if before:
            for group in optimizer.param_groups:
                group["params"][0].data.fill_(7.0)
                optimizer.state[group["params"][0]] = {"step": torch.ones(())}
            raise ERRORS["cuda"]
        whole(optimizer, bad)
        raise ERRORS["cuda"]

    whole, calls = step.optim.step_unless, iter(range(99))
    monkeypatch.setattr(step.optim, "step_unless", lambda *given: (torn if next(calls) == at else whole)(*given))
    weights, report, metrics = run(base, tmp_path, NOISY)
    assert_same_weights(weights, undisturbed[0])
    assert report.steps == 3 and report.tokens == undisturbed[1].tokens
    assert [m["step"] for m in metrics] == [[1, 2, 3], [1, 1, 2, 3], [1, 2, 3]][at]


def test_one_pack_is_trained_with_less_memory_and_then_given_up_with_true_advice(
    base, undisturbed, tmp_path, monkeypatch
):
    """Advice: the same command continues from the last checkpoint."""
    lowered, lower = [], ActivationMemory.lower
    monkeypatch.setattr(ActivationMemory, "lower", lambda memory: lowered.append(lower(memory)) or lowered[-1])
    one = NOISY.model_copy(update={"packs_per_batch": 1, "checkpoint_every": 1})
    accumulate = step._accumulate
    monkeypatch.setattr(step, "_accumulate", failing(accumulate, ERRORS["cuda"], {8}))
    _, report, _ = run(base, tmp_path / "once", one)
    assert lowered == [True] and report.out_of_memory[-1]["activation_memory"] == 0.0
    monkeypatch.setattr(step, "_accumulate", failing(accumulate, ERRORS["cuda"], {8, 9}))
    with pytest.raises(MachineError, match="at step 3 of 3.*same command again.*train.pack_length") as raised:
        run(base, tmp_path / "twice", one)
    assert raised.value.exit_code == 4 and lowered == [True, True, False]
    monkeypatch.setattr(step, "_accumulate", accumulate)
    weights, report, _ = run(base, tmp_path / "twice", one)
    assert report.resumed_from == 2
    assert_same_weights(weights, undisturbed[0])


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_only_masks_that_change_are_called_others(tmp_path, monkeypatch, heard, kind):
    """Our own decoder computes masks for each pack; transformers draws them for each forward pass."""
    base = Base.load(saved(tmp_path / "model", kind))
    monkeypatch.setattr(step, "_accumulate", failing(step._accumulate, ERRORS["cuda"], {0}))
    run(base, tmp_path, NOISY, LoraConfig(r=2, dropout=0.1), steps=1)
    assert ("other masks" in heard[0]) == (kind == "gpt_neox")


def test_records_of_memory_survive_an_interruption(base, tmp_path, monkeypatch):
    monkeypatch.setattr(step, "_accumulate", failing(step._accumulate, ERRORS["cuda"], {0}))
    config = NOISY.model_copy(update={"checkpoint_every": 1})
    with pytest.raises(RuntimeError, match="power"):
        run(base, tmp_path, config, on_step=failing(lambda found: None, RuntimeError("power"), {1}))
    _, report, _ = run(base, tmp_path, config)
    assert [record["step"] for record in report.out_of_memory] == [1] and report.resumed_from == 1


def test_measuring_goes_on_with_half_the_tokens_and_measures_the_same(base, monkeypatch, heard):
    tokens, rows = table(LENGTHS), np.arange(len(LENGTHS))
    wanted = measure.Wanted(conversation=True, turns=True, pooled=True)
    expected = measure.measure(base.model, tokens, rows, batch_tokens=100, wanted=wanted)
    launch, sizes = measure._launch, []

    def recorded(model, tokens, rows, members, *rest):
        sizes.append(tokens.lengths[members].sum())
        return launch(model, tokens, rows, members, *rest)

    monkeypatch.setattr(measure, "_launch", failing(recorded, ERRORS["host"], {0, 2}, before=False))
    done = []
    found = measure.measure(base.model, tokens, rows, batch_tokens=100, wanted=wanted, progress=done.append)
    assert sum(done) == len(LENGTHS) and len(heard) == 2
    assert sizes == [93, 30, 45, 20, 14, 20, 9]
    for name, values in asdict(expected).items():
        for key, one in values.items() if isinstance(values, dict) else [(None, values)]:
            other = getattr(found, name) if key is None else getattr(getattr(found, name), key)
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-3 if name == "pooled" else 1e-5, err_msg=name)


def test_one_document_that_does_not_fit_ends_measuring_with_true_advice(base, monkeypatch):
    monkeypatch.setattr(measure, "_launch", failing(measure._launch, ERRORS["cuda"], set(range(99))))
    with pytest.raises(
        MachineError, match=r"one example of 30 tokens \(CUDA out of memory.*tokens.max_length"
    ) as raised:
        measure.measure(base.model, table(LENGTHS), np.arange(len(LENGTHS)), batch_tokens=64)
    assert raised.value.exit_code == 4


@pytest.mark.parametrize("dora", [False, True], ids=["our decoder", "transformers"])
def test_gradients_go_on_with_half_the_tokens(base, monkeypatch, heard, dora):
    tokens, rows, name = table(LENGTHS), np.arange(len(LENGTHS)), "_one_by_one" if dora else "_packed"
    with base.new_adapter(LoraConfig(r=2, dora=dora), seed=0) as model:
        settings = {"dimension": 64, "batch_tokens": 100, "seed": 0}
        expected = gradients.project_gradients(model, tokens, rows, **settings)
        monkeypatch.setattr(gradients, name, failing(getattr(gradients, name), ERRORS["cuda"], {0, 2}))
        found = gradients.project_gradients(model, tokens, rows, **settings)
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=2e-3)
    assert len(heard) == 2


def test_gradients_of_one_document_are_tried_with_less_memory_before_they_are_given_up(base, monkeypatch, heard):
    monkeypatch.setattr(gradients, "_packed", failing(gradients._packed, ERRORS["cuda"], set(range(99))))
    with (
        base.new_adapter(LoraConfig(r=2), seed=0) as model,
        pytest.raises(MachineError, match="computing gradients of one"),
    ):
        gradients.project_gradients(model, table([9]), np.arange(1), dimension=64, batch_tokens=50, seed=0)
    assert ["least memory" in line for line in heard] == [True]


@pytest.mark.parametrize(("kind", "engine"), [("llama", CachedEngine), ("gpt_neox", PlainEngine)])
def test_writing_answers_goes_on_in_smaller_batches_and_writes_the_same(monkeypatch, heard, kind, engine):
    model = build(kind)
    if kind == "llama":
        bind_decoder(model)
    prompts = [[5, 6, 7], [9] * 11, [4, 8], [3] * 6]
    settings = GenerateConfig(max_new_tokens=8, samples=1, batch_tokens=120)
    options = {"end_ids": (40, 41, 42), "seed": 3}
    expected = generate(model, prompts, settings, **options)
    monkeypatch.setattr(engine, "step", failing(engine.step, ERRORS["cuda"], {2, 6}))
    done = []
    found = generate(model, prompts, settings, **options, progress=done.append)
    assert [[a.tolist() for a in answers] for answers in found] == [
        [a.tolist() for a in answers] for answers in expected
    ]
    assert sum(done) == len(prompts)
    assert [line.split("at most ")[1].split()[0] for line in heard] == ["54", "38"]


def test_weights_are_dequantized_layer_by_layer_when_all_do_not_fit(tmp_path, monkeypatch, heard):
    config = saved(tmp_path, "llama", hidden_size=64, intermediate_size=128).model_copy(update={"quantization": "nf4"})
    base, tokens, rows = Base.load(config), table(LENGTHS), np.arange(len(LENGTHS))
    with measuring(base.model, "nf4", 64):
        expected = measure.measure(base.model, tokens, rows, batch_tokens=64).nll_total
    joined = type(base.decoder.nf4[0])
    monkeypatch.setattr(joined, "make_resident", failing(joined.make_resident, ERRORS["cuda"], {3}))
    with measuring(base.model, "dequantized", 64) as held:
        assert held == "nf4" and len(heard) == 1
        assert not any(layer.resident is not None for layer in base.decoder.nf4)
        assert np.array_equal(measure.measure(base.model, tokens, rows, batch_tokens=64).nll_total, expected)
