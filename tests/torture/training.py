"""Trainings that diverge, and many rounds in one process."""

from __future__ import annotations

import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cases import Case, expect, row
from command_line import ended, start
from world import contents, options, refused, same, sound, succeeds, undisturbed, winnow

import trainer.train
from trainer.step import Gradients, StepResult, Training, sum_gradients, update

ROUNDS, GROWTH, MINUTES = 50, 0.05, 30
STEADY = slice(9, 15), slice(ROUNDS - 6, ROUNDS)
"""Rounds whose medians are compared: the first ones still load and fill caches."""


@row("divergence", "weights, losses and gradients that become NaN or infinite, and spikes, at several steps",
     "exit code 6, the last good checkpoint is named, the same run without them")  # fmt: skip
def _divergence(seed: int) -> Iterator[Case]:
    for way in ("nan weight", "inf weight", "nan loss", "spike"):
        for step in (0, 1, 2) if way != "spike" else (22, 25):
            yield Case(f"{way} at step {step} seed={seed}", functools.partial(_diverges, way, step, seed))


def poison(way: str, wanted: int) -> None:
    """Spoil the training of this process at step `wanted`."""

    def spoilt_gradients(training: Training, step: int) -> Gradients:
        if step == wanted and way.endswith("weight"):
            next(iter(training.parameters.values())).data.view(-1)[0] = float(way.split()[0])
        return sum_gradients(training, step)

    def spoilt_update(training: Training, step: int, gradients: Gradients) -> StepResult:
        found = update(training, step, gradients)
        if step == wanted and way in ("nan loss", "spike"):
            return StepResult(**{**vars(found), "loss": float("nan") if way == "nan loss" else 1e3})
        return found

    trainer.train.sum_gradients, trainer.train.update = spoilt_gradients, spoilt_update


def _diverges(way: str, step: int, seed: int, place: Path) -> str:
    run = place / "run"
    more = ("--set", "train.epochs=10", "--set", "train.max_loss_ratio=5") if way == "spike" else ()
    done = winnow("round", "--run", run, *options(seed, *more), before=functools.partial(poison, way, step))
    line = refused(done, 6)
    expect("diverged at step" in line and ("checkpoint" in line), f"the line does not say where: {line}")
    # Weights after the step before gave the loss that is not finite, so their checkpoint is not a good one.
    expect(("last good checkpoint is" in line) == (step > 1), f"the wrong checkpoint is named, or none: {line}")
    succeeds("round", "--run", run, *options(seed, *more))
    sound(run)
    same(contents(run), undisturbed(seed, *more))
    return "stopped, then the same run"


@row("many rounds", f"{ROUNDS} rounds in one process", "memory and descriptors grow by less than 5%")
def _many(seed: int) -> Iterator[Case]:
    yield Case(f"{ROUNDS} rounds seed={seed}", functools.partial(_rounds, seed))


def _rounds(seed: int, place: Path) -> str:
    from tiny_world import build_world

    config = build_world(place / "world", 400)
    words = options(seed, "--no-control")
    words[1], words[3] = str(config), "3"
    run, streams = place / "run", Path(tempfile.mkdtemp(dir=place))
    command = ["run", "--rounds", str(ROUNDS), "--all-rounds", "--run", str(run), *words]
    child = start(command, streams, method="fork")
    found: list[tuple[float, int]] = []
    deadline = time.monotonic() + 60 * MINUTES
    while child.is_alive() and time.monotonic() < deadline:
        if len(list(run.glob("rounds/*/report.html"))) > len(found):
            found.append(measure(child.pid))
        time.sleep(0.02)
    child.join(5)
    expect(child.exitcode == 0, f"ended with {child.exitcode}: {ended(child, streams).err[-300:]}")
    sound(run)
    memory, descriptors = zip(*found, strict=True)
    before, after = (statistics.median(memory[part]) for part in STEADY)
    growth = {"memory": after / before - 1}
    growth["descriptors"] = statistics.median(descriptors[STEADY[1]]) / statistics.median(descriptors[STEADY[0]]) - 1
    said = json.dumps({name: round(value, 4) for name, value in growth.items()} | {"MiB": round(after)})
    expect(all(value < GROWTH for value in growth.values()), said)
    return said


def measure(process: int) -> tuple[float, int]:
    """Resident memory of a process in MiB, and its open descriptors."""
    status = Path(f"/proc/{process}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return resident / 1024, len(os.listdir(f"/proc/{process}/fd"))
