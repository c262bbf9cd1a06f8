"""Loading the base model's tokenizer, without what the model itself needs."""

from __future__ import annotations

from trainer.config import ModelConfig
from trainer.errors import MachineError


def load_tokenizer(config: ModelConfig, only_local: bool = False) -> object:
    """The transformers tokenizer of the base model; `only_local` asks no hub, only this machine's folders and cache.

    Raises MachineError when its files cannot be had.
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
    """The error for a model whose files cannot be had."""
    reason = str(error).strip().splitlines()[0]
    return MachineError(
        f"model.name: expected a model directory or a reachable repository, found {config.name!r} ({reason}); "
        "check the path, the network and your access rights (the demo's model comes from python -m al.assets)"
    )
