"""The driver's side of trainings: it starts them, here or on workers, and records their steps in curve, events and progress."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from al.excerpt import counted
from al.lineage.history import Lineage
from al.round.job import STEPS, STOP, Job, run_job, train_together
from al.run.object_store.workers import with_artifacts
from al.run.progress import Progress, stop_requested
from al.run.session import Session
from trainer.tokens import TokenTable

if TYPE_CHECKING:
    from trainer.train import TrainReport


def run_trainings(session: Session, jobs: Sequence[tuple[Job, Lineage]]) -> list[TrainReport]:
    """Train all jobs, at the same time if there are several, as the config's engine does it. A killed one goes on from its checkpoints.

    Raises what trainer.train.train raises.
    """
    title = " and ".join(lineage.title for _, lineage in jobs)
    total = sum(job.planned_steps() for job, _ in jobs)
    session.tell(_beginning(title, total, jobs))
    with session.progress(title, total, "steps") as progress:
        reports = _run(session, [StepRecord(session, job, lineage, progress) for job, lineage in jobs])
        progress.note = " and".join(training_note(report) for report in reports)
    return reports


def _beginning(title: str, steps: int, jobs: Sequence[tuple[Job, Lineage]]) -> str:
    """The line before the first step, which may take minutes on a processor."""
    rows = [np.load(job.packs / "rows.npy") for job, _ in jobs]
    tokens = sum(
        int(np.asarray(TokenTable.open(job.tokens).lengths)[of].sum()) for (job, _), of in zip(jobs, rows, strict=True)
    )
    examples = counted(sum(map(len, rows)), "example")
    return f"{title} begins: {counted(steps, 'step')} over {examples} of {counted(tokens, 'token')}"


def _run(session: Session, records: list[StepRecord]) -> list[TrainReport]:
    if session.config.engine.kind == "local":
        from trainer.ranks import Ranks

        device = session.base.device
        return [run_job(session.models, r.job, Ranks(device=device), r.add, stop_requested) for r in records]

    def follow() -> None:
        """Read what the ranks wrote down, and pass on a request to stop."""
        for record in records:
            record.read()
            if stop_requested():
                (record.job.scratch / STOP).touch()

    for record in records:
        record.begin()
    meeting = records[0].job.scratch
    try:
        jobs = [record.job for record in records]
        work = with_artifacts(session.run, session.config.engine, train_together, jobs)
        return session.engine.together(session.models, work, jobs, meeting, follow)
    finally:
        for record in records:
            record.read()


class StepRecord:
    """The steps of one job, written into its curve and the run's events and shown as progress."""

    def __init__(self, session: Session, job: Job, lineage: Lineage, progress: Progress):
        self.job, self._session, self._lineage, self._progress = job, session, lineage, progress
        self._curve = Curve(job.scratch / "curve.jsonl")
        self._read, self._step = 0, 0

    def begin(self) -> None:
        """Take in the steps that a killed driver did not read; workers wrote them before the checkpoint that training goes on from."""
        self.read()
        for name in (STEPS, STOP):
            (self.job.scratch / name).unlink(missing_ok=True)
        self._read = 0

    def read(self) -> None:
        """Take in the steps that rank 0 has written since."""
        with suppress(FileNotFoundError), (self.job.scratch / STEPS).open("rb") as handle:
            handle.seek(self._read)
            for line in handle:
                if line.endswith(b"\n"):
                    self._read += len(line)
                    self.add(json.loads(line))

    def add(self, metrics: dict[str, Any]) -> None:
        """Record a step."""
        self._curve.append(metrics)
        self._session.run.event("train.step", round=self.job.number, lineage=self._lineage.name, **metrics)
        self._progress.note, self._progress.seconds_left = step_note(metrics), metrics["seconds_left"]
        self._progress.advance_to(self._progress.done - self._step + metrics["step"])
        self._step = metrics["step"]


def step_note(metrics: dict[str, Any]) -> str:
    """A step's metrics for the progress line, which also has its number and the time left."""
    dev = f", dev {metrics['dev_loss']:.3f}" if "dev_loss" in metrics else ""
    mfu = f", MFU {metrics['mfu']:.0%}" if "mfu" in metrics else ""
    speed = f", {metrics['tokens_per_s']:,.0f} tokens/s{mfu}"
    return f", loss {metrics['loss']:.3f}{dev}{speed}, {metrics['memory_gib']:.1f} GiB"


def training_note(report: TrainReport) -> str:
    """A finished training for its last progress line: the mean speed of all its steps, as its report shows it."""
    before = (
        f" (with the {counted(report.resumed_from, 'step')} before: {report.seconds:.0f} s)"
        if report.resumed_from
        else ""
    )
    speed = f"{report.tokens_per_s:,.0f} tokens/s on average, {report.peak_gib:.1f} GiB at peak"
    return f"{before}, last loss {report.last_loss:.3f}, {speed}"


class Curve:
    """The metrics of each step as JSON lines. When a step is repeated, its line and those of later steps are dropped: a process that was
    killed left them, or training went back to a checkpoint. So is a line that was not written whole."""

    def __init__(self, path: Path):
        self.path = path
        self._last: float = math.inf

    def append(self, metrics: dict[str, Any]) -> None:
        """Add a step."""
        if metrics["step"] <= self._last:
            self._drop_from(metrics["step"])
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({k: v if math.isfinite(v) else None for k, v in metrics.items()}) + "\n")
        self._last = metrics["step"]

    def _drop_from(self, step: int) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["step"] < step]
        self.path.write_text("".join(kept), encoding="utf-8")
