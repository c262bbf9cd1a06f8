"""Whether vLLM can serve an adapter as it is, by what vLLM documents: config/lora.py (ranks), lora/peft_helper.py (features) and the
linear layers that its Llama-like models adapt."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from trainer.adapters import CONFIG_FILE, WEIGHTS_FILE
from trainer.config import PROJECTIONS

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of --max-lora-rank. An adapter may have any rank up to it."""


def vllm_support(folder: Path, base: str) -> dict[str, Any]:
    """What vLLM's limits say of the adapter in `folder`: {"max_lora_rank": the smallest value that fits or None, "problems": one line each,
    "command": how to serve it on `base`, None if there are problems}."""
    settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    rank = max([settings["r"], *(settings.get("rank_pattern") or {}).values()])
    fits = next((value for value in RANKS if value >= rank), None)
    problems = [*_features(settings), *_layout(folder)]
    if fits is None:
        problems.append(f"rank {rank} is above {RANKS[-1]}, vLLM's largest --max-lora-rank")
    command = [
        "vllm",
        "serve",
        base,
        "--enable-lora",
        "--max-lora-rank",
        str(fits),
        "--lora-modules",
        f"selected={folder}",
    ]
    command += ["--chat-template", str(folder / "chat_template.jinja")]
    return {"max_lora_rank": fits, "problems": problems, "command": None if problems else shlex.join(command)}


def _features(settings: Mapping[str, Any]) -> list[str]:
    problems = []
    if settings.get("use_dora"):
        problems.append("vLLM does not compute DoRA: export --as merged")
    if settings.get("bias", "none") != "none":
        problems.append("vLLM does not load an adapter's biases")
    if settings.get("modules_to_save"):
        problems.append(f"vLLM does not load whole modules ({', '.join(settings['modules_to_save'])})")
    others = sorted(set(settings["target_modules"]) - set(PROJECTIONS))
    if others:
        problems.append(
            f"not checked for this architecture: vLLM adapts {', '.join(PROJECTIONS)}, and the adapter has {', '.join(others)}"
        )
    return problems


def _layout(folder: Path) -> list[str]:
    """vLLM reads `base_model.model.<module>.lora_A.weight` and `.lora_B.weight` from one safetensors file."""
    with safe_open(folder / WEIGHTS_FILE, framework="np") as file:
        names = list(file.keys())
    ends = (".lora_A.weight", ".lora_B.weight")
    strange = [name for name in names if not (name.startswith("base_model.model.") and name.endswith(ends))]
    return [f"vLLM does not read the tensor {strange[0]}"] if strange else []
