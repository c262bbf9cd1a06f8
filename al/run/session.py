"""What the driver holds while it works on a run: the run directory, the config, the engine, and the models it has loaded so far."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al.config import Config
from al.engine.engine import Engine
from al.engine.models import Embedder, Models
from al.engine.worker import Work
from al.run.artifacts import Artifact
from al.run.base import local_identity, refuse_other_base
from al.run.object_store.keeping import use_store
from al.run.object_store.workers import with_artifacts
from al.run.progress import Progress
from al.run.store import PROGRESS, Run
from al.terminal import show

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from trainer.model import Base
    from trainer.template import ChatTemplate


class Session:
    """A run opened for work. Models load on first use and stay, so a fully resumed round loads none."""

    def __init__(self, run: Run, config: Config, quiet: bool = False, pool_named: bool = False):
        """`pool_named`: the sources of the config's pool were given on the command line. Raises ConfigError and EnvironmentProblem as
        `al.run.object_store.keeping.use_store`."""
        self.run = run
        self.config = config
        if run.writable:
            use_store(run, config.artifacts)
        self.quiet = quiet
        self.pool_named = pool_named
        self.models = Models(config, partial(self.progress, "load model", 1, "model"))
        self.engine = Engine(self._worker_died)

    def with_config(self, config: Config) -> Session:
        """The same run with another config; models are shared where both name the same."""
        other = Session(self.run, config, self.quiet, self.pool_named)
        other.models, other.engine = self.models.with_config(config), self.engine
        return other

    @contextmanager
    def read_only(self) -> Iterator[Session]:
        """The same session, silent, on the run opened to read: a stage that is not published raises `al.errors.Unpublished`."""
        with Run.read(self.run.path) as run:
            other = Session(run, self.config, True, self.pool_named)
            other.models, other.engine = self.models, self.engine
            yield other

    def progress(self, title: str, total: int | None, unit: str) -> Progress:
        """A progress bar in this session's manner (silent when `quiet`); other processes see it in the run's progress.json."""
        return Progress(title, total, unit, quiet=self.quiet, file=self.run.path / PROGRESS)

    def map(self, work: Work, shards: Sequence[Any], progress: Callable[[int], None]) -> Iterator[tuple[int, Any]]:
        """(number of a shard, its result) as the config's engine finishes them; see `al.engine.engine.Engine.map`."""
        work = with_artifacts(self.run, self.config.engine, work)
        return self.engine.map(self.models, work, shards, progress)

    def gather(self, work: Work, shards: Sequence[Any], progress: Callable[[int], None]) -> list[Any]:
        """The results of all shards in the order of the shards."""
        return [result for _, result in sorted(self.map(work, shards, progress), key=itemgetter(0))]

    def tell(self, line: str) -> None:
        """Print a line, unless `quiet`."""
        if not self.quiet:
            show(line)

    def _worker_died(self, line: str) -> None:
        self.run.event("worker.died", message=line)
        show(f"note: {line}", file=sys.stderr)

    def say(self, line: str) -> None:
        """Print a line that must be seen: on stderr when `quiet`, where stdout holds nothing but one document."""
        show(line, file=sys.stderr if self.quiet else sys.stdout)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        return self.models.tokenizer

    @property
    def template(self) -> ChatTemplate:
        """The chat template that turns conversations into tokens."""
        return self.models.template

    @property
    def base(self) -> Base:
        """The quantised base model, loaded once per process. Idle workers end first, so that the first GPU is free for it."""
        self.engine.close()
        return self.models.base

    @property
    def embedder(self) -> Embedder:
        """The embedder."""
        return self.models.embedder

    @contextmanager
    def adapter(self, artifact: Artifact | None, trainable: bool = False) -> Iterator[torch.nn.Module]:
        """The base with the adapter of a train artifact (None: the base alone); it is removed after the block.

        Raises:
            RunStateError: the adapter was trained on another base.
        """
        path = self.adapter_path(artifact)
        with self.base.adapter(path, trainable) as model:
            yield model

    def adapter_path(self, artifact: Artifact | None) -> Path | None:
        """The folder of a train artifact's adapter. Raises RunStateError if it was trained on another base."""
        if artifact is None:
            return None
        refuse_other_base(artifact, self.config.model)
        return artifact.path / "adapter"

    def model_params(self) -> dict[str, Any]:
        """What of the model section a result depends on, with the identity of local files."""
        params = self.config.model.model_dump(mode="json")
        return {**params, "files": local_identity(self.config.model.name)}
