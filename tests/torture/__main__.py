"""`make torture`: many kills, failing disks, damaged files and hostile inputs, counted.

    python tests/torture [--rows NAME …] [--cases NAME …] [--seed N] [--minutes M] [--workers 2] [--journal FILE] [--record FILE]

Every case is printed with its outcome, every row with its counts. --journal keeps the outcomes, so that the same command goes on where the
last one stopped; cases that fell are run again. --record writes the counts, from which `benchmarks/render.py` draws docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT), str(ROOT / "benchmarks")]

import calls  # noqa: E402, F401
import circumstances  # noqa: E402, F401
import damage  # noqa: E402, F401
import hostile  # noqa: E402, F401
import kills  # noqa: E402, F401
import training  # noqa: E402, F401
import world  # noqa: E402
from build import build  # noqa: E402
from cases import ROWS, Case, Fell  # noqa: E402

SHOWN = 20
QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
"""A fork has one thread: pools of threads that the process before it started would never answer."""


def cases_of(rows: list[str], seed: int) -> list[tuple[str, Case]]:
    """The cases of these rows, each with its row; interleaved, so that a run that is cut short has done the same share of each."""
    found = []
    for name in rows:
        cases = list(ROWS[name].cases(seed))
        found += [(number / len(cases), name, case) for number, case in enumerate(cases)]
    return [(name, case) for _, name, case in sorted(found, key=lambda entry: entry[0])]


def work(options: argparse.Namespace) -> None:
    """Run every case of the groups that are this process's, and print one JSON line for each."""
    world.warm_up()
    done = {(one["row"], one["case"]) for one in journal(options.journal) if one["held"]}
    cases = cases_of(options.rows, options.seed)
    groups = list(dict.fromkeys(case.group or case.name for _, case in cases))
    mine = set(groups[options.part :: options.workers])
    for name, case in cases:
        wanted = (name, case.name) not in done and (options.cases is None or case.name in options.cases)
        if (case.group or case.name) in mine and wanted and time.time() < options.deadline:
            line = json.dumps({"row": name, "case": case.name, **outcome(case)}) + "\n"
            os.write(sys.stdout.fileno(), line.encode())  # in one piece: other workers write to the same pipe


def journal(path: Path | None) -> list[dict[str, Any]]:
    """The last outcome of every case in a journal."""
    lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
    return list({(one["row"], one["case"]): one for one in map(json.loads, lines)}.values())


def outcome(case: Case) -> dict[str, Any]:
    """{"held", "what", "seconds"} of one case, in a folder of its own."""
    own = Path(
        tempfile.mkdtemp(dir=world.world().parent)
    )  # what lands next to its place is the case's too, and no other worker's
    place = own / "place"
    place.mkdir()
    started = time.monotonic()
    try:
        found = {"held": True, "what": case.run(place)}
    except Fell as fell:
        found = {"held": False, "what": str(fell)}
    except Exception as error:
        found = {"held": False, "what": "".join(traceback.format_exception(error)).strip()[-800:]}
    finally:
        for folder in (path for path in own.rglob("*") if path.is_dir() and not path.is_symlink()):
            folder.chmod(0o755)
        shutil.rmtree(own, ignore_errors=True)
    return {**found, "seconds": round(time.monotonic() - started, 2)}


def workers(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The outcomes of all cases, as the processes that run them print them. The world is in memory, if the system has a place for it."""
    from tiny_world import build_world

    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        dir=memory if os.access(memory, os.W_OK) else None, ignore_cleanup_errors=True
    ) as folder:
        config = build_world(Path(folder), world.EXAMPLES)
        environment = {**os.environ, **QUIET, world.WORLD: str(config), "LD_PRELOAD": str(build(config.parent))}
        if not Path("/dev/nvidiactl").exists():
            environment.setdefault("TRITON_INTERPRET", "1")
        command = [sys.executable, HERE, *sys.argv[1:], "--deadline", str(options.deadline)]
        read, write = os.pipe()  # one for all: a line is shorter than what a pipe takes whole
        started = [
            subprocess.Popen([*command, "--part", str(part)], env=environment, stdout=write)
            for part in range(options.workers)
        ]
        os.close(write)
        with os.fdopen(read, encoding="utf-8") as lines:
            yield from map(json.loads, lines)
        for process in started:
            if process.wait():
                sys.exit(f"a worker ended with {process.returncode}")


def record(path: Path, rows: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """Put the counts of these rows into `path`."""
    from common import device_name, now, versions

    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": {}}
    command = f"python tests/torture --seed {options.seed}" + (" --journal FILE" if options.journal else "")
    for name, found in rows.items():
        fell = [{"case": one["case"], "what": one["what"]} for one in found if not one["held"]]
        document["rows"][name] = {
            "title": ROWS[name].title,
            "promise": ROWS[name].promise,
            "asked": len({case.name for case in ROWS[name].cases(options.seed)}),
            "ran": len(found),
            "held": len(found) - len(fell),
            "seconds": round(sum(one["seconds"] for one in found)),
            "outcomes": dict(Counter(one["what"] for one in found if one["held"]).most_common()),
            "fell": fell[:SHOWN],
        }
    document |= {
        "date": now(),
        "command": command,
        "seed": options.seed,
        "device": device_name(),
        "versions": versions(),
    }
    document["rows"] = {name: document["rows"][name] for name in ROWS if name in document["rows"]}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tests/torture", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="Only these, named as they are printed.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=90.0, help="Start no case after this time; 0: only count what the journal has."
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--part", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, default=float("inf"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run the rows; 1 if anything fell."""
    options = arguments()
    if options.part >= 0:
        work(options)
        return 0
    options.deadline = time.time() + 60 * options.minutes
    every = journal(options.journal)
    with (options.journal or Path(os.devnull)).open("a", encoding="utf-8") as kept:
        for found in workers(options) if options.minutes else ():
            every.append(found)
            print(json.dumps(found), file=kept, flush=True)
            print(
                f"{'held' if found['held'] else 'FELL'}  {found['row']}: {found['case']}: {found['what']}", flush=True
            )
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in options.rows}
    for found in {(one["row"], one["case"]): one for one in every if one["row"] in rows}.values():
        rows[found["row"]].append(found)
    held = {name: sum(one["held"] for one in found) for name, found in rows.items()}
    for name, found in rows.items():
        print(
            f"{name}: {held[name]} of {len(found)} held, seed {options.seed}, {sum(one['seconds'] for one in found):.0f} s"
        )
    if options.record:
        record(options.record, rows, options)
    return int(any(held[name] < len(found) for name, found in rows.items()))


if __name__ == "__main__":
    sys.exit(main())
