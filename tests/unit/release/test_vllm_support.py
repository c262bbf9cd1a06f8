"""An adapter against vLLM's documented limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from al.exporting.vllm import RANKS, vllm_support

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def adapter(folder: Path, tensor: str = f"{MODULE}.lora_A.weight", **settings: Any) -> Path:
    """An adapter of the name and settings that PEFT writes."""
    known = {
        "r": 16,
        "bias": "none",
        "use_dora": False,
        "modules_to_save": None,
        "target_modules": ["q_proj", "up_proj"],
    }
    document = known | {"rank_pattern": {}} | settings
    (folder / "adapter_config.json").write_text(json.dumps(document))
    save_file({tensor: np.zeros((2, 2), np.float32)}, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(("rank", "needed"), [(1, 8), (8, 8), (9, 16), (200, 256), (300, 320), (512, 512)])
def test_the_smallest_rank_limit_that_fits_is_in_the_command(rank, needed, tmp_path):
    found = vllm_support(adapter(tmp_path, r=rank), "someone/base")
    assert found["max_lora_rank"] == needed and needed in RANKS
    assert f"vllm serve someone/base --enable-lora --max-lora-rank {needed} " in found["command"]
    assert found["command"].endswith(f"selected={tmp_path} --chat-template {tmp_path}/chat_template.jinja")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"r": 513}, "rank 513"),
        ({"rank_pattern": {"q_proj": 1024}}, "rank 1024"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj", "router"]}, "router"),
        ({"tensor": f"{MODULE}.lora_magnitude_vector.weight"}, "lora_magnitude_vector"),
    ],
)
def test_what_vllm_does_not_take_is_named(settings, named, tmp_path):
    found = vllm_support(adapter(tmp_path, **settings), "someone/base")
    assert found["command"] is None and named in " ".join(found["problems"])
