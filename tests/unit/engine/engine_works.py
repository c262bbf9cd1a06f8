"""Works that tests give to workers, which import them from here by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import MachineError
from trainer.shortage import Shortage, report


@contextmanager
def squares(models):
    """Squares of numbers, and the process that computed them."""

    def square(value, progress):
        progress(1)
        return value * value, os.getpid()

    yield square


@contextmanager
def killed_once(marks: Path, models):
    """Squares; the worker that gets number 3 first kills itself, as the kernel does when memory runs out."""

    def square(value, progress):
        mark = marks / "killed"
        if value == 3 and not mark.exists():
            mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        (marks / f"{value}-{time.monotonic_ns()}").touch()
        return value * value

    yield square


@contextmanager
def deadly(models):
    """Kills every worker."""

    def die(value, progress):
        os.kill(os.getpid(), signal.SIGKILL)

    yield die


@contextmanager
def refusing(models):
    """Runs out of memory a little, then for good."""

    def refuse(value, progress):
        if value < 2:
            report(Shortage("GPU memory", "no more"), "testing", "less")
            return value
        raise MachineError(f"shard {value} does not fit")

    yield refuse


@contextmanager
def faulty(models):
    """Has a defect."""

    def fail(value, progress):
        return {}["missing"]

    yield fail


@contextmanager
def endless(marks: Path, models):
    """Notes its process and what script it has imported, and never ends."""

    def sleep(value, progress):
        (marks / str(os.getpid())).write_text(getattr(sys.modules["__main__"], "__file__", "no script"))
        time.sleep(600)

    yield sleep


@contextmanager
def team(marks: Path, models):
    """A job for ranks: the last rank of job "a" is killed once, and its peers fail of it before the driver hears that it died."""

    def work(given, progress):
        job, place = given
        (marks / f"{job}-{place.rank}-{os.getpid()}").write_text(place.meeting)
        if job == "a" and not (marks / "killed").exists():
            if place.rank < place.world - 1:
                raise RuntimeError("connection closed by peer")
            time.sleep(0.5)
            (marks / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return f"{job} by rank {place.rank} of {place.world}"

    yield work
