"""What the commands do, as functions: they open the run, call the loop, and return plain documents to print."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al.budget import parse_budget
from al.config import CONFIG_DIR, Config, change, difference, load, parse
from al.errors import ConfigError, RunStateError
from al.pool.identity import sources_config
from al.run import rounds
from al.run.ownership import is_run
from al.run.progress import stop_on_signals
from al.run.store import Run

if TYPE_CHECKING:
    from al.review.ask import Asking

DEFAULT_CONFIG = "mistral-7b.yaml"


@dataclass(frozen=True)
class Options:
    """The options that every command takes, as given."""

    config_path: Path | None = None
    overrides: tuple[str, ...] = ()
    run_path: Path | None = None
    as_json: bool = False
    debug: bool = False
    trust_remote_code: bool = False
    pool: tuple[str, ...] = ()

    def for_round(
        self,
        strategy: str | None,
        no_control: bool,
        pool: tuple[str, ...],
        target: tuple[str, ...],
        mapped: tuple[str, ...] = (),
        track: tuple[str, ...] = (),
    ) -> Options:
        """The same with `--strategy`, `--no-control`, `--pool`, `--target`, `--map` and `--track`."""
        extra = ([f"select.strategy={strategy}"] if strategy else []) + (["control=false"] if no_control else [])
        extra += [f"target.files={json.dumps(target)}"] if target else []
        extra += [f"track={json.dumps(track)}"] if track else []
        return replace(self.with_map(mapped), pool=pool)._with(extra)

    def with_map(self, mapped: tuple[str, ...]) -> Options:
        """The same with `--map`, which takes the place of `pool.map`. Raises ConfigError."""
        from al.pool.mapping import parse_map

        return self._with([f"pool.map={json.dumps(parse_map(mapped))}"] if mapped else [])

    def _with(self, overrides: list[str]) -> Options:
        return replace(self, overrides=(*self.overrides, *overrides))

    def load_config(self) -> Config:
        """The config these options name: --config, or what the run named by --run used last, or the default.

        Raises:
            ConfigError: as `al.config.load`; also when a file turns on remote code without the flag on the command line.
        """
        last = self._last_used() if self.config_path is None else None
        config = (
            change(last, self.overrides, f"{self.run_path}/run.db")
            if last is not None
            else load(self.config_path or CONFIG_DIR / DEFAULT_CONFIG, self.overrides)
        )
        if config.model.trust_remote_code and not self.trust_remote_code:
            raise ConfigError(
                "model.trust_remote_code: a config cannot turn this on by itself; add --trust-remote-code if you trust the author."
            )
        if self.pool:
            config = config.model_copy(
                update={"pool": sources_config(config.pool, self.pool, None, config.pool.strict)}
            )
        if self.trust_remote_code:
            config = config.model_copy(update={"model": config.model.model_copy(update={"trust_remote_code": True})})
        return config

    def _last_used(self) -> dict[str, Any] | None:
        if self.run_path is None or not is_run(self.run_path):
            return None
        with Run.read(self.run_path) as run:
            last = rounds.last_round(run)
        return last.config if last is not None else None

    def run_directory(self) -> Path:
        """The run these options name: --run, or runs/<config name>."""
        return self.run_path or Path("runs") / (
            self.config_path.stem if self.config_path else Path(DEFAULT_CONFIG).stem
        )

    def existing_run(self) -> Path:
        """The run to look at: as `run_directory`, or the only run under runs/ when neither --run nor --config is given."""
        if self.run_path is None and self.config_path is None:
            found = sorted(Path("runs").glob("*/run.db"))
            if len(found) == 1:
                return found[0].parent
            if len(found) > 1:
                raise ConfigError(
                    "several runs under runs/: name one with --run " + " or ".join(str(p.parent) for p in found)
                )
        return self.run_directory()


def run_next_round(options: Options, budget: str, asking: Asking | None = None) -> dict[str, Any]:
    """Run the next round, or what is left of an unfinished one; returns its summary, or where it stopped for a review."""
    from al.commands.review import play
    from al.review.ask import Asking
    from al.round.loop import next_round_number
    from al.run.session import Session
    from al.tracking.rounds import tracked
    from al.tracking.services import check_installed

    request, config = parse_budget(budget), options.load_config()
    check_installed(config.track)
    stop_on_signals()
    with Run.create_or_open(options.run_directory()) as run, asking or Asking() as asking:
        session = Session(run, config, quiet=options.as_json)
        number = next_round_number(session)
        _announce(session, number, request.text)
        with tracked(session):
            return play(session, request, number, asking)


def _announce(session: Any, number: int, budget: str) -> None:
    """Say which round runs, and what of its config changed since it was started."""
    from al.scoring.stage import notices

    last = rounds.unfinished_round(session.run)
    if session.quiet:
        return
    for line in notices(session.config):
        print(f"note: {line}", flush=True)
    if last is None:
        print(f"round {number} in {session.run.path}, budget {budget}", flush=True)
        return
    print(f"continuing round {number} in {session.run.path}, started {last.started}, budget {budget}", flush=True)
    changes = difference(last.config, session.config.model_dump(mode="json"))
    if last.budget != budget:
        changes["budget"] = [last.budget, budget]
    for key, (before, after) in changes.items():
        print(
            f"  changed since it was started: {key}: {before} → {after}; stages that depend on it run again", flush=True
        )


def run_rounds(options: Options, budget: str, count: int, until_no_gain: bool) -> dict[str, Any]:
    """Run rounds until the run has `count`, or until one brings no significant dev gain; returns the last summary."""
    from al.report.publish import read_summary
    from al.round.loop import gained, next_round_number, run_round
    from al.run.session import Session
    from al.tracking.rounds import tracked
    from al.tracking.services import check_installed

    request, config = parse_budget(budget), options.load_config()
    if until_no_gain and not config.holdout.dev and not config.holdout.dev_files:
        raise ConfigError(
            "run: whether a round still helps is told by dev, and holdout.dev is 0. Raise it, or take --all-rounds."
        )
    check_installed(config.track)
    stop_on_signals()
    with Run.create_or_open(options.run_directory()) as run, tracked(session := Session(run, config, options.as_json)):
        while (number := next_round_number(session)) <= count:
            _announce(session, number, request.text)
            summary = run_round(session, request, number)
            if not options.as_json:
                print(describe_summary(with_paths(run.path, summary)), flush=True)
            if until_no_gain and not gained(summary):
                if not options.as_json:
                    print(f"stopping after round {number}: its dev gain is not significant", flush=True)
                break
        return with_paths(run.path, read_summary(run.path, number if number <= count else count))


def run_comparison(
    options: Options, strategies: str, budget: str, count: int, seeds: int, proxy: str | None
) -> dict[str, Any]:
    """Play a comparison of `count` rounds, or what is left of it, in a run directory of its own; returns its document."""
    from al.comparison.play import compare, split_names
    from al.run.session import Session
    from selection.strategy import Budget

    request = parse_budget(budget)
    if request.unit == "seconds":
        raise ConfigError("compare: a budget of training time is not the same for every seed; give examples or tokens.")
    if proxy is not None:
        options = replace(options, overrides=(*options.overrides, f"model.name={proxy}", "model.revision=null"))
    config = options.load_config()
    stop_on_signals()
    directory = options.run_path or Path("runs") / f"compare-{options.run_directory().name}"
    with Run.create_or_open(directory) as run:
        if rounds.last_round(run) is not None:
            raise RunStateError(
                f"{directory}: this is a run of rounds, and a comparison takes a directory of its own; give another --run, or none."
            )
        session = Session(run, config, quiet=options.as_json)
        amount = Budget(request.unit, int(request.amount))
        document = compare(
            session, split_names(strategies), amount, count, range(seeds), request.text, proxy is not None
        )
    return {**document, "page": str(directory / "comparison.html")}


def describe_comparison(document: dict[str, Any]) -> str:
    """A comparison for the terminal."""
    from al.report.text.comparison import describe_comparison as describe

    return f"{describe(document)}\npage: {document['page']}"


def resume(options: Options) -> dict[str, Any]:
    """Finish the unfinished round with its own recorded config and budget; returns its summary."""
    from al.round.loop import run_round
    from al.run.session import Session
    from al.tracking.rounds import tracked
    from al.tracking.services import check_installed

    path = options.existing_run()
    Run.read(path).close()
    stop_on_signals()
    with Run.create_or_open(path) as run:
        last = rounds.unfinished_round(run)
        if last is None and (path / "comparison.json").exists():
            raise RunStateError(f"{path}: this is a comparison; the same `compare` command goes on with it.")
        if last is None:
            newest = rounds.last_round(run)
            done = "no round was started" if newest is None else f"round {newest.number} is finished"
            raise RunStateError(
                f"{path}: nothing to resume, {done}. `python cli.py round --run {path} --budget N` starts the next one."
            )
        session = Session(run, parse(last.config, f"{path}/run.db"), quiet=options.as_json)
        check_installed(session.config.track)
        _announce(session, last.number, last.budget)
        with tracked(session):
            return with_paths(path, run_round(session, parse_budget(last.budget), last.number))


def report(options: Options, number: int | None) -> dict[str, Any]:
    """The summary of a finished round, with the paths of its pages."""
    from al.report.publish import read_summary

    path = options.existing_run()
    with Run.read(path) as run:
        finished = [r.number for r in rounds.all_rounds(run) if r.state == "done"]
    if not finished or (number is not None and number not in finished):
        raise RunStateError(f"{path}: round {number or 1} has no report yet; finished rounds: {finished or 'none'}.")
    return with_paths(path, read_summary(path, number or finished[-1]))


def with_paths(run: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with `report_path`, relative to where the run was named from."""
    from al.report.publish import round_directory

    return {**summary, "report_path": str(round_directory(run, summary["round"]) / "report.html")}


def describe_summary(summary: dict[str, Any]) -> str:
    """A summary for the terminal, or what a round that stopped for a review waits for."""
    import shutil
    import sys

    from al.report.text.terminal import render_terminal

    if "next" in summary:
        said = f"review: {summary['review']}\n" if summary["review"] else ""
        return f"{said}round {summary['round']} waits before its training. Go on with: {summary['next']}"
    return render_terminal(
        summary, width=min(shutil.get_terminal_size((100, 24)).columns, 120), color=sys.stdout.isatty()
    )


def import_into_pool(options: Options, names: tuple[str, ...], format_name: str | None, strict: bool) -> dict[str, Any]:
    """Add sources to the run's pool as a new version; returns the pool's counts."""
    from al.pool.reading.stdin import with_stdin_spooled
    from al.pool.sources import find_sources
    from al.preparation.stages import import_sources
    from al.run.session import Session

    config = options.load_config()
    stop_on_signals()
    with Run.create_or_open(options.run_directory()) as run:
        given = with_stdin_spooled(names, run.path / "stdin")
        config = config.model_copy(update={"pool": sources_config(config.pool, given, format_name, strict)})
        present = rounds.current_pool(run)
        session = Session(run, config, quiet=options.as_json)
        sources = find_sources(config.pool, trusted=set(given) - set(names))
        artifact = import_sources(session, sources, previous=present[1] if present else None)
        version = rounds.add_pool(run, artifact)
        return {"version": version, "run": str(run.path), **artifact.json("pool.json")}


def describe_pool(document: dict[str, Any]) -> str:
    """Counts of a pool version for the terminal."""
    from al.labels import adjusted

    bad, answered = document["quarantined"], document.get("answered", 0)
    lines = [
        f"pool version {document['version']} of {document['run']}: {document['examples']:,} examples "
        f"({document['labelled']:,} labelled, {document['unlabelled']:,} unlabelled"
        + (f", {answered:,} without a response that another example answers)" if answered else ")"),
        f"  exact duplicates merged: {document['duplicates']:,}",
        f"  quarantined rows: {sum(bad.values()):,}"
        + (f" ({', '.join(f'{k} {v}' for k, v in bad.items())})" if bad else ""),
    ]
    changed = [f"{adjusted(code)} {count:,}" for code, count in document["adjusted"].items()]
    lines += [f"  changed on import: {', '.join(changed)}"] if changed else []
    sources = sorted(document["sources"].items(), key=lambda item: -item[1])
    lines += [f"  {count:>9,}  {name}" for name, count in sources[:12]]
    lines += [f"  … and {len(sources) - 12} more sources"] if len(sources) > 12 else []
    return "\n".join(lines)


def plain_fine_tuning(options: Options, datasets: tuple[str, ...]) -> dict[str, Any]:
    """Fine-tune on everything in `datasets`; returns the training report and the holdout comparison with the base."""
    from al.round.fine_tune import fine_tune
    from al.run.session import Session

    config = options.load_config()
    config = config.model_copy(update={"pool": sources_config(config.pool, datasets, None, config.pool.strict)})
    stop_on_signals()
    with Run.create_or_open(options.run_path or Path("runs") / f"train-{Path(datasets[0]).stem.split('.')[0]}") as run:
        return fine_tune(Session(run, config, quiet=options.as_json))


def describe_fine_tuning(document: dict[str, Any]) -> str:
    """A plain fine-tuning for the terminal."""
    training = document["training"]
    lines = [
        f"trained on {document['examples']:,} examples: {training['steps']:,} steps, {training['tokens']:,} tokens, "
        f"{training['tokens_per_s']:,.0f} tokens/s, loss {training['first_loss']:.3f} → {training['last_loss']:.3f}"
    ]
    for name, metrics in document["evaluation"]["models"].items():
        lines.append(
            f"  {name:<9} NLL {metrics['macro_nll']:.3f} macro, {metrics['micro_nll']:.3f} micro; exact match {metrics['micro_em']:.1%}"
        )
    return "\n".join([*lines, f"adapter: {document['adapter']}"])
