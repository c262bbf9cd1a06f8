"""Adds rows that the player wrote to benchmarks/results/proving_ground.json; a run that is there already is replaced.

python benchmarks/proving_ground/record.py --device NAME --versions "torch …" FILE...
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.proving_ground.planning import LIST, POOLS
from benchmarks.proving_ground.player import identity
from benchmarks.proving_ground.summary import ROWS

LEFT_OUT = ("task_nll", "task_em")
"""Values of single tasks stay in the player's files: a megabyte that no table shows."""
WANTED = 2 * len(POOLS) * (4 * len(LIST["seeds"]) + 2 * 3 + 3 * 3)
"""Runs of the core: two models, four strategies of five seeds, two oracles of three, random at three other budgets of three."""


def kinds(folder: Path, splits: Any) -> dict[str, dict[str, Any]]:
    """Of each pool, mean over the seeds: kinds found, their adjusted mutual information with the tasks, their unevenness in nats."""
    from sklearn.metrics import adjusted_mutual_info_score

    from selection.kinds import unevenness

    result = {}
    for pool in POOLS:
        task = splits[f"{pool}|pool|task"]
        found = [np.load(file)["of"] for seed in LIST["seeds"] if (file := folder / f"{pool}_{seed}.npz").exists()]
        result[pool] = {
            "tasks": len(np.unique(task)),
            "kinds": round(float(np.mean([of.max() + 1 for of in found]))),
            "ami": round(float(np.mean([adjusted_mutual_info_score(task, of) for of in found])), 4),
            "unevenness": round(float(np.mean([unevenness(of) for of in found])), 4),
            "seeds": len(found),
        }
    return result


def main() -> None:
    """Merge and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", required=True)
    parser.add_argument("--versions", required=True)
    parser.add_argument("--judged", type=Path, default=None, help="what judging.py wrote")
    parser.add_argument("--wrong-answers", type=Path, default=None, help="what wrong_answers.py wrote")
    parser.add_argument("--kinds", type=Path, default=None, help="folder of found kinds; with --inputs")
    parser.add_argument("--inputs", type=Path, default=None, help="what inputs.py wrote")
    parser.add_argument("files", nargs="*", type=Path)
    arguments = parser.parse_args()
    document = json.loads(ROWS.read_text()) if ROWS.exists() else {"rows": []}
    rows = {identity(row): row for row in document["rows"]}
    for file in arguments.files:
        for line in file.read_text().splitlines():
            row = json.loads(line)
            rows[identity(row)] = {key: value for key, value in row.items() if key not in LEFT_OUT}
    judged = arguments.judged.read_text().splitlines() if arguments.judged else []
    for run in map(json.loads, judged):
        rows[identity(run)] |= {key: run[key] for key in ("generated_em", "generated_tasks")}
    if arguments.wrong_answers:
        document["wrong_answers"] = json.loads(arguments.wrong_answers.read_text())
    if arguments.kinds:
        document["kinds"] = kinds(arguments.kinds, np.load(arguments.inputs / "splits.npz"))
    document |= {
        "command": "python benchmarks/proving_ground/player.py",
        "date": datetime.date.today().isoformat(),
        "device": arguments.device,
        "versions": arguments.versions,
        "rows": [rows[key] for key in sorted(rows, key=str)],
    }
    text = ",\n".join(json.dumps(row) for row in document.pop("rows"))
    head = json.dumps(document, indent=1)
    ROWS.write_text(f'{head[:-2]},\n "rows": [\n{text}\n]}}\n')
    print(f"{len(rows)} rows; of the core's {WANTED} runs, budget 1,000 and random's curve")


if __name__ == "__main__":
    main()
