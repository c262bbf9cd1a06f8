"""Whether the memory that `plan --gpu 24GB` promises is enough: a card rehearsed on a larger GPU, on the Mistral-7B shape.

    python benchmarks/card_memory.py --pool rows.jsonl --tokenizer DIR --work DIR --out benchmarks/results/card_24gb_h200.json

For each rank `plan --gpu CARD` plans the shipped config, and the settings that it asks for are taken. Then torch may allocate what the
card leaves to a process, less --outside for CUDA's context, loaded kernels and a display, and the product sees that much free memory:
three training steps (the optimizer's state exists from the second on), scoring and evaluation with the trained adapter, and written
answers. `allocated_gib` is the peak of tensors, which the plan predicts; `reserved_gib` is what torch took from the card. `held`: no
work ran short of memory. Weights are random, so losses are meaningless. Without a GPU nothing is limited and peaks are those of the
process: this only shows that the script runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from common import device_name, now, versions  # noqa: E402
from peers import document_lengths  # noqa: E402
from random_nf4 import save_random_nf4  # noqa: E402
from train_throughput import SHAPES, shaped_config  # noqa: E402

from al.commands.options import Options  # noqa: E402
from al.commands.plan import plan_round  # noqa: E402
from al.config import CONFIG_DIR, Config, change, load  # noqa: E402
from trainer.activation import measuring  # noqa: E402
from trainer.generate import generate  # noqa: E402
from trainer.live import peak_gib, reset_peak  # noqa: E402
from trainer.measure import Wanted, measure  # noqa: E402
from trainer.model import Base  # noqa: E402
from trainer.packing import plan_packs  # noqa: E402
from trainer.shortage import listening  # noqa: E402
from trainer.template import Tokenized  # noqa: E402
from trainer.tokens import TokenTable  # noqa: E402
from trainer.train import train  # noqa: E402

GIB, SEED, STEPS = 2**30, 0, 3
MEASURED_TOKENS = 65_536
"""Tokens that are scored, and tokens that are evaluated: several batches."""
PROMPTS, PROMPT, ANSWER = 32, 100, 32


@contextmanager
def card(memory_gib: float, outside_gib: float) -> Iterator[None]:
    """Inside the block this process has a GPU of `memory_gib`, of which `outside_gib` is taken: torch may allocate no more than the rest,
    and reports that much as free."""
    limit = int((memory_gib - outside_gib) * GIB)
    total = torch.cuda.get_device_properties(0).total_memory

    def mem_get_info(device: Any = None) -> tuple[int, int]:
        """(free, total) bytes, as the card would report them."""
        return limit - torch.cuda.memory_reserved(device), int(memory_gib * GIB)

    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        with mock.patch.object(torch.cuda, "mem_get_info", mem_get_info):
            yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def documents(vocabulary: int, packs: int, length: int) -> TokenTable:
    """Random documents that fill at least `packs` packs of `length` tokens, every token a target."""
    rng = np.random.default_rng(SEED)
    lengths = np.minimum(document_lengths(packs * length // 100, SEED), length)
    count = int(np.searchsorted(np.cumsum(lengths), packs * length)) + 1
    return TokenTable.build(
        [Tokenized(rng.integers(5, vocabulary, n).tolist(), [1] * int(n)) for n in lengths[:count].tolist()]
    )


def works(base: Base, config: Config, scratch: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """(name, work) of each kind of work of a round, all with one adapter."""
    size = config.train
    table = documents(base.model.config.vocab_size, (STEPS + 1) * size.packs_per_step, size.pack_length)
    rows, lengths = np.arange(len(table)), np.asarray(table.lengths)
    some = rows[: int(np.searchsorted(np.cumsum(lengths), MEASURED_TOKENS)) + 1]
    plan, tokens = plan_packs(lengths, size.pack_length), config.measure.batch_tokens
    prompts = [np.resize(table.ids(int(row)), PROMPT).tolist() for row in rows[:PROMPTS]]

    with base.new_adapter(config.lora, SEED) as model:

        def score() -> None:
            """As the round's scoring with hidden states does it."""
            with measuring(model, config.measure.weights, tokens):
                measure(model, table, some, batch_tokens=tokens, wanted=Wanted(pooled=True))

        yield (
            "training",
            lambda: train(model, table, plan, rows, size, seed=SEED, round=1, steps=STEPS, scratch=scratch),
        )
        yield "scoring", score
        yield "evaluation", lambda: measure(model, table, some, batch_tokens=tokens)
        answers = config.generate.model_copy(update={"max_new_tokens": ANSWER, "samples": 0})
        yield "answers", lambda: generate(model, prompts, answers, end_ids=(), seed=SEED)


def rehearse(config: Config) -> list[dict[str, Any]]:
    """A row for each kind of work: seconds with loading of kernels, peaks, and the reports of memory that ran out."""
    found: list[dict[str, Any]] = []
    base = Base.load(config.model)
    gpu = base.device.type == "cuda"
    with tempfile.TemporaryDirectory() as scratch:
        for name, work in works(base, config, Path(scratch)):
            reports: list[str] = []
            if gpu:
                torch.cuda.empty_cache()
            reset_peak(base.device)
            started = time.perf_counter()
            with listening(reports.append):
                work()
            found.append(
                {
                    "name": name,
                    "seconds": round(time.perf_counter() - started, 2),
                    "allocated_gib": round(peak_gib(base.device), 3),
                    "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 3) if gpu else None,
                    "short_of_memory": reports,
                }
            )
    return found


def planned(config: Path, work: Path, gpu: str) -> tuple[Config, dict[str, Any]]:
    """What `plan --gpu` says of a config, and the config with the settings that it asks for. Raises SystemExit if nothing fits."""
    options = Options(config_path=config, run_path=work / "run")
    document = plan_round(options, "300", gpu)
    settings = document["limits"]["settings"]
    if settings is None:
        raise SystemExit(f"plan --gpu {gpu}: no settings fit")
    kept = {key: document[key] for key in ("card", "peak_gib", "memory_gib", "layers", "tokens_per_s")}
    changed = change(load(config).model_dump(mode="json"), settings, "plan")
    return changed, {**kept, "card_gib": document["device"]["memory_gib"], "settings": settings}


def row(config: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Plan and rehearse one config."""
    fitting, plan = planned(config, arguments.work, arguments.card)
    gpu = torch.cuda.is_available() and arguments.device == "cuda"
    with card(plan["card_gib"], arguments.outside) if gpu else nullcontext():
        found = rehearse(fitting)
    return {
        "planned": plan,
        "limit_gib": round(plan["card_gib"] - arguments.outside, 3) if gpu else None,
        "works": found,
        "measured_over_planned": round(found[0]["allocated_gib"] / plan["peak_gib"], 4),
        "held": not any(work["short_of_memory"] for work in found),
    }


def write_config(path: Path, model: Path, pool: Path, rank: int, device: str) -> None:
    """The shipped Mistral config with this model, pool and rank."""
    values: dict[str, Any] = {
        "extends": str(CONFIG_DIR / "mistral-7b.yaml"),
        "pool": {"files": [str(pool)], "hub": []},
        "model": {"name": str(model), "device": device},
        "lora": {"r": rank, "alpha": 2 * rank},
    }
    if device == "cpu":
        values["model"]["compute_dtype"] = "float32"
    path.write_text(yaml.safe_dump(values))


def main() -> int:
    """Build the model, rehearse each rank, write the record after each; 1 if one did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pool", "tokenizer", "work", "out"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--card", default="24GB", help="as for `plan --gpu` (default 24GB)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 256])
    parser.add_argument(
        "--outside", type=float, default=0.75, help="GiB of the card that torch does not have (default 0.75)"
    )
    parser.add_argument("--shape", choices=SHAPES, default="mistral-7b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    model = arguments.work / "model"
    if not (model / "config.json").exists():
        save_random_nf4(model, shaped_config("mistral", arguments.shape), arguments.tokenizer)
    rows: list[dict[str, Any]] = []
    record: dict[str, Any] = {
        "command": f"python benchmarks/card_memory.py --card {arguments.card!r} --outside {arguments.outside:g} --shape {arguments.shape} "
        f"--ranks {' '.join(map(str, arguments.ranks))}",
        "date": now(),
        "device": device_name(),
        "versions": versions(),
        "rows": rows,
    }
    for rank in arguments.ranks:
        config = arguments.work / f"rank-{rank}.yaml"
        write_config(config, model, arguments.pool, rank, arguments.device)
        try:
            rows.append({"rank": rank, **row(config, arguments)})
        except Exception as error:  # one rank's error must not lose the other's row
            rows.append({"rank": rank, "error": f"{type(error).__name__}: {error}"[:500], "held": False})
        gc.collect()
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(rows[-1]), flush=True)
    return 0 if all(entry["held"] for entry in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
