"""Which files and hub datasets a pool is made from, and what they are called in everything a reader sees."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from al.errors import ConfigError, DataError
from al.pool.config import PoolConfig

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_COMPRESSED = tuple(suffix + ".gz" for suffix in SUFFIXES if suffix != ".parquet")
_HUB = re.compile(
    r"(?:hub:)?(?P<name>[^\[\]@:]+)(?:@(?P<revision>[^\[\]:]+))?(?:\[(?P<subset>[^\[\]]+)\])?(?::(?P<split>[\w.\-]+))?"
)


@dataclass(frozen=True)
class Source:
    """One file or hub dataset to import.

    `path` opens it; `label` names it in origins and reports and is never an absolute path; `stem` is the example source
    of rows that name none themselves. `format` and `source_field` are as in PoolConfig, `max_row_bytes` in bytes.
    """

    path: str
    label: str
    stem: str
    format: str = "auto"
    source_field: str = "auto"
    max_row_bytes: int = 8 * 2**20

    @property
    def is_hub(self) -> bool:
        """Whether `path` is `hub:owner/name…` rather than a file."""
        return self.path.startswith("hub:")


@dataclass(frozen=True)
class HubName:
    """`hub:owner/name@revision[subset]:split` taken apart."""

    name: str
    revision: str | None
    subset: str | None
    split: str


def find_sources(config: PoolConfig) -> list[Source]:
    """Every file and dataset that `config` names, sorted by label, each once.

    Raises:
        DataError: a path that does not exist, or a folder or pattern without a readable file.
        ConfigError: a hub name that cannot be parsed.
    """
    paths = sorted({path for entry in config.files for path in _expand(entry)})
    hubs = sorted({"hub:" + entry.removeprefix("hub:") for entry in config.hub})
    for entry in hubs:
        parse_hub(entry)
    return make_sources([*paths, *hubs], config)


def make_sources(paths: Iterable[str], config: PoolConfig | None = None) -> list[Source]:
    """Sources for paths (or `hub:` names) taken as they are, sorted by label."""
    config = config or PoolConfig()
    unique = list(dict.fromkeys(paths))
    labels = _labels(unique)
    stems = _stems(labels)
    return sorted(
        (
            Source(path, labels[path], stems[path], config.format, config.source_field, config.max_row_bytes)
            for path in unique
        ),
        key=lambda source: source.label,
    )


def parse_hub(text: str) -> HubName:
    """Take a hub name apart. Raises ConfigError when it does not have the form `owner/name@revision[config]:split`."""
    found = _HUB.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"pool.hub: {text!r} is not of the form owner/name@revision[config]:split (all but the name optional)."
        )
    return HubName(found["name"], found["revision"], found["subset"], found["split"] or "train")


def without_suffix(name: str) -> str:
    """File name without the suffixes of a readable file: `a/b.json.gz` → `a/b`."""
    for suffix in (*_COMPRESSED, *SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _expand(entry: str) -> list[str]:
    path = Path(entry).expanduser()
    if path.is_dir():
        found = [
            str(file)
            for file in path.rglob("*")
            if file.is_file() and _readable(file.name) and not file.name.startswith(".")
        ]
        if not found:
            raise DataError(
                f"pool.files: the folder {entry} holds no file that can be imported ({', '.join(SUFFIXES)})."
            )
        return found
    if path.is_file():
        return [str(path)]
    matches = [name for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
    if not matches:
        kind = "no file matches the pattern" if glob.has_magic(entry) else "there is no file or folder"
        raise DataError(
            f"pool.files: {kind} {entry} (looked in {Path.cwd().name}/). Check the path; it is relative to the folder you run from."
        )
    return matches


def _readable(name: str) -> bool:
    return name.lower().endswith(SUFFIXES + _COMPRESSED)


def _labels(paths: list[str]) -> dict[str, str]:
    """The path as given; an absolute one is cut to as many last parts (two at least) as make it unique."""
    labels, depth = {}, dict.fromkeys(paths, 2)
    while True:
        labels = {path: _label(path, depth[path]) for path in paths}
        counts = Counter(labels.values())
        clashing = [path for path in paths if counts[labels[path]] > 1 and depth[path] < len(Path(path).parts)]
        if not clashing:
            return labels
        for path in clashing:
            depth[path] += 1


def _label(path: str, depth: int) -> str:
    if path.startswith("hub:"):
        parts = parse_hub(path)
        if not Path(parts.name).is_absolute():
            return path
        return path.replace(parts.name, "/".join(Path(parts.name).parts[1:][-depth:]), 1)
    if not Path(path).is_absolute():
        return Path(path).as_posix()
    return "/".join(Path(path).parts[1:][-depth:])


def _stems(labels: Mapping[str, str]) -> dict[str, str]:
    """File name without suffix; files that share it (`samples.jsonl` in many folders) get their folder in front."""
    depth = dict.fromkeys(labels, 1)
    while True:
        stems = {path: "/".join(without_suffix(label).split("/")[-depth[path] :]) for path, label in labels.items()}
        counts = Counter(stems.values())
        clashing = [path for path in labels if counts[stems[path]] > 1 and depth[path] < len(labels[path].split("/"))]
        if not clashing:
            return stems
        for path in clashing:
            depth[path] += 1
