"""QLoRA training speed on the Mistral-7B shape on one GPU: Winnow's trainer at several memory sizes, and its peers.

    python benchmarks/train_throughput.py --work DIR --tokenizer DIR --out benchmarks/results/train_h100.json --peers trl unsloth
    python benchmarks/train_throughput.py --work DIR --tokenizer DIR --out FILE --shape mistral-7b-quarter --family llama phi3

Random weights have the speed and size of trained ones, so speed and memory are those of the real model; losses are meaningless. Every row
trains the same documents (log-normal lengths, median 200, clipped at 2,048, every token a target) in packs of 2,048, 8,192 tokens per
step, with NEFTune. Winnow's rows run `trainer.train.train` as in a round; speed uses the median time between steps. Peers run in
separate processes (`benchmarks/peers.py`). `--family` takes other architectures of the same widths; `mfu` of a row compares families.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
from common import device_name, now, versions  # noqa: E402
from peers import document_lengths  # noqa: E402
from random_nf4 import save_random_nf4  # noqa: E402

SEQ, TOKENS_PER_STEP = 2048, 8192
MISTRAL_7B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}
SHAPES = {
    "mistral-7b": MISTRAL_7B,
    "mistral-7b-quarter": {**MISTRAL_7B, "num_hidden_layers": 8},
    "tiny": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 2000,
    },
}
ROWS: dict[str, dict[str, Any]] = {
    "winnow-fast": {"r": 16, "packs_per_batch": 4, "activation_memory": "auto"},
    "winnow-fast-r256": {"r": 256, "packs_per_batch": 4, "activation_memory": "auto"},
    "winnow-24gb": {"r": 16, "packs_per_batch": 4, "activation_memory": 17.0},
    "winnow-16gb": {"r": 16, "packs_per_batch": 4, "activation_memory": 9.5},
    "winnow-unsloth-memory": {"r": 16, "packs_per_batch": 4, "activation_memory": 1.4},
    "winnow-low": {"r": 16, "packs_per_batch": 2, "activation_memory": 1.1},
    "winnow-2k": {"r": 16, "packs_per_batch": 1, "activation_memory": "auto"},
    "winnow-dropout": {"r": 16, "packs_per_batch": 4, "activation_memory": "auto", "dropout": 0.05},
    "winnow-8bit-adam-r256": {"r": 256, "packs_per_batch": 4, "activation_memory": 9.5, "optimizer": "adamw_8bit"},
}


def shaped_config(family: str, shape: str) -> Any:
    """A config of `family`, one of trainer.families.FAMILIES, with the widths of `shape`, vocabulary and head included.

    Alternating windows, which a family has by default, are longer than a pack, so attention costs the same.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from trainer.families import FAMILIES

    sizes = SHAPES[shape]
    kind = CONFIG_MAPPING[family]
    head = {"head_dim": sizes["hidden_size"] // sizes["num_attention_heads"]} if hasattr(kind(), "head_dim") else {}
    tokens = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
    window = {"sliding_window": None} if FAMILIES[family].one_window else {}
    config = kind(**sizes, **head, **tokens, **window, max_position_embeddings=131072)
    assert getattr(config, "sliding_window", None) is None or config.sliding_window >= SEQ
    return config


def build_model(directory: Path, tokenizer: Path, shape: str, family: str = "mistral") -> None:
    """Save a model of `family` with random weights in NF4, as bitsandbytes checkpoint, and its tokenizer."""
    save_random_nf4(directory, shaped_config(family, shape), tokenizer)


def measure_matmul() -> float:
    """TFLOP/s of a bf16 product of 8192 × 8192 matrices, 20 in a row."""
    import torch

    if not torch.cuda.is_available():
        return 0.1
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - started) / 1e12


class Bench:
    """The base model, loaded once, and the documents."""

    def __init__(self, model: Path, steps: int):
        from al.planning.machine import probe_machine
        from al.planning.model_shape import model_shape
        from trainer.model import Base
        from trainer.packing import plan_packs
        from trainer.template import Tokenized
        from trainer.tokens import TokenTable

        self.config, self.steps = _config(model), steps
        self.base = Base.load(self.config.model)
        assert self.base.decoder is not None
        self.machine, self.shape_of = probe_machine(self.config), model_shape
        lengths = document_lengths(60 * steps, 0)
        rng = np.random.default_rng(0)
        vocabulary = self.base.model.config.vocab_size
        self.table = TokenTable.build(
            [Tokenized(rng.integers(5, vocabulary, n).tolist(), [1] * int(n)) for n in lengths]
        )
        self.plan, self.documents = plan_packs(np.asarray(lengths), SEQ), len(lengths)
        self.efficiency = self.plan.efficiency

    def useful_flops(self, rank: int) -> float:
        """Operations per token of training with LoRA of this rank, including the output head."""
        shape = self.shape_of(self.config.model, self.config.lora.model_copy(update={"r": rank}))
        return shape.training_flops_per_token + 4.0 * shape.vocabulary * shape.hidden

    def row(self, name: str, matmul_tflops: float) -> dict[str, Any]:
        """Train one configuration; returns {"name", "tokens_per_s", "peak_gib", ...} with the predictions of `plan`."""
        from al.planning.cost import training_memory, training_tokens_per_s
        from trainer.train import train

        settings = ROWS[name]
        config = self._configured(settings)
        shape = self.shape_of(config.model, config.lora, self.machine.bytes_per_value)
        moments: list[tuple[float, dict[str, float]]] = []
        with (
            self.base.new_adapter(config.lora, 0) as model,
            tempfile.TemporaryDirectory() as scratch,
        ):
            decoder = self.base.decoder
            used: dict[str, Any] = {}

            def on_step(metrics: dict[str, float]) -> None:
                """Record the time of a step and, at the first, how memory is used."""
                moments.append((time.perf_counter(), metrics))
                if not used:
                    used.update(
                        retention={
                            str(kind): decoder.retention.count(kind) for kind in dict.fromkeys(decoder.retention)
                        },
                        dequantized=decoder.resident,
                    )

            started = time.perf_counter()
            train(
                model,
                self.table,
                self.plan,
                np.arange(self.documents),
                config.train,
                seed=0,
                round=1,
                steps=self.steps,
                scratch=Path(scratch),
                on_step=on_step,
            )
        tail = moments[4:]
        speeds = [m["tokens"] / (t - s) for (s, _), (t, m) in zip(tail, tail[1:], strict=False)]
        speed, peak = float(np.median(speeds)), moments[-1][1]["peak_gib"]
        planned_gib = sum(training_memory(config, shape, self.machine).values()) / 2**30
        planned_speed = training_tokens_per_s(config, shape, self.machine)
        _clear()
        return {
            "name": name,
            "rank": settings["r"],
            "seq": SEQ,
            "tokens_per_step": int(np.median([m["tokens"] for _, m in moments])),
            "tokens_per_s": round(speed, 1),
            "peak_gib": round(peak, 2),
            "mfu": round(speed * self.useful_flops(settings["r"]) / matmul_tflops / 1e12, 3),
            "first_step_s": round(moments[0][0] - started, 2),
            "spread": [round(min(speeds), 1), round(max(speeds), 1)],
            "settings": {k: v for k, v in settings.items() if k != "r"},
            **used,
            "planned_gib": round(planned_gib, 2),
            "planned_tokens_per_s": round(planned_speed, 1),
            "losses": [round(m["loss"], 4) for _, m in moments[:3]],
        }

    def _configured(self, settings: dict[str, Any]) -> Any:
        r = settings["r"]
        lora = {"r": r, "alpha": 2.0 * r, "dropout": settings.get("dropout", 0.0), "targets": "all-linear"}
        train = {
            "pack_length": SEQ,
            "packs_per_step": 4,
            "packs_per_batch": settings["packs_per_batch"],
            "activation_memory": settings["activation_memory"],
            "optimizer": settings.get("optimizer", "adamw"),
            "neftune_alpha": 5.0,
            "checkpoint_every": 10_000,
        }
        return self.config.model_copy(
            update={
                "lora": self.config.lora.model_copy(update=lora),
                "train": self.config.train.model_copy(update=train),
            }
        )


def _config(model: Path) -> Any:
    """The shipped Mistral config with this model."""
    import torch
    import yaml

    from al.config import CONFIG_DIR, load

    on_gpu = torch.cuda.is_available()
    values: dict[str, Any] = {
        "extends": str(CONFIG_DIR / "mistral-7b.yaml"),
        "model": {"name": str(model), "device": "cuda" if on_gpu else "cpu"},
    }
    if not on_gpu:
        values["model"]["compute_dtype"] = "float32"
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        return load(Path(file.name))


def run_peer(name: str, model: Path, rank: int, work: Path, path: str | None, seconds: int) -> dict[str, Any]:
    """Run one peer in its own process; returns {"name", "error"} if it fails."""
    out = work / f"{name}-{rank}.json"
    out.unlink(missing_ok=True)  # from an earlier run in the same directory
    command = [sys.executable, str(ROOT / "benchmarks" / "peers.py"), name, "--model", str(model)]
    command += ["--rank", str(rank), "--out", str(out)]
    environment = {**os.environ, **({"PYTHONPATH": path} if path else {})}
    with (work / f"{name}-{rank}.log").open("w") as log:
        try:
            code = subprocess.run(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=seconds
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"no result within {seconds} s"
    if out.exists():
        found = json.loads(out.read_text())
        return found[-1] if isinstance(found, list) else found
    return {"name": name, "rank": rank, "error": str(code)}


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Winnow's speed relative to each peer's at the same rank: the fastest row, and the fastest without more memory than the peer."""
    ours = [row for row in rows if row["name"].startswith("winnow") and "tokens_per_s" in row]
    found = {}
    for peer in rows:
        if peer in ours or "tokens_per_s" not in peer:
            continue
        same = [row for row in ours if row["rank"] == peer["rank"] and "dropout" not in row["settings"]]
        small = [row for row in same if row["peak_gib"] <= peer["peak_gib"] + 0.05]
        for label, candidates in (("fastest", same), ("at_equal_memory", small)):
            if candidates:
                best = max(candidates, key=lambda row: row["tokens_per_s"])
                found[f"{best['name']} / {peer['name']} r={peer['rank']} ({label})"] = round(
                    best["tokens_per_s"] / peer["tokens_per_s"], 2
                )
    return found


def _clear() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Parse arguments, build the model, run, write the record after each row, so that an interrupted run keeps its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("work", "tokenizer", "out"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="mistral-7b")
    parser.add_argument("--family", nargs="+", default=["mistral"], help="transformers' model_types of the fast path")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--peers", nargs="*", default=[], help="names of peers.py; NAME:RANK for a rank other than 16")
    parser.add_argument("--peer-path", default=[], nargs="*", help="PEER=PATH: PYTHONPATH of a peer's process")
    parser.add_argument("--peer-seconds", type=int, default=150)
    parser.add_argument("--steps", type=int, default=14)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "device": device_name(),
        "versions": versions(),
        "date": now(),
        "command": f"python benchmarks/train_throughput.py --shape {arguments.shape} --family {' '.join(arguments.family)} "
        f"--rows {' '.join(arguments.rows)} --steps {arguments.steps} --peers {' '.join(arguments.peers)}",
        "matmul_tflops": round(measure_matmul(), 1),
        "rows": [],
    }

    def add(row: dict[str, Any]) -> None:
        """Append a row to the record, update the ratios, and save it."""
        record["rows"].append(row)
        record["ratios"] = ratios(record["rows"])
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(row), flush=True)

    for family in arguments.family:
        model = arguments.work / ("model" if family == "mistral" else f"model-{family}")
        if not (model / "config.json").exists():
            build_model(model, arguments.tokenizer, arguments.shape, family)
        _measure_family(arguments, family, model, record, add)


def _measure_family(
    arguments: argparse.Namespace,
    family: str,
    model: Path,
    record: dict[str, Any],
    add: Callable[[dict[str, Any]], None],
) -> None:
    """The rows of one family: Winnow's with the base loaded once, then the peers'."""
    useful: Callable[[int], float] | None = None
    if arguments.rows:
        bench = Bench(model, arguments.steps)
        record["packing_efficiency"] = round(bench.efficiency, 4)
        for name in arguments.rows:
            try:
                add({"family": family, **bench.row(name, record["matmul_tflops"])})
            except Exception as error:  # an error in one row must not lose the others
                failed = f"{type(error).__name__}: {error}"[:500]
                add({"family": family, "name": name, "rank": ROWS[name]["r"], "error": failed})
                _clear()
        needed = {rank: bench.useful_flops(rank) for rank in (16, 256)}
        useful = needed.__getitem__
        del bench
        _clear()
    paths = dict(entry.split("=", 1) for entry in arguments.peer_path)
    for peer in arguments.peers:
        name, _, rank = peer.partition(":")
        path = paths.get(name.split("-")[0])
        row = run_peer(name, model, int(rank or 16), arguments.work, path, arguments.peer_seconds)
        if useful and "tokens_per_s" in row:
            row["mfu"] = round(row["tokens_per_s"] * useful(row["rank"]) / record["matmul_tflops"] / 1e12, 3)
        add({"family": family, **row})


if __name__ == "__main__":
    main()
