"""A complete round on the Mistral-7B shape on one GPU, with random weights, compared with the prediction of `plan`.

    python benchmarks/gpu_round.py --pool rows.jsonl --tokenizer DIR --embedder DIR --work DIR --out benchmarks/results/gpu_round.json

Random weights have the speed and size of trained ones, so speed and memory are those of the real model; losses are meaningless.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SHAPES = {
    "mistral-7b": {},
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


def build_model(directory: Path, tokenizer: Path, shape: str) -> None:
    """Save a Mistral with random bf16 weights (14.5 GB for the 7B shape) and the tokenizer in `directory`."""
    import torch
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    config = MistralConfig(sliding_window=None, vocab_size=32000, **SHAPES[shape])
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = MistralForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(directory)


def write_config(
    path: Path, model: Path, embedder: Path, pool: list[str], device: str, overrides: dict[str, Any]
) -> None:
    """The shipped Mistral config with this model, this pool, and a small holdout."""
    from al.config import CONFIG_DIR

    values = {
        "extends": str(CONFIG_DIR / "mistral-7b.yaml"),
        "pool": {"files": pool, "hub": []},
        "model": {"name": str(model), "device": device},
        "embed": {"model": str(embedder)},
        "holdout": {"dev": 40, "test": 80},
        "dedup": {"threshold": 0.9999},
        "cluster": {"k": 16},
        "score": {"sample_per_cluster": 8},
    }
    for section, entries in overrides.items():
        values[section] = {**values.get(section, {}), **entries}
    path.write_text(yaml.safe_dump(values))


def run_round(config: Path, run: Path, budget: str) -> dict[str, Any]:
    """Plan and run one round; returns prediction, measurement and their ratios."""
    from al.commands.options import Options
    from al.commands.plan import plan_round
    from al.commands.rounds import run_next_round

    options = Options(config_path=config, run_path=run)
    planned = plan_round(options, budget)
    summary = run_next_round(options, budget)
    training = summary["training"]["selected"]
    return {
        "planned": {key: planned[key] for key in ("peak_gib", "tokens_per_s", "memory_gib", "device")},
        "measured": {
            key: training[key] for key in ("peak_gib", "tokens_per_s", "tokens", "steps", "seconds", "examples")
        },
        "measured_over_planned": {key: training[key] / planned[key] for key in ("peak_gib", "tokens_per_s")},
        "timings": summary["timings"],
        "model": {key: value for key, value in summary["model"].items() if key != "name"},
        "scoring": summary["scoring"],
        "versions": summary["versions"],
        "device": summary["device"],
    }


def nf4_census(config: Path) -> dict[str, int]:
    """Load the base as in a round and count its 4-bit layers. Raises AssertionError if a linear layer is not NF4."""
    import torch

    from al.config import load
    from trainer.model import Base
    from trainer.quantization import nf4_layers

    base = Base.load(load(config).model)
    layers = nf4_layers(base.model)
    plain = [name for name, module in base.model.named_modules() if type(module) is torch.nn.Linear]
    assert plain == ["lm_head"], plain
    assert all(layer.weight.quant_type == "nf4" for layer in layers)
    return {"nf4_linear_layers": len(layers), "other_linear_layers": len(plain)}


def main() -> None:
    """Parse arguments, build the model, run the round, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pool", "tokenizer", "embedder", "work", "out"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="mistral-7b")
    parser.add_argument("--budget", default="300")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    model, config = arguments.work / "model", arguments.work / "round.yaml"
    if not (model / "config.json").exists():
        build_model(model, arguments.tokenizer, arguments.shape)
    overrides = (
        {}
        if arguments.device == "cuda"
        else {"model": {"name": str(model), "device": "cpu", "compute_dtype": "float32"}, "lora": {"r": 4}}
    )
    write_config(config, model, arguments.embedder, [str(arguments.pool)], arguments.device, overrides)
    record: dict[str, Any] = {
        "command": f"python benchmarks/gpu_round.py --shape {arguments.shape} --budget {arguments.budget}",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "shape": arguments.shape,
        "budget": arguments.budget,
    }
    record.update(run_round(config, arguments.work / "run", arguments.budget), nf4=nf4_census(config))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record.get("measured_over_planned", {})))


if __name__ == "__main__":
    main()
