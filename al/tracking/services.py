"""The trackers by name. Each receives a round's begin, its numbers and its end, in its own thread.

Each reads its destination and account from its own environment variables (WANDB_MODE, MLFLOW_TRACKING_URI, …). The libraries
are extras and are imported only when used.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from al.config import flat
from al.errors import ConfigError

PROJECT = "winnow"


@dataclass(frozen=True)
class TrackedRound:
    """A round as announced to trackers. `folder`: for files of trackers. `id`: unchanged when the round resumes after a restart."""

    run: str
    number: int
    id: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def title(self) -> str:
        """`demo, round 3`."""
        return f"{self.run}, round {self.number}"


class Tracker(Protocol):
    """The interface of a tracker. An exception, or a call that takes too long, drops it for the rest of the process."""

    def start(self, current: TrackedRound) -> None:
        """Start a round, or resume it after a restart."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the numbers of a training step by name, `selected/loss`. The part before the slash is the lineage; its steps count from 1."""

    def finish(self, summary: Mapping[str, float], verdict: str) -> None:
        """End the round: its results by name and as one sentence; both are empty if it was stopped."""


SERVICES: dict[str, Callable[[], Tracker]] = {}
NEEDED = {
    "wandb": {"wandb": "wandb"},
    "tensorboard": {"tensorboard": "tensorboard"},
    "trackio": {"trackio": "trackio"},
    "mlflow": {"mlflow": "mlflow-skinny", "sqlalchemy": "sqlalchemy", "alembic": "alembic"},
}
"""{tracker: {module: package}} to install for each. The full mlflow package needs an older pyarrow than Winnow."""


def service(name: str) -> Callable[[type], type]:
    """Register a class under its name in the config key `track`."""

    def register(made: type) -> type:
        """Add the class to SERVICES and return it unchanged."""
        SERVICES[name] = made
        return made

    return register


def check_installed(names: Sequence[str]) -> None:
    """Check that the packages of `names` are installed. Raises ConfigError with the command that installs the missing ones."""
    missing = {
        name: packages
        for name in names
        if (packages := [p for module, p in NEEDED[name].items() if importlib.util.find_spec(module) is None])
    }
    if missing:
        packages = " ".join(package for lacking in missing.values() for package in lacking)
        raise ConfigError(
            f"track: {', '.join(missing)} cannot be used, because packages are missing. Install them with "
            f"`pip install {packages}`, or remove it from --track and the config key `track`."
        )


@service("wandb")
class Wandb:
    """Weights & Biases. One wandb run per round; a resumed round continues it."""

    def start(self, current: TrackedRound) -> None:
        """Raises RuntimeError without a login, because wandb would ask on the terminal and wait."""
        import wandb

        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True)
        if not wandb.setup().settings._offline and not wandb.login(prompt=False):
            raise RuntimeError("not logged in; run `wandb login`, or set WANDB_MODE=offline")
        current.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=wandb.setup().settings.project or PROJECT,
            id=current.id,
            name=current.title,
            group=current.run,
            dir=current.folder,
            config=dict(current.config),
            resume="allow",
            settings=settings,
        )
        for lineage in ("selected", "control", "warm-up"):
            self._run.define_metric(f"{lineage}/*", step_metric=f"{lineage}/step")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the step as a metric: wandb's own step must not decrease, and two lineages train one after the other."""
        lineages = {name.split("/")[0] for name in metrics}
        self._run.log({**metrics, **{f"{lineage}/step": step for lineage in lineages}})

    def finish(self, summary: Mapping[str, float], verdict: str) -> None:
        """Write the results into the wandb run's summary and end it."""
        self._run.summary.update({**summary, **({"verdict": verdict} if verdict else {})})
        self._run.finish()


@service("tensorboard")
class TensorBoard:
    """Event files in the run directory, `tracking/tensorboard`; TensorBoard shows each round as a run."""

    def start(self, current: TrackedRound) -> None:
        """Open an event file. A resumed round gets a further file; its steps appear next to the earlier ones."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(current.folder / "tensorboard" / f"round-{current.number:03d}")
        self._number = current.number
        lines = [f"    {key}: {value}" for key, value in flat(current.config).items()]
        self._writer.add_text("config", "\n".join(lines), current.number)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write each number as a scalar."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, summary: Mapping[str, float], verdict: str) -> None:
        """Write the results as scalars with the round as step."""
        for name, value in summary.items():
            self._writer.add_scalar(name, value, self._number)
        if verdict:
            self._writer.add_text("verdict", verdict, self._number)
        self._writer.close()


@service("trackio")
class Trackio:
    """Trackio's local store, or the place set by its environment variables."""

    def start(self, current: TrackedRound) -> None:
        """Start a Trackio run, or continue that of a resumed round."""
        import trackio

        for name, module in list(sys.modules.items()):
            if name.split(".")[0] == "trackio":
                vars(module)["print"] = _say_nothing  # it prints to stdout, which --json reserves for one document
        self._trackio = trackio
        trackio.init(
            project=PROJECT,
            name=current.title,
            group=current.run,
            config=flat(current.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the numbers; each lineage counts its own steps."""
        self._trackio.log(dict(metrics), step=step)

    def finish(self, summary: Mapping[str, float], verdict: str) -> None:
        """Log the results as the last entry and end the run."""
        if summary:
            self._trackio.log({**summary, "verdict": verdict})
        self._trackio.finish()


@service("mlflow")
class Mlflow:
    """MLflow at MLFLOW_TRACKING_URI, else in a database in the run directory, `tracking/mlflow.db`."""

    LONGEST = 500
    """Maximum characters of a parameter that MLflow accepts."""

    def start(self, current: TrackedRound) -> None:
        """Start an MLflow run. A resumed round gets a further run of the same name."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(uri or f"sqlite:///{current.folder.resolve() / 'mlflow.db'}")
        current.folder.mkdir(parents=True, exist_ok=True)
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        tags = {"winnow.run": current.run, "winnow.round": str(current.number)}
        self._id = self._client.create_run(experiment, run_name=current.title, tags=tags).info.run_id
        values = [Param(key, str(value)[: self.LONGEST]) for key, value in flat(current.config).items()]
        for start in range(0, len(values), 100):
            self._client.log_batch(self._id, params=values[start : start + 100])

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step in one batch."""
        from mlflow.entities import Metric

        moment = int(time.time() * 1000)
        named = [Metric(_mlflow_name(name), value, moment, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=named)

    def finish(self, summary: Mapping[str, float], verdict: str) -> None:
        """Log the results and end the run; a stopped round is marked as killed."""
        self.log(summary, 0)
        if verdict:
            self._client.set_tag(self._id, "winnow.verdict", verdict)
        self._client.set_terminated(self._id, "FINISHED" if summary else "KILLED")


def _mlflow_name(name: str) -> str:
    """`name` reduced to the characters that MLflow accepts: letters, digits and `_-. /`."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def _say_nothing(*args: Any, **kwargs: Any) -> None:
    """A `print` that prints nothing."""
