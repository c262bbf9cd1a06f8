"""Training on several ranks, as real processes: the bits of one process, whoever is killed or stopped, however many go on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from functools import partial

import numpy as np
import pytest
import torch
from tiny_models import plan, saved, table

from trainer.checkpoint import Snapshots
from trainer.config import LoraConfig, TrainConfig
from trainer.errors import Interrupted
from trainer.model import Base, save_adapter
from trainer.ranks import OrderedSum, Ranks, joined
from trainer.train import train

TOKENS = table([9, 20, 6, 14, 30, 3, 11, 8, 17, 5])
PACKS = plan([[0, 1], [2, 3], [4], [5, 6], [7], [8], [9]])
LORA = LoraConfig(r=4, alpha=8, dropout=0.2)
# Seven packs, three a step: steps cross epochs, and two ranks do not divide three micro-batches.
CONFIG = TrainConfig(
    learning_rate=5e-3, packs_per_step=3, packs_per_batch=1, neftune_alpha=5, checkpoint_every=3, eval_every=4
)
STEPS = 10


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"))


def train_here(model, folder, ranks, on_step=lambda metrics: None, stop=lambda: False):
    """One rank's training; rank 0 writes the adapter, the moments and the losses."""
    losses = []

    def note(metrics):
        losses.append((metrics["step"], metrics["loss"], metrics["grad_norm"], metrics.get("dev_loss")))
        on_step(metrics)

    with Base.load(model).new_adapter(LORA, seed=0) as adapter:
        report = train(
            adapter,
            TOKENS,
            PACKS,
            np.arange(len(TOKENS.documents)),
            CONFIG,
            seed=1,
            round=0,
            steps=STEPS,
            scratch=folder / "scratch",
            evaluate=partial(dev_loss, adapter, ranks),
            moments=folder / "moments.safetensors",
            snapshots=Snapshots(folder / "snapshots", (5,)),
            ranks=ranks,
            on_step=note,
            stop=stop,
        )
        if ranks.first:
            save_adapter(adapter, folder / "adapter")
            (folder / "losses.json").write_text(json.dumps(losses))
    return report


def dev_loss(adapter, ranks):
    """A loss that only rank 0 may compute."""
    assert ranks.first
    return float(sum(p.detach().abs().sum() for p in adapter.parameters() if p.requires_grad))


def die_at(step, metrics):
    if metrics["step"] == step:
        os.kill(os.getpid(), signal.SIGKILL)


def stop_at(step, steps_seen):
    steps_seen.append(1)
    return len(steps_seen) == step


def one_rank(model, folder, rank, world, meeting, settings):
    with joined(rank, world, meeting, torch.device("cpu")) as ranks:
        try:
            train_here(model, folder, ranks, **settings)
        except Interrupted:
            os._exit(13)


def together(model, folder, world, **settings):
    """Train on `world` processes; their exit codes. `settings` are those of rank 0."""
    folder.mkdir(exist_ok=True)
    meeting = f"file://{folder}/meeting-{world}-{len(list(folder.glob('meeting-*')))}"
    context = multiprocessing.get_context("fork")
    ranks = []
    for rank in range(world):
        mine = settings if rank == 0 else {}
        ranks.append(context.Process(target=one_rank, args=(model, folder, rank, world, meeting, mine)))
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    return codes


def result(folder):
    names = ("adapter/adapter_model.safetensors", "moments.safetensors", "snapshots/step-000005/moments.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    train_here(model, folder, Ranks())
    return folder


@pytest.mark.parametrize("world", [2, 3])
def test_training_on_several_ranks_has_the_bits_of_one(model, alone, tmp_path, world):
    assert together(model, tmp_path / "run", world) == [0] * world
    assert result(tmp_path / "run") == result(alone)
    assert (tmp_path / "run" / "losses.json").read_text() == (alone / "losses.json").read_text()


def test_a_killed_training_goes_on_with_another_number_of_ranks(model, alone, tmp_path):
    folder = tmp_path / "run"
    killed = together(model, folder, 2, on_step=partial(die_at, 5))
    assert killed[0] == -signal.SIGKILL and killed[1] != 0, "a rank does not go on without the others"
    assert together(model, folder, 3, on_step=partial(die_at, 8))[0] == -signal.SIGKILL
    train_here(model, folder, Ranks())
    assert result(folder) == result(alone)


def test_all_ranks_stop_where_the_first_is_asked_to(model, alone, tmp_path):
    folder = tmp_path / "run"
    assert together(model, folder, 2, stop=partial(stop_at, 4, [])) == [13, 13]
    assert (folder / "scratch/checkpoints/step-000004").is_dir()
    assert together(model, folder, 2) == [0, 0]
    assert result(folder) == result(alone)


def test_a_parameter_without_gradient_gets_none(tmp_path):
    used, unused = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    with joined(0, 1, f"file://{tmp_path}/meeting", torch.device("cpu")) as ranks:
        total = OrderedSum({"used": used, "unused": unused}, ranks)
        for value in (0.1, 0.2, 0.3):
            used.grad = torch.full((3,), value)
            total.add(torch.tensor(value), [True])
        loss = total.finish()
    assert unused.grad is None
    wanted = torch.tensor(0.1) + torch.tensor(0.2) + torch.tensor(0.3)
    assert torch.equal(used.grad, wanted.expand(3)) and torch.equal(loss, wanted)
