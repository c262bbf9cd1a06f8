"""Realistic summaries for the tests of the report: the first round, a later one, one without control."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from round_parts import add_round_parts

TOPICS = [
    "sums digits carry",
    "chess moves board",
    "translate french verb",
    "capital country river",
    "logic premise follows",
    "code python output",
    "date weekday leap",
    "rhyme poem verse",
    "units metres miles",
    "spelling letters word",
]


def first_round() -> dict[str, Any]:
    """Round 1 with control: better than base in both metrics, not told apart from the control in exact match."""
    rng = np.random.default_rng(7)
    clusters = [_cluster(i, topic, rng) for i, topic in enumerate(TOPICS)]
    clusters[-1].update(loss=None, loss_stderr=None, measured=0, reason="not measured: given its share by size")
    picked = sum(cluster["quota"] for cluster in clusters)
    summary = {
        "schema": 1,
        "run": "demo",
        "round": 1,
        "created": "2026-11-25T03:00:00+00:00",
        "command": "python cli.py round --run runs/demo --budget 100 --seed 0",
        "versions": {"winnow": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.0"},
        "seed": 0,
        "device": "cpu",
        **_facts(picked),
        "clusters": clusters,
        "histograms": {
            "nll": _histogram(rng.gamma(4, 0.5, 181), rng.gamma(5, 0.5, 100), "measured"),
            "entropy": _histogram(rng.gamma(3, 0.4, 181), rng.gamma(4, 0.4, 100), "measured"),
            "length": _histogram(rng.gamma(3, 30, 952), rng.gamma(3.2, 30, 100), "left"),
        },
        "map": _map(rng, 1052),
        "training": {"selected": _training(rng, 0.0), "control": _training(rng, 0.1)},
        "evaluation": _evaluation(rng),
        "examples": _examples(rng),
        "config_diff": {},
        "learning_curve": [],
        "dev": {
            "examples": 101,
            "differences": {
                "selected - base": _differences((-0.7, -0.81, -0.58, 0.001), (0.1, 0.05, 0.15, 0.001)),
                "selected - control": _differences((-0.06, -0.11, -0.01, 0.03), (0.005, -0.02, 0.03, 0.7)),
            },
            "models": {
                "base": _metrics(2.41, 0.11),
                "selected": _metrics(1.71, 0.21),
                "control": _metrics(1.77, 0.205),
            },
        },
        "timings": {"import": 1.03, "tokenize": 2.2, "embed": 20.4, "score": 21.04, "train": 41.7, "total": 201.6},
        "artifacts": {"pool": "6f1b2c3d4e5f6071", "tokens": "0011223344556677", "selection": "8899aabbccddeeff"},
    }
    add_round_parts(summary, ("base", "control"))
    return summary


def _facts(picked: int) -> dict[str, Any]:
    """What a summary says of model, budget, pool, scoring and selection."""
    outcomes = {"selected": picked, "quota_full": 731 - picked, "tail_cut": 9, "no_quota": 0, "held_out_dev": 101}
    outcomes |= {"held_out_test": 149, "near_duplicate": 41, "near_duplicate_of_holdout": 12, "unlabelled": 5}
    outcomes |= {"over_length": 4, "no_target": 0, "trained": 0}
    model = {"name": "smollm2-135m", "quantization": "nf4", "trainable_parameters": 4884480, "lora_r": 16}
    budget = {"asked": "100", "unit": "examples", "amount": 100, "examples": picked}
    pool = {"version": 1, "examples": 1052, "labelled": 1047, "unlabelled": 5, "exact_duplicates": 13, "overlength": 4}
    pool |= {"truncated": 6, "tokens": 118765, "template": "auto", "tokens_dropped": 321, "near_duplicates": 41}
    pool |= {"selectable": 740, "quarantined": {"invalid_json": 3, "bad_utf8": 2, "no_messages": 1}}
    scoring = {"measured": 181, "tokens": 20011, "seconds": 21.04, "adapter": "base", "nll_mean": 2.1234}
    return {
        "model": {**model, "lora_alpha": 32.0, "continued_from_round": None},
        "budget": {**budget, "tokens": 12345, "target_tokens": 2346},
        "pool": {**pool, "sources": {f"{topic.split()[0]}.jsonl": 80 + 7 * i for i, topic in enumerate(TOPICS)}},
        "holdout": {"pool": 790, "dev": 101, "test": 149, "shadow": 12},
        "scoring": {**scoring, "length_correlation": {"nll": -0.314, "entropy": 0.127}},
        "selection": {
            "strategy": "default",
            "groups": "10 clusters of embeddings",
            "explored": 2,
            "allocation": "loss",
            "picker": "random",
            "score": "nll",
            "outcomes": outcomes,
        },
    }


def _examples(rng: np.random.Generator) -> dict[str, Any]:
    left_out = [
        {**_example(i + 20, rng), "outcome": code, "nll": None, "entropy": None}
        for i, code in enumerate(("quota_full", "tail_cut", "near_duplicate", "over_length"))
    ]
    quarantined = {"file": "broken.jsonl", "line": 17, "reason": "invalid_json", "message": "expected ',' or '}'"}
    quarantined["snippet"] = '{"input": [{"role": "user" "content"'
    return {"picked": [_example(i, rng) for i in range(8)], "left_out": left_out, "quarantined": [quarantined]}


def later_round() -> dict[str, Any]:
    """Round 3, with a previous round; fine-tuning made the base model worse, the config changed."""
    summary = first_round()
    summary.update(
        round=3, config_diff={"train.learning_rate": [0.0001, 0.0005], "score.sample_per_cluster": [20, "all"]}
    )
    summary["model"]["continued_from_round"] = 2
    summary["scoring"]["adapter"] = "round 2"
    summary["learning_curve"] = [
        {
            "round": 1,
            "examples": 99,
            "tokens": 12001,
            "models": {"base": 2.3104, "selected": 2.2011, "control": 2.2402},
        },
        {
            "round": 2,
            "examples": 98,
            "tokens": 12002,
            "models": {"base": 2.3104, "previous": 2.2011, "selected": 2.3512, "control": 2.2613},
        },
    ]
    evaluation = summary["evaluation"]
    evaluation["models"] = {
        "base": _metrics(2.31, 0.12),
        "previous": _metrics(2.35, 0.13),
        "selected": _metrics(2.52, 0.1),
        "control": _metrics(2.29, 0.14),
    }
    evaluation["differences"] = {
        "selected - base": _differences((0.21, 0.11, 0.32, 0.0004), (-0.02, -0.035, -0.005, 0.012)),
        "selected - control": _differences((0.23, 0.12, 0.33, 0.0002), (-0.04, -0.06, -0.02, 0.001)),
        "selected - previous": _differences((0.17, -0.01, 0.34, 0.07), (-0.03, -0.065, 0.005, 0.09)),
    }
    for row in evaluation["by_source"]:
        row.update(previous_nll=row["base_nll"] + 0.04, previous_em=row["base_em"])
    add_round_parts(summary, ("base", "previous", "control"))
    summary["review"] = reviewed()
    return summary


def reviewed() -> dict[str, Any]:
    """What a review changed: one example dropped and one of a banned cluster, one pinned, one that fills the place."""
    out = [
        {"id": "0ba41582977327c1", "source": "squad", "cluster": 2, "outcome": "dropped_in_review"},
        {"id": "1ba41582977327c2", "source": "boolq", "cluster": 3, "outcome": "banned_in_review"},
    ]
    new = [{**out[0], "id": f"{n}ba41582977327c3", "pinned": n == 2} for n in (2, 3)]
    for entry in new:
        del entry["outcome"]
    return {
        "proposed": 97,
        "kept": 95,
        "taken_out": out,
        "brought_in": new,
        "taken_out_count": 142,
        "brought_in_count": 142,
        "dropped": 1,
        "pinned": 1,
        "banned_clusters": [{"cluster": 3, "name": "yes, no"}],
        "banned_sources": ["boolq"],
        "banned_examples": 31,
        "quotas": [{"cluster": 1, "name": "capital, country", "proposed": 12, "set": 4}],
        "answered": 2,
        "note": "the yes-or-no questions contradict each other",
    }


def without_control() -> dict[str, Any]:
    """Round 1 with --no-control and a source that was not measured."""
    summary = copy.deepcopy(first_round())
    summary["training"]["control"] = None
    for part in ("evaluation", "dev"):
        del summary[part]["models"]["control"], summary[part]["differences"]["selected - control"]
    for row in summary["evaluation"]["by_source"]:
        del row["control_nll"], row["control_em"]
    add_round_parts(summary, ("base",))
    summary["evaluation"]["by_source"][2].update(selected_nll=None, selected_em=None, intervals=None)
    return summary


def second_round() -> dict[str, Any]:
    """Round 2: better than base, the round before and the control."""
    summary = first_round()
    summary.update(round=2)
    summary["model"]["continued_from_round"] = 1
    summary["scoring"]["adapter"] = "round 1"
    summary["learning_curve"] = [
        {"round": 1, "examples": 99, "tokens": 12001, "models": {"base": 2.3104, "selected": 1.9011, "control": 1.9402}}
    ]
    evaluation = summary["evaluation"]
    evaluation["models"]["previous"] = _metrics(1.9011, 0.18)
    evaluation["differences"]["selected - previous"] = _differences(
        (-0.099, -0.14, -0.05, 0.001), (0.0198, 0.001, 0.04, 0.04)
    )
    summary["dev"]["models"]["previous"] = _metrics(1.83, 0.19)
    summary["dev"]["differences"]["selected - previous"] = _differences(
        (-0.12, -0.19, -0.04, 0.002), (0.02, -0.01, 0.05, 0.2)
    )
    for row in evaluation["by_source"]:
        row.update(previous_nll=row["base_nll"] - 0.3, previous_em=row["base_em"])
    add_round_parts(summary, ("base", "previous", "control"))
    return summary


def token_budget(asked: str = "20ktok", amount: int = 20_000) -> dict[str, Any]:
    """Round 1 with a budget of tokens: quotas are in tokens, what was picked stays below them."""
    summary = first_round()
    summary["budget"].update(asked=asked, unit="tokens", amount=amount)
    for cluster in summary["clusters"]:
        cluster["quota"] = cluster["tokens"] + 37
    return summary


def time_budget() -> dict[str, Any]:
    """Round 1 with a budget of training time, which was turned into tokens at the measured speed."""
    summary = token_budget("45s", 13_321)
    summary["timings"]["measure speed"] = 12.9
    return summary


def tie() -> dict[str, Any]:
    """Round 1 in which no interval leaves out zero, and one difference is exactly zero."""
    summary = first_round()
    summary["evaluation"]["differences"] = {
        "selected - base": _differences((-0.0083, -0.0511, 0.0222, 0.7), (0.0, -0.006, 0.006, 1.0)),
        "selected - control": _differences((0.0092, -0.0203, 0.0381, 0.4), (0.0044, -0.0152, 0.0241, 0.66)),
    }
    summary["evaluation"]["differences"]["selected - base"]["macro_em"].update(low=0.0, high=0.0)
    for name in ("base", "selected", "control"):
        summary["evaluation"]["models"][name] = _metrics(2.31, 0.12)
    return summary


def empty_lists() -> dict[str, Any]:
    """Round 1 without anything to list: no example shown, no quarantine, no cluster with a quota, no curve."""
    summary = first_round()
    summary["examples"] = {"picked": [], "left_out": [], "quarantined": []}
    summary["pool"]["quarantined"] = {}
    for cluster in summary["clusters"]:
        cluster.update(quota=0, picked=0, tokens=0, reason="no selectable example")
    summary["training"]["selected"]["curve"] = summary["training"]["control"]["curve"] = []
    summary["evaluation"]["by_source"] = []
    return summary


def _cluster(index: int, topic: str, rng: np.random.Generator) -> dict[str, Any]:
    size = int(rng.integers(40, 160))
    loss = float(rng.gamma(6, 0.35))
    quota = 4 + index if index < 9 else 28
    return {
        "cluster": index,
        "name": topic.replace(" ", ", "),
        "size": size,
        "selectable": size - 12,
        "measured": 18,
        "loss": loss,
        "loss_stderr": loss / 9,
        "quota": quota,
        "picked": quota,
        "tokens": quota * 123,
        "reason": f"the model is bad here: loss {loss:.2f}, {loss / 2.1:.1f} × the pool's",
        "formula": f"NLL {loss:.2f}, mean of 18 measured; weight {quota}.0% of 100 examples",
    }


def _histogram(other: np.ndarray, picked: np.ndarray, name: str) -> dict[str, list]:
    edges = np.linspace(0, float(max(other.max(), picked.max())), 21)
    counts = {name: np.histogram(other, edges)[0].tolist(), "picked": np.histogram(picked, edges)[0].tolist()}
    return {"edges": edges.tolist(), **counts}


def _map(rng: np.random.Generator, n: int) -> dict[str, Any]:
    cluster = rng.integers(0, len(TOPICS), n)
    centers = rng.normal(size=(len(TOPICS), 2)) * 0.4
    xy = centers[cluster] + rng.normal(size=(n, 2)) * 0.12
    picked = (rng.random(n) < 0.095).astype(int)
    return {
        "x": xy[:, 0].tolist(),
        "y": xy[:, 1].tolist(),
        "cluster": cluster.tolist(),
        "picked": picked.tolist(),
        "sampled_from": n,
    }


def _training(rng: np.random.Generator, shift: float) -> dict[str, Any]:
    losses = 2.4 * np.exp(-np.arange(12) / 9) + shift + rng.normal(size=12) * 0.06
    curve = [
        {"step": i + 1, "loss": loss, "lr": 1e-4 * (1 - i / 12), "tokens_per_s": 300 + 5 * i, "grad_norm": 1 + 0.1 * i}
        for i, loss in enumerate(losses.tolist())
    ]
    for point in curve:
        point.update(memory_gib=1.1, dev_loss=point["loss"] + 0.1 if point["step"] % 4 == 0 else None)
    curve[4]["grad_norm"] = None
    return {
        "steps": 12,
        "examples": 100,
        "tokens": 12345,
        "target_tokens": 2346,
        "seconds": 41.7 + shift,
        "tokens_per_s": 296.04,
        "packs": 13,
        "packing_efficiency": 0.9817,
        "peak_gib": 1.234,
        "replayed": 0,
        "truncated": 2,
        "tokens_dropped": 37,
        "best_step": 8,
        "best_dev_loss": curve[7]["dev_loss"],
        "stopped_early": False,
        "curve": curve,
    }


def _metrics(nll: float, em: float) -> dict[str, float]:
    return {
        "micro_nll": nll - 0.053,
        "macro_nll": nll,
        "micro_em": em + 0.0131,
        "macro_em": em,
        "micro_nll_no_end": nll + 0.21,
        "macro_nll_no_end": nll + 0.26,
        "micro_em_no_end": em + 0.033,
        "macro_em_no_end": em + 0.027,
    }


def _differences(nll: tuple, em: tuple) -> dict[str, dict[str, float]]:
    """Every metric's difference; a tuple is the macro one's value, low, high and p, the others lie a little beside."""
    result = {}
    beside = {"nll": (nll, (0.0021, 0.0, 0.004, 0.0057)), "em": (em, (0.0013, 0.0, 0.0022, 0.0031))}
    for kind, (numbers, shifts) in beside.items():
        names = (f"micro_{kind}", f"macro_{kind}", f"micro_{kind}_no_end", f"macro_{kind}_no_end")
        for name, shift in zip(names, shifts, strict=True):
            value, low, high = (number + shift for number in numbers[:3])
            result[name] = {"value": value, "low": low, "high": high, "p": numbers[3]}
    return result


def _evaluation(rng: np.random.Generator) -> dict[str, Any]:
    by_source = []
    for index, topic in enumerate(TOPICS):
        base = float(rng.gamma(8, 0.3))
        selected, control = base - float(rng.normal(0.5, 0.4)), base - float(rng.normal(0.45, 0.4))
        by_source.append(
            {
                "source": f"{topic.split()[0]}.jsonl",
                "examples": 3 + 2 * index,
                "base_nll": base,
                "selected_nll": selected,
                "control_nll": control,
                "base_em": 0.1 + index / 50,
                "selected_em": 0.15 + index / 40,
                "control_em": 0.15 + index / 45,
            }
        )
    return {
        "split": "test",
        "examples": 149,
        "sources": len(TOPICS),
        "models": {
            "base": _metrics(2.3104, 0.1203),
            "selected": _metrics(1.8021, 0.1998),
            "control": _metrics(1.8513, 0.1954),
        },
        "differences": {
            "selected - base": _differences((-0.5083, -0.6111, -0.4022, 0.0), (0.0795, 0.0402, 0.1191, 0.0008)),
            "selected - control": _differences((-0.0492, -0.0903, -0.0081, 0.021), (0.0044, -0.0152, 0.0241, 0.66)),
        },
        "by_source": by_source,
    }


def _example(index: int, rng: np.random.Generator) -> dict[str, Any]:
    topic = TOPICS[index % len(TOPICS)]
    prompt = f"Consider the {topic}. " * (1 + 11 * (index % 3)) + "\nWhat comes next?"
    return {
        "id": f"{index + 1:016x}",
        "source": f"{topic.split()[0]}.jsonl",
        "cluster": index % len(TOPICS),
        "tokens": 61 + index,
        "nll": float(rng.gamma(4, 0.5)),
        "entropy": float(rng.gamma(3, 0.4)),
        "why": f"cluster {index % len(TOPICS)} had room for {4 + index}; drawn {index + 1} of them at random",
        "stands_for": index % 3,
        "outcome": "selected",
        "prompt": prompt,
        "response": "Καλημέρα, 你好, مرحبا: the answer is 42.",
    }
