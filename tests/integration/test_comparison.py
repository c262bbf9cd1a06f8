"""Strategies side by side on the small world: what the document says, what runs share, and what a kill costs."""

from __future__ import annotations

import json
import re
import shutil
import signal
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from command_line import Result, winnow, winnow_child

from al.comparison.play import Member
from al.config import Config

OTHER = "top:score.by=entropy,train.epochs=2"
SEED = 3
ROUNDS = 2
BUDGET = 24
TIME = r"[\d.]+ (?:s|min|h)"
METRICS = ("macro_nll", "micro_nll", "macro_em", "micro_em", "macro_nll_no_end", "macro_em_no_end")


def arguments(world, run, strategies, seeds, *more):
    # a field that no row has: the default goes by clusters and measures, so that it has rounds
    settings = (
        "--set",
        f"seed={SEED}",
        "--set",
        "train.mode=retrain",
        "--set",
        "select.by=nothing",
        "--set",
        "kinds.uneven=9",
    )
    shown = ("--config", world, "--run", run, *settings, "--budget", BUDGET, "--rounds", ROUNDS)
    return ("compare", *shown, "--strategies", strategies, "--seeds", seeds, *more)


@dataclass(frozen=True)
class Compared:
    """A comparison of three strategies with two seeds, killed in the fourth training and run again to its end, then once more."""

    run: Any
    between: dict
    resumed: str
    result: Result

    @property
    def document(self) -> dict:
        return self.result.document

    def runs(self, name) -> list[dict]:
        return [run for run in self.document["runs"] if run["strategy"] == name]

    def strategy(self, name) -> dict:
        return next(entry for entry in self.document["strategies"] if entry["name"] == name)

    def events(self, kind, stage) -> list[dict]:
        lines = map(json.loads, (self.run / "events.jsonl").read_text().splitlines())
        return [event for event in lines if event["event"] == kind and event.get("stage", "") == stage]

    def manifests(self, stage) -> list[dict]:
        return [json.loads(path.read_text()) for path in (self.run / "artifacts" / stage).glob("*/manifest.json")]


@pytest.fixture(scope="module")
def compared(world, tmp_path_factory) -> Compared:
    run = tmp_path_factory.mktemp("compared") / "run"
    asked = arguments(world, run, f"default {OTHER}", 2, "--json")
    killed = winnow_child(*asked, WINNOW_FAILPOINT="train.files:4")  # in the second round of the second strategy
    assert killed.code == -signal.SIGKILL, killed.err
    between = json.loads((run / "comparison.json").read_text())
    resumed, result = winnow(*asked[:-1]), winnow(*asked)
    assert resumed.code == result.code == 0, resumed.err + result.err
    return Compared(run, between, resumed.out, result)


@pytest.fixture(scope="module")
def begun(world, tmp_path_factory) -> tuple[Any, Result]:
    """One strategy, one seed, in one go: its run directory and what it printed."""
    run = tmp_path_factory.mktemp("alone") / "run"
    result = winnow(*arguments(world, run, "default", 1))
    assert result.code == 0, result.err
    return run, result


@pytest.fixture(scope="module")
def alone(begun) -> dict:
    return json.loads((begun[0] / "comparison.json").read_text())


def test_it_says_how_many_runs_there_are_which_one_begins_and_how_long_the_rest_takes(begun):
    first, *lines = begun[1].out.splitlines()
    assert first.startswith("2 runs: 2 strategies (default, random) × 1 seed. They share the pool, the test examples")
    runs = [line for line in lines if line.startswith("run ")]
    assert re.fullmatch(rf"run 1 of 2 \(strategy default, seed 3\): about {TIME} to {TIME} left by the plan", runs[0])
    assert runs[1:3] == [f"run 1 of 2 (strategy default, seed 3), round {n} of 2" for n in (1, 2)]
    assert (
        re.fullmatch(rf"run 2 of 2 \(strategy random, seed 3\): about {TIME} to {TIME} left", runs[3])
        and len(runs) == 4
    )
    assert re.search(r"^.+ begins: [\d,]+ steps? over \d+ examples? of [\d,]+ tokens$", begun[1].out, re.MULTILINE)
    assert "tested on 30 in 6 sources (of 46 evaluated; the others are dev" in " ".join(begun[1].out.split())
    assert "evaluate default: 46 examples" in begun[1].err
    assert "finished already" not in begun[1].out and "In short: 1 seed is too few to tell" in begun[1].out


def test_a_comparison_resumed_after_a_kill_counts_what_is_finished(compared):
    assert compared.between["runs_done"] == 1
    finished, *runs = [line for line in compared.resumed.splitlines() if re.match(r"run |\d+ of ", line)]
    assert finished == "1 of 6 runs is finished already and not repeated"
    begun = [line for line in runs if ": about " in line]
    assert (
        re.fullmatch(rf"run 2 of 6 \(strategy top:.*, seed 3\): about {TIME} to {TIME} left", begun[0])
        and len(begun) == 5
    )
    assert begun[-1].startswith("run 6 of 6 (strategy random, seed 4): about ")


def test_every_strategy_and_random_run_with_every_seed(compared):
    document = compared.document
    assert [entry["name"] for entry in document["strategies"]] == ["default", OTHER, "random"]
    assert document["seeds"] == [SEED, SEED + 1] and document["baseline"] == "random"
    assert document["runs_done"] == document["runs_asked"] == len(document["runs"]) == 6
    for entry in document["strategies"]:
        runs = compared.runs(entry["name"])
        assert [run["seed"] for run in runs] == entry["seeds_done"] == document["seeds"]
        assert all(run["rounds"][-1]["examples"] == BUDGET for run in runs)
    assert [len(run["rounds"]) for run in compared.runs("random")] == [1, 1]  # nothing it could learn between rounds
    assert [r["examples"] for r in compared.runs("default")[0]["rounds"]] == [12, 24]


def test_the_baseline_holds_nothing_back_unless_it_is_asked_to():
    asked = Config.model_validate({"noise": {"look": "picks"}})
    assert Member("random", 0).config(asked).noise.look == "none"
    assert Member("uniform", 0).config(asked).noise.look == "picks"
    assert Member("random", 0, (("noise.look", "measured"),)).config(asked).noise.look == "measured"


def test_where_adapters_are_continued_all_have_as_many_rounds(world, tmp_path):
    more = ("--json", "--set", "train.mode=continue")
    document = winnow(*arguments(world, tmp_path / "run", "random", 1, *more)).document
    assert [len(run["rounds"]) for run in document["runs"]] == [ROUNDS], (
        "the learning rate takes the same course for all"
    )


def test_a_killed_comparison_can_be_read_and_resumes_without_training_twice(compared):
    assert compared.between["runs_done"] == 1 and compared.between["runs_asked"] == 6
    trainings = 2 * (2 + 2 + 1)
    assert len(compared.manifests("train")) == trainings
    assert len(compared.events("stage.published", "train")) == trainings
    assert len(compared.events("stage.started", "train")) == trainings + 1  # the one that was killed
    assert compared.document["runs"][0] == compared.between["runs"][0]


def test_it_gives_the_numbers_of_a_comparison_in_one_go_whatever_else_is_compared(compared, alone):
    for run in alone["runs"]:
        (same,) = [other for other in compared.runs(run["strategy"]) if other["seed"] == run["seed"]]
        for one, other in zip(run["rounds"], same["rounds"], strict=True):
            assert {**one, "seconds": None} == {**other, "seconds": None}
    assert [run["strategy"] for run in alone["runs"]] == ["default", "random"]


def test_the_same_command_again_only_shows_the_results(compared, world):
    before = (compared.run / "events.jsonl").read_text().count("\n")
    again = winnow(*arguments(world, compared.run, f"default {OTHER}", 2, "--json"))
    assert again.document["strategies"] == compared.document["strategies"]
    events = [json.loads(line) for line in (compared.run / "events.jsonl").read_text().splitlines()[before:]]
    assert {event["event"] for event in events} == {"work.started", "stage.reused"}


def test_the_pool_and_the_base_are_prepared_and_measured_once(compared):
    for stage in ("pool", "tokens", "embeddings", "groups", "split"):
        assert len(compared.manifests(stage)) == 1, stage
    assert (
        len(compared.manifests("clusters")) == 4
    )  # of each seed, kinds of prompt and what the default takes where they are even
    assert len(compared.events("stage.published", "evaluate base")) == 1
    assert len(compared.manifests("evaluate")) == 1 + 2 * (2 + 2 + 1)


def test_trap_26_seeds_change_clusters_and_picks_and_never_the_holdout(compared):
    assert len({manifest["inputs"]["split"] for manifest in compared.manifests("evaluate")}) == 1
    assignments = [
        pq.read_table(path)["cluster"].to_numpy()
        for path in (compared.run / "artifacts/clusters").glob("*/clusters.parquet")
    ]
    assert (assignments[0] != assignments[1]).any()
    first, second = (run["rounds"][0]["tokens"] for run in compared.runs("random"))
    assert first != second


def test_nothing_held_out_is_trained_on_and_no_example_is_picked_twice(compared):
    split = np.load(next((compared.run / "artifacts/split").glob("*/split.npy")))
    for path in (compared.run / "artifacts/packs").glob("*/rows.npy"):
        rows = np.load(path)
        assert (split[rows] == 0).all() and len(np.unique(rows)) == len(rows)


def test_statistics_follow_from_the_runs(compared):
    def finals(name, metric):
        return np.array([run["rounds"][-1][metric] for run in compared.runs(name)])

    for name in ("default", OTHER, "random"):
        entry = compared.strategy(name)
        for metric in METRICS:
            values, found = finals(name, metric), entry["final"][metric]
            assert found["mean"] == pytest.approx(values.mean())
            assert (found["low"], found["high"]) == (None, None), "two seeds are too few for an interval"
            assert found["sd"] == pytest.approx(values.std(ddof=1))
        for key in ("examples", "tokens", "response_tokens"):
            assert entry[key] == round(finals(name, key).mean())
        for r, point in enumerate(entry["curve"]):
            losses = [run["rounds"][r]["macro_nll"] for run in compared.runs(name)]
            assert point["macro_nll"]["mean"] == pytest.approx(np.mean(losses))
        if name == "random":
            assert entry["difference"] is None
            continue
        pairs = finals(name, "macro_nll"), finals("random", "macro_nll")
        found = entry["difference"]["macro_nll"]
        assert found["value"] == pytest.approx(np.subtract(*pairs).mean())
        assert (found["low"], found["high"], found["p"]) == (None, None, None)


def test_changes_of_a_strategy_are_its_own(compared):
    assert compared.strategy(OTHER)["changes"] == {"score.by": "entropy", "train.epochs": 2}
    assert compared.strategy("default")["changes"] == {}
    epochs = [manifest["params"]["train"]["epochs"] for manifest in compared.manifests("train")]
    assert sorted(epochs)[-4:] == [2, 2, 2, 2] and 2 not in sorted(epochs)[:-4]
    by = {
        strategy: {m["params"]["score"]["by"] for m in compared.manifests("selection") if named(m) == strategy}
        for strategy in ("default", "top", "random")
    }
    assert by == {"default": {"nll"}, "top": {"entropy"}, "random": {"nll"}}


def named(manifest):
    return manifest["params"]["select"]["strategy"]


def test_the_page_shows_the_documents_numbers(compared):
    page = (compared.run / "comparison.html").read_text()
    for name in ("default", OTHER, "random"):
        assert name in page and f"{compared.strategy(name)['final']['macro_nll']['mean']:.3f}" in page
    assert compared.document["page"] == str(compared.run / "comparison.html")


def test_times_include_the_cost_of_choosing(compared):
    for run in compared.document["runs"]:
        assert all(set(r["seconds"]) == {"score", "select", "train", "evaluate"} for r in run["rounds"])
    assert 0 < compared.strategy(OTHER)["scoring_share"] < 1
    assert compared.strategy(OTHER)["seconds"]["score"] > compared.strategy("random")["seconds"]["score"]


def test_a_proxy_replaces_the_model(world, tmp_path):
    config = yaml.safe_load(world.read_text())
    proxy = tmp_path / "proxy"
    shutil.copytree(config["model"]["name"], proxy)
    run = tmp_path / "run"
    options = ("--config", world, "--run", run, "--budget", "600tok", "--rounds", 1, "--seeds", 1, "--proxy", proxy)
    result = winnow("compare", *options, "--strategies", "random")
    assert result.code == 0, result.err
    document = json.loads((run / "comparison.json").read_text())
    assert document["proxy"] is True and document["model"] == str(proxy)
    assert [entry["name"] for entry in document["strategies"]] == ["random"]
    (trained,) = (run / "artifacts/train").glob("*/manifest.json")
    assert json.loads(trained.read_text())["params"]["model"]["name"] == str(proxy)
    (only,) = document["runs"]
    assert 500 < only["rounds"][-1]["tokens"] <= 600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strategies", "defualt"), "Did you mean 'default'"),
        (("--strategies", "top:score.by"), "expected NAME or NAME:key=value"),
        (("--strategies", "top:score.bi=ifd"), "did you mean `score.by`"),
        (("--strategies", "top:score.by=lss"), "Did you mean 'less'"),
        (("--strategies", "top:score.by={"), "not valid YAML"),
        (("--strategies", "top:holdout.test=5"), "the same for all strategies"),
        (("--strategies", "top:select=loss"), "the same for all strategies"),
        (("--strategies", "random:seed=9"), "the same for all strategies"),
        (("--strategies", "default nearest"), "--target FILE"),
        (("--strategies", "top:score.by=rds"), "--target FILE"),
        (("--strategies", "top:score.by=learnability"), "score.reference"),
        (("--set", "holdout.test=0"), "test examples to compare on, found holdout.test=0"),
        (("--budget", "30min"), "give examples or tokens"),
        (("--budget", "3"), "raise --budget or lower --rounds"),
        (("--seeds", "0"), "--seeds"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_runs(world, tmp_path, options, message):
    given = () if "--budget" in options else ("--budget", BUDGET)
    result = winnow("compare", "--config", world, "--run", tmp_path / "run", *given, *options)
    assert result.code == 2 and message in result.err, result.err
    assert not (tmp_path / "run/artifacts").exists()


def test_a_share_that_holds_out_nothing_is_refused_before_anything_is_trained(world, tmp_path):
    result = winnow(*arguments(world, tmp_path / "run", "random", 1, "--set", "holdout.test=0.001"))
    assert result.code == 3 and "holdout.test=0.001 holds out no example" in result.err
    assert not (tmp_path / "run/artifacts/train").exists()


def test_a_run_of_rounds_is_no_place_for_a_comparison(world, tmp_path):
    from al.run import rounds
    from al.run.store import Run

    with Run.create_or_open(tmp_path / "run") as run:
        rounds.open_round(run, 1, "9", {})
    result = winnow("compare", "--config", world, "--run", tmp_path / "run", "--budget", BUDGET)
    assert result.code == 5 and "a comparison needs its own directory" in result.err
    assert not (tmp_path / "run/comparison.json").exists()


def test_status_shows_its_progress(compared, tmp_path):
    shown = winnow("status", "--run", compared.run)
    assert shown.code == 0 and f"comparison of default, {OTHER}, random at {BUDGET}: 6 of 6 runs done" in shown.out
    assert "continue with" not in shown.out
    cut = tmp_path / "run"
    shutil.copytree(compared.run, cut, symlinks=True)
    (cut / "comparison.json").write_text(json.dumps(compared.document | {"runs_done": 4}))
    assert f"continue with: {compared.document['command']}" in winnow("status", "--run", cut).out


def test_report_prints_a_comparison_again(compared, tmp_path):
    shown, asked = winnow("report", compared.run), winnow("report", compared.run, "--round", 1)
    assert shown.code == 0 and f"page: {compared.run}/comparison.html" in shown.out
    assert f"Budget {BUDGET}, rounds" in shown.out and " decides, because " in shown.out
    assert winnow("report", compared.run, "--md").out.startswith("### ")
    assert asked.code == 2 and "is a comparison, which has no rounds" in asked.err
    cut = tmp_path / "run"
    shutil.copytree(compared.run, cut, symlinks=True)
    (cut / "comparison.json").write_text("{")
    broken = winnow("report", cut)
    assert broken.code == 5 and "the `compare` command that made it writes it again" in broken.err


def test_an_error_is_one_json_document_too(world, tmp_path):
    options = ("--config", world, "--run", tmp_path / "run", "--budget", BUDGET, "--json")
    result = winnow("compare", *options, "--strategies", "defualt")
    assert result.document["exit_code"] == 2 and "defualt" in result.document["error"]


def test_spaces_and_commas_separate_names():
    from al.comparison.play import parse_strategy, split_names

    assert split_names("default,random top:score.by=ifd,select.tail_cut=0.1,loss") == [
        "default",
        "random",
        "top:score.by=ifd,select.tail_cut=0.1",
        "loss",
    ]
    assert parse_strategy("top:score.by=ifd,select.tail_cut=0.1") == (
        "top",
        (("score.by", "ifd"), ("select.tail_cut", 0.1)),
    )


def test_steps_hold_as_many_examples_whatever_their_length(compared, world, tmp_path, monkeypatch):
    """A step has a fixed number of packs; with short examples a strategy would take fewer steps on as many examples."""
    from al.comparison import play as comparison
    from al.config import load
    from al.lineage.history import History, Lineage
    from al.lineage.outcomes import candidates
    from al.preparation.stages import prepare
    from al.run.session import Session
    from al.run.store import Run
    from trainer.packing import PLANNERS
    from trainer.schedule import planned_steps
    from trainer.tokens import TokenTable

    settings = (f"seed={SEED}", "train.pack_length=192", "train.packs_per_step=6", "train.packs_per_batch=4")
    config = load(world, settings)
    with Run.create_or_open(compared.run) as run:
        session = Session(run, config, quiet=True)
        prepared = prepare(session, 1)
        history = History(Lineage("any", "train"))
        table = TokenTable.open(prepared.tokens.path)
        lengths = np.random.default_rng(0).integers(8, 90, len(table.status))
        fake = SimpleNamespace(lengths=lengths, status=np.asarray(table.status), target_counts=lengths)
        monkeypatch.setattr(TokenTable, "open", lambda path: fake)
        rows = candidates(prepared, prepared.clusters, history).rows
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        steps, unpaced, packs = {}, {}, {}
        for name, chosen in (("short", rows[:60]), ("any", rows), ("long", rows[-60:])):
            (tmp_path / name).mkdir()
            np.save(tmp_path / name / "picked.npy", prepared.open_pool().keys[chosen])
            picked = SimpleNamespace(path=tmp_path / name)
            paced = comparison._with_examples_a_step(
                session, prepared, history, picked, comparison.PoolFacts.read(prepared)
            )
            count = len(PLANNERS["packed"](lengths[chosen], config.train.pack_length).offsets) - 1
            steps[name] = planned_steps(count, paced.train, None)
            unpaced[name] = planned_steps(count, config.train, None)
            packs[name] = paced.train.packs_per_step
            assert paced.train.packs_per_batch <= packs[name]
            assert paced.model_dump(exclude={"train"}) == config.model_dump(exclude={"train"})
    assert packs["any"] == 6 and packs["short"] < 6 < packs["long"]
    assert abs(steps["short"] - steps["long"]) <= 1 and unpaced["short"] * 2 < unpaced["long"]
