"""The files and hub datasets of a pool, and the labels they have in messages and reports."""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from al.config.pool import PoolConfig
from al.errors import ConfigError, DataError
from al.pool import presets
from al.pool.formats.template import TextTemplate
from al.pool.mapping import check_map
from al.pool.paths import check_within, each_once, files_below, matching
from al.pool.reading.kinds import EXPECTED, without_suffix
from al.pool.reading.stdin import SPOOLED, STDIN
from al.program import PROGRAM
from al.run.integrity import sha256_file

_HUB = re.compile(
    r"(?:hub:)?(?P<name>[^\[\]@:]+)(?:@(?P<revision>[^\[\]:]+))?(?:\[(?P<subset>[^\[\]]+)\])?(?::(?P<split>[\w.\-]+))?"
)


@dataclass(frozen=True)
class Source:
    """One file or hub dataset to import.

    `path` opens it; `label` names it in origins and reports and is never an absolute path; `stem` is the example source
    of rows without one. `format`, `source_field`, `map` and `text_template` are as in PoolConfig, `max_row_bytes` in
    bytes, `max_unpack_ratio` of unpacked to packed bytes. `group` is the kind of a preset's examples and becomes metadata of
    each. `ignore` are fields that may be left over although they look like content, and `leftover` what such fields do. Neither
    changes an example. `found`: the file was found in a folder or by a pattern, so it is skipped if it has no usable row.
    """

    path: str
    label: str
    stem: str
    format: str = "auto"
    source_field: str = "auto"
    max_row_bytes: int = 8 * 2**20
    map: tuple[tuple[str, str], ...] = ()
    text_template: str | None = None
    group: str | None = None
    max_unpack_ratio: float = 200.0
    ignore: tuple[str, ...] = ()
    leftover: Literal["stop", "warn"] = "stop"
    found: bool = False

    @property
    def is_hub(self) -> bool:
        """Whether `path` is `hub:owner/name…` or a preset, not a file."""
        return self.path.startswith(("hub:", presets.PREFIX))

    @property
    def is_preset(self) -> bool:
        """Whether `path` is `preset:NAME:SPLIT`."""
        return self.path.startswith(presets.PREFIX)

    @property
    def place(self) -> str | None:
        """The resolved path of a file, after following links; None if it is not a file."""
        return None if self.is_hub else os.path.realpath(self.path)

    @property
    def reading(self) -> str:
        """The reading settings as one string: the format, and the mapping and text template if set."""
        asked = [("map", dict(self.map))] if self.map else []
        asked += [("text_template", self.text_template)] if self.text_template else []
        return self.format + "".join(f" {key}={json.dumps(value, ensure_ascii=False)}" for key, value in asked)


@dataclass(frozen=True)
class HubName:
    """The parts of `hub:owner/name@revision[subset]:split`."""

    name: str
    revision: str | None
    subset: str | None
    split: str


def find_sources(config: PoolConfig, *, held_out: bool = False, trusted: Collection[str] = ()) -> list[Source]:
    """Every file, dataset and preset that `config` names, sorted by label, each once.

    Args:
        held_out: the examples are for a target or holdout, so a preset means its test split.
        trusted: files that may be outside `pool.root`: piped data.

    Raises:
        DataError: a path that does not exist, or a folder or pattern without a readable file.
        ConfigError: a path outside `pool.root`, an invalid hub name or preset, a mapping to fields of no format, a text
            template without placeholders.
    """
    check_map(config.map, config.format)
    if config.text_template is not None:
        TextTemplate(config.text_template)
    templated = config.text_template is not None
    paths = sorted({path for entry in config.files for path in _expand(entry, held_out, templated)})
    named = [path for path in paths if path.startswith(presets.PREFIX)]
    files = each_once(path for path in paths if not path.startswith(presets.PREFIX))
    hubs = sorted({"hub:" + entry.removeprefix("hub:") for entry in config.hub})
    for entry in hubs:
        parse_hub(entry)
    local = [name for entry in hubs if Path(name := parse_hub(entry).name).exists()]
    if local and config.root is not None:
        raise ConfigError(
            f"pool.hub: {local[0]} is a local folder, and its README may name files anywhere, which `pool.root` does not allow. Name "
            "its files under `pool.files`."
        )
    check_within((file for file in files if file not in trusted), config.root)
    direct = {str(path) for entry in config.files if (path := Path(entry).expanduser()).is_file()}
    found = set(files) - direct
    return [replace(source, found=source.path in found) for source in make_sources([*files, *named, *hubs], config)]


def make_sources(paths: Iterable[str], config: PoolConfig | None = None) -> list[Source]:
    """Sources for the given paths (or `hub:` names), not expanded, sorted by label."""
    config = config or PoolConfig()
    unique = list(dict.fromkeys(paths))
    labels = _labels(unique)
    stems = _stems(labels)
    return sorted(
        (_source(path, labels[path], stems[path], config) for path in unique), key=lambda source: source.label
    )


def tell_apart(sources: Iterable[Source], places: Mapping[str, str], sha256: Mapping[str, str]) -> list[Source]:
    """Sources with unique labels in a pool that already contains other files.

    A file that was imported before keeps its label, also if it was moved or copied since. The label of another file with the
    same label gets more parts of its path until it is unique.

    Args:
        places: {path: label} of imported files. sha256: {label: sha256} in the pool.
    """
    places, named = dict(places), []
    for source in sources:
        if source.place is not None:
            label = places.get(source.place) or _free_label(source, places, sha256)
            places[source.place] = label
            source = replace(source, label=label)
        named.append(source)
    return named


def _free_label(source: Source, places: Mapping[str, str], sha256: Mapping[str, str]) -> str:
    """The shortest label that no other existing file has."""
    path = os.path.abspath(source.path)
    depths = range(len(Path(source.label).parts) + 1, len(Path(path).parts))
    for label in (source.label, *(_label(path, depth) for depth in depths)):
        others = [place for place, name in places.items() if name == label and os.path.exists(place)]
        if not others or sha256.get(label) == sha256_file(Path(path)):
            return label
    return source.label


def _source(path: str, label: str, stem: str, config: PoolConfig) -> Source:
    limits = {
        "max_row_bytes": config.max_row_bytes,
        "max_unpack_ratio": config.max_unpack_ratio,
        "leftover": config.leftover,
    }
    if path.startswith(presets.PREFIX):
        preset, _ = presets.find(path)
        how = {"map": tuple(preset.map.items()), "text_template": preset.text_template, "group": preset.group}
        how["ignore"] = (*preset.ignore, *config.ignore)
        return Source(path, label, preset.name, "auto", config.source_field, **how, **limits)
    stem = "stdin" if SPOOLED.fullmatch(label) else stem
    how = {"map": tuple(config.map.items()), "text_template": config.text_template, "ignore": tuple(config.ignore)}
    return Source(path, label, stem, config.format, config.source_field, **how, **limits)


def parse_hub(text: str) -> HubName:
    """Parse a hub name. Raises ConfigError if it does not have the form `owner/name@revision[config]:split`."""
    found = _HUB.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"pool.hub: {text!r} is not of the form owner/name@revision[config]:split (all but the name optional)."
        )
    return HubName(found["name"], found["revision"], found["subset"], found["split"] or "train")


def _expand(entry: str, held_out: bool, text_template: bool) -> list[str]:
    if entry.startswith(presets.PREFIX):
        return [presets.resolve(entry, held_out)]
    if entry == STDIN:
        raise ConfigError(
            f"pool.files: - (standard input) can be read only once, by `… | {PROGRAM} pool import - --run DIR`; "
            "then continue with `--run DIR`."
        )
    path = Path(entry).expanduser()
    if path.is_dir():
        found = files_below(path, plain_text=text_template)
        if not found:
            raise DataError(f"pool.files: the folder {entry} contains no importable file ({EXPECTED}).")
        return found
    if path.is_file():
        return [str(path)]
    matches = matching(str(path))
    if not matches and presets.is_preset(entry):
        return [presets.resolve(entry, held_out)]
    if not matches:
        kind = "no file matches the pattern" if glob.has_magic(entry) else "there is no file or folder"
        raise DataError(
            f"pool.files: {kind} {entry} (looked in {Path.cwd().name}/)"
            f"{presets.suggestion(entry) or _hub_suggestion(entry)}. Check the path; it is relative to the folder you run from."
        )
    return matches


def _hub_suggestion(entry: str) -> str:
    """ " (a data set of the hub is written hub:owner/name)" for an entry that looks like one, else ""."""
    looks = re.fullmatch(r"[A-Za-z][\w.-]*/[\w.-]+", entry) is not None and not Path(entry).suffix
    return f" (a data set of the hub is written hub:{entry})" if looks else ""


def _labels(paths: list[str]) -> dict[str, str]:
    """The path as given; an absolute path is shortened to its last parts, at least two, that make it unique."""
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
    if path.startswith(presets.PREFIX):
        return path
    if SPOOLED.fullmatch(Path(path).name):
        return Path(path).name
    if path.startswith("hub:"):
        parts = parse_hub(path)
        if not Path(parts.name).is_absolute():
            return path
        return path.replace(parts.name, "/".join(Path(parts.name).parts[1:][-depth:]), 1)
    path = path.encode("utf-8", "backslashreplace").decode()  # a name with bytes that are not text
    if not Path(path).is_absolute():
        return Path(path).as_posix()
    return "/".join(Path(path).parts[1:][-depth:])


def _stems(labels: Mapping[str, str]) -> dict[str, str]:
    """File name without suffix; files that share it (`samples.jsonl` in many folders) are prefixed with their folder."""
    depth = dict.fromkeys(labels, 1)
    while True:
        stems = {path: "/".join(without_suffix(label).split("/")[-depth[path] :]) for path, label in labels.items()}
        counts = Counter(stems.values())
        clashing = [path for path in labels if counts[stems[path]] > 1 and depth[path] < len(labels[path].split("/"))]
        if not clashing:
            return stems
        for path in clashing:
            depth[path] += 1
