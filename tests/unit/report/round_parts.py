"""What summaries say of evaluation by group, answers, rounds, cost and plan; `report_summaries` puts them into its documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

GROUPS = ("conversation", "QA", "reasoning")


def add_round_parts(summary: dict[str, Any], others: Sequence[str]) -> None:
    """Add or replace these parts in place; `others`: the models beside "selected" that the round evaluated."""
    number, control = summary["round"], "control" in others
    models = ["base", *(["previous"] if "previous" in others else []), "selected"]
    summary["evaluation"]["by_group"] = [_group(i, name, others) for i, name in enumerate(GROUPS)]
    summary["evaluation"]["changed"] = {
        name: {
            "forgotten": 3 + i,
            "learned": 12 - i,
            "kept": 20 + i,
            "never": 90 - i,
            "p": 0.035 + i / 50,
            "nll_rose": 31,
        }
        for i, name in enumerate(name for name in ("base", "previous") if name in others)
    }
    for row in summary["evaluation"]["by_source"]:
        if row["examples"] >= 5:
            row["intervals"] = {other: _row_interval(row, other) for other in others}
    summary["generations"] = {
        "max_new_tokens": 32,
        "prompts": 3,
        "equal": {name: i for i, name in enumerate(models)},
        "rows": [_answers(i, models) for i in range(3)],
    }
    summary["answers"] = written_answers([*models, *(["control"] if control else [])])
    summary["cost"], summary["work"] = cost(), work()
    nll = {name: metrics["macro_nll"] for name, metrics in summary["evaluation"]["models"].items()}
    gain = "about" if nll["selected"] < nll["base"] else "no gain"
    summary["at_random"] = at_random(number, gain) if control else None
    summary["plan"] = {
        key: {"planned": planned, "measured": planned * 1.21}
        for key, planned in (
            ("tokens_per_s", 312.5),
            ("peak_gib", 1.31),
            ("selecting", 18.7),
            ("train", 37.3),
            ("evaluate", 28.9),
        )
    } | {"train control": {"planned": 38.1, "measured": 41.2} if control else {"planned": None, "measured": None}}
    summary["drift"] = drift(number, control)
    summary["hashes"] = {role: f"{i:064x}" for i, role in enumerate(summary["artifacts"], start=11)}
    summary["config"] = "seed: 0\ncontrol: true\ntrain:\n  learning_rate: 0.0005\n"
    summary["platform"] = "Linux-6.1-x86_64"


def written_answers(models: Sequence[str]) -> dict[str, Any]:
    """Written answers that do not lead: accuracy and ROUGE-L on test and dev, and two dev examples."""
    measures = {"accuracy": {"examples": 120, "sources": 9}, "rouge_l": {"examples": 44, "sources": 4}}
    metrics = [f"{mean}_{measure}" for measure in measures for mean in ("macro", "micro")]
    values = {name: {metric: 0.25 + 0.05 * i for metric in metrics} for i, name in enumerate(models)}
    part = {
        "examples": 131,
        "sources": 10,
        "measures": measures,
        "models": values,
        "intervals": {
            name: {metric: {"low": value - 0.06, "high": value + 0.07} for metric, value in of.items()}
            for name, of in values.items()
        },
        "differences": {
            f"selected - {name}": {
                metric: {"value": 0.082, "low": 0.021 - 0.04 * (name == "control"), "high": 0.143, "p": 0.02}
                for metric in metrics
            }
            for name in models
            if name != "selected"
        },
        "by_source": [
            {"source": name, "kind": "number", "measure": "accuracy", "examples": 12, **dict.fromkeys(models, 0.5)}
            for name in ("sums", "dates")
        ],
        "cut": {name: 3 - i for i, name in enumerate(models)},
    }
    said = {"text": "It is 12.", "read": "12", "score": 1.0, "cut": False}
    shown = {"id": "aba41582977327c1", "source": "sums", "kind": "number", "prompt": "user: 5 + 7?", "reference": "12"}
    shown["answers"] = {name: {**said, "score": float(i > 0)} for i, name in enumerate(models)}
    kinds = {"test": {"text": 70, "rouge_l": 80}, "dev": {"text": 30, "rouge_l": 31}}
    facts = {"leads": False, "max_new_tokens": 32, "kinds": kinds}
    return {**facts, "test": part, "dev": part, "shown": [shown, {**shown, "id": "bba41582977327c1"}]}


def work() -> dict[str, Any]:
    """Tokens through the model by kind of work, and their seconds."""
    tokens = {"selecting": 20_011, "training": 12_345, "evaluation": 30_500, "control": 27_595}
    seconds = {kind: round(value / 310, 3) for kind, value in tokens.items()}
    return {
        "tokens": {**tokens, "total": sum(tokens.values())},
        "seconds": {**seconds, "total": sum(seconds.values())},
        "tokens_per_s": 310.5,
    }


def cost(price: float | None = 2.5) -> dict[str, Any]:
    """Time by kind of work, and money at `price` an hour."""
    kinds = ("preparing", "selecting", "training", "evaluation", "control")
    seconds = {kind: 21.25 + 7.5 * i for i, kind in enumerate(kinds)}
    seconds["total"] = sum(seconds.values())
    money = None if price is None else {kind: value * price / 3600 for kind, value in seconds.items()}
    return {"seconds": seconds, "money": money, "price_per_hour": price, "currency": "EUR"}


def at_random(rounds: int, relation: str = "about") -> dict[str, Any]:
    """What the gain would have cost at random."""
    gained = relation != "no gain"
    return {
        "relation": relation,
        "examples": 187 if gained else None,
        "tokens": 23_456 if gained else None,
        "seconds": 78.5 if gained else None,
        "money": 0.0545 if gained else None,
        "rounds": rounds,
        "spent": {"examples": 100 * rounds, "tokens": 12_345 * rounds, "seconds": 41.5 * rounds},
    }


def drift(rounds: int, control: bool) -> dict[str, Any]:
    """Picks of both lineages by round."""
    return {
        "rounds": [
            {
                "round": n,
                "nll": 2.5 - n / 10,
                "measured": 55 + n,
                "selected": _line(n, 0.11),
                "control": _line(n, 0.07) if control else None,
            }
            for n in range(1, rounds + 1)
        ],
        **{
            kind: [
                {"name": f"{kind[:-1]} {i}", "pool": 0.2 - i / 50, "rounds": [0.31 - i / 50] * rounds} for i in range(3)
            ]
            for kind in ("clusters", "sources")
        },
    }


def _line(n: int, shift: float) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "examples": 100,
        "tokens": 12_345 + n,
        "all_examples": 100 * n,
        "all_tokens": 12_345 * n + 7,
    }
    for kind in ("clusters", "sources"):
        known = n > 1
        entry |= {
            kind: 9,
            f"{kind}_from_pool": shift + n / 30,
            f"{kind}_from_before": shift + n / 40 if known else None,
            f"{kind}_overlap": 0.8 - n / 50 if known else None,
        }
    return entry


def _group(index: int, name: str, others: Sequence[str]) -> dict[str, Any]:
    models = {m: {"nll": 2.1 + index / 9 - i / 11, "em": 0.1 + i / 13} for i, m in enumerate((*others, "selected"))}
    differences = {
        other: {
            "nll": {
                "value": -0.1 * (2 - index),
                "low": -0.1 * (2 - index) - 0.04,
                "high": -0.1 * (2 - index) + 0.03,
                "p": 0.02,
            },
            "em": {"value": 0.021, "low": -0.013, "high": 0.054, "p": 0.31},
        }
        for other in others
    }
    return {"group": name, "sources": 3 + index, "examples": 41 + index, "models": models, "differences": differences}


def _row_interval(row: dict[str, Any], other: str) -> dict[str, Any]:
    def around(measure: str, width: float) -> dict[str, float]:
        change = row[f"selected_{measure}"] - row[f"{other}_{measure}"]
        return {"low": change - width, "high": change + width * 1.1}

    return {"nll": around("nll", 0.21), "em": around("em", 0.09)}


def _answers(index: int, models: Sequence[str]) -> dict[str, Any]:
    texts = ("It is 41.", "It is 42.", None, "")
    answers = {}
    for i, name in enumerate(models):
        text = texts[(i + index) % 4]
        answers[name] = {"text": text, "tokens": None if text is None else 5 + i, "equal": text and text == "It is 42."}
    shown = {"id": f"{index + 77:016x}", "source": "sums.jsonl", "group": "reasoning" if index else None}
    return {**shown, "prompt": "user: What is 6 × 7?", "reference": "It is 42.", "answers": answers}
