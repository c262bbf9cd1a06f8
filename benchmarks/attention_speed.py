"""Attention over packs on a GPU: our own kernels against a reference, then their time next to FlashAttention 2's.

    python benchmarks/attention_speed.py --out benchmarks/results/attention_speed_h200.json

1. Errors of the result and of the three gradients against float64, relative to the size of a row; whether a second run has the same
   bits, and whether a document keeps its bits when the others become NaN.
2. Time of every tile size of `TRIED` for each kernel; its results are compared with those of the tiles in use.
3. Time of the fastest tiles next to FlashAttention 2 through torch, which caps no scores.

Times are milliseconds of one layer on the device: calls wait behind a pause of the device until all are queued, so the host's time does not
count. The exit code is 1 if any result is wrong. At the end it prints the tables for trainer/decoder/packed_attention.py.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from attention_problem import (  # noqa: E402
    CHECKED,
    CHECKED_LENGTHS,
    MODELS,
    TOLERANCE,
    Problem,
    Shape,
    check,
    is_windowed,
    lengths_of,
    row_error,
)
from common import device_name, now, table, versions  # noqa: E402

from trainer.attention import attend, attend_backward  # noqa: E402
from trainer.decoder.packed_attention import FLASH_FROM, TILINGS, Call, Tiling, Tilings, head_of  # noqa: E402

KERNELS = ("forward", "queries", "keys")
PACKS = {"220": 220, "1000": 1000, "2000": 2000, "4000": 4000, "8192": 8192}
"""Mean length of documents by name; the last is one document."""
SWEPT = ("220", "1000", "8192")
PAUSE = 30_000_000
"""Clock cycles of a device's pause, about 17 ms on an H200: longer than it takes to queue the calls of one measurement."""


TRIED = {
    64: {
        "forward": ((64, 64, 4, 3), (64, 64, 4, 2), (64, 32, 4, 3), (64, 128, 4, 2), (128, 64, 4, 2), (128, 64, 8, 2)),
        "queries": ((64, 64, 4, 2), (64, 64, 4, 3), (64, 32, 4, 2), (128, 64, 8, 2), (128, 32, 4, 2)),
        "keys": ((64, 64, 4, 2), (32, 64, 4, 2), (32, 64, 4, 3), (64, 64, 8, 2), (32, 128, 4, 2), (64, 128, 8, 2)),
    },
    128: {
        "forward": (
            *((64, 64, 4, 2), (64, 64, 4, 3), (64, 32, 4, 2), (64, 32, 4, 3), (64, 64, 8, 2), (128, 64, 8, 2)),
            *((128, 32, 8, 3), (128, 32, 8, 2)),
        ),
        "queries": (
            *((64, 32, 4, 2), (64, 32, 4, 3), (64, 64, 4, 2), (64, 64, 8, 2), (128, 32, 8, 2), (128, 64, 8, 2)),
            *((64, 32, 8, 2),),
        ),
        "keys": (
            *((32, 64, 8, 2), (32, 64, 4, 2), (16, 64, 4, 2), (64, 64, 8, 2), (64, 64, 4, 2), (32, 128, 8, 2)),
            *((64, 128, 8, 2), (32, 64, 8, 3)),
        ),
    },
    256: {
        "forward": ((64, 64, 8, 2), (64, 32, 8, 2), (64, 32, 4, 2), (64, 64, 4, 2), (128, 64, 8, 2), (128, 32, 8, 2)),
        "queries": ((64, 32, 8, 2), (64, 32, 4, 2), (64, 64, 8, 2), (128, 32, 8, 2)),
        "keys": ((32, 64, 8, 2), (16, 64, 8, 2), (16, 64, 8, 3), (64, 64, 8, 2), (32, 64, 16, 2)),
    },
}
"""Rows, keys, warps, stages by head width and kernel. The first of each are those in use, before a measurement changes them."""


def milliseconds(work: Callable[[], Any], device: torch.device, repeats: int = 20) -> float:
    """Mean time of `work` on the device, the least of three measurements; `work` must have run before."""
    if device.type != "cuda":
        started = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - started)
    best = float("inf")
    for _ in range(3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        torch.cuda._sleep(PAUSE)
        begin.record()
        for _ in range(repeats):
            work()
        end.record()
        torch.cuda.synchronize()
        best = min(best, begin.elapsed_time(end) / repeats)
    return best


def with_one(head: int, kernel: str, tiling: tuple[int, ...]) -> Tilings:
    """The tiles in use, with another choice for one kernel."""
    given = {name: getattr(TILINGS[head], name) for name in KERNELS}
    return Tilings(**{**given, kernel: Tiling(*tiling)})


def works(problem: Problem, call: Call) -> dict[str, Callable[[], Any]]:
    """Each kernel alone, on the results of the ones before it."""
    q, k, v = problem.inputs
    dq, dk, dv = problem.into
    log_sums = problem.call().forward(q, k, v, problem.out)
    deltas = problem.call().query_gradient(problem.gradient, q, k, v, problem.out, log_sums, dq)
    return {
        "forward": lambda: call.forward(q, k, v, problem.out),
        "queries": lambda: call.query_gradient(problem.gradient, q, k, v, problem.out, log_sums, dq),
        "keys": lambda: call.key_gradient(problem.gradient, q, k, v, log_sums, deltas, dk, dv),
    }


Job = tuple[Shape, str, tuple[int, ...], bool]
"""Shape, kernel, tiling, whether windows matter."""


def compile_one(job: Job) -> str | None:
    """Compile a kernel into Triton's cache on disk by running it on a short pack. Returns why it cannot run."""
    shape, kernel, tiling, windowed = job
    try:
        problem = Problem(shape, (2 * shape.window if windowed else 40,), torch.device("cuda"), torch.bfloat16)
        works(problem, problem.call(with_one(head_of(shape.width), kernel, tiling)))[kernel]()
        torch.cuda.synchronize()
    except Exception as error:  # a tile that is too large: Triton has several classes for it
        return f"{type(error).__name__}: {error}"[:200]
    return None


def check_one(given: tuple[str, torch.device, torch.dtype]) -> dict[str, Any]:
    """The check of a shape; an exception is a wrong result."""
    name, device, dtype = given
    try:
        return check(name, CHECKED[name], device, dtype, CHECKED_LENGTHS)
    except Exception as error:  # recorded, so that the other shapes are still measured
        return {"shape": name, "dtype": str(dtype), "right": False, "errors": {}, "refused": f"{error!r}"[:400]}


class Processes:
    """Parallel processes on a GPU, each of which compiles; on a CPU nothing is compiled, and this process does the work."""

    def __init__(self, device: torch.device):
        workers = min(14, os.cpu_count() or 1)
        spawn = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(workers, spawn) if device.type == "cuda" else None

    def checks(self, given: list[tuple[str, torch.device, torch.dtype]]) -> list[dict[str, Any]]:
        """`check_one` of each."""
        return list(map(check_one, given) if self.pool is None else self.pool.map(check_one, given))

    def compile(self, jobs: list[Job]) -> dict[Job, str | None]:
        """Why each job cannot run, or None."""
        return (
            dict.fromkeys(jobs) if self.pool is None else dict(zip(jobs, self.pool.map(compile_one, jobs), strict=True))
        )

    def close(self) -> None:
        """End the processes."""
        if self.pool is not None:
            self.pool.shutdown()


def sweep(
    problems: dict[tuple[str, str], Problem], processes: Processes, device: torch.device, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """Time and error of every tiling of TRIED for each kernel of each problem to which windows do not matter."""
    free = {key: p for key, p in problems.items() if key[1] in SWEPT and not is_windowed(p)}
    jobs = [
        (shape, kernel, tiling, False)
        for shape in dict.fromkeys(p.shape for p in free.values())
        for kernel in KERNELS
        for tiling in TRIED[head_of(shape.width)][kernel]
    ]
    why = processes.compile(jobs)
    rows = []
    for (model, pack), problem in free.items():
        wanted = problem.packed(problem.call())
        for shape, kernel, tiling, _ in jobs:
            if shape != problem.shape:
                continue
            row: dict[str, Any] = {"model": model, "pack": pack, "kernel": kernel, "tiling": tiling}
            rows.append(row)
            if why[shape, kernel, tiling, False]:
                row["refused"] = why[shape, kernel, tiling, False]
                continue
            tilings = with_one(head_of(shape.width), kernel, tiling)
            found = problem.packed(problem.call(tilings))
            row["error"] = float(f"{max(row_error(a, b) for a, b in zip(found, wanted, strict=True)):.2e}")
            row["right"] = row["error"] <= TOLERANCE[dtype]
            row["ms"] = round(milliseconds(works(problem, problem.call(tilings))[kernel], device), 4)
    return rows


def fastest(rows: list[dict[str, Any]]) -> dict[int, Tilings]:
    """The tilings with the least time by head width, added over models and the packs of short documents."""
    chosen = {}
    for head in TRIED:
        best = {}
        for kernel in KERNELS:
            total: dict[tuple[int, ...], list[float]] = {}
            for row in rows:
                if row["kernel"] == kernel and head_of(MODELS[row["model"]].width) == head and row["pack"] != "8192":
                    total.setdefault(row["tiling"], []).append(row["ms"] if row.get("right") else float("inf"))
            sums = {tiling: sum(times) for tiling, times in total.items()}
            best[kernel] = Tiling(*min(sums, key=sums.get)) if sums else getattr(TILINGS[head], kernel)
        chosen[head] = Tilings(**best)
    return chosen


@contextmanager
def without_our_kernels() -> Iterator[None]:
    """Inside the block attention goes to FlashAttention 2, whatever the lengths."""
    before = dict(FLASH_FROM)
    FLASH_FROM.update(dict.fromkeys(FLASH_FROM, 0))
    try:
        yield
    finally:
        FLASH_FROM.update(before)


def before_and_after(model: str, pack: str, problem: Problem, tilings: Tilings, device: torch.device) -> dict[str, Any]:
    """Times of a whole layer's attention by FlashAttention 2 and by our kernels."""
    shape, inputs = problem.shape, problem.inputs
    lengths = np.diff(problem.pack.borders)
    row: dict[str, Any] = {"model": model, "pack": pack, "documents": len(lengths)}
    row["mean_of_a_token"] = round(float((lengths**2).sum() / lengths.sum()))
    if shape.softcap is None and device.type == "cuda":
        options = (problem.pack, problem.scale, shape.window)
        with without_our_kernels():
            log_sums = attend(*inputs, problem.out, *options)
            given = (problem.gradient, *inputs, problem.out, log_sums, problem.into, *options)
            attend_backward(*given)
            row["flash"] = {
                "forward": round(milliseconds(lambda: attend(*inputs, problem.out, *options), device), 4),
                "backward": round(milliseconds(lambda: attend_backward(*given), device), 4),
            }
    call = problem.call(tilings)
    problem.packed(call)
    times = {kernel: round(milliseconds(work, device), 4) for kernel, work in works(problem, call).items()}
    row["packed"] = {"forward": times["forward"], "backward": round(times["queries"] + times["keys"], 4), **times}
    return row


def crossings(rows: list[dict[str, Any]]) -> dict[int, int]:
    """From which length of a token's document FlashAttention 2 is faster, forward and backward together, by head width: between
    the last measured length at which it is not for any model, and the next."""
    found = {}
    for head in TRIED:
        of_head = [r for r in rows if "flash" in r and head_of(MODELS[r["model"]].width) == head]
        slower, lengths = 0, sorted({row["mean_of_a_token"] for row in of_head})
        for row in of_head:
            both = [row[kind]["forward"] + row[kind]["backward"] for kind in ("packed", "flash")]
            slower = max(slower, row["mean_of_a_token"] if both[0] <= both[1] else 0)
        above = [length for length in lengths if length > slower]
        found[head] = int((slower * above[0]) ** 0.5) if above else 2 * max(lengths, default=0)
    return found


def report(record: dict[str, Any]) -> str:
    """What was measured, as tables, and the lines for packed_attention.py."""
    checks = [
        [
            c["shape"],
            c["dtype"],
            *(f"{e:.1e}" for e in c["errors"].values()),
            str(c["same_bits_twice"]),
            str(c["isolated"]),
        ]
        for c in record["checks"]
    ]
    rows = []
    for row in record["rows"]:
        times = [f"{row[k][p]:.3f}" if k in row else "" for p in ("forward", "backward") for k in ("flash", "packed")]
        rows.append([row["model"], row["pack"], str(row["mean_of_a_token"]), *times])
    swept = [
        [
            r["model"],
            r["pack"],
            r["kernel"],
            str(tuple(r["tiling"])),
            f"{r['ms']:.4f}" if "ms" in r else r["refused"][:60],
        ]
        for r in record["sweep"]
    ]
    return "\n\n".join(
        [
            table(["shape", "dtype", "out", "dq", "dk", "dv", "same bits twice", "isolated"], checks),
            table(["model", "pack", "kernel", "tiling", "ms"], swept),
            table(["model", "pack", "mean", "forward, flash", "ours", "backward, flash", "ours"], rows),
            "\n".join(f"    {head}: {tilings}" for head, tilings in record["tilings"].items()),
            f"FLASH_FROM = {record['flash_from']}",
        ]
    )


def measure(device: torch.device, dtypes: tuple[torch.dtype, ...], tokens: int) -> dict[str, Any]:
    """The record: checks, sweep, rows, and what follows from them."""
    record: dict[str, Any] = {
        "command": "python benchmarks/attention_speed.py", "date": now(), "device": device_name(), "versions": versions(),
        "tokens": tokens,
    }  # fmt: skip
    processes = Processes(device)
    given = [(name, device, dtypes[0]) for name in CHECKED]
    record["checks"] = processes.checks(given + [(name, device, dtype) for dtype in dtypes[1:] for name in MODELS])
    print(json.dumps(record["checks"]), flush=True)
    problems = {
        (model, pack): Problem(shape, lengths_of(min(mean, tokens), tokens), device, dtypes[0])
        for model, shape in MODELS.items()
        for pack, mean in PACKS.items()
    }
    record["sweep"] = sweep(problems, processes, device, dtypes[0])
    best = fastest(record["sweep"])
    windowed = {p.shape for p in problems.values() if is_windowed(p)}
    rest = [(s, k, tuple(vars(getattr(best[head_of(s.width)], k)).values()), True) for s in windowed for k in KERNELS]
    processes.compile(rest)
    processes.close()
    record["rows"] = [
        before_and_after(model, pack, problem, best[head_of(problem.shape.width)], device)
        for (model, pack), problem in problems.items()
    ]
    record["tilings"] = {str(head): str(tilings) for head, tilings in best.items()}
    record["flash_from"] = crossings(record["rows"])
    return record


def main() -> int:
    """Check, measure, write the record; 1 if a result is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=8192)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU here: tests/unit/trainer/test_packed_attention.py runs the kernels in Triton's interpreter")
    record = measure(torch.device("cuda"), (torch.bfloat16, torch.float16), arguments.tokens)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(report(record))
    wrong = [c for c in record["checks"] if not c["right"]] + [r for r in record["sweep"] if r.get("right") is False]
    print(f"wrong: {json.dumps(wrong)}" if wrong else "every result is right")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
