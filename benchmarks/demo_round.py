"""Time and memory of the demo's rounds on this machine, run as by a user: one child process per round.

python benchmarks/demo_round.py --work DIR --rounds 2 --out benchmarks/results/demo_round.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run_once(run: Path, budget: str) -> dict[str, Any]:
    """One `round` in a child process: wall seconds, peak resident GiB of any child so far, and the summary's figures."""
    command = [
        sys.executable,
        "cli.py",
        "round",
        "--config",
        "configs/demo.yaml",
        "--run",
        str(run),
        "--budget",
        budget,
        "--json",
    ]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    summary = json.loads(done.stdout)
    return {
        "seconds": round(seconds, 1),
        "peak_resident_gib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
        **{key: summary[key] for key in ("round", "budget", "timings", "evaluation", "versions", "device")},
        "training": {
            name: {key: lineage[key] for key in ("steps", "tokens", "seconds", "tokens_per_s")}
            for name, lineage in summary["training"].items()
            if lineage
        },
    }


def processor() -> str:
    """The processor's name as reported by Linux."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    """Parse arguments, run the rounds in sequence, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--budget", default="100")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    rounds = [run_once(arguments.work / "demo", arguments.budget) for _ in range(arguments.rounds)]
    record = {
        "command": f"python benchmarks/demo_round.py --rounds {arguments.rounds} --budget {arguments.budget}",
        "processor": processor(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "rounds": rounds,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
