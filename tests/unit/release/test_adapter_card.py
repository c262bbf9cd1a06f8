"""The card of an adapter: what the hub reads at its top, licences, and text of the data that stays text."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml

from al.pool.preset_table import PRESETS
from al.release.card import SOURCES_SHOWN, card
from al.release.data import hub_licence, known_of
from al.release.portable import portable, portable_name

INTERVAL = {"value": -0.2, "low": -0.3, "high": -0.1, "p": 0.001}
EVALUATED = {
    "examples": 30,
    "models": {
        name: {"macro_nll": 1.25, "micro_nll": 1.5, "macro_em": 0.5, "micro_em": 0.25} for name in ("base", "selected")
    },
    "differences": {"selected - base": {name: INTERVAL for name in ("macro_nll", "micro_nll", "macro_em", "micro_em")}},
}
SOURCE = {"source": "a", "file": "data/a.jsonl", "dataset": None, "licence": "unknown", "examples": 3, "tokens": 90}
DOCUMENT: dict[str, Any] = {
    "run": "demo",
    "round": 2,
    "rounds": [{"round": n, "budget": "2Mtok", "changed": {}} for n in (1, 2)],
    "reviewed": False,
    "budget": {"asked": "2Mtok", "unit": "tokens", "amount": 2e6, "examples": 3, "tokens": 90, "target_tokens": 9},
    "evaluation": EVALUATED,
    "dev": EVALUATED,
    "base": {
        **{"name": "owner/base", "local": False, "revision": None, "quantization": "nf4", "double_quantization": True},
        **{"compute_dtype": "auto"},
    },
    "lora": {"r": 16, "alpha": 32.0, "dropout": 0.05, "targets": "all-linear"},
    "seed": 0,
    "chat_template": {"name": "mistral", "probes": 32, "prompts": 32, "conversations": 32},
    "data": {"examples": 3, "tokens": 90, "sources": [SOURCE]},
    "training": {"steps": 4, "examples": 3, "tokens": 90, "target_tokens": 9},
    "versions": {"winnow": "0.1.0", "torch": "2", "transformers": "5", "peft": "0.2"},
}


def changed(**changes: Any) -> dict[str, Any]:
    """The document with parts of its parts replaced."""
    document = copy.deepcopy(DOCUMENT)
    for part, value in changes.items():
        document[part] = {**document[part], **value} if isinstance(value, dict) else value
    return document


def front(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))


def with_sources(*changes: dict[str, Any]) -> dict[str, Any]:
    return changed(data={"sources": [{**SOURCE, **change} for change in changes]})


def test_the_front_matter_is_what_the_hub_reads():
    found = front(card(with_sources({"dataset": "owner/set", "licence": "CC BY-SA 3.0"})))
    assert found == {
        "base_model": "owner/base",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "cc-by-sa-3.0",
        "datasets": ["owner/set"],
        "tags": ["lora", "transformers", "winnow"],
    }


def test_a_local_base_is_no_name_of_the_hub_and_the_card_says_what_to_set():
    text = card(changed(base={"name": "my-model", "local": True}))
    assert "base_model" not in front(text)
    assert 'BASE = "my-model"  # the directory' in text and "Set `BASE` to your copy" in text


HOSTILE = [
    "a|b",
    "line\nbreak\r\n# heading",
    "<script>alert(1)</script>",
    "![x](https://example.org/x.png)",
    "\x1b[31mred\x07",
    "---\nlicense: mit\n---",
    "@everyone #1 `code` **bold**",
    "\u202egnp.exe",
    "```",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_the_data_is_never_markup(text):
    clean = card(with_sources({}))
    found = card(changed(run=text, data={"sources": [{**SOURCE, "source": text, "file": text, "licence": text}]}))
    assert len(found.splitlines()) == len(clean.splitlines()), "no line more or less"
    assert front(found) == front(clean)
    (row,) = [line for line in found.splitlines() if line.endswith("| 3 | 90 |")]
    assert row.replace("\\|", "").count("|") == 6
    outside_code = re.sub(r"^```.*?^```$", "", found, flags=re.DOTALL | re.MULTILINE)
    assert not set("\x1b\x07\u202e") & set(found) and "<script" not in outside_code and "![x](" not in outside_code


@pytest.mark.parametrize("name", ['x"; import os; "', "``` ```"])
def test_the_name_of_a_base_cannot_leave_its_string(name):
    lines = card(changed(base={"name": name})).splitlines()
    (line,) = [line for line in lines if line.startswith("BASE = ")]
    found: dict[str, Any] = {}
    exec(line, {}, found)
    assert found == {"BASE": name}


def test_long_lists_of_sources_are_cut_and_the_rest_is_counted():
    sources = [{"source": f"s{i}", "examples": 2, "tokens": 10} for i in range(SOURCES_SHOWN + 5)]
    text = card(with_sources(*sources))
    assert f"| s{SOURCES_SHOWN - 1} |" in text and f"| s{SOURCES_SHOWN} |" not in text
    assert "| 5 more, in winnow.json |  |  | 10 | 50 |" in text


def test_a_template_that_is_not_exact_is_said_to_be_so():
    exact, inexact = card(DOCUMENT), card(changed(chat_template={"prompts": 24}))
    assert "gives exactly the tokens that were trained on" in exact and "not exact" not in exact
    assert "**It is not exact for this tokenizer**: of 32 conversations, 24 prompts" in inexact


def test_intervals_stand_in_the_table():
    assert "| minus base (95% interval) | −0.200 better (−0.300…−0.100) |" in card(DOCUMENT)


def test_equal_rounds_are_one_command_and_a_changed_config_is_named():
    assert "--budget 2Mtok  # 2 times" in card(DOCUMENT) and "config changed" not in card(DOCUMENT)
    past = [DOCUMENT["rounds"][0], {"round": 2, "budget": "5", "changed": {"seed": [0, 1]}}]
    text = card(changed(rounds=past))
    assert "--budget 2Mtok\n" in text and "--budget 5\n" in text and "The config changed before round 2" in text


def test_written_answers_are_shown_where_there_are_any():
    assert "Written" not in card(DOCUMENT)
    difference = {"macro_accuracy": {"value": 0.25, "low": 0.1, "high": 0.4, "p": 0.01}}
    test = {
        "examples": 40,
        "measures": {"accuracy": {"examples": 40, "sources": 2}},
        "models": {"base": {"macro_accuracy": 0.25}, "selected": {"macro_accuracy": 0.5}},
        "differences": {"selected - base": difference},
    }
    text = card({**DOCUMENT, "answers": {"test": test, "max_new_tokens": 64}})
    table = text[text.index("Written, test") :]
    assert "25.0%" in table and "50.0%" in table and "40 examples" in table


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        ({"MIT"}, "mit"),
        ({"Apache-2.0"}, "apache-2.0"),
        ({"CC BY 4.0"}, "cc-by-4.0"),
        ({"CC BY-NC 3.0"}, "cc-by-nc-3.0"),
        ({"ODC-BY 1.0"}, "odc-by"),
        ({"see the card"}, "unknown"),
        ({"ODC-BY 1.0; parts differ"}, "unknown"),
        ({"MIT", "unknown"}, "unknown"),
        (set(), "unknown"),
    ],
)
def test_a_licence_of_the_hub_is_named_only_where_it_is_that_of_all_data(licences, expected):
    assert hub_licence(licences) == expected


def test_every_preset_has_its_licence():
    for preset in PRESETS:
        found = known_of(f"preset:{preset.name}:{preset.split}")
        assert found == {"dataset": preset.path, "licence": preset.licence}


def test_a_hub_data_set_is_named_and_its_licence_is_unknown(tmp_path):
    assert known_of("hub:owner/set@main[part]:train") == {"dataset": "owner/set", "licence": "unknown"}
    assert known_of("some/folder/rows.jsonl") == known_of(f"hub:{tmp_path}") == {"dataset": None, "licence": "unknown"}


def test_absolute_paths_are_shortened_wherever_they_stand():
    config = {
        "pool": {"files": ["/home/me/data/x.jsonl", "data/y.jsonl"], "hub": ["hub:/home/me/set"]},
        "k": 3,
        "n": None,
    }
    assert portable(config) == {
        "pool": {"files": ["data/x.jsonl", "data/y.jsonl"], "hub": ["hub:me/set"]},
        "k": 3,
        "n": None,
    }


def test_the_base_is_named_without_a_path_of_this_machine(tmp_path):
    cached = tmp_path / "hub/models--owner--name/snapshots/abc"
    for folder in (tmp_path / "my-model", cached):
        folder.mkdir(parents=True)
    assert portable_name(str(tmp_path / "my-model")) == "my-model"
    assert portable_name(str(cached)) == "owner/name"
    assert portable_name("mistralai/Mistral-7B-v0.3") == "mistralai/Mistral-7B-v0.3"
