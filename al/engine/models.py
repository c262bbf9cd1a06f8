"""The models that a config names, each loaded on first use. A worker has them without a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al.config import Config
from selection.embed import load_embedder
from trainer.gate.weights import check_tokens
from trainer.template import ChatTemplate
from trainer.tokenizer import load_config, load_tokenizer

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedTokenizerBase

    from selection.config import EmbedConfig
    from trainer.config import ModelConfig
    from trainer.model import Base

Announce = Callable[[], AbstractContextManager[Callable[[int], None] | None]]


class LanguageModel:
    """The tokenizer, template and base model of a `model` section. `announce` surrounds the loading of the base, to show it."""

    def __init__(self, config: ModelConfig, announce: Announce):
        self._config, self._announce = config, announce

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer. Raises trainer.errors.TrainerError for a token that the model has no embedding of."""
        tokenizer = load_tokenizer(self._config)
        check_tokens(tokenizer, load_config(self._config))
        return tokenizer

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template that turns conversations into tokens."""
        return ChatTemplate.resolve(self.tokenizer, self._config.chat_template)

    @cached_property
    def base(self) -> Base:
        """The quantised base model, loaded once per process."""
        from trainer.model import Base

        with self._announce() as progress:
            base = Base.load(self._config)
            if progress is not None:
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


class Models:
    """A config and what it names: base model and embedder."""

    def __init__(self, config: Config, announce: Announce = nullcontext):
        self.config, self._announce = config, announce
        self._model = LanguageModel(config.model, announce)
        self.embedder = Embedder(config.embed)

    def with_config(self, config: Config) -> Models:
        """Those of another config; what both configs name the same is shared."""
        other = Models(config, self._announce)
        if config.model == self.config.model:
            other._model = self._model
        if config.embed == self.config.embed:
            other.embedder = self.embedder
        return other

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        return self._model.tokenizer

    @property
    def template(self) -> ChatTemplate:
        """The chat template that turns conversations into tokens."""
        return self._model.template

    @property
    def base(self) -> Base:
        """The quantised base model, loaded once per process."""
        return self._model.base

    @contextmanager
    def adapter(self, path: Path | None, trainable: bool = False) -> Iterator[torch.nn.Module]:
        """The base with the adapter saved at `path` (None: the base alone); it is removed after the block."""
        with self.base.adapter(path, trainable) as model:
            yield model
