"""What to type after a comparison: the number of seeds that would decide, from the spread between the seeds so far, or a round."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from al.program import PROGRAM

MOST_SEEDS = 50
"""Seeds up to which more of them are proposed; a difference that needs more is small next to chance."""

KEPT = ("--config", "--set", "--pool", "--target")
"""Options of `compare` that mean the same for a round."""
DEFAULT = "default"
"""The strategy of a round that names none."""


def seeds_to_tell(value: float, low: float, high: float, seeds: int, comparisons: int = 1) -> int | None:
    """The fewest seeds, more than `seeds`, whose interval would leave zero out if difference and deviation stayed as they are.

    The deviation between seeds is read off the interval: half of it is t(0.975, n - 1) · sd / √n. The answer is the first m with
    |value| > t(1 - 0.025 / comparisons, m - 1) · sd / √m (Bonferroni's level, which Holm's first step has).

    Args:
        value, low, high: a mean of paired differences with its 95% t interval over `seeds` (at least 2) seeds.

    Returns:
        None where MOST_SEEDS are too few.
    """
    from scipy.stats import t

    deviation = (high - low) / 2 / float(t.ppf(0.975, seeds - 1)) * seeds**0.5
    enough = (
        m
        for m in range(seeds + 1, MOST_SEEDS + 1)
        if abs(value) > float(t.ppf(1 - 0.025 / comparisons, m - 1)) * deviation / m**0.5
    )
    return next(enough, None)


def command_of(document: Mapping[str, Any], seeds: int | None = None) -> str:
    """The command line as recorded under "command", or one made from what was compared; with another number of seeds if given."""
    recorded = shlex.split(str(document.get("command") or ""))
    if "compare" not in recorded:
        if recorded and seeds is None:
            return str(document["command"])
        recorded = _made(document)
    if seeds is None:
        return str(document.get("command") or shlex.join(recorded))
    at = next((i for i, part in enumerate(recorded) if part == "--seeds"), None)
    if at is not None:
        del recorded[at : at + 2]
    kept = [part for part in recorded if part != "--json" and not part.startswith("--seeds=")]
    return shlex.join([*kept, "--seeds", str(seeds)])


def round_command(document: Mapping[str, Any], i: int | None) -> str:
    """The command line of a round with the strategy at position `i` (None: the default), on the pool and config that were compared."""
    recorded = shlex.split(str(document.get("command") or ""))
    at = recorded.index("compare") if "compare" in recorded else None
    program, given = (PROGRAM.split(), []) if at is None else (recorded[:at], recorded[at + 1 :])
    kept = [part for k, part in enumerate(given) if _kept(part) or (k and given[k - 1] in KEPT)]
    strategy = {} if i is None else document["strategies"][i]
    name = str(strategy.get("name") or DEFAULT).partition(":")[0]
    own = [] if name == DEFAULT else ["--strategy", name]
    for key, value in (strategy.get("changes") or {}).items():
        own += ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join([*program, "round", "--budget", str(document.get("budget")), *kept, *own])


def _kept(part: str) -> bool:
    return part in (*KEPT, "--trust-remote-code") or part.startswith(tuple(f"{option}=" for option in KEPT))


def _made(document: Mapping[str, Any]) -> list[str]:
    names = ",".join(str(strategy.get("name")) for strategy in document.get("strategies") or [])
    options = {"strategies": names, "budget": document.get("budget"), "rounds": document.get("rounds")}
    options["seeds"] = len(document.get("seeds") or []) or None
    given = [part for name, value in options.items() if value not in (None, "") for part in (f"--{name}", str(value))]
    return [*PROGRAM.split(), "compare", *given]
