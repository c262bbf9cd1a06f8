"""The proving ground as tables of docs/selection.md."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from benchmarks.proving_ground import near
from benchmarks.proving_ground.ground import CLUSTERS, KIND, ORACLE, WITH, Ground
from benchmarks.proving_ground.stage_tables import stage_tables

SHOWN = (
    "random",
    "source_size",
    WITH,
    "split_uniform, 10% random",
    KIND,
    "kind_uniform, 10% random",
    CLUSTERS,
    ORACLE,
    "oracle_uniform",
)


def tables(document: dict[str, Any], summary: dict[str, Any], pools: dict[str, Any]) -> dict[str, str]:
    """Markdown of each generated block of the page, by name."""
    rows = document["rows"]
    ground = Ground(rows)
    head = (
        f"{document['device']}; {document['versions']}; {document['date']}; `{document['command']}`. "
        f"{len(rows)} runs. "
        "Macro NLL at 1,000 examples: mean over seeds ± its standard error (seeds); below it the difference of macro exact match from "
        "random, in points, and the share of random's examples that reach the same NLL."
    )
    models = [
        f"**{model}**\n\n{_table(ground, model, pools)}" for model in sorted({model for model, _ in ground.cells})
    ]
    return {
        "answer": _answer(summary),
        "ground": "\n\n".join([head, *models]),
        "noisy": _noisy(rows),
        "near": _near(rows, document.get("near_duplicates", {})),
        "kinds": _kinds(document["kinds"]) if "kinds" in document else "",
        "wrong-answers": _wrong_answers(document["wrong_answers"]) if "wrong_answers" in document else "",
        "written": _written(ground),
        "figures": _figures(summary),
        **stage_tables(rows),
    }


ANSWER = {
    "share of random's examples for the same macro NLL, pools with headroom": ("share_geometric_mean_1000", ".0%"),
    "the same, all pools": ("share_geometric_mean_all_pools", ".0%"),
    "part of the oracle's gain, sum over pools": ("oracle_gain", ".0%"),
    "macro exact match, points over random": ("macro_em_points", "+.1f"),
    "pools without headroom: macro NLL less random's": ("without_headroom_mean_difference", "+.3f"),
}
"""Rows of the first table: what each is in words, its name in the summary and its format."""


def _answer(summary: dict[str, Any]) -> str:
    """The main figures, with sources and without."""
    without = summary["without_sources"]["default"]
    given = {**summary, "oracle_gain": summary["oracle_gain_with_sources"]}
    lines = [
        "| 1,000 examples, two models on ten pools: mean (95% interval over pools) | with sources | without |",
        "|---|---|---|",
    ]
    for words, (name, spec) in ANSWER.items():
        lines.append(f"| {words} | {_interval(given[name], spec)} | {_interval(without[name], spec)} |")
    worse = [f"{entry['cells_worse_than_random']['value']:.0f} of 40" for entry in (summary, without)]
    return "\n".join([*lines, f"| worse than random after Holm's correction, tests | {worse[0]} | {worse[1]} |"])


def _interval(entry: dict[str, Any], spec: str) -> str:
    value, low, high = (format(entry[key], spec) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})".replace("-", "−")


def _table(ground: Ground, model: str, pools: dict[str, Any]) -> str:
    """One row a pool; a column for each strategy that the model played."""
    cells = [cell for cell in ground.cells if cell[0] == model]
    shown = [s for s in SHOWN if any(len(ground.values(cell, s)) for cell in cells)]
    lines = ["| pool: examples, tasks, sources | " + " | ".join(shown) + " |", "|" + "---|" * (len(shown) + 1)]
    for cell in cells:
        about = pools[cell[1]]
        name = f"{cell[1]}: {about['examples']:,}, {about['tasks']}, {about['sources']}"
        lines.append(f"| {name} | " + " | ".join(_entry(ground, cell, s) for s in shown) + " |")
    return "\n".join(lines)


def _entry(ground: Ground, cell: tuple[str, str], strategy: str) -> str:
    values = ground.values(cell, strategy)
    if not len(values):
        return "–"
    error = f" ± {stats.sem(values):.3f}" if len(values) > 1 else ""
    text = f"{values.mean():.3f}{error} ({len(values)})"
    if strategy == "random":
        return f"{text}<br>{100 * ground.values(cell, strategy, 'macro_em').mean():.1f}%"
    points, share = 100 * ground.gain(cell, strategy, "macro_em").mean(), ground.share(cell, float(values.mean()))
    return f"{text}<br>{points:+.1f}" + ("" if share is None else f", {share:.2f}")


def _kinds(kinds: dict[str, Any]) -> str:
    lines = [
        "| pool | tasks | kinds found | adjusted mutual information with the tasks | unevenness of the kinds, nats |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {pool} | {entry['tasks']} | {entry['kinds']} | {entry['ami']:.2f} | {entry['unevenness']:.2f} |"
        for pool, entry in kinds.items()
    ]
    mean = np.mean([entry["ami"] for entry in kinds.values()])
    return "\n".join([*lines, f"| mean | | | {mean:.2f} | |"])


def _noisy(rows: list[dict[str, Any]]) -> str:
    lines = [
        "A tenth of the answers exchanged, inside their task or with other tasks: difference from random in macro NLL ± standard error "
        "(seeds), and in macro exact match, points.",
        "",
        f"| model, pool, answers exchanged | {WITH} | {KIND} |",
        "|---|---|---|",
    ]
    for noise, where in (("inside", "inside the task"), ("exchanged", "across tasks")):
        ground = Ground(rows, noise)
        for cell in ground.cells:
            entries = [_difference(ground, cell, strategy) for strategy in (WITH, KIND)]
            lines.append(f"| {', '.join(cell)}, {where} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _near(rows: list[dict[str, Any]], searched: dict[str, dict[str, dict[str, Any]]]) -> str:
    ground, lines = Ground(rows, near.NOISE), []
    if near.SEARCHED in searched:
        lines += ["| clean pool | rows | left out by the search | by embeddings alone |", "|---|---|---|---|"]
        for pool, entry in searched[near.SEARCHED].items():
            shares = (entry[key] / entry["rows"] for key in ("left_out", "by_embeddings_alone"))
            lines.append(f"| {pool} | {entry['rows']:,} | {' | '.join(f'{share:.0%}' for share in shares)} |")
    if near.NOISE in searched:
        lines += [
            *([""] if lines else []),
            "| pool with copies: rows | copies | left out by the search | of what copies make superfluous | left out that they did not |",
            "|---|---|---|---|---|",
        ]
        for pool, entry in searched[near.NOISE].items():
            shares = f"{entry['recall']:.0%} | {1 - entry['precision']:.0%}"
            lines.append(f"| {pool}: {entry['rows']:,} | {entry['copies']:,} | {entry['left_out']:,} | {shares} |")
    if ground.cells:
        lines += [
            *([""] if lines else []),
            "Less random from what the search leaves: macro NLL ± standard error (seeds), and macro exact match, points.",
            "",
            f"| model, pool | {near.ALL} | {WITH} | {KIND} |",
            "|---|---|---|---|",
        ]
        for cell in ground.cells:
            entries = [_difference(ground, cell, strategy) for strategy in (near.ALL, WITH, KIND)]
            lines.append(f"| {', '.join(cell)} | " + " | ".join(entries) + " |")
    whole, part = Ground(rows), Ground(rows, near.SEARCHED)
    if part.cells:
        lines += [
            *([""] if lines else []),
            "Picks from what the search leaves of the clean pool, less the same strategy's from the whole pool: macro NLL ± standard error "
            "(seeds), and macro exact match, points.",
            "",
            f"| model, pool, examples | random | {WITH} | {KIND} |",
            "|---|---|---|---|",
        ]
        for cell in part.cells:
            for budget in sorted({budget for of, budget, _ in part.runs if of == cell}):
                entries = [_search_costs(whole, part, cell, strategy, budget) for strategy in ("random", WITH, KIND)]
                lines.append(f"| {', '.join(cell)}, {budget:,} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _search_costs(whole: Ground, part: Ground, cell: tuple[str, str], strategy: str, budget: int) -> str:
    ours, theirs = (ground.of(cell, strategy, budget) for ground in (part, whole))
    seeds = sorted(ours.keys() & theirs.keys())
    return _less(*(np.array([ours[s][key] - theirs[s][key] for s in seeds]) for key in ("macro_nll", "macro_em")))


def _difference(ground: Ground, cell: tuple[str, str], strategy: str) -> str:
    return _less(-ground.gain(cell, strategy), ground.gain(cell, strategy, "macro_em"))


def _less(nll: np.ndarray, em: np.ndarray) -> str:
    """Differences (seeds,) in macro NLL ± standard error, and in macro exact match, points; a dash for less than two."""
    if len(nll) < 2:
        return "–"
    return f"{nll.mean():+.3f} ± {stats.sem(nll):.3f} ({len(nll)}), {100 * em.mean():+.1f}"


def _wrong_answers(found: dict[str, Any]) -> str:
    lines = [
        "| wrong answers inside their task: model, pool | rows | wrong | suspected | of these wrong |",
        "|---|---|---|---|---|",
    ]
    for model, pools in found.items():
        for pool, entry in pools.items():
            numbers = " | ".join(str(entry[key]) for key in ("rows", "wrong", "suspected", "found"))
            lines.append(f"| {model}, {pool} | {numbers} |")
    return "\n".join(lines)


def _written(ground: Ground) -> str:
    """Written answers: random at every budget, and the strategies at that of the study."""
    columns = [("random", budget) for budget in (300, 1000, 2000, 4000)] + [(WITH, 1000), (KIND, 1000)]
    lines = [
        "Written answers that are right, %, tasks alike (seeds); tasks with short answers of which random at 4,000 gets a fifth of the dev "
        "rows right.",
        "",
        "| model, pool | " + " | ".join(f"{name}, {budget:,}" for name, budget in columns) + " |",
        "|" + "---|" * (len(columns) + 1),
    ]
    for cell in ground.cells:
        found = [ground.written(cell, *column) for column in columns]
        if any(map(len, found)):
            texts = [f"{100 * values.mean():.1f} ({len(values)})" if len(values) else "–" for values in found]
            lines.append(f"| {', '.join(cell)} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


WORDS = {
    "evals_4000_share": "evals, 4,000 examples: share of random's examples for the same macro NLL",
    "share_geometric_mean_1000": "share of random's examples, pools with headroom",
    "share_geometric_mean_all_pools": "share of random's examples, all pools",
    "oracle_gain_with_sources": "part of the oracle's gain in macro NLL",
    "oracle_gain_without_sources": "without sources: part of the oracle's gain in macro NLL",
    "oracle_gain": "part of the oracle's gain in macro NLL",
    "macro_em_points": "macro exact match less random's, points",
    "cells_worse_than_random": "tests that show a loss to random after Holm's correction",
    "without_headroom_mean_difference": "macro NLL less random's, pools without headroom",
    "without_sources": "without sources",
    "with_sources": "with sources",
    "by_model": "one model",
    "other_models": "macro NLL less random's",
    "kinds_ami": "adjusted mutual information of kinds and tasks",
    "noisy_mean_difference": "wrong answers in the pool: macro NLL less random's",
    "noisy_mean_difference_without_sources": "wrong answers in the pool, without sources: macro NLL less random's",
    "wrong_answers_recall": "wrong answers that were suspected, of the planted",
    "wrong_answers_precision": "suspected answers that were planted",
    "generated_em_share_1000": "written answers: share of random's examples for as many right",
    "generated_em_share_1000_with_headroom": "written answers, pools with headroom: share of random's examples for as many right",
    "generated_em_share_1000_without_sources": "written answers, without sources: share of random's examples for as many right",
    "target_minus_rds": "ten targets: macro NLL of the default less RDS+'s",
    "gpu_seconds_ratio": "GPU seconds over random's at 2,000 examples, control: auto",
    "gpu_seconds": "GPU seconds over random's",
    "first_rounds_by_goal": "300 examples less random",
}
"""Names of the summary in words; others are words already."""


def _figures(summary: dict[str, Any]) -> str:
    lines = ["| figure | value | 95% interval | seeds | over |", "|---|---|---|---|---|"]
    for name, entry in _flat("", summary):
        if entry["value"] is None:
            lines.append(f"| {name} | {entry.get('note', 'not measured yet')} | | | |")
            continue
        interval = "" if entry["low"] is None else f"{entry['low']:.2f} to {entry['high']:.2f}"
        lines.append(
            f"| {name} | {entry['value']:.3g} | {interval} | {entry['seeds'] or ''} | {entry.get('note', '')} |"
        )
    return "\n".join(lines)


def _flat(before: str, entries: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name in words, figure) of all figures; those inside another entry after its name."""
    found = []
    for key, entry in entries.items():
        name = before + WORDS.get(key, key)
        if isinstance(entry, dict):
            found += [(name, entry)] if "value" in entry else _flat(f"{name}: ", entry)
    return found
