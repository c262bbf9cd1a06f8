"""Loads the base model's tokenizer and config, without the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.config import ModelConfig
from trainer.errors import MachineError, TrainerError


def load_tokenizer(config: ModelConfig, only_local: bool = False) -> object:
    """The transformers tokenizer of the base model; `only_local` uses only this machine's folders and cache, not the hub.

    Raises MachineError if its files cannot be loaded, TrainerError if they need remote code without permission.
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


WIDEST, DEEPEST = 10_000_000, 10_000
"""More than any model has. A config with a billion layers would be built for hours."""
SIZES = {
    "num_hidden_layers": DEEPEST,
    **dict.fromkeys(
        ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"),
        WIDEST,
    ),
}


def load_config(config: ModelConfig) -> Any:
    """The transformers config of the base model.

    Raises:
        MachineError: it cannot be loaded.
        TrainerError: a size in it is one that no model has.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        loaded = AutoConfig.from_pretrained(
            config.name, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, StrictDataclassError) as error:
        raise unavailable(config, error) from error
    found = (
        loaded.get_text_config().to_dict()
    )  # attributes that differ between layers cannot be read from the config itself
    sizes = {name: found.get(name) for name in SIZES}
    wrong = [
        f"{name} {size} (1 to {SIZES[name]:,})"
        for name, size in sizes.items()
        if isinstance(size, int) and not 1 <= size <= SIZES[name]
    ]
    if wrong:
        raise TrainerError(
            f"model.name: config.json of {config.name!r} has sizes that no model has: {', '.join(wrong)}; restore the file"
        )
    return loaded


def unavailable(config: ModelConfig, error: Exception) -> TrainerError:
    """The error for a model whose files cannot be loaded, or would run code of others."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "trust_remote_code" in str(error):
        return TrainerError(
            f"model.name: {config.name!r} needs Python code that comes with the model, and such code is not run. Take a model that "
            "transformers knows, or add --trust-remote-code if you trust the author"
        )
    if "no file named" in reason and "safetensors" in reason:
        return TrainerError(
            f"model.name: expected weights in safetensors, found none in {config.name!r}. Pickled weights (.bin, .pt) can run code when "
            "they are loaded, and are not read: convert them, or take a revision that has safetensors"
        )
    return MachineError(f"model.name: {not_read(config.name, error)}")


def not_read(name: str, error: Exception) -> str:
    """Why the model `name`, a folder or a repository of the hub, cannot be read, and what to do."""
    said, expected = str(error), f"expected a model directory or a reachable repository, found {name!r}"
    if "gated" in said.lower():
        return f"{expected}, which is gated: accept its terms at https://huggingface.co/{name} and log in with `hf auth login`"
    if "couldn't connect" in said or "outgoing traffic" in said or "on the Hub and we cannot find" in said:
        return f"{expected}: the hub does not answer, and this machine has no copy. Check the network, or give a folder with the model"
    reason = (said.strip() or type(error).__name__).splitlines()[0]
    if Path(name).is_absolute() and not Path(name).exists():
        reason = "there is no such folder"
    assets = "; the demo's model comes from python -m al.assets" if Path(name).is_absolute() else ""
    return f"{expected} ({reason}); check the path, the network and your access rights{assets}"
