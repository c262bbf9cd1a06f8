"""What one process holds while it works on a run: the run directory, the config, and the models it has loaded so far."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from al.config import Config
from al.run.artifacts import Artifact
from al.run.base import local_identity, refuse_other_base
from al.run.progress import Progress
from al.run.store import PROGRESS, Run
from al.terminal import show
from selection.embed import load_embedder
from trainer.gate.weights import check_tokens
from trainer.template import ChatTemplate
from trainer.tokenizer import load_config, load_tokenizer

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedTokenizerBase

    from selection.config import EmbedConfig
    from trainer.model import Base
    from trainer.template import ChatTemplate


class Models:
    """The tokenizer, template and base model that a config names, each loaded on first use."""

    def __init__(self, session: Session):
        self._session = session

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer. Raises trainer.errors.TrainerError for a token that the model has no embedding of."""
        tokenizer = load_tokenizer(self._session.config.model)
        check_tokens(tokenizer, load_config(self._session.config.model))
        return tokenizer

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template that turns conversations into tokens."""
        return ChatTemplate.resolve(self.tokenizer, self._session.config.model.chat_template)

    @cached_property
    def base(self) -> Base:
        """The quantised base model, loaded once per process."""
        from trainer.model import Base

        with self._session.progress("load model", 1, "model") as progress:
            base = Base.load(self._session.config.model)
            progress(1)
        return base


class Embedder:
    """The embedder of a config: loaded on first use, on its device only while it is at work."""

    def __init__(self, config: EmbedConfig):
        self._config = config
        self._loaded: tuple[SentenceTransformer, Any] | None = None

    @contextmanager
    def at_work(self) -> Iterator[SentenceTransformer]:
        """The model on its device; after the block it waits in main memory, out of the way of training."""
        if self._loaded is None:
            model = load_embedder(self._config)
            self._loaded = model, model.device
        model, device = self._loaded
        try:
            yield model.to(device)
        finally:
            model.to("cpu")


class Session:
    """A run opened for work. Models load on first use and stay, so a fully resumed round loads none."""

    def __init__(self, run: Run, config: Config, quiet: bool = False, pool_named: bool = False):
        """`pool_named`: the sources of the config's pool were given on the command line."""
        self.run = run
        self.config = config
        self.quiet = quiet
        self.pool_named = pool_named
        self._models = Models(self)
        self.embedder = Embedder(config.embed)

    def with_config(self, config: Config) -> Session:
        """The same run with another config; models are shared where both name the same."""
        other = Session(self.run, config, self.quiet, self.pool_named)
        if config.model == self.config.model:
            other._models = self._models
        if config.embed == self.config.embed:
            other.embedder = self.embedder
        return other

    def progress(self, title: str, total: int | None, unit: str) -> Progress:
        """A progress bar in this session's manner (silent when `quiet`); other processes see it in the run's progress.json."""
        return Progress(title, total, unit, quiet=self.quiet, file=self.run.path / PROGRESS)

    def tell(self, line: str) -> None:
        """Print a line, unless `quiet`."""
        if not self.quiet:
            show(line)

    def say(self, line: str) -> None:
        """Print a line that must be seen: on stderr when `quiet`, where stdout holds nothing but one document."""
        show(line, file=sys.stderr if self.quiet else sys.stdout)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        return self._models.tokenizer

    @property
    def template(self) -> ChatTemplate:
        """The chat template that turns conversations into tokens."""
        return self._models.template

    @property
    def base(self) -> Base:
        """The quantised base model, loaded once per process."""
        return self._models.base

    @contextmanager
    def adapter(self, artifact: Artifact | None, trainable: bool = False) -> Iterator[torch.nn.Module]:
        """The base with the adapter of a train artifact (None: the base alone); it is removed after the block.

        Raises:
            RunStateError: the adapter was trained on another base.
        """
        if artifact is not None:
            refuse_other_base(artifact, self.config.model)
        with self.base.adapter(artifact.path / "adapter" if artifact else None, trainable) as model:
            yield model

    def model_params(self) -> dict[str, Any]:
        """What of the model section a result depends on, with the identity of local files."""
        params = self.config.model.model_dump(mode="json")
        return {**params, "files": local_identity(self.config.model.name)}
