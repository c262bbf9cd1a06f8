"""Speed and memory of `pool import` on one core: rows per second for several kinds of files, and peak memory of a large file.

    python benchmarks/import_speed.py --work DIR --out benchmarks/results/import_speed.json [--rows 200000] [--gigabytes 5]

The files are generated from random words, so exact duplicates are rare. `short` rows are one question and answer of about 90 bytes,
`messages` rows one turn of about 190 bytes, `chat` rows several turns of about 1.1 kB; all are read by `al.pool.importer.import_pool`,
from opening the file to the written pool. Every measurement runs in its own process; `cpu_rows_per_s` uses CPU
seconds, which other work on the machine disturbs less than wall time. `peak_mib` is the largest resident set. The large file
is JSON Lines of chat rows, every thousandth line of it broken.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from common import device_name, now, versions  # noqa: E402

WORDS = "the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not".split()
BROKEN = '{"messages": [{"role": "user", "content": "cut off'


def words(rng: random.Random, least: int, most: int) -> str:
    """`least` to `most` random words."""
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))


def short(rng: random.Random, number: int) -> dict[str, Any]:
    """A row of one question and answer, about 90 bytes."""
    return {"question": f"{words(rng, 5, 9)} {number}?", "answer": words(rng, 4, 8)}


def messages(rng: random.Random, number: int) -> dict[str, Any]:
    """A row of one turn, about 190 bytes."""
    asked, said = f"{words(rng, 8, 14)} {number}?", words(rng, 8, 12)
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}], "source": "made"}


def chat(rng: random.Random, number: int) -> dict[str, Any]:
    """A row of four or six messages, about 1.1 kB."""
    turns = [("user" if turn % 2 == 0 else "assistant", words(rng, 20, 60)) for turn in range(rng.choice([4, 6]))]
    turns[0] = ("user", f"{number}: {turns[0][1]}")
    return {"messages": [{"role": role, "content": said} for role, said in turns], "source": f"task-{number % 50}"}


def lines(made: Callable, rows: int, path: Path) -> None:
    """Write one row per line."""
    rng = random.Random(0)
    with gzip.open(path, "wt", compresslevel=1) if path.suffix == ".gz" else path.open("w") as file:
        file.writelines(json.dumps(made(rng, number)) + "\n" for number in range(rows))


def array(made: Callable, rows: int, path: Path) -> None:
    """Write one indented array."""
    rng = random.Random(0)
    path.write_text(json.dumps([made(rng, number) for number in range(rows)], indent=1))


def table(made: Callable, rows: int, path: Path) -> None:
    """Write CSV or Parquet, by suffix."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    rng = random.Random(0)
    content = pa.Table.from_pylist([made(rng, number) for number in range(rows)])
    if path.suffix == ".csv":
        pa.csv.write_csv(content, path)
    else:
        pa.parquet.write_table(content, path)


FILES: dict[str, tuple[Callable, Callable]] = {
    "short.jsonl": (lines, short),
    "messages.jsonl": (lines, messages),
    "chat.jsonl": (lines, chat),
    "messages.jsonl.gz": (lines, messages),
    "messages.json": (array, messages),
    "short.csv": (table, short),
    "messages.parquet": (table, messages),
}


def large_lines(size: int) -> Iterator[str]:
    """Write `size` bytes of chat rows as JSON Lines; texts repeat after 20,000 rows, numbers do not."""
    rng = random.Random(0)
    block = [chat(rng, number) for number in range(20_000)]
    number = 0
    while size > 0:
        row = block[number % len(block)]
        row["messages"][0]["content"] = f"{number}: {row['messages'][0]['content'].partition(': ')[2]}"
        line = (BROKEN if number % 1000 == 999 else json.dumps(row)) + "\n"
        size -= len(line)
        number += 1
        yield line


def peak_mib() -> int:
    """The largest resident set of this process so far. `getrusage` would include that of the parent process."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def measured(path: Path, work: Path, answer: Any) -> None:
    """Import a file and send time and memory; runs in its own process."""
    from al.config.pool import PoolConfig
    from al.pool.importer import import_pool
    from al.pool.sources import find_sources

    out = work / "pool"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    before = peak_mib()
    wall, cpu = time.perf_counter(), time.process_time()
    stats = import_pool(find_sources(PoolConfig(files=[str(path)])), out)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    answer.put(
        {
            "rows": stats.rows,
            "examples": stats.examples,
            "quarantined": sum(stats.quarantined.values()),
            "megabytes": round(path.stat().st_size / 1e6, 1),
            "rows_per_s": round(stats.rows / wall),
            "cpu_rows_per_s": round(stats.rows / cpu),
            "megabytes_per_s": round(path.stat().st_size / 1e6 / wall, 1),
            "wall_s": round(wall, 2),
            "cpu_s": round(cpu, 2),
            "peak_mib": peak_mib(),
            "before_mib": before,
        }
    )
    shutil.rmtree(out)


def measure(path: Path, work: Path) -> dict[str, Any]:
    """Time and memory of importing a file, with the machine's load before."""
    load = os.getloadavg()[0]
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=measured, args=(path, work, answer))
    process.start()
    found = answer.get()
    process.join()
    return {**found, "load_before": round(load, 2)}


def main() -> None:
    """Measure every kind of file, then the large file, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/import_speed.json")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--gigabytes", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    asked.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name, (write, made) in FILES.items():
        path = asked.work / name
        write(made, asked.rows, path)
        runs = [measure(path, asked.work) for _ in range(asked.repeats)]
        found[name] = max(runs, key=lambda run: run["cpu_rows_per_s"])
        print(name, json.dumps(found[name]), flush=True)
        path.unlink()
    large = asked.work / "large.jsonl"
    with large.open("w") as file:
        file.writelines(large_lines(int(asked.gigabytes * 1e9)))
    found["large.jsonl"] = measure(large, asked.work)
    large.unlink()
    print("large.jsonl", json.dumps(found["large.jsonl"]), flush=True)
    record = {
        "date": now(),
        "command": f"python benchmarks/import_speed.py --rows {asked.rows} --gigabytes {asked.gigabytes:g}",
        "device": f"one core, {device_name().split(',')[0]}",
        "versions": versions("pyarrow", "msgspec", "numpy"),
        "repeats": asked.repeats,
        "files": found,
    }
    asked.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
