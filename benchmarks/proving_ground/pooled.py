"""Hidden states of pool rows by the base model, in one go: what RDS+ compares, and how likely each response is.

    python benchmarks/proving_ground/pooled.py --model DIR --inputs DIR --out DIR

Writes rows.npy (n,) the rows of the token table, ascending; vectors.npy (n, d) float16 unit vectors, position-weighted means of the last
layer (arXiv 2503.01807, section 3.2); nll.npy and unprompted.npy (n,) mean NLL of each response in nats, with its prompt and alone.
`trainer.measure` measures them, as a round does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.proving_ground.work import whole


def wanted_rows(splits: Any, places: Collection[str]) -> np.ndarray:
    """The rows to measure: those of these pools and targets, and what aims see of them."""
    return np.unique(np.concatenate([splits[f"{place}|{part}"] for place in places for part in ("pool", "dev")]))


def measure_rows(model: Path, inputs: Path, rows: np.ndarray, out: Path, device: str, batch_tokens: int) -> None:
    """Measure and write; the folder appears when it is whole."""
    from trainer.activation import measuring
    from trainer.config import ModelConfig
    from trainer.measure import Wanted, measure
    from trainer.model import Base
    from trainer.template import ChatTemplate
    from trainer.tokenizer import load_tokenizer
    from trainer.tokens import TokenTable
    from trainer.unprompted import Unprompted, response_frame

    base = Base.load(ModelConfig(name=str(model), device=device))
    table, wanted = TokenTable.open(inputs / "tokens"), Wanted(pooled=True)
    alone = Unprompted(table, rows, response_frame(ChatTemplate.resolve(load_tokenizer(base.config), "auto")))
    with measuring(base.model, "auto", batch_tokens):
        found = measure(base.model, table, rows, batch_tokens=batch_tokens, wanted=wanted)
        without = measure(base.model, alone, np.arange(len(alone)), batch_tokens=batch_tokens)
    sums = [np.bincount(alone.owner, weights=w, minlength=len(rows)) for w in (without.nll_total, without.targets)]
    with whole(out) as folder:
        folder.mkdir()
        np.save(folder / "rows.npy", rows)
        np.save(folder / "vectors.npy", found.pooled)
        np.save(folder / "nll.npy", found.nll_mean.astype(np.float32))
        np.save(folder / "unprompted.npy", (sums[0] / np.maximum(sums[1], 1)).astype(np.float32))


def main() -> None:
    """Measure what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "inputs", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-tokens", type=int, default=65_536)
    arguments = parser.parse_args()
    if arguments.out.exists():
        return print(f"{arguments.out}: there already")
    began, splits = time.perf_counter(), np.load(arguments.inputs / "splits.npz")
    rows = wanted_rows(splits, {name.split("|")[0] for name in splits if name.endswith("|dev")})
    measure_rows(arguments.model, arguments.inputs, rows, arguments.out, arguments.device, arguments.batch_tokens)
    print(f"{len(rows):,} rows measured in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
