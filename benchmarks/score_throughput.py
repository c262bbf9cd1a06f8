"""Scoring speed on the Mistral-7B shape on one GPU: Winnow's packed passes, and one example per call.

    python benchmarks/score_throughput.py --work DIR --tokenizer DIR --out benchmarks/results/score_h100.json

Random weights have the speed and size of trained ones, so speed and memory are those of the real model. LoRA r=16 is attached and not
zero. 4,096 documents of log-normal length (median 200, clipped at 2,048), every token a target; NLL, entropy and margin of each document
together. Winnow's rows run `trainer.measure.measure` as in a round, over the whole pool, after one warm-up pass. `naive-nf4` is
the method of most published selection code: transformers, PEFT and bitsandbytes, one example per call, on the first documents.
`max_rel_err` is the largest relative difference of a document's NLL from `naive-nf4`'s, over those documents.

`winnow-less` are projected gradients with Adam's moments (16,384 numbers per example), `naive-less` the same with one example per call:
a backward pass through transformers and PEFT, the whole gradient put through Adam and a count sketch.

The effect of 8-bit floats and projections on ranks needs a trained model: see benchmarks/score_quality.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
from common import device_name, now, versions  # noqa: E402
from peers import document_lengths  # noqa: E402
from train_throughput import SHAPES, _clear, build_model, measure_matmul  # noqa: E402

ROWS: dict[str, dict[str, Any]] = {
    "winnow-bf16": {"weights": "dequantized", "batch_tokens": 24576},
    "winnow-nf4": {"weights": "nf4", "batch_tokens": 32768},
    "winnow-fp8": {"weights": "fp8", "batch_tokens": 16384},
}
RANK, DIMENSION = 16, 16384


def documents(count: int, vocabulary: int) -> Any:
    """A token table of random documents, every token a target."""
    from trainer.template import Tokenized
    from trainer.tokens import TokenTable

    rng = np.random.default_rng(0)
    lengths = document_lengths(count, 0)
    return TokenTable.build([Tokenized(rng.integers(5, vocabulary, n).tolist(), [1] * int(n)) for n in lengths])


@contextmanager
def adapted(base: Any, seed: int = 0) -> Iterator[Any]:
    """The model with a LoRA of r=16 and non-zero B."""
    import torch

    from trainer.config import LoraConfig

    with base.new_adapter(LoraConfig(r=RANK, alpha=2.0 * RANK), seed) as model:
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.01)
        yield model


def peak_gib() -> float:
    """Peak of allocated GPU memory since `reset_peak`, GiB."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def reset_peak() -> None:
    """Reset the peak of allocated GPU memory."""
    import torch

    _clear()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def synchronize() -> None:
    """Wait until the GPU is idle."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def winnow(base: Any, table: Any, name: str, rows: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Score `rows` with the settings ROWS[name]; returns the record's row and each document's mean NLL."""
    from trainer.activation import measuring
    from trainer.measure import measure

    settings = ROWS[name]
    reset_peak()
    with adapted(base) as model, measuring(model, settings["weights"], settings["batch_tokens"]) as held:
        measure(model, table, rows[: max(1, len(rows) // 16)], batch_tokens=settings["batch_tokens"])
        synchronize()
        started = time.perf_counter()
        found = measure(model, table, rows, batch_tokens=settings["batch_tokens"])
        synchronize()
        seconds = time.perf_counter() - started
        peak = peak_gib()
    row = _row(name, table, rows, seconds, peak) | {"settings": {**settings, "held": held}}
    return row, found.nll_mean


def naive(base: Any, table: Any, rows: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Score one example per call with transformers, PEFT and bitsandbytes."""
    import torch

    from trainer.model import plain_attention

    reset_peak()
    with adapted(base) as model, plain_attention(model), torch.inference_mode():
        device = next(model.parameters()).device

        def one(row: int) -> list[float]:
            """Statistics of one example by transformers, PEFT and bitsandbytes."""
            ids = torch.from_numpy(np.asarray(table.ids(row))).long().to(device)
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
            log_p = logits.log_softmax(-1)
            nll = -log_p.gather(1, ids[1:, None]).mean()
            entropy = -(log_p.exp() * log_p).sum(-1).mean()
            top = log_p.topk(2).values.exp()
            return torch.stack([nll, entropy, (top[:, 0] - top[:, 1]).mean()]).tolist()

        for row in rows[:4]:
            one(int(row))
        synchronize()
        started = time.perf_counter()
        found = np.array([one(int(row)) for row in rows])
        seconds = time.perf_counter() - started
        peak = peak_gib()
    row = _row("naive-nf4", table, rows, seconds, peak) | {"max_rel_err": 0.0}
    return row, found[:, 0]


def some_moments(model: Any) -> Any:
    """Random Adam moments; the values do not affect the cost."""
    import torch

    from trainer.adapters import trainable_parameters
    from trainer.gradients import Moments

    torch.manual_seed(1)
    parameters = trainable_parameters(model)
    mean = {name: 1e-6 * torch.randn_like(parameter.detach()) for name, parameter in parameters.items()}
    return Moments(mean, {name: 1e-10 * torch.rand_like(tensor) for name, tensor in mean.items()}, steps=100)


def winnow_less(base: Any, table: Any, rows: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Projected gradients of `rows`; returns the record's row and the vectors."""
    from trainer.gradients import project_gradients

    reset_peak()
    settings = {"dimension": DIMENSION, "batch_tokens": 8192}
    with adapted(base) as model:
        moments = some_moments(model)
        project_gradients(model, table, rows[: max(1, len(rows) // 16)], seed=0, moments=moments, **settings)
        synchronize()
        started = time.perf_counter()
        found = project_gradients(model, table, rows, seed=0, moments=moments, **settings)
        synchronize()
        seconds = time.perf_counter() - started
        peak = peak_gib()
    return _row("winnow-less", table, rows, seconds, peak) | {"settings": settings}, found


def naive_less(base: Any, table: Any, rows: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Projected gradients with one example per call."""
    import torch

    from trainer.adapters import trainable_parameters
    from trainer.model import plain_attention

    reset_peak()
    with adapted(base) as model, plain_attention(model):
        parameters, moments = trainable_parameters(model), some_moments(model)
        device = next(iter(parameters.values())).device
        mean, square = (torch.cat([t.flatten() for t in part.values()]) for part in (moments.mean, moments.square))
        bucket = torch.randint(DIMENSION, mean.shape, device=device)
        sign = torch.randint(2, mean.shape, device=device) * 2.0 - 1

        def one(row: int) -> np.ndarray:
            """The projected gradient of one example, through Adam."""
            ids = torch.from_numpy(np.asarray(table.ids(row))).long().to(device)
            model(input_ids=ids[None], labels=ids[None], use_cache=False).loss.backward()
            flat = torch.cat([parameter.grad.flatten() for parameter in parameters.values()])
            flat = (0.9 * mean + 0.1 * flat) / (0.999 * square + 0.001 * flat**2 + 1e-8).sqrt()
            model.zero_grad(set_to_none=True)
            vector = torch.zeros(DIMENSION, device=device).index_add_(0, bucket, flat * sign)
            return (vector / vector.norm()).half().cpu().numpy()

        for row in rows[:4]:
            one(int(row))
        synchronize()
        started = time.perf_counter()
        found = np.stack([one(int(row)) for row in rows])
        seconds = time.perf_counter() - started
        peak = peak_gib()
    return _row("naive-less", table, rows, seconds, peak), found


def _row(name: str, table: Any, rows: np.ndarray, seconds: float, peak: float) -> dict[str, Any]:
    tokens = int(np.asarray(table.lengths)[rows].sum())
    return {
        "name": name,
        "tokens_per_s": round(tokens / seconds, 1),
        "examples_per_s": round(len(rows) / seconds, 2),
        "peak_gib": round(peak, 2),
        "examples": len(rows),
        "seconds": round(seconds, 2),
    }


def _cosine_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Root mean square difference of the cosines among the same examples, including the error of both projections."""
    one, other = (vectors.astype(np.float64) @ vectors.astype(np.float64).T for vectors in (ours, theirs))
    return float(np.sqrt(((one - other)[~np.eye(len(one), dtype=bool)] ** 2).mean()))


def main() -> None:
    """Parse arguments, build the model, run, write the record after each row."""
    import torch

    from trainer.config import ModelConfig
    from trainer.model import Base

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("work", "tokenizer", "out"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="mistral-7b")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--documents", type=int, default=4096)
    parser.add_argument("--naive", type=int, default=128, help="documents to score one per call")
    parser.add_argument("--less", type=int, default=1024, help="documents to project gradients of; 0: none")
    parser.add_argument("--naive-less", type=int, default=48)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    directory = arguments.work / "model"
    if not (directory / "config.json").exists():
        build_model(directory, arguments.tokenizer, arguments.shape)
    on_gpu = torch.cuda.is_available()
    record: dict[str, Any] = {
        "device": device_name(),
        "versions": versions(),
        "date": now(),
        "command": f"python benchmarks/score_throughput.py --shape {arguments.shape} --documents {arguments.documents} "
        f"--naive {arguments.naive} --less {arguments.less} --naive-less {arguments.naive_less}",
        "matmul_tflops": round(measure_matmul(), 1),
        "rows": [],
    }

    def add(row: dict[str, Any]) -> None:
        """Append a row to the record and save it."""
        record["rows"].append(row)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(row), flush=True)

    base = Base.load(
        ModelConfig(
            name=str(directory), compute_dtype="bfloat16" if on_gpu else "float32", device="cuda" if on_gpu else "cpu"
        )
    )
    table = documents(arguments.documents, base.model.config.vocab_size)
    everything = np.arange(len(table))
    slow, reference = naive(base, table, everything[: arguments.naive])
    add(slow)
    for name in arguments.rows:
        try:
            row, nll = winnow(base, table, name, everything)
            error = np.abs(nll[: arguments.naive] / reference - 1).max()
            add(
                row
                | {
                    "max_rel_err": float(f"{error:.3g}"),
                    "times_naive": round(row["tokens_per_s"] / slow["tokens_per_s"], 2),
                }
            )
        except Exception as error:  # an error in one row must not lose the others
            add({"name": name, "error": f"{type(error).__name__}: {error}"[:500]})
            _clear()
    if arguments.less:
        slow, theirs = naive_less(base, table, everything[: arguments.naive_less])
        add(slow)
        row, ours = winnow_less(base, table, everything[: arguments.less])
        error = _cosine_error(ours[: len(theirs)], theirs)
        times = round(row["tokens_per_s"] / slow["tokens_per_s"], 2)
        add(row | {"cosine_rms_err": round(error, 4), "times_naive": times})


if __name__ == "__main__":
    main()
