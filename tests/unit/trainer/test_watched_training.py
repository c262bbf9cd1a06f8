"""Training with evaluations: dev loss keeps the best adapter and stops early, spikes stop it, steps report their speed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from test_train import DROPPING, LENGTHS, LORA, NOISY, PACKS, PLAIN, Kill, equal, run
from tiny_models import saved, table

from trainer.adapters import trainable_parameters
from trainer.checkpoint import Snapshots
from trainer.config import LoraConfig, TrainConfig
from trainer.counters import Counters
from trainer.divergence import check_step
from trainer.errors import CheckpointError, Diverged, Interrupted
from trainer.measure import measure
from trainer.model import Base
from trainer.step import StepResult
from trainer.train import _set_up, train

DEV = table([12, 25, 8], seed=7)
WATCHED = NOISY.model_copy(
    update={"learning_rate": 0.07, "epochs": 6.75, "eval_every": 1, "patience": 3, "keep_checkpoints": 1}
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return Base.load(saved(tmp_path_factory.mktemp("model")))


def dev_loss(model):
    found = measure(model, DEV, np.arange(3), batch_tokens=64)
    return found.nll_total.sum() / found.targets.sum()


def watched(base, scratch, config=WATCHED, losses=None, on_step=lambda metrics: None, **options):
    """Train with evaluations on dev, or with `losses` for what they say.

    Returns the weights that the model ends with, the report, the metrics of each step, and the weights at each evaluation.
    """
    metrics, seen = [], []
    given = iter(losses or [])

    def report_step(found):
        metrics.append(found)
        on_step(found)

    with base.new_adapter(DROPPING, seed=0) as model:

        def weights():
            return {name: p.detach().clone() for name, p in trainable_parameters(model).items()}

        def evaluate():
            assert not any(module.training for module in model.modules())
            seen.append(weights())
            return next(given) if losses else dev_loss(model)

        options = {"seed": 1, "round": 2, "steps": None, **options}
        tokens, rows = table(LENGTHS), np.arange(len(LENGTHS))
        report = train(
            model, tokens, PACKS, rows, config, scratch=scratch, evaluate=evaluate, on_step=report_step, **options
        )
        assert losses or report.best_dev_loss == dev_loss(model)
        return weights(), report, metrics, seen


def test_the_model_ends_with_the_adapter_of_the_lowest_dev_loss(base, tmp_path):
    weights, report, metrics, seen = watched(base, tmp_path)
    losses = [found["dev_loss"] for found in metrics]
    best = int(np.argmin(losses))
    assert 0 < best < len(losses) - 1
    assert (report.best_step, report.best_dev_loss) == (best + 1, losses[best])
    assert equal(weights, seen[best]) and not equal(weights, seen[-1])
    assert report.steps == best + 1 + 3 < metrics[0]["steps"] and report.stopped_early


@pytest.mark.parametrize(
    ("patience", "steps", "losses", "taken", "best"),
    [
        (2, None, [3, 2, 2.5, 2.1, 1, 1, 1, 1, 1], 4, 2),
        (1, None, [3, 2, 2, 1, 1, 1, 1, 1, 1], 3, 2),  # an equal loss is no improvement
        (2, None, [9, 8, 8.5, 7, 7.5, 6, 6.5, 5, 5.5], 9, 8),
        (0, None, [1, 2, 2, 2, 2, 2, 2, 2, 2], 9, 1),
        (1, 5, [1, 2, 2, 2, 2], 5, 1),  # a number of steps is taken in full
    ],
)
def test_patience_counts_evaluations_without_improvement(base, tmp_path, patience, steps, losses, taken, best):
    config = WATCHED.model_copy(update={"patience": patience})
    weights, report, _, seen = watched(base, tmp_path, config, losses, steps=steps)
    assert (report.steps, report.best_step, report.best_dev_loss) == (taken, best, losses[best - 1])
    assert equal(weights, seen[best - 1])
    assert report.stopped_early is (taken < (steps or 9))


def test_evaluations_run_every_n_steps_and_after_the_last(base, tmp_path):
    config = WATCHED.model_copy(update={"eval_every": 4})
    _, report, metrics, _ = watched(base, tmp_path, config, [3, 2, 1])
    assert [found["step"] for found in metrics if "dev_loss" in found] == [4, 8, 9]
    assert report.best_step == 9 and not report.stopped_early


def test_evaluating_leaves_the_training_and_the_random_state_alone(base, tmp_path):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    config = WATCHED.model_copy(update={"patience": 0})
    _, _, metrics, seen = watched(base, tmp_path / "watched", config)
    assert torch.equal(torch.random.get_rng_state(), state)
    alone, report, plain = run(base, tmp_path / "alone", config.model_copy(update={"eval_every": None}), DROPPING)
    assert equal(alone, seen[-1]) and [m["loss"] for m in metrics] == [m["loss"] for m in plain]
    assert (report.best_step, report.best_dev_loss, report.stopped_early) == (None, None, False)
    assert not any("dev_loss" in found for found in plain)


def test_patience_without_evaluations_is_refused():
    with pytest.raises(ValueError, match="patience: 3 needs evaluations"):
        TrainConfig(patience=3)


@pytest.mark.parametrize("kill_at", [1, 2, 3, 4, 5])
def test_trap_14_a_watched_training_killed_at_any_step_ends_with_the_same_bits(base, tmp_path, kill_at):
    expected, whole, metrics, _ = watched(base, tmp_path / "whole", seed=6)
    assert whole.best_step == 3 and whole.steps == 6

    def kill(found):
        if found["step"] == kill_at:
            raise Kill

    with pytest.raises(Kill):
        watched(base, tmp_path / "killed", on_step=kill, seed=6)
    found, report, again, _ = watched(base, tmp_path / "killed", seed=6)
    assert equal(found, expected) and report.resumed_from == min(kill_at - 1, 4 if kill_at > 4 else 3)
    for name in ("steps", "best_step", "best_dev_loss", "stopped_early", "last_loss"):
        assert getattr(report, name) == getattr(whole, name)
    assert [m["dev_loss"] for m in again] == [m["dev_loss"] for m in metrics[report.resumed_from :]]


def test_a_finished_training_puts_its_best_adapter_on_again(base, tmp_path):
    expected, whole, _, _ = watched(base, tmp_path)
    found, report, metrics, _ = watched(base, tmp_path)
    assert metrics == [] and equal(found, expected)
    assert (report.best_step, report.stopped_early) == (whole.best_step, True)


def test_the_best_checkpoint_survives_the_newer_ones(base, tmp_path):
    config = WATCHED.model_copy(update={"patience": 0, "checkpoint_every": 1})
    watched(base, tmp_path, config, [3, 1, 2, 2, 2, 2, 2, 2, 2])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000002", "step-000009"]


def test_a_best_checkpoint_that_is_lost_on_the_way_is_made_again(base, tmp_path):
    expected, whole, _, _ = watched(base, tmp_path / "whole")

    def kill(found):
        if found["step"] == whole.best_step + 2:
            raise Kill

    config = WATCHED.model_copy(update={"checkpoint_every": 1})
    with pytest.raises(Kill):
        watched(base, tmp_path / "killed", config, on_step=kill)
    (tmp_path / f"killed/checkpoints/step-{whole.best_step:06d}/state.json").write_text("{}")
    found, report, _, _ = watched(base, tmp_path / "killed", config)
    assert report.resumed_from < whole.best_step and equal(found, expected)


def test_a_best_checkpoint_that_is_gone_at_the_end_says_what_to_do(base, tmp_path):
    def lose(found):
        if found["step"] == 9:
            shutil.rmtree(tmp_path / "checkpoints/step-000001")

    config = WATCHED.model_copy(update={"patience": 0})
    losses = [1, 2, 2, 2, 2, 2, 2, 2, 2]
    with pytest.raises(CheckpointError, match="best checkpoint, of step 1, is missing.*run again"):
        watched(base, tmp_path, config, losses, on_step=lose)
    _, report, _, _ = watched(base, tmp_path, config, losses)
    assert (report.resumed_from, report.best_step) == (0, 1)


def test_a_dev_loss_that_is_not_finite_is_a_divergence(base, tmp_path):
    with pytest.raises(Diverged, match="step 3 of 9: dev loss nan; the last good checkpoint is .*step-000002"):
        watched(base, tmp_path, losses=[3, 2, float("nan")])


def spiking(base, scratch, spoil_at, config=None, **options):
    """Train 30 steps; after step `spoil_at` the output head is scaled up, so that losses are finite and large."""
    head = base.model.get_output_embeddings().weight
    sound = head.clone()

    def spoil(found):
        if found["step"] == spoil_at:
            head.mul_(40)

    options = {"seed": 1, "round": 0, "steps": 30, "scratch": scratch, "on_step": spoil, **options}
    try:
        with base.new_adapter(LORA, seed=0) as model:
            return train(model, table(LENGTHS), PACKS, np.arange(7), config or SHARP, **options)
    finally:
        head.copy_(sound)


SHARP = PLAIN.model_copy(update={"learning_rate": 1e-4, "checkpoint_every": 10})


def test_a_loss_far_above_the_recent_ones_stops_and_names_the_checkpoint_before_it(base, tmp_path):
    with pytest.raises(
        Diverged, match=r"step 26 of 30: loss [\d.]+ after a median of [\d.]+ over 20 .*step-000020"
    ) as caught:
        spiking(base, tmp_path, 25)
    assert caught.value.exit_code == 6


def test_a_checkpoint_of_the_weights_that_spiked_is_not_named(base, tmp_path):
    with pytest.raises(Diverged, match="step 21 of 30.*step-000010"):
        spiking(base, tmp_path, 20)


def test_no_spike_is_seen_before_twenty_steps_or_without_a_ratio(base, tmp_path):
    assert spiking(base, tmp_path / "early", 12, steps=20).steps == 20
    assert spiking(base, tmp_path / "off", 25, SHARP.model_copy(update={"max_loss_ratio": None})).steps == 30


def test_a_resumed_training_still_knows_the_losses_before_it(base, tmp_path):
    answers = iter([False] * 20 + [True])
    with pytest.raises(Interrupted):
        spiking(base, tmp_path, None, stop=lambda: next(answers))
    with pytest.raises(Diverged, match="step 24 of 30.*over 20 steps"):
        spiking(base, tmp_path, 23)


def test_a_training_that_a_spike_stopped_may_go_on_with_the_ratio_off(base, tmp_path):
    with pytest.raises(Diverged):
        spiking(base, tmp_path, 25)
    assert spiking(base, tmp_path, None, SHARP.model_copy(update={"max_loss_ratio": None})).resumed_from == 20


@pytest.mark.parametrize(("loss", "stops"), [(3.9, False), (4.1, True)])
def test_a_hard_batch_among_examples_known_by_heart_is_no_spike(base, tmp_path, loss, stops):
    with base.new_adapter(LORA, seed=0) as model:
        training = _set_up(
            model, table(LENGTHS), PACKS, np.arange(7), TrainConfig(), 0, 0, 100, tmp_path, Snapshots(tmp_path)
        )
    counters = Counters(step=50, recent_losses=[0.05] * 20)
    result = StepResult(loss, 1.0, 1e-4, 10, 5, 1)
    if stops:
        with pytest.raises(Diverged, match="median of 0.050"):
            check_step(training, counters, result)
    else:
        check_step(training, counters, result)


def test_steps_report_time_left_memory_and_mfu(base, tmp_path):
    _, _, metrics = run(base, tmp_path / "a", PLAIN, flops_per_token=1e6, peak_flops=1e9)
    assert all(m["mfu"] == pytest.approx(m["tokens_per_s"] * 1e-3) for m in metrics)
    assert all(0.01 < m["memory_gib"] <= m["peak_gib"] * 1.01 for m in metrics)
    assert metrics[0]["seconds_left"] == pytest.approx(metrics[0]["seconds"] * (metrics[0]["steps"] - 1))
    assert metrics[-1]["seconds_left"] == 0
    _, _, metrics = run(base, tmp_path / "b", PLAIN, peak_flops=1e9)
    assert not any("mfu" in m for m in metrics)


def test_trap_11_a_training_with_8_bit_state_that_was_killed_ends_with_the_same_bits(base, tmp_path):
    config = NOISY.model_copy(update={"optimizer": "adamw_8bit", "lora_plus_ratio": 4.0})
    lora = LoraConfig(r=128, alpha=128, dropout=0.1)  # large enough for 8 bits
    expected, _, _ = run(base, tmp_path / "whole", config, lora)

    def kill(found):
        if found["step"] == 5:
            raise Kill

    with pytest.raises(Kill):
        run(base, tmp_path / "killed", config, lora, on_step=kill)
    found, report, _ = run(base, tmp_path / "killed", config, lora)
    assert report.resumed_from == 4 and equal(found, expected)
    other, _, _ = run(base, tmp_path / "other", config.model_copy(update={"optimizer": "adamw"}), lora)
    assert not equal(found, other)
