"""Presets: published sets by name, wherever a pool, a target or a holdout accepts files.

    databricks-dolly-15k      a preset, unless a file or folder has that name
    preset:gsm8k              always the preset
    gsm8k:test                one of its splits

Rows are read from `$WINNOW_PRESETS_DIR/owner/name/`, a copy of the data set's repository, if it exists, else from
the hub.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from al.errors import ConfigError
from al.pool.preset_table import PRESETS, Preset

PREFIX = "preset:"
FOLDER_VARIABLE = "WINNOW_PRESETS_DIR"
_BY_NAME = {name.lower(): preset for preset in PRESETS for name in (*preset.also, preset.name)}
_BY_PATH = {preset.path.lower(): preset for preset in reversed(PRESETS)}


def is_preset(entry: str) -> bool:
    """Whether an entry of `pool.files` is the name of a preset, or starts with `preset:`."""
    return entry.startswith(PREFIX) or entry.partition(":")[0].lower() in _BY_NAME


def resolve(entry: str, held_out: bool = False) -> str:
    """`preset:NAME:SPLIT` for an entry that names a preset; the default is the training split.

    Args:
        held_out: use the preset's test split, if it has one: for targets and holdouts.

    Raises:
        ConfigError: no preset has this name; the message names the nearest.
    """
    name, _, split = entry.removeprefix(PREFIX).partition(":")
    preset = _BY_NAME.get(name.lower())
    if preset is None:
        raise ConfigError(f"{entry}: there is no preset {name}{suggestion(name)}. `pool presets` lists them.")
    if not split:
        split = (preset.test if held_out else None) or preset.split
    return f"{PREFIX}{preset.name}:{split}"


def find(path: str) -> tuple[Preset, str]:
    """(preset, split) of a resolved `preset:NAME:SPLIT`."""
    name, _, split = path.removeprefix(PREFIX).partition(":")
    return _BY_NAME[name.lower()], split


def known_set(path: str) -> Preset | None:
    """The preset whose set is at `path` (owner/name) on the hub, as a whole; None if there is none."""
    preset = _BY_PATH.get(path.lower())
    return preset if preset is not None and preset.only is None and preset.files is None else None


def suggestion(name: str) -> str:
    """ " (did you mean the preset `gsm8k`?)" for a name similar to a preset's, else ""."""
    near = difflib.get_close_matches(name.lower(), list(_BY_NAME), n=1, cutoff=0.7)
    found = known_set(name) or (_BY_NAME[near[0]] if near else None)
    return f" (did you mean the preset `{found.name}`?)" if found is not None else ""


def local_copy(preset: Preset) -> Path | None:
    """The user's local copy of this preset's repository, or None."""
    root = os.environ.get(FOLDER_VARIABLE)
    folder = Path(root).expanduser() / preset.path if root else None
    return folder if folder is not None and folder.is_dir() else None


def list_presets() -> list[dict[str, Any]]:
    """Every preset as a plain document, grouped as in the table."""
    shown = (
        "name",
        "group",
        "path",
        "config",
        "split",
        "test",
        "format",
        "rows",
        "licence",
        "written",
        "allowed",
        "gated",
        "note",
    )
    return [{key: getattr(preset, key) for key in shown} for preset in PRESETS]


def describe_presets(presets: list[dict[str, Any]]) -> str:
    """The list of presets as text for the terminal."""
    lines = []
    for group in dict.fromkeys(preset["group"] for preset in presets):
        lines.append(f"{group}")
        for preset in (entry for entry in presets if entry["group"] == group):
            rows = f"{preset['rows']:,}" if preset["rows"] else ""
            target = f" (target :{preset['test']})" if preset["test"] else ""
            facts = [f"by {preset['written']}", preset["licence"], f"challenge: {preset['allowed']}"]
            facts += (["gated"] if preset["gated"] else []) + ([preset["note"]] if preset["note"] else [])
            lines.append(
                f"  {preset['name']:<24} {rows:>9}  {preset['path']}{_config(preset)}:{preset['split']}{target}"
            )
            lines.append(f"  {'':<24} {'':>9}  {'; '.join(facts)}")
    lines.append("")
    lines.append("challenge: whether the NeurIPS 2023 LLM Efficiency Challenge allowed it. Rows are those of the card.")
    lines.append(
        "Use a name as a source: `pool import NAME`, `round --pool NAME --target NAME:SPLIT`. Gated sets need their terms"
    )
    lines.append(f"accepted on the hub and `hf auth login`. Offline: put a copy under ${FOLDER_VARIABLE}/owner/name.")
    return "\n".join(lines)


def _config(preset: dict[str, Any]) -> str:
    return f"[{preset['config']}]" if preset["config"] else ""
