"""The functions of `import al`. Each calls what the command of its name calls, and returns a typed result instead of a printed one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al.errors import ConfigError, DataError, EnvironmentProblem, Interrupted, RunStateError, UserError
from al.library.results import Comparison, ImportedPool, Plan, Round
from al.terminal import collecting, ignore_notices

if TYPE_CHECKING:
    from al.commands.options import Options

AnyPath = str | PathLike[str]
"""A path, as text or as `pathlib.Path`."""
Several = AnyPath | Sequence[AnyPath]
"""One path or name, or several."""
_ERRORS = {kind.exit_code: kind for kind in (ConfigError, DataError, EnvironmentProblem, RunStateError, Interrupted)}


def import_pool(
    sources: Several,
    *,
    run: AnyPath,
    config: AnyPath | None = None,
    overrides: Mapping[str, Any] | None = None,
    format: str | None = None,
    strict: bool = False,
) -> ImportedPool:
    """Add sources to the pool of a run, as `pool import`.

    Args:
        sources: files, folders, globs, presets or hub:OWNER/NAME; one or several.
        run: the run directory; it is made if it is not there.
        config: a YAML file, or the name of one in configs/; None: the run's last config, or mistral-7b.
        overrides: config keys and their values, as {"train.epochs": 2}.
        format: a row format by name, instead of detection for each row.
        strict: stop at the first bad row instead of quarantining it.

    Raises:
        UserError: as the command, of the class that `al.errors` lists for its exit code.
    """
    with _as_a_library() as notes:
        from al.commands.pool import import_into_pool

        found = import_into_pool(_options(run, config, overrides), _names(sources), format, strict)
    counts = {name: found[name] for name in ("version", "added", "examples", "labelled", "duplicates")}
    counts |= {"quarantined": found["quarantined"], "sources": found["sources"]}
    return ImportedPool(run=Path(run), **counts, notes=tuple(notes), document=found)


def plan(
    budget: str | int,
    *,
    run: AnyPath | None = None,
    config: AnyPath | None = None,
    overrides: Mapping[str, Any] | None = None,
    pool: Several = (),
    gpu: str | None = None,
    until: str | None = None,
    search: str | None = None,
) -> Plan:
    """Estimate the next round without running it, as `plan`.

    Args:
        budget: 5000 (examples), "2Mtok" (tokens) or "30min" (of training).
        run: the run that it would belong to; None: a new one.
        config: as for `import_pool`.
        overrides: as for `import_pool`.
        pool: sources to read examples from, instead of the config's.
        gpu: "RTX 4090", "H200", "24GB": plan for this card, or the slowest one of this memory, by its specification.
        until: also say how many rounds fit in this time, as "22h".
        search: look for near-duplicates in a pool that no round has looked through for so long, as "2min"; None: a few seconds.

    Raises:
        UserError: as the command, of the class that `al.errors` lists for its exit code.
    """
    with _as_a_library() as notes, _without_bars():
        from al.commands.plan import plan_round

        options = _options(run, config, overrides).for_round(None, False, _names(pool), ())
        found = plan_round(options, str(budget), gpu, until, search)
    return Plan(
        **{name: found["round"][name] for name in ("examples", "tokens", "steps")},
        peak_gib=found["peak_gib"],
        seconds=found["total_seconds"],
        seconds_by_work=found["seconds"],
        disk_gib=found["disk_gib"],
        rounds_until=found["until"]["rounds"] if found["until"] else None,
        warnings=tuple(found["warnings"]),
        notes=tuple(notes),
        document=found,
    )


def run_round(
    budget: str | int,
    *,
    run: AnyPath,
    config: AnyPath | None = None,
    overrides: Mapping[str, Any] | None = None,
    pool: Several = (),
    target: Several = (),
    strategy: str | None = None,
    control: bool = True,
) -> Round:
    """Run the next round, or the rest of an interrupted one, as `round`. After an interruption the same call continues.

    Args:
        budget: 5000 (examples), "2Mtok" (tokens) or "30min" (of training).
        run: as for `import_pool`.
        config: as for `import_pool`.
        overrides: as for `import_pool`.
        pool: sources to read examples from, instead of the config's.
        target: files with examples of the task to be good at. They direct the selection and are never trained on.
        strategy: selection strategy by name.
        control: train the random control as the config says, by default until it is clear whether selecting pays. False: train none.

    Raises:
        UserError: as the command, of the class that `al.errors` lists for its exit code.
    """
    with _as_a_library() as notes, _without_bars():
        from al.commands.rounds import run_next_round

        options = _options(run, config, overrides)
        options = options.for_round(strategy, not control, _names(pool), _names(target))
        return _round(Path(run), run_next_round(options, str(budget)), notes)


def load_round(run: AnyPath, number: int | None = None) -> Round:
    """A finished round of a run, as `report`. Works on a read-only run, and while another process works on it.

    Args:
        number: which round, from 1; None: the last finished one.

    Raises:
        RunStateError: there is no run, it is damaged, or the round is not finished.
    """
    with _as_a_library() as notes:
        from al.commands.summary import finished_summary

        return _round(Path(run), finished_summary(_options(run), number), notes)


def compare(
    strategies: str | Sequence[str] = ("default", "random"),
    *,
    budget: str | int,
    run: AnyPath,
    config: AnyPath | None = None,
    overrides: Mapping[str, Any] | None = None,
    pool: Several = (),
    target: Several = (),
    rounds: int = 4,
    seeds: int = 3,
    proxy: str | None = None,
) -> Comparison:
    """Train and evaluate several strategies on one pool, always including random, as `compare`. The same call continues an interrupted one.

    Args:
        strategies: names; "NAME:key=value" changes a config key for one of them.
        budget: of all rounds together: 1000 (examples) or "200ktok" (tokens).
        run: a directory for the comparison alone.
        config: as for `import_pool`.
        overrides: as for `import_pool`.
        pool: as for `run_round`.
        target: as for `run_round`.
        rounds: how many share the budget.
        seeds: how many runs each strategy has.
        proxy: a small model to compare on, instead of the config's.

    Raises:
        UserError: as the command, of the class that `al.errors` lists for its exit code.
    """
    with _as_a_library() as notes, _without_bars():
        from al.commands.compare import run_comparison
        from al.comparison.headline import comparison_headline

        if min(rounds, seeds) < 1:
            raise ConfigError(f"compare: expected rounds and seeds of 1 or more, found {rounds} and {seeds}.")
        names = strategies if isinstance(strategies, str) else ",".join(strategies)
        options = _options(run, config, overrides).for_round(None, False, _names(pool), _names(target))
        found = run_comparison(options, names, str(budget), rounds, seeds, proxy)
        return Comparison(
            run=Path(run),
            baseline=found["baseline"],
            verdict=comparison_headline(found),
            strategies={entry["name"]: entry for entry in found["strategies"]},
            page=Path(found["page"]),
            notes=tuple(notes),
            document=found,
        )


@contextmanager
def _as_a_library() -> Iterator[list[str]]:
    """Collect what would be printed, and raise errors of a user's making as the classes of `al.errors`."""
    with warnings.catch_warnings(), collecting() as lines:
        ignore_notices()
        try:
            yield lines
        except UserError:
            raise
        except Exception as error:
            from al.commands.foreign_errors import known

            found = known(error)
            if found is None:
                raise
            code, message = found
            raised = _ERRORS.get(code, UserError)(message)
            raised.exit_code = code
            raise raised from error


@contextmanager
def _without_bars() -> Iterator[None]:
    """Inside the block transformers draws no progress bars while it loads weights."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


def _options(run: AnyPath | None, config: AnyPath | None = None, overrides: Mapping[str, Any] | None = None) -> Options:
    from al.commands.options import Options

    changed = tuple(f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items())
    return Options(_path(config), changed, _path(run), as_json=True)


def _path(given: AnyPath | None) -> Path | None:
    return None if given is None else Path(given)


def _names(given: Several) -> tuple[str, ...]:
    return tuple(map(str, (given,) if isinstance(given, (str, PathLike)) else given))


def _round(run: Path, summary: dict[str, Any], notes: list[str]) -> Round:
    from al.report.reading.verdict import verdict

    return Round(
        run=run,
        number=summary["round"],
        budget=summary["budget"]["asked"],
        examples=summary["budget"]["examples"],
        tokens=summary["budget"]["tokens"],
        verdict=verdict(summary),
        metrics=summary["evaluation"]["models"],
        differences=summary["evaluation"]["differences"],
        report=Path(summary["report_path"]),
        adapter=Path(summary["adapter_path"]) if "adapter_path" in summary else None,
        notes=tuple(notes),
        summary=summary,
    )
