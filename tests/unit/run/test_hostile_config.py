"""Configs that others wrote: whatever their YAML holds, the answer is a config or one line, at once and in little memory."""

from __future__ import annotations

import resource
import time

import pytest
import yaml

from al.config import CONFIG_DIR, Config, load
from al.config.yaml_values import DEEPEST, read_yaml
from al.errors import ConfigError


def doubled(levels, form):
    """Each level holds the level below ten times."""
    lines = ["a0: &a0 x" if form == "list" else "a0: &a0 {k: x}"]
    for level in range(1, levels):
        names = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} " + (f"[{names}]" if form == "list" else f"{{<<: [{names}]}}"))
    return "\n".join(lines)


HOSTILE = {
    "aliases": (doubled(10, "list"), "values"),
    "merged keys": (doubled(10, "merge"), "values"),
    "an alias inside itself": ("seed: &a [*a]", "deeper"),
    "deep lists": ("seed: " + "[" * 20_000, "deeper"),
    "closed deep lists": ("seed: " + "[" * 200 + "]" * 200, "deeper"),
    "deep mappings": ("\n".join(" " * depth + "a:" for depth in range(3000)), "deeper"),
    "a long integer": ("seed: " + "9" * 5000, "digits"),
    "a long integer in hexadecimal": ("seed: 0x" + "f" * 5000, "bits"),
    "an integer of 65 bits": (f"seed: {2**64}", "64 bits"),
    "a long integer as a key": ("train: {? 0x" + "f" * 5000 + " : 1}", "bits"),
    "a date that does not exist": ("seed: 2001-99-99", "month"),
    "a parent that is a number": ("extends: 5", "extends"),
    "a parent that is a list": ("extends: [a]", "extends"),
    "a parent that is no path": ('extends: "a\\0b"', "extends"),
    "a parent that is a folder": ("extends: .", "folder"),
    "an object": ("seed: !!python/object/apply:os.system [ls]", "constructor"),
    "a number as a key": ("5: 6", "Keys should be strings"),
    "a text as a config": ("seed", "mapping"),
    "a long value": ("seed: " + "x" * 100_000, "`seed`"),
    "two documents": ("seed: 1\n---\nseed: 2", "a single document"),
    "a password": ("model: {name: 'https://ann:s3cret@host/m'}", "user or password"),
    "a password in a list": ("pool: {files: ['a.jsonl', 'https://ann:s3cret@host/m']}", "user or password"),
}


@pytest.mark.parametrize(("text", "word"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_config_is_one_line_at_once(text, word, tmp_path):
    path = tmp_path / "given.yaml"
    path.write_text(text)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024, "KiB"
    assert word in str(caught.value) and str(path.parent) in str(caught.value)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["seed=" + "[" * 20_000, "seed=" + "9" * 5000, "a." * 5000 + "b=1"])
def test_a_hostile_override_is_one_line(override):
    with pytest.raises(ConfigError) as caught:
        load(CONFIG_DIR / "demo.yaml", [override])
    assert "--set" in str(caught.value) and len(str(caught.value)) < 600


def test_aliases_merged_keys_and_nesting_within_bounds_are_read(tmp_path):
    path = tmp_path / "given.yaml"
    path.write_text("lora: &l {r: 4}\ntrain: {epochs: 3}\nmodel: &m {device: cpu}\nembed: {<<: *m}\n")
    config = load(path)
    assert isinstance(config, Config) and config.lora.r == 4 and config.embed.device == "cpu"
    deep = "[" * (DEEPEST - 1) + "7" + "]" * (DEEPEST - 1)
    assert read_yaml(deep, "here") == yaml.safe_load(deep)
    assert read_yaml(f"[{2**64 - 1}, -{2**63}, yes, 1e400]", "here")[:3] == [2**64 - 1, -(2**63), True]
