"""Time of LoRA's part of a layer with and without dropout, in one layer of the Mistral-7B shape.

    python benchmarks/kernel_speed.py --dropout --out benchmarks/results/kernel_speed_h200.json

For each of the four inputs of a layer (attention, its output, MLP, its product) and each rank: the products that LoRA adds in the forward
pass and in the backward pass, without dropout, with it, and with masks of the same rate drawn by torch's generator.
Milliseconds, median over repeats on an idle device. `share` is what the difference comes to in a training step of `--step-ms` for all
32 layers: 430 ms is a step of 8,192 tokens on one H200 without dropout. `bytes_ms` is what 12 bytes an element take at the bandwidth that
a copy reaches in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from common import device_name, now, versions  # noqa: E402

INPUTS = {
    "qkv": (4096, (4096, 1024, 1024)),
    "o": (4096, (4096,)),
    "mlp": (4096, (14336, 14336)),
    "down": (14336, (4096,)),
}
"""Width of each input of a layer, and of the outputs that are computed from it."""
LAYERS, RATE, BYTES_AN_ELEMENT = 32, 0.05, 12


class Drawn:
    """Masks drawn by torch's generator and multiplied with what is dropped: the plain way, to compare with."""

    def __init__(self, tokens: int, width: int, rate: float, device: torch.device, dtype: torch.dtype):
        self.shape, self.rate, self.device, self.dtype = (tokens, width), rate, device, dtype

    def mask(self) -> torch.Tensor:
        """(T, in) of 0 or 1 / (1 - rate), drawn again by each pass."""
        generator = torch.Generator(device=self.device).manual_seed(7)
        kept = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        return kept.bernoulli_(1 - self.rate, generator=generator).div_(1 - self.rate)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask()

    def add_product(self, out: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """out += mask · (left @ right)."""
        return out.add_(self.mask() * (left @ right))


def milliseconds(work: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Median time of `work` with the device's queue drained."""

    def drained() -> float:
        """Now, after all queued work."""
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    times = []
    for _ in range(repeats + 3):
        started = drained()
        work()
        times.append(1e3 * (drained() - started))
    return float(np.median(times[3:]))


def joined(width: int, outputs: tuple[int, ...], rank: int, device: torch.device, dtype: torch.dtype) -> Any:
    """The joined layers of one input, with random weights."""
    from trainer.decoder.projections import Joined, Linear, Lora, Scratch

    def random(*shape: int) -> torch.Tensor:
        """Small random values."""
        return torch.randn(*shape, device=device, dtype=dtype) / 64

    layers = [
        Linear(random(out, width), None, Lora(random(rank, width).float(), random(out, rank).float(), 2.0, RATE))
        for out in outputs
    ]
    made = Joined(layers, Scratch(device, dtype))
    made.make_resident()
    return made


def rows_of(
    name: str, rank: int, tokens: int, repeats: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Milliseconds of one input at one rank."""
    from trainer.decoder.dropout import Dropout, Keys

    width, outputs = INPUTS[name]
    layer = joined(width, outputs, rank, device, dtype)
    X, G = layer.new_input(tokens).normal_(), layer.new_gradient(tokens).normal_()
    out = torch.empty(tokens, width, device=device, dtype=dtype)
    keys = Keys.of([(2048, seed) for seed in range(tokens // 2048)] or [(tokens, 1)], device)
    kinds = {"none": None, "computed": Dropout(keys, 0, RATE), "drawn": Drawn(tokens, width, RATE, device, dtype)}
    found: dict[str, Any] = {"input": name, "rank": rank, "width": width, "tokens": tokens}
    for kind, dropout in kinds.items():
        parts = {
            "down": lambda dropout=dropout: layer.project_down(X, dropout),
            "input_gradient": lambda dropout=dropout: layer.backward_input(G, dropout, out=out),
            "lora_gradients": lambda dropout=dropout: layer.backward_lora(G, X, dropout),
        }
        found[kind] = {part: round(milliseconds(work, repeats, device), 4) for part, work in parts.items()}
        found[kind]["all"] = round(sum(found[kind].values()), 4)
    return found


def main() -> None:
    """Measure every input at every rank and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dropout", action="store_true", required=True, help="what is measured; the only choice so far"
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 256])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--step-ms", type=float, default=430.0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    block = torch.empty(arguments.tokens, 4096, device=device, dtype=dtype)
    copy = milliseconds(lambda: block.clone(), arguments.repeats, device)
    bandwidth = 2 * block.numel() * block.element_size() / copy / 1e6
    record: dict[str, Any] = {
        "command": f"python benchmarks/kernel_speed.py --dropout --tokens {arguments.tokens} --step-ms {arguments.step_ms:g}",
        "date": now(),
        "device": device_name(),
        "versions": versions(),
        "copy_gb_per_s": round(bandwidth, 1),
        "rows": [],
        "share": {},
    }
    with torch.no_grad():
        for rank in arguments.ranks:
            place = (arguments.tokens, arguments.repeats, device, dtype)
            rows = [rows_of(name, rank, *place) for name in INPUTS]
            added = {
                kind: LAYERS * sum(row[kind]["all"] - row["none"]["all"] for row in rows)
                for kind in ("computed", "drawn")
            }
            moved = LAYERS * arguments.tokens * sum(width for width, _ in INPUTS.values()) * BYTES_AN_ELEMENT
            record["rows"] += rows
            record["share"][str(rank)] = {kind: round(value / arguments.step_ms, 4) for kind, value in added.items()}
            record["share"][str(rank)]["bytes_ms"] = round(moved / bandwidth / 1e6, 2)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({key: record[key] for key in ("device", "copy_gb_per_s", "share")}))


if __name__ == "__main__":
    main()
