"""The architectures that Winnow supports fully: the only list of them.

A model of one of these trains, scores and generates through our own decoder (trainer/decoder), and its packed attention is proven by
the test suite. Any other model runs through transformers, if the check at load finds that it keeps the documents of a pack apart
(trainer/gate/architecture.py). CONTRIBUTING.md has the recipe for another one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One architecture. `name`: as messages write it. `head_norms`: whether queries and keys are normalized, head by head."""

    name: str
    head_norms: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family("Llama"),
    "mistral": Family("Mistral"),
    "qwen2": Family("Qwen2"),
    "qwen3": Family("Qwen3", head_norms=True),
}
"""By transformers' `model_type`."""
