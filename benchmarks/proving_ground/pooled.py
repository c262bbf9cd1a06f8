"""Hidden states of pool rows by the base model, in one go: what RDS+ compares, and how likely each response is.

    python benchmarks/proving_ground/pooled.py --model DIR --inputs DIR --out DIR [--rows targets | pools]

Writes rows.npy (n,) the rows of the token table, ascending; vectors.npy (n, d) float16 unit vectors, position-weighted means of the last
layer (arXiv 2503.01807, section 3.2); nll.npy (n,) mean NLL of each response in nats. `trainer.measure` measures them, as a round does.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.proving_ground.planning import LIST
from benchmarks.proving_ground.work import whole


def wanted_rows(splits: Any, of: str) -> np.ndarray:
    """The rows to measure: of "targets" the pools and examples, of "pools" those of the pools with peers, and their dev rows."""
    names = [n for n in (LIST["targets"] if of == "targets" else LIST["noisy_pools"]) if f"{n}|pool" in splits]
    parts = [splits[f"{name}|{part}"] for name in names for part in ("pool", "dev")]
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)


def measure_rows(model: Path, inputs: Path, rows: np.ndarray, out: Path, device: str, batch_tokens: int) -> None:
    """Measure and write; the folder appears when it is whole."""
    from trainer.activation import measuring
    from trainer.config import ModelConfig
    from trainer.measure import Wanted, measure
    from trainer.model import Base
    from trainer.tokens import TokenTable

    base = Base.load(ModelConfig(name=str(model), device=device))
    table, wanted = TokenTable.open(inputs / "tokens"), Wanted(pooled=True)
    with measuring(base.model, "auto", batch_tokens):
        found = measure(base.model, table, rows, batch_tokens=batch_tokens, wanted=wanted)
    with whole(out) as folder:
        folder.mkdir()
        np.save(folder / "rows.npy", rows)
        np.save(folder / "vectors.npy", found.pooled)
        np.save(folder / "nll.npy", found.nll_mean.astype(np.float32))


def main() -> None:
    """Measure what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "inputs", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rows", choices=("targets", "pools"), nargs="+", default=["targets"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-tokens", type=int, default=65_536)
    arguments = parser.parse_args()
    if arguments.out.exists():
        return print(f"{arguments.out}: there already")
    began, splits = time.perf_counter(), np.load(arguments.inputs / "splits.npz")
    rows = np.unique(np.concatenate([wanted_rows(splits, of) for of in arguments.rows]))
    measure_rows(arguments.model, arguments.inputs, rows, arguments.out, arguments.device, arguments.batch_tokens)
    print(f"{len(rows):,} rows measured in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
