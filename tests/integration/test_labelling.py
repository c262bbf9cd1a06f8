"""Unlabelled prompts: the uncertain ones are exported, answered, imported, and trained on like any example."""

from __future__ import annotations

import json
import math
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import winnow, winnow_child
from tiny_world import WORDS

from al.commands import label as labelling
from al.commands.label import Order
from al.pool.store import Pool
from al.run import rounds
from al.run.store import Run

SETTINGS = ("--set", "generate.max_new_tokens=8", "--set", "generate.samples=3", "--set", "label.candidates=2")
FIELDS = ["id", "source", "messages", "response", "suggestion", "entropy", "disagreement", "cluster", "reason"]
MORE = ["rating"]


def write_prompts(path, count=40):
    """Prompts without a response, one of which is too long to be handed out."""
    rng = random.Random(3)
    words = [rng.sample(WORDS, rng.randint(3, 9)) for _ in range(count)] + [rng.choices(WORDS, k=60)]
    asked = [f"{rng.choice(('name', 'say', 'sort'))} these: {' '.join(w)}" for w in words]
    rows = [
        {"messages": [{"role": "user", "content": text}], "source": f"asked-{len(text) % 3}", "rating": len(text)}
        for text in asked
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def label(run, *more, budget=8):
    result = winnow("label", "--run", run, "--budget", budget, *SETTINGS, *more, "--json")
    assert result.code == 0, result.err
    document = result.document
    with open(document["file"], encoding="utf-8") as lines:
        return document, [json.loads(line) for line in lines]


def fill(path, rows, answered):
    """Answer the first rows of a file as people would."""
    for row in rows[:answered]:
        row["response"] = f"an answer to {row['messages'][-1]['content'][-20:]}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def newest_pool(run):
    with Run.read(run) as opened:
        return Pool.open(rounds.current_pool(opened)[1].path)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """A run with one round, to whose pool prompts were added afterwards."""
    root = tmp_path_factory.mktemp("labelling")
    assert winnow("round", "--config", world, "--run", root / "run", "--budget", 20, "--no-control").code == 0
    assert winnow("pool", "import", write_prompts(root / "prompts.jsonl"), "--run", root / "run").code == 0
    return root / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run, to be changed."""
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def test_prompts_are_handed_out_with_what_the_model_would_say_and_why(run):
    document, rows = label(run)
    assert document["adapter"] == "round 1" and document["prompts"] == len(rows) == 8
    assert 16 <= document["measured"] < document["eligible"]
    assert document["left_out"]["too_long"] == 1
    pool = newest_pool(run)
    of_id = dict(zip(pool.ids.tolist(), range(len(pool)), strict=True))
    for row in rows:
        assert list(row) in (FIELDS, FIELDS + MORE)  # the world's own prompt has no rating
        assert row["response"] == "" and isinstance(row["suggestion"], str) and "<|im_end|>" not in row["suggestion"]
        at = of_id[row["id"]]
        assert row["messages"] == pool.messages([at])[0] and row["source"] == pool.sources[at] and not pool.labelled[at]
        assert row["entropy"] > 0 and 0 <= row["disagreement"] <= 1
        assert f"in group {row['cluster']}" in row["reason"] and "disagreement" in row["reason"]
    assert len({row["id"] for row in rows}) == 8


def test_asked_again_the_same_file_is_named_and_what_people_wrote_stays(run):
    first, rows = label(run)
    fill(Path(first["file"]), rows, 3)
    again, kept = label(run)
    assert again["file"] == first["file"] and again["kept"] and not first["kept"]
    assert kept == rows and kept[0]["response"]


def entropies(run):
    """Entropy of every measured prompt by its id, unrounded."""
    (path,) = (run / "artifacts" / "continuations").rglob("continuations.parquet")
    table = pq.read_table(path)
    return dict(zip(newest_pool(run).ids[table["row"].to_numpy()].tolist(), table["entropy"].to_pylist(), strict=True))


def test_the_newest_adapter_answers_and_not_the_base(run, world, tmp_path):
    label(run, "--set", "label.candidates=100")
    base = tmp_path / "base"
    for source in (world.parent / "pool", write_prompts(tmp_path / "prompts.jsonl")):
        assert winnow("pool", "import", source, "--config", world, "--run", base).code == 0
    document, _ = label(base, "--config", world, "--set", "label.candidates=100")
    assert document["adapter"] == "base"
    adapted, bare = entropies(run), entropies(base)
    assert adapted.keys() == bare.keys() and len(bare) > 20
    assert all(abs(adapted[key] - bare[key]) > 1e-7 for key in bare)


def test_filled_in_answers_come_back_and_their_prompts_are_no_longer_asked(run):
    document, rows = label(run)
    before = newest_pool(run).stats
    filled = fill(Path(document["file"]), rows, 5)
    result = winnow("pool", "import", filled, "--run", run)
    assert result.code == 0 and "not_filled_in 3" in result.out, result.err
    pool = newest_pool(run)
    assert pool.stats["labelled"] == before["labelled"] + 5 and pool.stats["unlabelled"] == before["unlabelled"] - 5
    assert pool.stats["answered"] == 5
    assert set(pool.ids[pool.answered]) == {row["id"] for row in rows[:5]}
    new = [m[-1]["content"] for m, labelled in zip(pool.iter_messages(), pool.labelled, strict=True) if labelled]
    assert {row["response"] for row in rows[:5]} <= set(new)
    at = [
        i
        for i, messages in enumerate(pool.iter_messages())
        if messages[-1]["content"] in {r["response"] for r in rows[:5]}
    ]
    assert all(
        "rating" in metadata for metadata in pool.metadata(at)
    )  # what the prompt's row said stays with its answer
    next_document, next_rows = label(run, budget=50)
    assert next_document["left_out"]["answered"] == 5
    assert not {row["id"] for row in next_rows} & {row["id"] for row in rows[:5]}
    assert {row["id"] for row in rows[5:]} <= {row["id"] for row in next_rows}
    assert next_document["prompts"] == next_document["eligible"] < 50

    done = winnow("round", "--run", run, "--budget", 100, "--no-control", "--json")
    assert done.code == 0, done.err
    assert (
        done.document["selection"]["outcomes"]["answered"] == 5
        and done.document["pool"]["unlabelled"] == before["unlabelled"] - 5
    )
    table = pq.read_table(run / "rounds/002/selection/selection.parquet").to_pandas()
    assert set(table[table.outcome == "answered"].id) == {row["id"] for row in rows[:5]}
    answers = table[~table.outcome.isin(["answered", "unlabelled"]) & table.source.str.startswith("asked-")]
    assert len(answers) == 5
    assert not set(table[table.outcome == "selected"].id) & set(pool.ids[~pool.labelled])
    assert "another example answers" in (run / "rounds/002/report.html").read_text()


def test_prompts_of_the_target_are_not_handed_out(run, tmp_path):
    settings = ("--set", "embed.text=prompt", "--set", "label.candidates=100")
    _, rows = label(run, *settings, budget=50)
    target = fill(tmp_path / "target.jsonl", rows[:4], 4)
    document, others = label(run, *settings, "--set", f"target.files=['{target}']", budget=50)
    assert document["left_out"]["near_target"] >= 4
    assert {row["id"] for row in others} <= {row["id"] for row in rows[4:]}


def test_before_the_first_round_and_without_any_response_the_base_model_answers(world, tmp_path):
    document, rows = label(tmp_path / "run", "--config", world, "--pool", write_prompts(tmp_path / "p.jsonl"))
    assert not any((tmp_path / "run/scratch").iterdir()), "also of the split, for which there are too few responses"
    assert document["adapter"] == "base" and len(rows) == 8


TWO_SHARDS = ("--set", "generate.max_new_tokens=60", "--set", "generate.samples=11", "--set", "tokens.max_length=96")


@pytest.fixture(scope="module")
def uninterrupted(trained, tmp_path_factory):
    """What a hand-out of two shards gives when nothing stops it."""
    run = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(trained, run, symlinks=True)
    return label(run, *TWO_SHARDS, budget=20)


@pytest.mark.parametrize(
    ("point", "shards_left"),
    [("continuations.start", 2), ("label.shard", 1), ("label.shard:2", 0), ("labelling.renamed", 0)],
)
def test_a_hand_out_killed_anywhere_ends_as_if_it_had_not_been(run, uninterrupted, monkeypatch, point, shards_left):
    killed = winnow_child("label", "--run", run, "--budget", 20, *SETTINGS, *TWO_SHARDS, WINNOW_FAILPOINT=point)
    assert killed.code == -signal.SIGKILL, f"the point {point} was never passed: {killed.err}"
    continued, shards = labelling._continue, []
    monkeypatch.setattr(labelling, "_continue", lambda *given: shards.append(given) or continued(*given))
    document, rows = label(run, *TWO_SHARDS, budget=20)
    assert rows == uninterrupted[1] and len(shards) == shards_left
    assert Path(document["file"]).name == Path(uninterrupted[0]["file"]).name
    assert not list((run / "artifacts").glob(".tmp-*")) and not list((run / "scratch").iterdir())


def test_nothing_to_hand_out_is_said_with_the_reasons(world, tmp_path):
    def refused(run, *more):
        result = winnow("label", "--config", world, "--run", tmp_path / run, "--budget", 5, *more)
        assert result.code == 3 and "there is no prompt to label" in result.err and "Traceback" not in result.err
        return result.err

    assert "has 0 examples without a response. Add prompts" in refused("labelled")
    more = ("--pool", write_prompts(tmp_path / "p.jsonl", count=8), "--set", "generate.max_new_tokens=95")
    assert "has 9 examples without a response (excluded: too long 9)" in (error := refused("long", *more))
    assert "lower generate.max_new_tokens" in error


def test_clusters_take_turns_and_the_most_uncertain_of_each_goes_first():
    cluster = np.array([0, 0, 0, 1, 2, 2])
    entropy = np.array([3.0, 9.0, 8.0, 1.0, 2.0, 5.0])
    disagreement = np.array([0.9, 0.8, 0.1, 0.0, 0.3, 0.2])
    order = Order.of(cluster, np.arange(6, dtype=np.uint64), entropy, disagreement)
    # Mean ranks: 2.5, 1.5, 3.5, 6, 4, 3.5.
    assert order.taken(6).tolist() == [1, 5, 3, 0, 4, 2]
    assert order.taken(2).tolist() == [1, 5]
    assert (
        order.reason(5, "names")
        == "number 1 of 2 measured in group 2 (names); ranks among all 6: entropy 3, disagreement 4"
    )


def test_ranks_do_not_depend_on_rows_and_entropy_is_enough():
    cluster, keys = np.array([0, 0, 1, 1]), np.array([4, 3, 2, 1], dtype=np.uint64)
    entropy, unknown = np.array([1.0, 1.0, 2.0, 0.5]), np.full(4, math.nan)
    order = Order.of(cluster, keys, entropy, unknown)
    turned = Order.of(cluster[::-1], keys[::-1], entropy[::-1], unknown)
    assert keys[order.taken(4)].tolist() == keys[::-1][turned.taken(4)].tolist() == [2, 3, 4, 1]
    assert order.reason(0, "n").endswith("entropy 2.5")
