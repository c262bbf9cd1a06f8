"""What `plan` knows of a pool before it is imported: files read in part, hub sets by the table of presets."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_world import CHAT_TEMPLATE, WORDS

from al.budget import parse_budget
from al.commands.plan import _first
from al.config import Config, load
from al.errors import EnvironmentProblem
from al.planning import example_tokens, pool_sample
from al.planning.example_tokens import CHARACTERS_PER_TOKEN, TOKENIZED_PER_FILE, TOKENS_PER_TURN, TokenCounter
from al.planning.plan import _warnings
from al.planning.pool_estimate import PoolEstimate, estimate_pool
from al.planning.pool_sample import ROWS_READ, TOKENS_ASSUMED
from trainer.template import ChatTemplate
from trainer.tokenizer import load_tokenizer

ROWS = 3_000
pytestmark = pytest.mark.usefixtures("no_embedder")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    draw = random.Random(4)
    return [
        {"question": " ".join(draw.choices(WORDS, k=draw.randint(5, 60))), "answer": draw.choice(WORDS)}
        for _ in range(ROWS)
    ]


def written(folder: Path, name: str, rows: list[dict[str, str]]) -> Path:
    path, lines = folder / name, "".join(json.dumps(row) + "\n" for row in rows)
    if name.endswith(".csv"):
        path.write_text("question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in rows))
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(lines)
    return path


def estimated(tmp_path: Path, longest: int = 2048, **pool) -> PoolEstimate:
    return estimate_pool(Config.model_validate({"pool": pool, "tokens": {"max_length": longest}}), tmp_path / "no-run")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.jsonl.gz", "a.parquet"])
def test_a_large_file_is_estimated_from_its_first_rows_and_a_small_one_is_counted(name, rows, tmp_path, monkeypatch):
    path = written(tmp_path, name, rows)
    tokens = (
        sum(sum(len(text) / CHARACTERS_PER_TOKEN + TOKENS_PER_TURN for text in row.values()) for row in rows) / ROWS
    )
    counted = estimated(tmp_path, files=[str(path)])
    assert counted.examples == ROWS and counted.basis.startswith("estimated: every row read")
    assert counted.mean_tokens == pytest.approx(tokens)
    monkeypatch.setattr(pool_sample, "READ_WHOLE", 0)
    large = estimated(tmp_path, files=[str(path)])
    assert large.examples == pytest.approx(ROWS, rel=0.1) and large.mean_tokens == pytest.approx(tokens, rel=0.1)
    assert large.basis.startswith("extrapolated from the first rows") and not large.exact


def first_shown(tmp_path: Path, content: str, template: str = "mistral", **pool) -> str:
    """What a plan prints of the first example of a CSV file."""
    (tmp_path / "a.csv").write_text(content)
    model = {"name": str(tmp_path / "absent"), "chat_template": template}
    config = Config.model_validate({"pool": {"files": [str(tmp_path / "a.csv")], **pool}, "model": model})
    first = asdict(estimate_pool(config, tmp_path / "no-run").first)
    return "\n".join(_first({"pool": {"first": first}, "inspect": "look a.csv"}))


def test_a_plan_shows_the_first_row_through_the_template_and_which_fields_are_left(tmp_path):
    table = "ticket,reply,shop\nWhere is my lamp?,It is on its way.,north\n"
    text = first_shown(tmp_path, table, map={"instruction": "ticket", "output": "reply"})
    assert text.splitlines() == [
        "first     as the model sees it, with the template mistral; trained on: ⟦the response⟧ and ⟪the token that ends it⟫",
        "          <s>[INST] Where is my lamp? [/INST]⟦It is on its way.⟧⟪</s>⟫",
        "          kept as metadata: shop",
        f"          Special tokens may be written otherwise: the tokenizer of {tmp_path / 'absent'} is not on this machine.",
        "          more of them: look a.csv",
    ]
    assert _first({"pool": {"first": None}}) == []


def test_a_template_that_is_not_known_here_is_said_and_the_messages_are_shown(tmp_path):
    text = first_shown(tmp_path, "question,answer\nWhere is my lamp?,Behind you.\n", template="auto")
    assert "as it is read; trained on: the last message\n          user: Where is my lamp?\n" in text
    assert "The chat template is the tokenizer's own and is not shown" in text and "<s>" not in text


def test_rows_without_an_answer_are_shown_as_trained_on_nothing(tmp_path):
    text = first_shown(tmp_path, "question\nWhere is my lamp?\n")
    assert "trained on: nothing, it has no response" in text and "⟦" not in text


def test_a_long_first_example_is_cut_with_a_count_and_many_lines_become_few(tmp_path):
    asked, said = "Count to a hundred. " * 200, "one\n" * 12 + "two. " * 500 + "End"
    text = first_shown(tmp_path, f'question,answer\n{asked},"{said}"\n')
    assert len(text) < 1_100 and text.count("characters…]") == 2 and text.count("\n") == 3
    assert "⟦one ⏎ one ⏎ " in text and "End⟧⟪</s>⟫" in text


def test_tokens_are_counted_with_the_template_where_the_tokenizer_is_here(world, tmp_path):
    config = load(world, ())
    found = estimate_pool(config, tmp_path / "no-run")
    assert "tokens counted of" in found.basis and "chat template" in found.basis
    absent = config.model_copy(update={"model": config.model.model_copy(update={"name": str(tmp_path / "absent")})})
    assert "by the length of texts" in estimate_pool(absent, tmp_path / "no-run").basis


def test_a_template_with_a_system_message_of_its_own_counts_for_every_example(world):
    tokenizer = load_tokenizer(load(world, ()).model)
    counts = {}
    for name, opening in {"plain": "", "wordy": "<|im_start|>system\nred green blue round square<|im_end|>\n"}.items():
        tokenizer.chat_template = f"{opening}{CHAT_TEMPLATE}"
        template = ChatTemplate.resolve(tokenizer)
        asked = [
            [{"role": "user", "content": f"red {n}"}, {"role": "assistant", "content": "blue"}] for n in range(300)
        ]
        counter = TokenCounter(template, 96)
        counts[name] = counter.total(asked) / len(asked)
        assert counter.tokenized == TOKENIZED_PER_FILE
        exact = sum(len(one.ids) for one in template.tokenize_batch(asked)) / len(asked)
        assert counts[name] == pytest.approx(exact, rel=0.02)
    assert counts["wordy"] > counts["plain"] + 6


def test_each_file_counts_by_its_own_examples(world):
    template = ChatTemplate.resolve(load_tokenizer(load(world, ()).model))
    counter = TokenCounter(template, 10_000)
    for text in ("north south river " * 20, "zq " * 100):
        asked = [[{"role": "user", "content": text}, {"role": "assistant", "content": "blue"}]] * 40
        assert counter.total(asked) == sum(len(one.ids) for one in template.tokenize_batch(asked))


def test_after_enough_text_the_rest_is_scaled_by_what_was_counted(world, monkeypatch):
    monkeypatch.setattr(example_tokens, "TOKENIZED_CHARACTERS", 2_000)
    counter = TokenCounter(ChatTemplate.resolve(load_tokenizer(load(world, ()).model)), 96)
    asked = [[{"role": "user", "content": "red green " * 8}, {"role": "assistant", "content": "blue"}]] * 100
    first, second = counter.total(asked), counter.total(asked)
    assert counter.tokenized < 100 and second == pytest.approx(first)


def test_long_examples_count_as_much_as_a_round_trains_on(rows, tmp_path):
    path = written(tmp_path, "a.jsonl", rows)
    assert estimated(tmp_path, longest=20, files=[str(path)]).mean_tokens <= 20


def test_a_file_in_a_folder_without_usable_rows_is_passed_over_and_rows_without_answers_are_named(rows, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/notes.csv").write_text("colour,number\nred,1\n")
    written(tmp_path / "data", "a.jsonl", [{"question": row["question"]} for row in rows[:50]])
    found = estimated(tmp_path, files=[str(tmp_path / "data")])
    assert found.examples == 50 and any("has a response" in note for note in found.notes)


@pytest.fixture
def silent_hub(monkeypatch):
    """A hub that does not answer; what was asked of it."""
    asked = []

    def nothing(source):
        asked.append(source.label)
        raise EnvironmentProblem("the hub cannot be reached")

    monkeypatch.setattr(pool_sample, "read_hub_rows", nothing)
    monkeypatch.setattr(pool_sample, "hub_rows_counted", lambda source: None)
    return asked


def test_presets_have_their_rows_and_measured_lengths_without_the_hub(silent_hub, tmp_path):
    found = estimated(tmp_path, files=["gsm8k"])
    assert (found.examples, round(found.mean_tokens)) == (7_473, 141) and not found.notes and not silent_hub
    dolly, named = estimated(tmp_path, files=["dolly"]), estimated(tmp_path, hub=["databricks/databricks-dolly-15k"])
    assert dolly.examples == named.examples == 15_011 and dolly.mean_tokens == TOKENS_ASSUMED
    assert "tokens an example are assumed of preset:databricks-dolly-15k:train" in dolly.notes[0]
    assert estimated(tmp_path, files=["oasst1"]).examples < 15_000, "rows are messages"


def test_a_set_of_unknown_size_is_named_and_left_out(silent_hub, tmp_path):
    found = estimated(tmp_path, files=["gsm8k"], hub=["somebody/words"])
    assert found.examples == 7_473 and "the size of hub:somebody/words is not known" in found.notes[0]


def test_a_hub_set_that_answers_is_sampled_and_its_count_is_the_hubs(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(
        pool_sample, "read_hub_rows", lambda source: ((n, row, row) for n, row in enumerate(rows[: 2 * ROWS_READ], 1))
    )
    monkeypatch.setattr(pool_sample, "hub_rows_counted", lambda source: 50_000)
    found = estimated(tmp_path, hub=["somebody/words"])
    assert found.examples == 50_000 and 10 < found.mean_tokens < 90 and not found.notes


def test_examples_that_are_held_out_are_not_left_for_the_budget(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt": "say {i}", "completion": "{i}"}}\n' for i in range(400)))
    sizes = {"dev": 60, "test": 140}

    def warned(budget: int) -> list[str]:
        sections = {"pool": {"files": [str(tmp_path / "rows.jsonl")]}, "holdout": sizes}
        config = Config.model_validate(sections)
        pool = estimate_pool(config, tmp_path / "run")
        asked = {"round": {"examples": budget}, "seconds": {"score": 0.0, "train": 1.0}}
        return _warnings(config, asked, parse_budget(str(budget)), pool)

    assert warned(200) == []
    assert "400 examples, of which 200 become dev and test" in warned(201)[0]
    assert "larger than the pool (400 examples)" in warned(401)[0]
