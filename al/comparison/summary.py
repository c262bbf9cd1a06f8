"""The numbers of a comparison from its runs: means, intervals, paired differences, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SHOWN_METRICS = ("macro_nll", "micro_nll", "macro_em", "micro_em", "macro_nll_no_end", "macro_em_no_end")
NEAR = 0.02
"""How far (in the logarithm) outside a learning curve its end is still used: runs of one budget end within an example of each other."""

LEAST_SEEDS = 3
"""Seeds that an interval needs. The t interval of two has one degree of freedom: 12.7 standard errors either way, and two differences
that happen to be close make it exclude zero."""

Run = Mapping[str, Any]
"""One member's result, as `al.comparison.play.play_member` gives it."""


def summarize(name: str, runs: Sequence[Run], baseline: Sequence[Run], nll: str = "macro_nll") -> dict[str, Any]:
    """One strategy's numbers over its seeds, compared with the baseline's runs of the same seeds. `runs is baseline`: no differences.

    Intervals are 95% t intervals of the mean over seeds; differences are paired by seed, with their standard deviation and the p-value of
    a paired t-test. Intervals and p are None with fewer than LEAST_SEEDS seeds, and where all differ alike: then the spread between seeds
    is unknown. `nll`: the mean that equal tokens and the share of examples go by, "macro_nll" or "micro_nll".
    """
    last = [run["rounds"][-1] for run in runs]
    pairs = _pairs(runs, baseline) if runs is not baseline else []
    seconds = {
        key: _mean([sum(r["seconds"][key] for r in run["rounds"]) for run in runs]) for key in last[0]["seconds"]
    }
    spent = seconds["score"] + seconds["select"] + seconds["train"]
    return {
        "name": name,
        "seeds_done": [run["seed"] for run in runs],
        "final": {metric: spread([entry[metric] for entry in last]) for metric in SHOWN_METRICS},
        "difference": {metric: _difference(pairs, metric) for metric in SHOWN_METRICS} if pairs else None,
        "equal_tokens": _at_equal_tokens(pairs, nll) if pairs else None,
        "share": _share(pairs, nll) if pairs else None,
        **{key: round(_mean([entry[key] for entry in last])) for key in ("examples", "tokens", "response_tokens")},
        "seconds": {key: round(value, 2) for key, value in seconds.items()},
        "scoring_share": (seconds["score"] + seconds["select"]) / spent if spent > 0 else None,
        "curve": _curve(runs),
    }


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, standard deviation, and 95% t interval of the mean with n - 1 degrees of freedom, which takes LEAST_SEEDS values."""
    from scipy.stats import t

    n, mean = len(values), _mean(values)
    sd = float(np.std(values, ddof=1)) if n > 1 else None
    if n < LEAST_SEEDS or sd is None:
        return {"mean": mean, "sd": sd, "low": None, "high": None}
    half = float(t.ppf(0.975, n - 1)) * sd / n**0.5
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half}


def _pairs(runs: Sequence[Run], baseline: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs of the same seed."""
    other = {run["seed"]: run for run in baseline}
    return [(run, other[run["seed"]]) for run in runs if run["seed"] in other]


def _difference(pairs: Sequence[tuple[Run, Run]], metric: str) -> dict[str, float | None]:
    """A difference below 1e-12 is what the order of a sum leaves of none."""
    from scipy.stats import ttest_1samp

    ours, theirs = ([run["rounds"][-1][metric] for run in side] for side in zip(*pairs, strict=True))
    values = np.subtract(ours, theirs)
    values[np.abs(values) < 1e-12] = 0.0
    found = spread(values.tolist())
    unknown = len(pairs) < LEAST_SEEDS or (np.ptp(values) < 1e-12 and found["mean"] != 0)
    if unknown:
        return {"value": found["mean"], "sd": found["sd"], "low": None, "high": None, "p": None}
    p = float(ttest_1samp(values, 0.0).pvalue) if values.any() else 1.0
    return {"value": found["mean"], "sd": found["sd"], "low": found["low"], "high": found["high"], "p": p}


def _at_equal_tokens(pairs: Sequence[tuple[Run, Run]], nll: str) -> dict[str, float | None]:
    """NLL on the strategy's own learning curve where it has trained on as many tokens as the baseline in the end."""
    values = [_interpolated(ours, "tokens", theirs["rounds"][-1]["tokens"], nll) for ours, theirs in pairs]
    tokens = round(_mean([theirs["rounds"][-1]["tokens"] for _, theirs in pairs]))
    if any(value is None for value in values):
        return {"tokens": tokens, nll: None, "difference": None}
    baseline = _mean([theirs["rounds"][-1][nll] for _, theirs in pairs])
    mean = _mean([value for value in values if value is not None])
    return {"tokens": tokens, nll: mean, "difference": mean - baseline}


def _share(pairs: Sequence[tuple[Run, Run]], nll: str) -> dict[str, Any]:
    """The part of the baseline's examples after which the strategy reaches the baseline's final NLL.

    Read off the strategy's mean learning curve; `bound` says that its first point is already lower.
    """
    rounds = min(len(ours["rounds"]) for ours, _ in pairs)
    examples = [_mean([ours["rounds"][r]["examples"] for ours, _ in pairs]) for r in range(rounds)]
    losses = [_mean([ours["rounds"][r][nll] for ours, _ in pairs]) for r in range(rounds)]
    goal = _mean([theirs["rounds"][-1][nll] for _, theirs in pairs])
    all_of = _mean([theirs["rounds"][-1]["examples"] for _, theirs in pairs])
    reached = [r for r in range(rounds) if losses[r] <= goal]
    if not reached:
        return {"value": None, "bound": False}
    first = reached[0]
    if first == 0:
        return {"value": min(1.0, examples[0] / all_of), "bound": True}
    part = (losses[first - 1] - goal) / (losses[first - 1] - losses[first])
    needed = np.exp((1 - part) * np.log(examples[first - 1]) + part * np.log(examples[first]))
    return {"value": float(needed / all_of), "bound": False}


def _interpolated(run: Run, axis: str, at: float, nll: str) -> float | None:
    """NLL where `axis` is `at`, linear in its logarithm between rounds; None more than NEAR outside them."""
    x = np.log([entry[axis] for entry in run["rounds"]])
    if not x[0] - NEAR <= np.log(at) <= x[-1] + NEAR:
        return None
    return float(np.interp(np.log(at), x, [entry[nll] for entry in run["rounds"]]))


def _curve(runs: Sequence[Run]) -> list[dict[str, Any]]:
    rounds = min(len(run["rounds"]) for run in runs)
    return [
        {
            "round": r + 1,
            "examples": round(_mean([run["rounds"][r]["examples"] for run in runs])),
            "tokens": round(_mean([run["rounds"][r]["tokens"] for run in runs])),
            "macro_nll": spread([run["rounds"][r]["macro_nll"] for run in runs]),
            "macro_em": spread([run["rounds"][r]["macro_em"] for run in runs]),
        }
        for r in range(rounds)
    ]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
