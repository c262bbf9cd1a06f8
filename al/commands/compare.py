"""`compare`: train and evaluate several strategies on one pool."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from al.budget import parse_budget
from al.commands.options import Options
from al.comparison.play import compare_strategies, split_names
from al.comparison.text import comparison_as_text
from al.errors import ConfigError, RunStateError
from al.run import rounds
from al.run.session import Session
from al.run.store import Run
from selection.strategy import Budget


def run_comparison(
    options: Options, strategies: str, budget: str, count: int, seeds: int, proxy: str | None
) -> dict[str, Any]:
    """Run a comparison of `count` rounds, or the rest of it, in its own run directory; returns its document."""
    request = parse_budget(budget)
    if request.unit == "seconds":
        raise ConfigError("compare: a time budget differs between seeds; give examples or tokens.")
    if proxy is not None:
        options = replace(options, overrides=(*options.overrides, f"model.name={proxy}", "model.revision=null"))
    config = options.load_config()
    directory = options.run_path or Path("runs") / f"compare-{options.run_directory().name}"
    with Run.create_or_open(directory) as run:
        if rounds.last_round(run) is not None:
            raise RunStateError(
                f"{directory}: this is a run of rounds, and a comparison needs its own directory; name another --run, or none."
            )
        session = Session(run, config, quiet=options.as_json)
        amount = Budget(request.unit, int(request.amount))
        document = compare_strategies(
            session, split_names(strategies), amount, count, range(seeds), request.text, proxy is not None
        )
    return {**document, "page": str(directory / "comparison.html")}


def describe_comparison(document: dict[str, Any]) -> str:
    """The text of a comparison for the terminal."""
    return f"{comparison_as_text(document)}\npage: {document['page']}"
