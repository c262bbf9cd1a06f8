"""How well wrong answers that fit their prompts are found: the rows of the noisy pools, each with the other answers of its task.

    python benchmarks/proving_ground/wrong_answers.py --inputs DIR --out FILE COMPARED_DIR...

Confident learning in a task (Northcutt et al. 2021, arXiv 1911.00068): adapters trained on the noisy pool say how likely each answer of the
task is, mean over the adapters; a wrong one is less likely than another. What that is worth depends on how often the model agrees with
the task's answers at all, so a logistic regression joins both; it and its threshold (precision of 80%) come from the other pools. Only
tasks count in which the model prefers the right answer in at least 60% of the clean rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

LEAST_RIGHT, PRECISION, BOUND = 0.6, 0.8, 20.0


def features(nll: np.ndarray, of: np.ndarray, wrong: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, ...]:
    """What is known of each row: (n, 6) numbers, whether it is wrong, whether its task counts.

    Args:
        nll: (m,) summed NLL of every answer, a row's given one first. of: (m,) the row of each answer, ascending runs.
        wrong, task: of all rows of the pool.
    """
    start = np.flatnonzero(np.r_[True, of[1:] != of[:-1]])
    stop = np.r_[start[1:], len(of)]
    wrong, (_, task) = wrong[of[start]], np.unique(task[of[start]], return_inverse=True)
    given, best, total = -nll[start], np.empty(len(start)), np.empty(len(start))
    for i, (a, b) in enumerate(zip(start, stop, strict=True)):
        best[i], total[i] = -nll[a + 1 : b].min(), np.logaddexp.reduce(-nll[a:b])
    margin, agrees = best - given, (best <= given).astype(float)
    count, hits = np.bincount(task), np.bincount(task, agrees)
    others = (hits[task] - agrees + 1) / (count[task] + 1)  # of the task's other rows, smoothed
    trust = np.log(others / (1 - others))
    rank, centre = np.zeros(len(task)), np.zeros(len(task))
    for t in range(len(count)):
        rows = np.flatnonzero(task == t)
        rank[rows] = np.argsort(np.argsort(margin[rows])) / max(1, len(rows) - 1)
        centre[rows] = np.median(margin[rows])
    clean = np.bincount(task, ~wrong * agrees) / np.maximum(np.bincount(task, ~wrong), 1)
    known = np.clip(margin, -BOUND, BOUND), trust, rank, margin - centre, trust * (margin > 0), given - total
    return np.clip(np.stack(known, 1), -BOUND, BOUND), wrong, clean[task] >= LEAST_RIGHT


def held_out(found: dict[str, tuple[np.ndarray, ...]]) -> dict[str, dict[str, Any]]:
    """Recall and precision on each pool, the regression and its threshold coming from the others."""
    from sklearn.linear_model import LogisticRegression

    def fitted(pools: list[str]) -> Any:
        """A regression on the rows of these pools that count."""
        x = np.concatenate([found[pool][0][found[pool][2]] for pool in pools])
        return LogisticRegression(max_iter=1000).fit(x, np.concatenate([found[p][1][found[p][2]] for p in pools]))

    result = {}
    for pool, (x, wrong, counts) in found.items():
        others = [other for other in found if other != pool]
        scores = [
            fitted([p for p in others if p != other]).predict_proba(found[other][0][found[other][2]])[:, 1]
            for other in others
        ]
        limit = threshold(
            np.concatenate(scores), np.concatenate([found[other][1][found[other][2]] for other in others])
        )
        hit = fitted(others).predict_proba(x[counts])[:, 1] >= limit
        planted = wrong[counts]
        result[pool] = {
            "rows": int(counts.sum()), "wrong": int(planted.sum()), "suspected": int(hit.sum()),
            "found": int((planted & hit).sum()),
        }  # fmt: skip
    return result


def threshold(scores: np.ndarray, wrong: np.ndarray) -> float:
    """The lowest score from which on at least 80% are wrong; above all scores if there is none."""
    order = np.argsort(-scores)
    enough = np.flatnonzero(np.cumsum(wrong[order]) / np.arange(1, len(order) + 1) >= PRECISION)
    return float(scores[order][enough[-1]]) if len(enough) else float("inf")


def find(inputs: Path, folders: Iterable[Path]) -> dict[str, Any]:
    """By model and pool, what confident learning finds, out of the folders that players wrote."""
    splits, others = np.load(inputs / "splits.npz"), np.load(inputs / "alternatives.npz")
    runs: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for file in sorted(file for folder in folders for file in folder.glob("*.npz")):
        model, pool = file.stem.split("|")[:2]
        runs[model, pool].append(np.load(file)["nll"])
    document: dict[str, Any] = {}
    for model in sorted({model for model, _ in runs}):
        found = {
            pool: features(
                np.mean(nlls, 0), others[f"{pool}|of"], splits[f"{pool}|inside|wrong"], splits[f"{pool}|pool|task"]
            )
            for (of_model, pool), nlls in runs.items()
            if of_model == model
        }
        document[model] = held_out(found)
    return document


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("inputs", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("folders", nargs="+", type=Path)
    arguments = parser.parse_args()
    document = find(arguments.inputs, arguments.folders)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
