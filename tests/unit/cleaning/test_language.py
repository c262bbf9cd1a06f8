"""Languages: detected in texts that are long enough, undetermined in others, and a row's own field has precedence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sentences import NO_LANGUAGE, SENTENCES

from al.cleaning.language import UNKNOWN, example_languages, known_languages, languages_of_texts
from al.config.pool import PoolConfig
from al.pool.importer import import_pool
from al.pool.sources import find_sources
from al.pool.store import Pool


def languages_of(folder: Path, rows: list[dict]) -> list[str]:
    """The languages that are found for `rows`, in their order."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / "pool"
    out.mkdir()
    import_pool(find_sources(PoolConfig(files=[str(folder / "rows.jsonl")])), out)
    pool = Pool.open(out)
    found = dict(zip(pool.origin(range(len(pool))), example_languages(pool).tolist(), strict=True))
    return [found[origin] for origin in sorted(found, key=lambda origin: int(origin.rpartition(":")[2]))]


def test_no_sentence_gets_a_wrong_language_and_nine_in_ten_are_detected():
    found = languages_of_texts([text for _, text in SENTENCES])
    wrong = [(text, code) for (right, text), code in zip(SENTENCES, found, strict=True) if code not in (right, UNKNOWN)]
    assert wrong == []
    assert (found != UNKNOWN).mean() > 0.9


@pytest.mark.parametrize("text", NO_LANGUAGE)
def test_numbers_and_code_are_no_language_or_english_at_most(text):
    assert languages_of_texts([text])[0] in (UNKNOWN, "en")


def test_every_code_is_of_two_letters():
    assert {len(code) for code in known_languages()} == {2}


def test_a_row_that_names_its_language_is_believed(tmp_path):
    rows = [
        {"instruction": "Say it.", "output": "Yes indeed, a fine day.", "lang": "de"},
        {"instruction": "Say it again.", "output": "Yes indeed, a fine day.", "language": "pt-BR"},
    ]
    assert languages_of(tmp_path, rows) == ["de", "pt"]


@pytest.mark.parametrize("value", ["python", "go", "cpp", "C", 7, None, ["de"], ""])
def test_a_programming_language_is_no_language(tmp_path, value):
    row = {
        "instruction": "Write a function that adds two numbers.",
        "output": "Here is what you asked for.",
        "lang": value,
    }
    assert languages_of(tmp_path, [row]) == ["en"]


def test_an_english_system_message_does_not_hide_the_language_of_the_talk(tmp_path):
    messages = [
        {"role": "system", "content": "You are a helpful assistant who always answers politely and briefly. " * 5},
        {"role": "user", "content": "Was ist die Hauptstadt von Frankreich?"},
        {"role": "assistant", "content": "Die Hauptstadt von Frankreich ist Paris."},
    ]
    assert languages_of(tmp_path, [{"messages": messages}]) == ["de"]


def test_a_long_english_quotation_does_not_hide_a_german_answer(tmp_path):
    row = {
        "instruction": "Fasse den folgenden Text auf Deutsch zusammen, bitte in höchstens zwei Sätzen: "
        + "The old boat lay on the shore, and nobody in the village knew to whom it belonged. " * 12,
        "output": "Das alte Boot lag am Ufer, und niemand wusste, wem es gehörte. " * 6,
    }
    assert languages_of(tmp_path, [row]) == ["de"]
