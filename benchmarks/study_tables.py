"""The selection study as tables of docs/earlier_study.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
TITLES = {
    "evals": "evals: 391 tasks in their natural proportions, 60,000 examples",
    "p3": "p3: 220 templates of about equal size, held out by text",
    "target": "target: GSM8K among 53,000 others; 300 of its questions to aim at, 500 others to test",
    "missing": "missing: the same with nothing of GSM8K in the pool",
    "chat": "chat: code, roleplay, tool use, conversations; nothing was tuned on it",
}


def study(record: dict[str, Any]) -> str:
    """One table a pool and budget; the share of random's examples is read off random's own learning curve."""
    rows = [row for row in record["rows"] if row["split"] == "test"]
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    command = record["command"].split(" --")[0]
    parts = [
        f"{record['device']}; {versions}; {record['date']}; {record['model']}; `{command}`, pools by `benchmarks/study_pools.py`. "
        f"{len(record['rows'])} runs. Macro: the mean over tasks of the test NLL per response token, end-of-turn token included. ± is the "
        "standard deviation over seeds, which change clusters, picks and training. p: paired t-test against random, not corrected for "
        "the number of strategies. Strategies that look at losses have four rounds."
    ]
    pools = list(dict.fromkeys(row["pool"] for row in rows))
    for pool in sorted(pools, key=lambda name: (list(TITLES).index(name.removesuffix("-noisy")), name)):
        of_pool = [row for row in rows if row["pool"] == pool]
        curve = random_curve(of_pool)
        title = TITLES[pool.removesuffix("-noisy")] + (", noisy" if pool.endswith("-noisy") else "")
        parts.append(f"## {title}")
        for budget in sorted({row["budget"] for row in of_pool}):
            names = {row["strategy"] for row in of_pool if row["budget"] == budget}
            if names == {"random"} and len(names) == 1:
                continue
            parts.append(_table([row for row in of_pool if row["budget"] == budget], budget, curve))
        parts += [line for line in (_noise(of_pool), _numbers(of_pool), _cost(of_pool)) if line]
        if len(curve) > 2:
            listed = ", ".join(f"{budget:,}: {nll:.3f}" for budget, nll in curve)
            parts.append(f"Random's learning curve, examples: macro NLL: {listed}.")
    return "\n\n".join([*parts, *_learning_rates(record["rows"]), *_trials(record["rows"])])


def _learning_rates(rows: Sequence[Row]) -> list[str]:
    """The winner and random at other learning rates, on dev."""
    found = [row for row in rows if row["split"] == "dev" and _of_learning_rate(row)]
    listed = ", ".join(
        f"{row['strategy']}: {row['macro_nll']:.3f}" for row in sorted(found, key=lambda r: r["strategy"])
    )
    return [f"At other learning rates (evals, 4,000 examples, one seed, macro NLL on dev): {listed}."] if found else []


def _of_learning_rate(row: Row) -> bool:
    return "learning rate" in row["strategy"]


def _trials(rows: Sequence[Row]) -> list[str]:
    """What was tried on dev before the knobs were set, best first by pool."""
    by_trial = defaultdict(list)
    for row in rows:
        if row["split"] == "dev" and not _of_learning_rate(row):
            by_trial[row["pool"], row["budget"], row["strategy"]].append(row)
    if not by_trial:
        return []
    lines = ["Tried on dev | pool, examples | seeds | macro NLL | micro NLL | exact match", "|".join(["---"] * 6)]
    for (pool, budget, name), runs in sorted(
        by_trial.items(), key=lambda item: (item[0][:2], np.mean([row["macro_nll"] for row in item[1]]))
    ):
        means = [float(np.mean([row[key] for row in runs])) for key in ("macro_nll", "micro_nll", "macro_em")]
        cells = [name, f"{pool}, {budget:,}", str(len(runs)), f"{means[0]:.3f}", f"{means[1]:.3f}", f"{means[2]:.1%}"]
        lines.append(" | ".join(cells))
    return ["\n".join(f"| {line} |" for line in lines)]


def _numbers(rows: Sequence[Row]) -> str:
    """How often written answers had the right number, by strategy."""
    by_strategy = defaultdict(list)
    for row in rows:
        if "right_numbers" in row:
            by_strategy[row["strategy"]].append(row["right_numbers"])
    told = ", ".join(f"{name} {np.mean(values):.1%}" for name, values in sorted(by_strategy.items()))
    return f"GSM8K answers written greedily with the right number after `####`: {told}." if told else ""


def _noise(rows: Sequence[Row]) -> str:
    """How much of the planted noise was suspected, and how much was picked, in words."""
    lines = []
    for name in dict.fromkeys(row["strategy"] for row in rows if row.get("noise", {}).get("looked_at")):
        found = [row["noise"] for row in rows if row["strategy"] == name and row.get("noise")]
        precision, recall = (np.mean([entry[key] for entry in found]) for key in ("precision", "recall"))
        looked_at, planted = (round(np.mean([entry[key] for entry in found])) for key in ("looked_at", "planted"))
        picked = [entry["picked_planted"] for entry in found if "picked_planted" in entry]
        of_picks = ""
        if picked:
            first, later = np.mean(picked, axis=0)
            of_picks = f"; of the first round's picks {first:.1%} had exchanged answers, of later ones {later:.1%}"
        lines.append(
            f"{name}: of {looked_at:,} examples looked at {planted:,} had exchanged answers; {recall:.0%} of them were suspected, and "
            f"{precision:.0%} of the suspects were right{of_picks}."
        )
    return "Suspected noise. " + " ".join(lines) if lines else ""


def _cost(rows: Sequence[Row]) -> str:
    """What scoring and picking took of the default's rounds."""
    found = [row for row in rows if row["strategy"] == "default"]
    if not found or not any(row["seconds"]["score"] > 1 for row in found):
        return ""
    parts = []
    for budget in sorted({row["budget"] for row in found}):
        of = [row["seconds"] for row in found if row["budget"] == budget]
        chosen = sum(entry["score"] + entry["select"] for entry in of)
        parts.append(f"{chosen / (chosen + sum(entry['train'] for entry in of)):.0%} at {budget:,} examples")
    return "Scoring and picking took, of the default's scoring, picking and training: " + ", ".join(parts) + "."


def random_curve(rows: Sequence[Row]) -> list[tuple[int, float]]:
    """(examples, mean macro NLL) of random at every budget."""
    found = defaultdict(list)
    for row in rows:
        if row["strategy"] == "random":
            found[row["budget"]].append(row["macro_nll"])
    return sorted((budget, float(np.mean(values))) for budget, values in found.items())


def worth(curve: Sequence[tuple[int, float]], nll: float) -> float | None:
    """How many examples random needs for `nll`, log-linear between its budgets; None outside them."""
    for (low, high_nll), (high, low_nll) in zip(curve[:-1], curve[1:], strict=True):
        if low_nll <= nll <= high_nll:
            part = (high_nll - nll) / (high_nll - low_nll)
            return float(np.exp((1 - part) * np.log(low) + part * np.log(high)))
    return None


def _table(rows: Sequence[Row], budget: int, curve: Sequence[tuple[int, float]]) -> str:
    by_strategy = defaultdict(list)
    for row in rows:
        by_strategy[row["strategy"]].append(row)
    random = {row["seed"]: row for row in by_strategy["random"]}
    lines = [
        f"{budget:,} examples | seeds | macro NLL | micro NLL | exact match | without end token: NLL, exact match | tokens | "
        "minus random, 95% | p | share of random's examples",
        "|".join(["---"] * 10),
    ]
    for name, runs in sorted(by_strategy.items(), key=lambda item: np.mean([r["macro_nll"] for r in item[1]])):
        lines.append(" | ".join(_cells(name, runs, random, budget, curve)))
    return "\n".join(f"| {line} |" for line in lines)


def _cells(name: str, runs: Sequence[Row], random: dict[int, Row], budget: int, curve: Any) -> list[str]:
    def mean(key: str) -> float:
        """Mean of a metric over the runs."""
        return float(np.mean([run[key] for run in runs]))

    sd = f" ± {np.std([run['macro_nll'] for run in runs], ddof=1):.3f}" if len(runs) > 1 else ""
    pairs = [(run["macro_nll"], random[run["seed"]]["macro_nll"]) for run in runs if run["seed"] in random]
    difference, p = ("–", "–") if name == "random" else paired(pairs)
    examples = worth(curve, mean("macro_nll"))
    lowest = min(nll for _, nll in curve)
    if len(curve) < 2:
        share = "–"
    elif name == "random":
        share = "1"
    elif examples is not None:
        share = f"{budget / examples:.2f}"
    else:
        share = f"< {budget / curve[-1][0]:.2f}" if mean("macro_nll") < lowest else "> 1"
    return [
        f"**{name}**" if name == "default" else name,
        str(len(runs)),
        f"{mean('macro_nll'):.3f}{sd}",
        f"{mean('micro_nll'):.3f}",
        f"{mean('macro_em'):.1%}",
        f"{mean('macro_nll_no_end'):.3f}, {mean('macro_em_no_end'):.1%}",
        f"{mean('tokens'):,.0f}",
        difference,
        p,
        share,
    ]


def paired(pairs: Sequence[tuple[float, float]]) -> tuple[str, str]:
    """Mean difference with its 95% t interval, and the p-value of a paired t-test, as text."""
    from scipy.stats import t, ttest_1samp

    difference = np.array([ours - theirs for ours, theirs in pairs])
    if not len(difference):
        return "–", "–"
    if len(difference) < 2:
        return f"{difference.mean():+.3f}", "–"
    half = t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / len(difference) ** 0.5
    return f"{difference.mean():+.3f} ± {half:.3f}", f"{ttest_1samp(difference, 0).pvalue:.2g}"
