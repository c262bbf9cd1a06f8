"""A real round on the Mistral-7B shape on one GPU, with random weights, next to what `plan` predicted for it.

    python benchmarks/gpu_round.py --pool rows.jsonl --tokenizer DIR --embedder DIR --work DIR --out benchmarks/results/gpu_round.json

Random weights are as fast and as large as trained ones, so speed and memory are those of the real model; losses mean nothing.
`--calibrate` also times training and its peak memory over a grid of batch sizes and ranks: the data behind the constants in al/plan.py.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
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
GRID = [
    {"r": 16, "packs": 1, "dropout": 0.0},
    {"r": 16, "packs": 4, "dropout": 0.0},
    {"r": 16, "packs": 1, "dropout": 0.05},
    {"r": 256, "packs": 1, "dropout": 0.05},
    {"r": 256, "packs": 4, "dropout": 0.05},
    {"r": 16, "packs": 1, "dropout": 0.0, "checkpointing": False},
]


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
    """Plan, then run, one round; returns prediction, measurement and their ratios."""
    from al.plan import plan_round
    from al.workflow import Options, run_next_round

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
    """Load the base as the round does and count its 4-bit layers; AssertionError when one linear layer is not NF4."""
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


def calibrate(config_path: Path) -> list[dict[str, Any]]:
    """Peak memory and speed of three training steps over `GRID`, on packs filled with random documents."""
    import torch

    from al.config import load
    from al.model_shape import model_shape
    from al.plan import probe_machine, training_memory, training_tokens_per_s
    from trainer.model import Base
    from trainer.packing import plan_packs
    from trainer.template import Tokenized
    from trainer.tokens import TokenTable
    from trainer.train import train

    config = load(config_path)
    base, machine, rows = Base.load(config.model), probe_machine(config), []
    rng = np.random.default_rng(0)
    for entry in GRID:
        changed = config.model_copy(
            update={
                "lora": config.lora.model_copy(
                    update={"r": entry["r"], "alpha": 2.0 * entry["r"], "dropout": entry["dropout"]}
                ),
                "train": config.train.model_copy(
                    update={
                        "packs_per_batch": entry["packs"],
                        "packs_per_step": entry["packs"],
                        "gradient_checkpointing": entry.get("checkpointing", True),
                    }
                ),
            }
        )
        lengths = np.clip(
            rng.lognormal(np.log(200), 0.8, size=400 * entry["packs"]), 16, changed.train.pack_length
        ).astype(int)
        table = TokenTable.build(
            [Tokenized(rng.integers(5, 31000, n).tolist(), [0] * (n // 2) + [1] * (n - n // 2)) for n in lengths]
        )
        plan, curve = plan_packs(lengths, changed.train.pack_length), []
        shape = model_shape(changed.model, changed.lora)
        with base.new_adapter(changed.lora, 0) as model, tempfile.TemporaryDirectory() as scratch:
            report = train(
                model,
                table,
                plan,
                np.arange(len(lengths)),
                changed.train,
                seed=0,
                round=1,
                steps=5,
                scratch=Path(scratch),
                on_step=curve.append,
                stop=lambda: False,
                failpoint=lambda name: None,
            )
        speed = float(np.median([step["tokens_per_s"] for step in curve[2:]]))
        planned = training_memory(changed, shape, machine)
        rows.append(
            {
                **entry,
                "peak_gib": report.peak_gib,
                "tokens_per_s": speed,
                "planned_gib": sum(planned.values()) / 2**30,
                "planned_items_gib": {k: v / 2**30 for k, v in planned.items()},
                "planned_tokens_per_s": training_tokens_per_s(changed, shape, machine),
                "matmul_tflops": machine.flops / 1e12,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return rows


def _command(arguments: argparse.Namespace) -> str:
    """What was run, without the paths of the machine it ran on."""
    flags = [f"--{name.replace('_', '-')}" for name in ("calibrate", "no_round") if getattr(arguments, name)]
    return " ".join(
        ["python benchmarks/gpu_round.py", f"--shape {arguments.shape}", f"--budget {arguments.budget}", *flags]
    )


def main() -> None:
    """Parse, build, run, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pool", "tokenizer", "embedder", "work", "out"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="mistral-7b")
    parser.add_argument("--budget", default="300")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--no-round", action="store_true")
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
        "command": _command(arguments),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "shape": arguments.shape,
        "budget": arguments.budget,
    }
    if arguments.calibrate:
        record["calibration"] = calibrate(config)
    if not arguments.no_round:
        record.update(run_round(config, arguments.work / "run", arguments.budget), nf4=nf4_census(config))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record.get("measured_over_planned", {})))


if __name__ == "__main__":
    main()
