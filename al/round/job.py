"""A training as a worker does it: without a run. Alone in the driver's process, or as one of several ranks (trainer.ranks).

On workers, rank 0 appends the metrics of each step to `steps.jsonl` in the training's scratch, which the driver reads, and stops after the
step in which it finds a file `stop` there.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from al.engine.engine import Place
from al.engine.models import Models
from al.errors import ConfigError, EnvironmentProblem
from al.planning.machine import probe_machine
from al.planning.model_shape import model_shape
from al.run.artifacts import write_json
from al.run.failpoints import failpoint
from al.scoring.checkpoints import ADAPTER, FOLDER, INDEX, MOMENTS
from selection.holdout import DEV
from trainer.config import TrainConfig
from trainer.packing import PackPlan
from trainer.schedule import planned_steps, spread
from trainer.tokens import TokenTable

if TYPE_CHECKING:
    from trainer.checkpoint import Snapshots
    from trainer.ranks import Ranks
    from trainer.train import TrainReport

STEPS, STOP = "steps.jsonl", "stop"
"""Files in scratch through which rank 0 and the driver speak."""


@dataclass(frozen=True)
class Job:
    """What a training depends on besides the config, as paths and plain values.

    settings: `train` with this training's warm-up. tokens, packs, split (None: dev is not evaluated): folders. adapter: of the one that
    is continued, None for a new one. steps: exactly so many, or None. checkpoints: how many are kept for gradients. moments: whether the
    optimizer's are kept. out: folder for the results.
    """

    settings: TrainConfig
    tokens: Path
    packs: Path
    split: Path | None
    adapter: Path | None
    number: int
    steps: int | None
    checkpoints: int
    moments: bool
    scratch: Path
    out: Path

    def planned_steps(self) -> int:
        """Steps that it takes unless patience ends it."""
        return planned_steps(len(PackPlan.open(self.packs / "plan").offsets) - 1, self.settings, self.steps)


def run_job(
    models: Models,
    job: Job,
    ranks: Ranks,
    on_step: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool],
) -> TrainReport:
    """Train, and write `adapter/` and what gradients need into `job.out`; see trainer.train. Raises ConfigError as `_evaluation_on_dev`."""
    from trainer.checkpoint import Snapshots
    from trainer.model import save_adapter
    from trainer.train import train

    total = job.planned_steps()
    kept = Snapshots(job.scratch / "snapshots", tuple(spread(total, job.checkpoints)[:-1]))
    with _adapter_to_train(models, job) as model:
        tokens = TokenTable.open(job.tokens)
        report = train(
            model,
            tokens,
            PackPlan.open(job.packs / "plan"),
            np.load(job.packs / "rows.npy"),
            job.settings,
            seed=models.config.seed,
            round=job.number,
            steps=job.steps,
            scratch=job.scratch,
            evaluate=_evaluation_on_dev(models, job, model, tokens),
            **_flops(models, ranks),
            moments=job.out / MOMENTS if job.moments else None,
            snapshots=kept,
            ranks=ranks,
            on_step=on_step,
            stop=stop,
            failpoint=failpoint,
        )
        if ranks.first:
            save_adapter(model, job.out / ADAPTER)
    if job.checkpoints > 1 and ranks.first:
        _keep_checkpoints(kept, report, job.settings, total, job.out)
    return report


@contextmanager
def train_together(models: Models) -> Iterator[Callable[[tuple[Job, Place], Callable[[int], None]], TrainReport]]:
    """The work of a worker that is one of a training's ranks."""

    def run(given: tuple[Job, Place], progress: Callable[[int], None]) -> TrainReport:
        """Train as the rank of a place."""
        job, place = given
        if not job.scratch.is_dir():
            raise EnvironmentProblem(
                f"{job.scratch}: expected the scratch of the run on this machine ({socket.gethostname()}) too, found nothing. The ranks of "
                f"a training share it: put the run on a file system that all machines of the cluster see, or set engine.kind=processes."
            )
        with _ranks(place, models) as ranks:

            def report(metrics: dict[str, Any]) -> None:
                """Write a step down for the driver."""
                with (job.scratch / STEPS).open("a", encoding="utf-8") as handle:
                    handle.write(json.dumps(metrics) + "\n")

            return run_job(models, job, ranks, report, (job.scratch / STOP).exists)

    yield run


def _ranks(place: Place, models: Models) -> AbstractContextManager[Ranks]:
    from trainer.ranks import Ranks, joined

    device = models.base.device
    if place.world == 1:
        return nullcontext(Ranks(device=device))
    return joined(place.rank, place.world, place.meeting, device)


def _adapter_to_train(models: Models, job: Job) -> AbstractContextManager[Any]:
    if job.adapter is not None:
        return models.adapter(job.adapter, trainable=True)
    return models.base.new_adapter(models.config.lora, models.config.seed)


def _keep_checkpoints(kept: Snapshots, report: TrainReport, config: TrainConfig, total: int, out: Path) -> None:
    """Copy the checkpoints before the adapter's own step into `out`, and write the index of all: each with the mean learning rate of the
    steps since the one before it, by which LESS weights it. `total`: planned steps."""
    from trainer.optim import learning_rate

    last = report.best_step or report.steps
    steps = [*(step for step in kept.steps if step < last), last]
    for step in steps[:-1]:
        shutil.copytree(kept.path(step), out / FOLDER / kept.path(step).name)
    rates = [learning_rate(step, total, config) for step in range(last)]
    means = [float(np.mean(rates[before:step])) for before, step in pairwise([0, *steps])]
    entries = [{"step": step, "learning_rate": rate} for step, rate in zip(steps, means, strict=True)]
    write_json(out / INDEX, entries)


def _evaluation_on_dev(models: Models, job: Job, model: Any, tokens: TokenTable) -> Callable[[], float] | None:
    """What gives the NLL per target token of dev under the model as it is; None when `train.eval_every` is null. Raises ConfigError where
    there is no dev example."""
    from trainer.measure import measure

    if job.split is None:
        return None
    rows = np.flatnonzero(np.load(job.split / "split.npy") == DEV)
    if not len(rows):
        raise ConfigError(
            "train.eval_every: expected dev examples to evaluate on, found none; raise `holdout.dev`, or set "
            "`train.eval_every` to null."
        )

    def evaluate() -> float:
        """NLL per target token of dev."""
        found = measure(model, tokens, rows, batch_tokens=models.config.measure.batch_tokens)
        return float(found.nll_total.sum() / found.targets.sum())

    return evaluate


def _flops(models: Models, ranks: Ranks) -> Mapping[str, float]:
    """What MFU is counted with, on GPUs: operations per token, and the matrix-product speed that all ranks' cards reach together."""
    if models.base.device.type != "cuda" or not ranks.first:
        return {}
    shape = model_shape(models.config.model, models.config.lora)
    speed = probe_machine(models.config).flops * ranks.world
    return {"flops_per_token": shape.training_flops_per_token, "peak_flops": speed}
