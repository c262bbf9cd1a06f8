"""Loads the base model's tokenizer, without the model."""

from __future__ import annotations

from trainer.config import ModelConfig
from trainer.errors import MachineError


def load_tokenizer(config: ModelConfig, only_local: bool = False) -> object:
    """The transformers tokenizer of the base model; `only_local` uses only this machine's folders and cache, not the hub.

    Raises MachineError if its files cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            config.name,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            local_files_only=only_local,
        )
    except (OSError, ValueError) as error:  # a ValueError: a folder without a tokenizer's files
        raise unavailable(config, error) from error


def unavailable(config: ModelConfig, error: OSError | ValueError) -> MachineError:
    """The error for a model whose files cannot be loaded."""
    reason = str(error).strip().splitlines()[0]
    return MachineError(
        f"model.name: expected a model directory or a reachable repository, found {config.name!r} ({reason}); "
        "check the path, the network and your access rights (the demo's model comes from python -m al.assets)"
    )
