"""Training and scoring speed of the demo's model on this CPU, by compute dtype.

python benchmarks/cpu_speed.py --out benchmarks/results/cpu_speed.json        (needs the demo assets: make assets)
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from al.config import CONFIG_DIR, load  # noqa: E402
from benchmarks.demo_round import processor  # noqa: E402

GRID = [{"compute_dtype": "float32"}, {"compute_dtype": "bfloat16"}]
DOCUMENTS, STEPS = 64, 3


def measure_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Median training tokens/s of the steps after the first, and scoring tokens/s, on random documents of the demo's lengths."""
    from trainer.measure import measure
    from trainer.model import Base
    from trainer.packing import plan_packs
    from trainer.template import Tokenized
    from trainer.tokens import TokenTable
    from trainer.train import train

    config = load(CONFIG_DIR / "demo.yaml", [f"model.{name}={value}" for name, value in entry.items()])
    base, rng = Base.load(config.model), np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(66), 0.5, size=DOCUMENTS), 12, 160).astype(int)
    documents = [Tokenized(rng.integers(5, 40000, n).tolist(), [0] * (n - 6) + [1] * 6) for n in lengths]
    table, rows = TokenTable.build(documents), np.arange(DOCUMENTS)
    with base.adapter(None) as model:
        measure(model, table, rows[:8], batch_tokens=config.measure.batch_tokens)
        started = time.perf_counter()
        measure(model, table, rows, batch_tokens=config.measure.batch_tokens)
        scoring = float(lengths.sum() / (time.perf_counter() - started))
    curve: list[dict[str, float]] = []
    plan = plan_packs(lengths, config.train.pack_length)
    with base.new_adapter(config.lora, 0) as model, tempfile.TemporaryDirectory() as scratch:
        train(
            model,
            table,
            plan,
            rows,
            config.train,
            seed=0,
            round=1,
            steps=STEPS,
            scratch=Path(scratch),
            on_step=curve.append,
        )
    training = float(np.median([step["tokens_per_s"] for step in curve[1:]]))
    return {**entry, "scoring_tokens_per_s": round(scoring, 1), "training_tokens_per_s": round(training, 1)}


def main() -> None:
    """Measure every dtype and write the record."""
    import torch

    from al.run.artifacts import versions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = [measure_entry(entry) for entry in GRID]
    record = {
        "command": "python benchmarks/cpu_speed.py",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
