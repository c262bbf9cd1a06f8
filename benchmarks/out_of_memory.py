"""Scoring, gradients, writing answers and training when GPU memory runs out: they go on with smaller batches, to the same result.

Each kind of work runs twice on a Llama of random weights: with all the memory there is, and with a cap (share of the memory that it took
the first time, on top of what the model takes). The record has, per kind, what was reported and how far the two results are apart.
`--inject` proves the same without a GPU: passes of more than half the tokens of the largest raise torch's error.

    python benchmarks/out_of_memory.py OUT.json
    python benchmarks/out_of_memory.py OUT.json --inject
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import device_name, now, versions
from trainer import gradients, measure, step
from trainer.adapters import trainable_parameters
from trainer.config import GenerateConfig, LoraConfig, ModelConfig, TrainConfig
from trainer.forward import Batch
from trainer.generate import generate
from trainer.generation.cached import CachedEngine
from trainer.model import Base
from trainer.packing import plan_packs
from trainer.rendering import END_OF_TURN, RESPONSE
from trainer.shortage import listening
from trainer.template import Tokenized
from trainer.tokens import TokenTable
from trainer.train import train

SEED, STEPS, ANSWER = 0, 4, 16
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Norm of the difference, relative to that of the values, that counts as rounding."""
OTHER_ANSWERS = 0.05
"""Share of answers that may differ: two logits that are equal to rounding change all that follows."""
Work = Callable[[], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Size:
    """Of the model and its data: width, layers, vocabulary; number of documents, their longest, and tokens of a batch."""

    width: int
    layers: int
    vocabulary: int
    documents: int
    longest: int
    batch_tokens: int


SIZES = {"small": Size(32, 2, 128, 24, 48, 384), "large": Size(1024, 8, 8192, 192, 1024, 16_384)}


def random_base(size: Size, dtype: str, folder: Path) -> Base:
    """A Llama of random weights, dense, on the GPU if there is one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.width * 3,
        num_hidden_layers=size.layers,
        num_attention_heads=max(2, size.width // 64),
        num_key_value_heads=max(1, size.width // 128),
        max_position_embeddings=4 * size.longest,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return Base.load(ModelConfig(name=str(folder), quantization="none", compute_dtype=dtype))


def documents(size: Size) -> TokenTable:
    """Random documents of uneven length, whose second half is a response."""
    rng = np.random.default_rng(SEED)
    made = []
    for length in rng.integers(size.longest // 8, size.longest, size.documents).tolist():
        marks = [0] * (length // 2) + [RESPONSE] * (length - length // 2 - 1) + [END_OF_TURN]
        made.append(Tokenized(rng.integers(3, size.vocabulary, length).tolist(), marks))
    return TokenTable.build(made)


def works(base: Base, table: TokenTable, size: Size) -> dict[str, Work]:
    """Each kind of work as a function that returns its results by name."""
    rows, lora = np.arange(len(table)), LoraConfig(r=8)

    def scoring() -> dict[str, np.ndarray]:
        """NLL and pooled vectors of every document."""
        wanted = measure.Wanted(pooled=True)
        found = measure.measure(base.model, table, rows, batch_tokens=size.batch_tokens, wanted=wanted)
        return {"nll_mean": found.nll_mean, "pooled": found.pooled}

    def gradient_vectors() -> dict[str, np.ndarray]:
        """Projected gradients of every document."""
        with base.new_adapter(lora, SEED) as model:
            options = {"dimension": 256, "batch_tokens": size.batch_tokens, "seed": SEED}
            return {"vectors": gradients.project_gradients(model, table, rows, **options)}

    def writing() -> dict[str, np.ndarray]:
        """The greedy answers to the beginnings of documents."""
        prompts = [table.ids(int(row))[: size.longest // 8] for row in rows]
        config = GenerateConfig(max_new_tokens=ANSWER, samples=0, batch_tokens=len(rows) * (size.longest // 8 + ANSWER))
        return {
            "tokens": np.array([answer for (answer,) in generate(base.model, prompts, config, end_ids=(), seed=SEED)])
        }

    def training() -> dict[str, np.ndarray]:
        """Loss of each step, and the weights at the end."""
        packs = size.batch_tokens // size.longest
        config = TrainConfig(pack_length=size.longest, packs_per_step=packs, packs_per_batch=packs)
        plan, losses = plan_packs(np.asarray(table.lengths), size.longest), []
        with base.new_adapter(lora, SEED) as model, tempfile.TemporaryDirectory() as scratch:
            train(
                model, table, plan, rows, config, seed=SEED, round=1, steps=STEPS, scratch=Path(scratch),
                on_step=lambda metrics: losses.append(metrics["loss"]),
            )  # fmt: skip
            weights = [p.detach().float().flatten().cpu() for p in trainable_parameters(model).values()]
        return {"losses": np.array(losses), "weights": torch.cat(weights).numpy()}

    return {"scoring": scoring, "gradients": gradient_vectors, "writing answers": writing, "training": training}


@contextmanager
def capped(resident: int, peak: int, share: float) -> Iterator[None]:
    """Inside the block this process gets `resident` bytes of the GPU and `share` of what `peak` is above them."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((resident + share * (peak - resident)) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextmanager
def injected(most: int) -> Iterator[None]:
    """Inside the block a pass over more than `most` tokens raises torch's error, and so does a step of as many answers."""

    def refusing(work: Callable[..., Any], tokens: Callable[..., int]) -> Callable[..., Any]:
        """`work`, unless `tokens` of its arguments are too many."""

        def refused(*arguments: Any, **options: Any) -> Any:
            """Do the work or raise."""
            if tokens(*arguments, **options) > most:
                raise torch.OutOfMemoryError("CUDA out of memory (injected)")
            return work(*arguments, **options)

        return refused

    def of_batch(model: torch.nn.Module, batch: Batch, *rest: Any, **options: Any) -> int:
        """Tokens of a pass."""
        return len(batch.input_ids)

    def of_rows(tokens: TokenTable, rows: np.ndarray, *rest: Any, **options: Any) -> int:
        """Tokens of a batch before it is made."""
        return sum(len(tokens.ids(int(row))) for row in rows)

    def of_answers(engine: CachedEngine, *rest: Any) -> int:
        """Tokens of all answers under way."""
        return sum(sequence.size for sequence in engine.under_way)

    places = [(measure, "hidden_states", of_batch), (step, "hidden_states", of_batch), (gradients, "collate", of_rows)]
    places.append((CachedEngine, "step", of_answers))
    kept = [getattr(owner, name) for owner, name, _ in places]
    for (owner, name, tokens), work in zip(places, kept, strict=True):
        setattr(owner, name, refusing(work, tokens))
    try:
        yield
    finally:
        for (owner, name, _), work in zip(places, kept, strict=True):
            setattr(owner, name, work)


def difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Norm of the difference relative to that of `expected`; of token ids (n, length) the share of answers that differ."""
    if expected.dtype.kind == "i":
        return float((expected != found).any(axis=1).mean())
    return float(np.linalg.norm(expected.astype(float) - found) / np.linalg.norm(expected.astype(float)))


def compare(work: Work, share: float, most: int | None) -> dict[str, Any]:
    """Do the work twice: memory of the first time, what was reported the second time, and how far the results are apart."""
    gpu = torch.cuda.is_available()
    resident = torch.cuda.memory_allocated() if gpu else 0
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    expected = work()
    peak = torch.cuda.max_memory_allocated() if gpu else 0
    lines: list[str] = []
    short = injected(most) if most is not None else capped(resident, peak, share) if gpu else nullcontext()
    with listening(lines.append), short:
        found = work()
    apart = {name: difference(values, found[name]) for name, values in expected.items()}
    return {"resident_gib": resident / 2**30, "peak_gib": peak / 2**30, "reported": lines, "difference": apart}


def main() -> int:
    """Write the record; 1 if some work was not short of memory, or ended with another result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--inject", action="store_true", help="raise the error instead of capping memory")
    parser.add_argument("--size", choices=SIZES, help="default: large on a GPU, small without one")
    parser.add_argument(
        "--share", type=float, default=0.4, help="of the memory that the work took beyond the model (default 0.4)"
    )
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu and not arguments.inject:
        parser.error("there is no GPU whose memory could be capped; use --inject")
    size = SIZES[arguments.size or ("large" if gpu else "small")]
    most = size.batch_tokens // 2 if arguments.inject else None
    with tempfile.TemporaryDirectory() as folder:
        base = random_base(size, arguments.dtype, Path(folder))
        found = {
            name: compare(work, arguments.share, most) for name, work in works(base, documents(size), size).items()
        }
    limit = TOLERANCE[arguments.dtype]
    for name, row in found.items():
        row["same"] = all(
            apart <= (OTHER_ANSWERS if key == "tokens" else limit) for key, apart in row["difference"].items()
        )
        print(f"{name}: short of memory {len(row['reported'])} times, difference {row['difference']}", flush=True)
    held = all(row["reported"] and row["same"] for row in found.values())
    record = {
        "device": device_name(), "versions": versions(), "date": now(), "command": " ".join(sys.argv), "tolerance": limit,
        "injected": arguments.inject, "share": arguments.share, "dtype": arguments.dtype, "size": vars(size), "work": found, "held": held,
    }  # fmt: skip
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
