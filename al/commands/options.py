"""The options that every command takes, and how they determine the config and the run directory."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from al.config import CONFIG_DIR, Config, change, load
from al.errors import ConfigError
from al.pool.identity import sources_config
from al.pool.mapping import parse_map
from al.run import database, rounds
from al.run.ownership import is_run
from al.run.store import Run

FLAGS = {
    "select.strategy": "--strategy",
    "target.files": "--target",
    "track": "--track",
    "pool.map": "--map",
    "pool.ignore": "--ignore",
}
"""Options of commands that stand for a config key, which may also be given by --set."""
SWITCHES = {"control=false": "--no-control", "cluster.recluster=true": "--recluster"}
DEFAULT_CONFIG = "mistral-7b.yaml"
"""RFC 3986, section 3.2.1: what stands between `://` and the host, a user, a password or a token."""


@dataclass(frozen=True)
class Options:
    """The options that every command takes, as given on the command line."""

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
        track: tuple[str, ...] = (),
        recluster: bool = False,
    ) -> Options:
        """A copy with `--strategy`, `--no-control`, `--pool`, `--target`, `--track` and `--recluster`."""
        extra = ([f"select.strategy={strategy}"] if strategy else []) + (["control=false"] if no_control else [])
        extra += [f"target.files={json.dumps(target)}"] if target else []
        extra += [f"track={json.dumps(track)}"] if track else []
        extra += ["cluster.recluster=true"] if recluster else []
        return replace(self, pool=pool)._with(extra)

    def with_fields(self, mapped: tuple[str, ...], ignored: tuple[str, ...] = ()) -> Options:
        """A copy with `--map`, which replaces `pool.map`, and `--ignore`, which replaces `pool.ignore`. Raises ConfigError."""
        names = [name.strip() for entry in ignored for name in entry.split(",")]
        extra = [f"pool.map={json.dumps(parse_map(mapped))}"] if mapped else []
        return self._with(extra + ([f"pool.ignore={json.dumps(names)}"] if names else []))

    def _with(self, overrides: list[str]) -> Options:
        return replace(self, overrides=(*self.overrides, *overrides))

    def as_arguments(self) -> list[str]:
        """The options as they are typed for a command that takes all of them, such as `round`; without --json and --debug."""
        found = [] if self.config_path is None else ["--config", str(self.config_path)]
        found += [] if self.run_path is None else ["--run", str(self.run_path)]
        found += [part for source in self.pool for part in ("--pool", source)]
        found += [part for override in self.overrides for part in _typed(override)]
        return found + ["--trust-remote-code"] * self.trust_remote_code

    def load_config(self) -> Config:
        """The config: that of --config, or the last config of the run given by --run, or the default.

        Raises:
            ConfigError: as `al.config.load`; also if a file turns on remote code without the command-line flag, or if a URL holds a
                password.
        """
        last = self._last_used() if self.config_path is None else None
        config = (
            change(last, self.overrides, f"{self.run_path}/run.db")
            if last is not None
            else load(self.config_path or CONFIG_DIR / DEFAULT_CONFIG, self.overrides)
        )
        if config.model.trust_remote_code and not self.trust_remote_code:
            raise ConfigError(
                "model.trust_remote_code: a config alone cannot turn this on; add --trust-remote-code if you trust the author."
            )
        if self.pool:
            config = config.model_copy(
                update={"pool": sources_config(config.pool, self.pool, None, config.pool.strict)}
            )
        if self.trust_remote_code:
            config = config.model_copy(update={"model": config.model.model_copy(update={"trust_remote_code": True})})
        return config

    def _last_used(self) -> dict[str, Any] | None:
        """The config of the run's last round; the next round makes clusters again only if it is asked to as well."""
        if self.run_path is None or not is_run(self.run_path):
            return None
        with Run.read(self.run_path) as run:
            last = rounds.last_round(run)
        if last is None:
            return None
        once = {"cluster": {**last.config.get("cluster", {}), "recluster": False}} if last.state == "done" else {}
        return {**last.config, **once}

    def run_directory(self) -> Path:
        """The run directory: --run, or runs/<config name>."""
        return self.run_path or Path("runs") / (
            self.config_path.stem if self.config_path else Path(DEFAULT_CONFIG).stem
        )

    def existing_run(self) -> Path:
        """The run to read: as `run_directory`, or the only run under runs/ if neither --run nor --config is given."""
        if self.run_path is None and self.config_path is None:
            found = sorted(path for path in Path("runs").glob("*/run.db") if database.state(path.parent) != "none")
            if len(found) == 1:
                return found[0].parent
            if len(found) > 1:
                raise ConfigError(
                    "several runs under runs/: choose one with --run " + " or ".join(str(p.parent) for p in found)
                )
        return self.run_directory()


def _typed(override: str) -> list[str]:
    """The arguments for KEY=VALUE: the option that stands for the key, if it can say the same, else --set."""
    if override in SWITCHES:
        return [SWITCHES[override]]
    key, _, text = override.partition("=")
    flag, as_set = FLAGS.get(key), ["--set", override]
    if flag is None:
        return as_set
    if flag == "--strategy":
        return [flag, text]
    try:
        value = json.loads(text)
    except json.JSONDecodeError:  # YAML, from --set
        return as_set
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return [part for name in value for part in (flag, name)]
    if flag == "--map" and isinstance(value, dict) and all(isinstance(name, str) for name in value.values()):
        written = ",".join(f"{name}={yours}" for name, yours in value.items())
        return [flag, written] if _says(written, value) else as_set
    return as_set


def _says(written: str, mapping: dict[str, str]) -> bool:
    """Whether `--map written` means this mapping."""
    try:
        return parse_map([written]) == mapping
    except ConfigError:
        return False
