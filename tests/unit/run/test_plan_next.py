"""How a plan ends: the command to type next, for the same data; and what it says of the pool and of the memory."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import click
import pyarrow.parquet as pq
import pytest
from command_line import winnow

from al.commands.command_line import round_options
from al.commands.options import Options
from al.commands.plan import _memory_basis, _next, _pickable, _room, _too_few
from al.lineage.outcomes import SELECTABLE
from al.planning.cards import REHEARSED_RANKS
from al.program import PROGRAM
from al.run.store import Run

RECORD = Path(__file__).resolve().parents[3] / "benchmarks" / "results" / "card_24gb_h200.json"


def parsed(arguments: list[str]) -> Options:
    """The options of a command that runs rounds, for these arguments."""
    found: list[Options] = []
    click.command()(round_options(found.append)).main(arguments, standalone_mode=False)
    return found[0]


@pytest.mark.parametrize(
    "line",
    [
        "--pool a.csv",
        "--config demo --run 'my run' --pool a.csv --pool 'b c.csv' --set train.epochs=1 --set lora.r=8",
        "--map instruction=client_question,output=our_reply --ignore notes --ignore shop",
        "--map 'question={a}, {b}' --map 'answer=Our reply' --target t.jsonl --track wandb --track mlflow",
        "--strategy uniform --no-control --recluster --trust-remote-code",
        """--set 'pool.map={"question": "q", "answer": "a"}' --set 'target.files=[x.jsonl]' --set control=false""",
        """--set 'pool.map={"question": "{a}=b,c=d}", "answer": "a"}'""",
    ],
)
def test_options_are_typed_again_as_arguments_that_mean_the_same(line):
    first = parsed(shlex.split(line))
    again = parsed(first.as_arguments())
    assert (again.pool, again.config_path, again.run_path) == (first.pool, first.config_path, first.run_path)
    assert again.trust_remote_code == first.trust_remote_code and set(again.overrides) == set(first.overrides)


def test_a_map_is_typed_as_it_was_given():
    given = "--pool my.csv --map instruction=client_question,output=our_reply"
    assert shlex.join(parsed(shlex.split(given)).as_arguments()) == given


def test_the_next_command_has_the_settings_that_fit_and_there_is_none_if_nothing_does():
    options = parsed(["--pool", "my.csv", "--no-control"])
    data = "--pool my.csv --no-control"
    assert _next(options, "300", None, []) == f"{PROGRAM} round --budget 300 {data}"
    fits = _next(options, "9min", "2h", ["train.packs_per_batch=1", "lora.r=8"])
    assert fits == f"{PROGRAM} run --budget 9min --until 2h {data} --set train.packs_per_batch=1 --set lora.r=8"
    assert _next(options, "300", None, None) is None


def plan_of(kind: str, most: int, least: int, budget: int = 5_000, **more) -> dict:
    """What `_pickable` and `_too_few` read of a plan."""
    pool = {"selectable": most, "selectable_at_least": least, "selectable_is": kind, "held_out": 1_500}
    searched = {"near_duplicates": {"searched": 400, "of": 12_000, "seconds": 20.0, "in_order": False}}
    return {"pool": pool | searched | more, "round": {"number": 1, "examples": budget, "unit": "examples"}}


def test_what_may_be_picked_is_said_for_each_way_to_know_it():
    assert _pickable(plan_of("counted", 2_911, 2_911)).startswith(
        "2,911 examples can be picked; dev, test, near-duplicates"
    )
    searched = _pickable(plan_of("searched", 2_312, 2_312))
    assert searched == "about 2,312 examples can be picked; 1,500 become dev and test, 8,188 are near-duplicates"
    sample = _pickable(plan_of("sample", 4_600, 900))
    assert sample.startswith("about 900 to 4,600 can be picked; 1,500 become dev and test") and "400 random" in sample
    assert _pickable(plan_of("sample", 0, 0)).startswith("about 0 can be picked; ")
    unknown = plan_of("unknown", 10_500, 0, not_searched="there is no embedder")
    assert "near-duplicates are not subtracted: there is no embedder; it stops before training if fewer than 5,000" in (
        _pickable(unknown)
    )
    unknown["round"]["unit"] = "tokens"
    assert "takes all that are left if the budget is larger" in _pickable(unknown)
    unknown["round"] |= {"unit": "examples", "number": 2}
    assert "earlier picks" in _pickable(unknown) and "10,500" not in _pickable(unknown)


@pytest.mark.parametrize(
    ("kind", "most", "least", "said"),
    [
        ("counted", 4_999, 4_999, "Cannot run: only 4,999 of 5,000 examples can be picked. "),
        ("searched", 4_999, 4_999, "Cannot run: only about 4,999 of 5,000 examples can be picked. "),
        ("sample", 4_999, 900, "Cannot run: at most about 4,999 of 5,000 examples can be picked. "),
        ("unknown", 4_999, 0, "Cannot run: at most 4,999 of 5,000 examples can be picked. "),
        (
            "sample",
            5_000,
            4_999,
            "May stop: 5,000 examples are asked for, and about 4,999 to 5,000 can be picked, by 400 searched for near-duplicates "
            "(--search 2min says more). ",
        ),
        ("sample", 9_000, 5_000, ""),
        ("unknown", 5_000, 0, ""),
        ("counted", 5_000, 5_000, ""),
    ],
)
def test_a_budget_that_is_or_may_be_too_large_is_said_first(kind, most, least, said):
    document = plan_of(kind, most, least)
    assert _too_few(document) == said
    document["round"]["unit"] = "tokens"
    assert _too_few(document) == "", "a round takes what is left"


def test_one_limit_of_memory_is_given_and_the_other_explained():
    document = {"device": {"memory_gib": 22.1, "kind": "cuda"}, "card": "RTX 3090", "gpus": {"count": 2}}
    text = _room(document | {"limits": {"usable_gib": 20.8}})
    assert text.startswith(", of 20.8 GiB that training may use on RTX 3090, on each of 2 GPUs: 22.1 GiB less 6% for")
    assert _room(document | {"limits": {"usable_gib": 22.1}, "gpus": {"count": 1}}).endswith("may use on RTX 3090")


def test_the_memory_of_a_small_card_is_called_checked_for_the_ranks_of_the_record_alone():
    rows = json.loads(RECORD.read_text())["rows"]
    assert sorted(REHEARSED_RANKS) == sorted(row["rank"] for row in rows if row.get("held"))
    assert _memory_basis(16, "cuda").endswith("(docs/benchmarks.md)")
    assert _memory_basis(64, "cuda").endswith(", not for rank 64") and "card" not in _memory_basis(16, "cpu")


def test_a_plan_of_a_run_that_knows_what_is_left_says_so_first(two_rounds):
    run = two_rounds[0]
    table = pq.read_table(run / "rounds/002/selection/selection.parquet").to_pandas()
    left = int(table.outcome.isin([outcome for outcome in SELECTABLE if outcome != "selected"]).sum())
    assert 24 < left < len(table) - 48
    enough, too_many = (winnow("plan", "--run", run, "--budget", budget) for budget in (left, left + 1))
    assert enough.out.startswith("Fits ") and f"{left} examples can be picked; dev, test, near-duplicates" in enough.out
    assert too_many.out.startswith(f"Cannot run: only {left} of {left + 1} examples can be picked. Fits ")


def test_the_picks_of_a_round_that_is_not_finished_can_be_picked_by_it(two_rounds, tmp_path):
    copied = shutil.copytree(two_rounds[0], tmp_path / "run", symlinks=True)
    with Run.create_or_open(copied) as run, run.change() as db:
        db.execute("UPDATE rounds SET state = 'open' WHERE round = 2")
    before, after = (
        json.loads(winnow("plan", "--run", run, "--budget", 24, "--json").out)["pool"]
        for run in (copied, two_rounds[0])
    )
    assert before["selectable"] == after["selectable"] + 24
