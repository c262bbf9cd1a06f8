"""Made comparisons of strategies: one that pays, one where nothing does, one seed, one round, an unfinished one."""

from __future__ import annotations

from typing import Any

import numpy as np
from report_attacks import HOSTILE
from scipy import stats

METRICS = ("macro_nll", "micro_nll", "macro_em", "micro_em", "macro_nll_no_end", "macro_em_no_end")
BASELINE_NLL = 1.30
ABOUT = {
    "default": "Clusters by the mean NLL of the current adapter, random inside them",
    "random": "Uniform over the pool",
    "rds": "Nearest to the target by pooled hidden states",
}


def comparison(
    gains: dict[str, float], seeds: int = 5, rounds: int = 4, gain_em: float = 0.1, noise: float = 0.01
) -> dict[str, Any]:
    """A comparison whose strategies end `gains` nats below random, exact match rising by `gain_em` points per nat."""
    rng = np.random.default_rng(3)
    runs = [
        {"strategy": name, "seed": seed, "rounds": _rounds(gain, rounds, gain_em, rng, noise)}
        for name, gain in gains.items()
        for seed in range(seeds)
    ]
    document: dict[str, Any] = {
        "schema": 1,
        "created": "2026-11-26T05:00:00+00:00",
        "versions": {"winnow": "0.9.0", "torch": "2.11.0"},
        "pool": {"examples": 60398, "selectable": 57012, "sources": 12, "files": ["pool/a.jsonl", "pool/b.parquet"]},
        "model": "mistralai/Mistral-7B-v0.1",
        "proxy": False,
        "budget": "1000",
        "rounds": rounds,
        "seeds": list(range(seeds)),
        "baseline": "random",
        "runs_done": len(runs),
        "runs_asked": len(runs),
        "groups": 391,
        "test_examples": 1960,
        "dev_examples": 980,
        "groups_name": "source",
        "runs": runs,
        "notes": ["rds: the target's nearest examples in the pool are far from it."],
    }
    document["strategies"] = [_strategy(document, name) for name in gains]
    return document


def paying() -> dict[str, Any]:
    """default and rds beat random, default by more; its gain at equal tokens is smaller."""
    return comparison({"default": 0.21, "random": 0.0, "rds": 0.08})


def nothing_pays() -> dict[str, Any]:
    """One strategy not told apart from random, one worse."""
    return comparison({"default": 0.004, "random": 0.0, "rds": -0.12}, noise=0.03)


def one_seed() -> dict[str, Any]:
    """No interval and no p anywhere."""
    return comparison({"default": 0.21, "random": 0.0, "rds": -0.05}, seeds=1)


def one_round() -> dict[str, Any]:
    """Curves of one point."""
    return comparison({"default": 0.21, "random": 0.0}, rounds=1)


def unfinished() -> dict[str, Any]:
    """7 of 15 runs done: default five times, random twice, rds not at all."""
    document = comparison({"default": 0.21, "random": 0.0, "rds": 0.08})
    document["runs"] = document["runs"][:7]
    document["runs_done"] = 7
    document["strategies"] = [_strategy(document, name) for name in ("default", "random", "rds")]
    return document


def eight() -> dict[str, Any]:
    """As many strategies as there are colours, one with a long name."""
    names = ("default", "random", "rds", "less", "top", "mid", "uniform", "a-strategy-with-quite-a-long-name")
    return comparison({name: 0.03 * ((5 * i) % 8 - 3) if name != "random" else 0.0 for i, name in enumerate(names)})


def bare() -> dict[str, Any]:
    """Every value unknown that may be: what a comparison looks like before its first run ends."""
    document = comparison({"default": 0.2, "random": 0.0})
    unknown = ("difference", "equal_tokens", "share", "examples", "tokens", "response_tokens", "seconds")
    for strategy in document["strategies"]:
        strategy.update({key: None for key in unknown}, final=None, scoring_share=None, curve=[], seeds_done=[])
    document.update(
        runs=[],
        runs_done=0,
        notes=[],
        versions={},
        groups=None,
        test_examples=None,
        dev_examples=None,
        groups_name=None,
    )
    document["pool"] = {"examples": None, "selectable": None, "sources": None, "files": []}
    return document


def hostile_comparison() -> dict[str, Any]:
    """Every text that a pool, a config or a strategy's author writes is an attack."""
    attack = " ".join(HOSTILE)
    document = comparison({text: 0.02 * (i - 4) for i, text in enumerate([*HOSTILE[:8], "random"])})
    for i, strategy in enumerate(document["strategies"]):
        strategy.update(about=HOSTILE[i], changes={attack: attack, HOSTILE[i]: [HOSTILE[i], {attack: None}]})
    document["pool"]["files"] = HOSTILE
    document.update(model=attack, budget=attack, groups_name=attack, created=attack, notes=HOSTILE)
    document["versions"] = {text: text for text in HOSTILE}
    return document


def _rounds(gain: float, rounds: int, gain_em: float, rng: np.random.Generator, noise: float) -> list[dict[str, Any]]:
    longer = 1.0 if gain == 0 else 1.25
    made = []
    for number in range(1, rounds + 1):
        part = number / rounds
        nll = BASELINE_NLL + 0.35 * (1 - part) ** 2 - gain * (0.6 + 0.4 * part) + rng.normal(0, noise)
        exact = 0.17 + 0.05 * part + gain * gain_em + rng.normal(0, noise / 4)
        made.append(
            {
                "round": number,
                "examples": round(1000 * part),
                "tokens": round(131_000 * part * longer) + int(rng.integers(900)),
                "macro_nll": nll,
                "micro_nll": nll - 0.1,
                "macro_nll_no_end": nll + 0.08,
                "macro_em": exact,
                "micro_em": exact + 0.01,
                "macro_em_no_end": exact + 0.004,
                "seconds": {"score": 3.0 if gain else 0.0, "select": 0.4, "train": 15.2, "evaluate": 1.3},
            }
        )
    return made


def _strategy(document: dict[str, Any], name: str) -> dict[str, Any]:
    runs = {run["seed"]: run["rounds"] for run in document["runs"] if run["strategy"] == name}
    start = {run["seed"]: run["rounds"] for run in document["runs"] if run["strategy"] == document["baseline"]}
    last = [rounds[-1] for rounds in runs.values()]
    curve = [
        {"round": points[0]["round"], "examples": points[0]["examples"], "tokens": _mean([p["tokens"] for p in points])}
        | {key: _interval([p[key] for p in points], sd=False) for key in ("macro_nll", "macro_em")}
        for points in zip(*runs.values(), strict=True)
    ]
    seconds = (
        {key: _mean([sum(p["seconds"][key] for p in r) for r in runs.values()]) for key in last[0]["seconds"]}
        if last
        else None
    )
    made: dict[str, Any] = {
        "name": name,
        "about": ABOUT.get(name, "A strategy"),
        "changes": {},
        "seeds_done": sorted(runs),
    }
    made["final"] = {key: _interval([point[key] for point in last]) for key in METRICS} if last else None
    is_baseline, both = name == document["baseline"], sorted(set(runs) & set(start))
    made["difference"] = made["equal_tokens"] = made["share"] = None
    if both and not is_baseline:
        made["changes"] = {"select.temperature": 1.0, "select.picker": "random"}
        made["difference"] = {key: _paired([runs[s][-1][key] - start[s][-1][key] for s in both]) for key in METRICS}
        value = made["difference"]["macro_nll"]["value"]
        nll = made["final"]["macro_nll"]["mean"] + 0.02
        made["equal_tokens"] = {"tokens": 131_400, "macro_nll": nll, "difference": value + 0.02}
        made["share"] = {"value": 0.21 if value < 0 else None, "bound": len(curve) == 1}
    for key in ("examples", "tokens"):
        made[key] = _mean([point[key] for point in last])
    made |= {"response_tokens": 5017 if last else None, "seconds": seconds, "curve": curve}
    made["scoring_share"] = (
        seconds["score"] / (seconds["score"] + seconds["select"] + seconds["train"]) if seconds else None
    )
    return made


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _interval(values: list[float], sd: bool = True) -> dict[str, float | None]:
    """Mean and 95% t interval; None for what one value cannot have."""
    mean, spread, half = float(np.mean(values)), None, None
    if len(values) > 2:
        spread = float(np.std(values, ddof=1))
        half = float(stats.t.ppf(0.975, len(values) - 1) * spread / np.sqrt(len(values)))
    ends = {"low": None if half is None else mean - half, "high": None if half is None else mean + half}
    return {"mean": mean} | ({"sd": spread} if sd else {}) | ends


def _paired(values: list[float]) -> dict[str, float | None]:
    interval = _interval(values)
    p = float(stats.ttest_1samp(values, 0).pvalue) if len(values) > 2 else None
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"value": interval["mean"], "sd": sd, "low": interval["low"], "high": interval["high"], "p": p}
