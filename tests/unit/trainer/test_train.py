"""Training equals a plain reference, and a killed training ends with the same bits."""

from __future__ import annotations

import filecmp
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import peft
import pytest
import torch
from tiny_models import VOCABULARY, build, plan, saved, table

from trainer import schedule
from trainer.adapters import trainable_parameters
from trainer.config import LoraConfig, ModelConfig, TrainConfig
from trainer.decoder.retention import Retention, divide
from trainer.errors import CheckpointError, DataError, Diverged, Interrupted, TrainerError
from trainer.measure import measure
from trainer.model import Base, save_adapter
from trainer.optim import learning_rate
from trainer.train import train

LENGTHS = [9, 20, 6, 14, 30, 3, 11]
PACKS = plan([[0, 1], [2, 3], [4], [5, 6, 0]])
PLAIN = TrainConfig(learning_rate=1e-2, packs_per_step=3, packs_per_batch=2, neftune_alpha=0, epochs=2)
LORA = LoraConfig(r=4, alpha=8, dropout=0.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return Base.load(saved(tmp_path_factory.mktemp("model")))


def load(text):
    """The base model that a configuration in JSON names."""
    return Base.load(ModelConfig.model_validate_json(text))


def run(base, scratch, config=PLAIN, lora=LORA, packs=PACKS, tokens=None, **options):
    """Train a new adapter and return its weights, the report and the metrics of each step."""
    metrics = []
    watch = options.pop("on_step", lambda m: None)
    tokens = tokens or table(LENGTHS)

    def on_step(found):
        metrics.append(found)
        watch(found)

    options = {"seed": 1, "round": 2, "steps": None, **options}
    with base.new_adapter(lora, seed=0) as model:
        rows = np.arange(len(tokens.documents))
        report = train(model, tokens, packs, rows, config, scratch=scratch, on_step=on_step, **options)
        return {name: p.detach().clone() for name, p in trainable_parameters(model).items()}, report, metrics


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def reference_losses(base, config, steps, seed=1, round=2):
    """Losses and weights of transformers + peft, one document a forward, no packing, torch's own cross-entropy."""
    tokens = table(LENGTHS)
    with base.new_adapter(LORA, seed=0) as ours:
        start = {name: p.detach().clone() for name, p in trainable_parameters(ours).items()}
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(build("llama"), settings).train()
    parameters = trainable_parameters(model)
    for name, parameter in parameters.items():
        parameter.data.copy_(start[name])
    optimizer = torch.optim.AdamW(parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    losses, norms = [], []
    for step in range(steps):
        packs = schedule.packs_of_step(step, 4, config, seed=seed, round=round, steps=None)
        documents = [m for p in packs for m in PACKS.members[PACKS.offsets[p] : PACKS.offsets[p + 1]]]
        labels = [np.where(tokens.targets(d) > 0, tokens.ids(d), -100) for d in documents]
        count = sum((label[1:] >= 0).sum() for label in labels)
        total = 0.0
        for document, label in zip(documents, labels, strict=True):
            logits = model(torch.tensor(tokens.ids(document))[None].long()).logits[0, :-1]
            wanted = torch.tensor(label[1:]).long()
            loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum") / count
            loss.backward()
            total += loss.item()
        losses.append(total)
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm).item())
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, config)
        optimizer.step()
        optimizer.zero_grad()
    return losses, norms, {name: p.detach() for name, p in parameters.items()}


@pytest.mark.parametrize("memory", ["auto", 0.0])
def test_trap_3_losses_gradients_and_weights_equal_an_unpacked_reference(base, tmp_path, memory):
    config = PLAIN.model_copy(update={"activation_memory": memory, "weight_decay": 0.1})
    weights, report, metrics = run(base, tmp_path, config)
    losses, norms, expected = reference_losses(base, config, steps=3)
    assert report.steps == 3
    np.testing.assert_allclose([m["loss"] for m in metrics], losses, rtol=1e-5)
    np.testing.assert_allclose([m["grad_norm"] for m in metrics], norms, rtol=1e-4)
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=1e-3, atol=1e-4)


def test_first_gradient_equals_the_reference_parameter_by_parameter(base, tmp_path, monkeypatch):
    taken = []

    def record(norm_of, limit):
        taken.append([p.grad.clone() for p in norm_of])
        return torch.zeros(())

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, limit: record(list(p), limit))
    run(base, tmp_path, steps=1)
    reference_losses(base, PLAIN, steps=1)
    for ours, reference in zip(*taken, strict=True):
        assert (ours - reference).norm() <= 1e-5 * reference.norm() + 1e-9


def test_trap_9_micro_batches_and_recomputation_do_not_change_the_step(base, tmp_path):
    expected, _, _ = run(base, tmp_path / "a")
    for i, change in enumerate(({"packs_per_batch": 1}, {"packs_per_batch": 3}, {"activation_memory": 0.0})):
        found, _, _ = run(base, tmp_path / str(i), PLAIN.model_copy(update=change))
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=2e-4)


def test_training_learns(base, tmp_path):
    _, report, metrics = run(base, tmp_path, PLAIN.model_copy(update={"epochs": 20}))
    assert report.last_loss < 0.7 * report.first_loss
    assert (report.first_loss, report.last_loss) == (metrics[0]["loss"], metrics[-1]["loss"])


def test_counts_of_the_report_are_exact(base, tmp_path):
    _, report, metrics = run(base, tmp_path)
    tokens = table(LENGTHS)
    seen = [*PACKS.members, *PACKS.members]
    assert report.examples == len(seen)
    assert report.tokens == sum(LENGTHS[d] for d in seen) == sum(m["tokens"] for m in metrics)
    assert report.target_tokens == sum(int((tokens.targets(d)[1:] > 0).sum()) for d in seen)
    assert report.seconds > 0 and report.tokens_per_s == pytest.approx(report.tokens / report.seconds)
    assert [m["step"] for m in metrics] == [1, 2, 3] and {m["steps"] for m in metrics} == {3}
    assert math.isfinite(report.peak_gib) and report.resumed_from == 0


def test_every_epoch_visits_every_pack_once_in_another_order():
    config = TrainConfig(packs_per_step=7, epochs=3)
    assert schedule.planned_steps(50, config, None) == math.ceil(150 / 7)
    visited = [p for s in range(22) for p in schedule.packs_of_step(s, 50, config, seed=0, round=0, steps=None)]
    epochs = [visited[i : i + 50] for i in (0, 50, 100)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs) and len(visited) == 150
    assert epochs[0] != epochs[1]


def test_a_number_of_steps_cycles_epochs_with_full_steps():
    config = TrainConfig(packs_per_step=4, epochs=1)
    assert schedule.planned_steps(3, config, 5) == 5
    visited = [schedule.packs_of_step(s, 3, config, seed=0, round=0, steps=5) for s in range(5)]
    assert all(len(packs) == 4 for packs in visited)
    assert np.bincount(np.concatenate(visited)).max() - np.bincount(np.concatenate(visited)).min() <= 1


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_learning_rate_rises_to_its_peak_and_follows_the_schedule(kind):
    config = TrainConfig(learning_rate=1.0, schedule=kind, warmup_ratio=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1.0 and rates[55] == pytest.approx({"cosine": 0.5, "linear": 0.5, "constant": 1.0}[kind])
    assert rates[-1] < 0.02 or kind == "constant"


NOISY = PLAIN.model_copy(update={"neftune_alpha": 5.0, "checkpoint_every": 2, "epochs": 4})
DROPPING = LORA.model_copy(update={"dropout": 0.3})


class Kill(BaseException):
    pass


@pytest.mark.parametrize("kill_at", [1, 2, 3, 4, 5])
def test_trap_14_training_killed_at_any_step_ends_with_the_same_bits(base, tmp_path, kill_at):
    expected, whole, metrics = run(base, tmp_path / "whole", NOISY, DROPPING)

    def kill(found):
        if found["step"] == kill_at:
            raise Kill

    with pytest.raises(Kill):
        run(base, tmp_path / "killed", NOISY, DROPPING, on_step=kill)
    found, report, again = run(base, tmp_path / "killed", NOISY, DROPPING)
    assert equal(found, expected)
    assert report.resumed_from == (kill_at - 1) // 2 * 2
    assert [m["loss"] for m in again] == [m["loss"] for m in metrics[report.resumed_from :]]
    exact = ("steps", "tokens", "target_tokens", "examples", "first_loss", "last_loss")
    assert [asdict(report)[name] for name in exact] == [asdict(whole)[name] for name in exact]


def test_trap_14_a_crash_while_a_checkpoint_is_written_ends_with_the_same_bits(base, tmp_path):
    expected, _, _ = run(base, tmp_path / "whole", NOISY, DROPPING)
    reached = []

    def crash(name):
        reached.append(name)
        if reached.count("train.checkpoint.before_rename") == 2:
            raise Kill

    with pytest.raises(Kill):
        run(base, tmp_path / "killed", NOISY, DROPPING, failpoint=crash)
    assert reached.count("train.step") == 4
    found, report, _ = run(base, tmp_path / "killed", NOISY, DROPPING)
    assert report.resumed_from == 2 and equal(found, expected)


PROGRAM = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_train as t
base = t.load(sys.argv[1])
death = lambda m: os._exit(9) if m["step"] == 5 else None
t.run(base, Path(sys.argv[2]), t.NOISY, t.DROPPING, on_step=death)
"""


def test_a_killed_process_and_another_one_end_with_the_same_adapter_bytes(base, tmp_path):
    program = PROGRAM.format(tests=os.path.dirname(__file__))
    arguments = [sys.executable, "-c", program, base.config.model_dump_json(), str(tmp_path / "killed")]
    killed = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": os.getcwd()}, check=False)
    assert killed.returncode == 9
    for name in ("whole", "killed"):
        with base.new_adapter(DROPPING, seed=0) as model:
            tokens, rows = table(LENGTHS), np.arange(len(LENGTHS))
            report = train(model, tokens, PACKS, rows, NOISY, seed=1, round=2, steps=None, scratch=tmp_path / name)
            save_adapter(model, tmp_path / name / "adapter")
        assert report.resumed_from == (4 if name == "killed" else 0)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert filecmp.cmp(tmp_path / "whole/adapter" / file, tmp_path / "killed/adapter" / file, shallow=False), file


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
def test_trap_49_free_memory_decides_what_layers_keep_and_no_bit_of_the_adapter(kind, dtype, tmp_path, monkeypatch):
    base = Base.load(saved(tmp_path / "model", kind).model_copy(update={"compute_dtype": dtype}))
    found = []
    for retention in (Retention.KEEP, Retention.PRODUCTS, Retention.INPUT):

        def divided(*sizes, kept=retention, **more):
            memory = divide(*sizes, **more)
            return replace(memory, retentions=[kept] * len(memory.retentions))

        monkeypatch.setattr("trainer.activation.divide", divided)
        found.append(run(base, tmp_path / retention, NOISY.model_copy(update={"epochs": 1}), DROPPING)[0])
    assert equal(found[0], found[1]) and equal(found[0], found[2])


def test_stop_saves_and_the_next_run_continues(base, tmp_path):
    expected, _, _ = run(base, tmp_path / "whole", NOISY, DROPPING)
    answers = iter([False, False, True])
    with pytest.raises(Interrupted, match="after step 3 of 6") as caught:
        run(base, tmp_path / "stopped", NOISY, DROPPING, stop=lambda: next(answers))
    assert caught.value.exit_code == 130
    found, report, _ = run(base, tmp_path / "stopped", NOISY, DROPPING)
    assert report.resumed_from == 3 and equal(found, expected)


def test_a_finished_training_is_not_repeated(base, tmp_path):
    expected, whole, _ = run(base, tmp_path)
    found, report, metrics = run(base, tmp_path)
    assert metrics == [] and equal(found, expected)
    assert report.resumed_from == report.steps == whole.steps and report.seconds == whole.seconds


def test_checkpoints_of_another_training_are_refused(base, tmp_path):
    run(base, tmp_path)
    changes = (
        ({"seed": 5}, "seed"),
        ({"config": PLAIN.model_copy(update={"learning_rate": 1e-3})}, "settings"),
        ({"packs": plan([[0], [1], [2], [3]])}, "packs"),
        ({"lora": LORA.model_copy(update={"r": 2})}, "parameters"),
        ({"lora": LORA.model_copy(update={"alpha": 16})}, "LoRA settings"),
    )
    for change, name in changes:
        with pytest.raises(CheckpointError, match=name):
            run(base, tmp_path, **change)


def test_dropout_noise_and_order_come_from_seed_and_round_and_not_from_global_state(base, tmp_path):
    torch.manual_seed(123)
    one, _, _ = run(base, tmp_path / "a", NOISY, DROPPING)
    torch.manual_seed(321)
    state = torch.random.get_rng_state()
    same, _, _ = run(base, tmp_path / "b", NOISY, DROPPING)
    assert torch.equal(torch.random.get_rng_state(), state)
    other, _, _ = run(base, tmp_path / "c", NOISY, DROPPING, round=3)
    assert equal(one, same) and not equal(one, other)


@pytest.mark.parametrize(("every", "spoilt_at", "good"), [(2, 3, 2), (1, 2, 1), (5, 2, None)])
def test_divergence_names_the_last_checkpoint_of_sound_weights(base, tmp_path, every, spoilt_at, good):
    config = PLAIN.model_copy(update={"checkpoint_every": every, "epochs": 5})
    with base.new_adapter(LORA, seed=0) as model:
        weights = next(iter(trainable_parameters(model).values()))

        def spoil(metrics):
            if metrics["step"] == spoilt_at:
                torch.nn.init.constant_(weights, float("inf"))

        options = {"seed": 1, "round": 0, "steps": None, "scratch": tmp_path, "on_step": spoil}
        with pytest.raises(Diverged, match=f"step {spoilt_at + 1} of 7.*Lower train.learning_rate") as caught:
            train(model, table(LENGTHS), PACKS, np.arange(7), config, **options)
    assert caught.value.exit_code == 6
    assert (f"step-{good:06d}" if good else "there is no checkpoint yet") in str(caught.value)


def test_documents_without_targets_and_empty_selections_are_errors(base, tmp_path):
    tokens = table(LENGTHS)
    for mark in tokens.marks:
        mark[:] = 0
    with pytest.raises(DataError, match="step 1"):
        run(base, tmp_path / "a", tokens=tokens)
    with pytest.raises(DataError, match="selection is empty"):
        run(base, tmp_path / "b", packs=plan([]))


def test_a_later_step_without_targets_is_refused_before_the_first(base, tmp_path):
    tokens, steps = table([9, 20, 6, 14]), []
    tokens.marks[2][:] = 0
    one_a_step = PLAIN.model_copy(update={"packs_per_step": 1, "epochs": 1})
    with pytest.raises(DataError, match="found none in rows 2;"):
        run(base, tmp_path, one_a_step, packs=plan([[0], [1], [2], [3]]), tokens=tokens, on_step=steps.append)
    assert steps == []


def test_a_micro_batch_without_targets_only_adds_nothing(base, tmp_path):
    tokens = table(LENGTHS)
    for document in (2, 3):
        tokens.marks[document][:] = 0
    _, report, _ = run(base, tmp_path, PLAIN.model_copy(update={"packs_per_batch": 1}), tokens=tokens)
    assert math.isfinite(report.last_loss)


def test_dropout_of_every_batch_of_every_step_has_a_seed_of_its_own(base, tmp_path, monkeypatch):
    from trainer import step as steps

    seen, fork = [], steps.forked_rng

    def record(seed, device):
        seen.append(seed)
        return fork(seed, device)

    monkeypatch.setattr(steps, "forked_rng", record)
    run(base, tmp_path, PLAIN.model_copy(update={"packs_per_batch": 1}), steps=3)
    assert len(seen) == len(set(seen)) == 3 * PLAIN.packs_per_step


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("memory", ["auto", 0.0])
def test_training_follows_on_measuring_the_same_adapter(tmp_path, quantization, memory):
    config = saved(tmp_path / "model", hidden_size=64, intermediate_size=128)
    base = Base.load(config.model_copy(update={"quantization": quantization}))
    reports = []
    for first in (False, True):
        with base.new_adapter(LORA, seed=0) as model:
            if first:
                measure(model, table(LENGTHS), np.arange(7), batch_tokens=64)
            settings = PLAIN.model_copy(update={"activation_memory": memory})
            scratch = tmp_path / str(first)
            reports.append(
                train(model, table(LENGTHS), PACKS, np.arange(7), settings, seed=0, round=0, steps=2, scratch=scratch)
            )
    assert reports[0].last_loss == reports[1].last_loss


@pytest.mark.parametrize("kind", ["llama", "cohere"])
def test_model_is_left_in_evaluation_mode_without_gradients(tmp_path, kind):
    base = Base.load(saved(tmp_path / "model", kind))
    assert (base.decoder is None) is (kind == "cohere")
    with base.new_adapter(LORA, seed=0) as model:
        rows = np.arange(7)
        train(model, table(LENGTHS), PACKS, rows, PLAIN, seed=0, round=0, steps=1, scratch=tmp_path)
        assert not model.training
        assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        assert all(p.grad is None for p in model.parameters())


def test_bare_model_is_refused(base, tmp_path):
    with base.adapter(None) as model, pytest.raises(TrainerError, match="no trainable parameters"):
        train(model, table(LENGTHS), PACKS, np.arange(7), PLAIN, seed=0, round=0, steps=1, scratch=tmp_path)


def test_vocabulary_of_the_tables_fits_the_models():
    assert max(int(ids.max()) for ids in table(LENGTHS).documents) < VOCABULARY
