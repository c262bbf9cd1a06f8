"""`control: auto`: a control is trained until another one is not worth its training; the default picks at random where selecting lost."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from command_line import winnow

from al.config import Config, parse
from al.planning.pool_estimate import estimate_pool
from al.preparation.groups import chosen_before, spread_over
from al.report.reading.verdict import headline
from al.round import standing
from al.run import rounds
from al.run.store import Run

BUDGET = 16


def summary(metric: str, value: float, low: float | None, high: float | None, base: float = 0.5, **others) -> dict:
    """A summary in which `metric` decides; `others`: (value, low, high) of further metrics, all against the control, whose NLL is 0.5."""
    found = {name: dict(zip(("value", "low", "high"), numbers, strict=True)) for name, numbers in others.items()}
    found[metric] = {"value": value, "low": low, "high": high}
    values = dict.fromkeys(found, 0.5)
    models = {"selected": values, "control": values, "base": dict.fromkeys(found, base)}
    evaluation = {"differences": {"selected - control": found}, "models": models}
    budget = {"examples": BUDGET}
    return {"evaluation": evaluation, "decides": {"metric": metric, "response_tokens": 3.0}, "budget": budget}


@pytest.mark.parametrize(
    ("round", "answer"),
    [
        (summary("macro_nll", -0.20, -0.30, -0.10), "pays"),
        (summary("macro_nll", -0.20, -0.39, -0.01), "safe"),  # clear of zero by 95%, not by 99%
        (summary("macro_nll", -0.20, -0.30, -0.10, macro_em=(-0.04, -0.06, -0.01)), "open"),  # exact match loses
        (summary("macro_em", 0.05, 0.02, 0.08), "pays"),
        (
            summary("macro_em", 0.03, -0.01, 0.06, macro_nll=(-0.2, -0.3, -0.1)),
            "safe",
        ),  # NLL does not decide, but bounds the loss
        (summary("macro_em", -0.05, -0.08, -0.02), "costs"),
        (summary("macro_nll", 0.20, 0.10, 0.30), "costs"),
        (summary("macro_nll", -0.2, None, None), "open"),
        (summary("macro_nll", -0.2, -0.3, -0.1, micro_nll=(0.1, 0.05, 0.15)), "pays"),  # tasks count alike
        (summary("micro_nll", -0.2, -0.3, -0.1, micro_em=(-0.04, -0.06, -0.01)), "open"),
        # 16 more examples would gain 2 · ln(33 / 17) / ln(17) / 2 = 0.234
        (summary("macro_nll", 0.1, -0.03, 0.23, base=2.5), "safe"),
        (summary("macro_nll", 0.1, -0.04, 0.24, base=2.5), "open"),
        (summary("macro_em", 0.03, -0.01, 0.06, base=2.5, macro_nll=(0.1, -0.03, 0.23)), "safe"),
        (summary("macro_em", -0.02, -0.04, -0.001, base=2.5, macro_nll=(-0.2, -0.3, -0.1)), "open"),  # exact match lost
        (summary("macro_nll", 0.0, -0.03, 0.03, base=0.4), "open"),  # training at random made the base worse
    ],
)
def test_what_one_control_says(round, answer):
    assert standing.standing_after(3, round).answer == answer


def test_without_a_control_there_is_no_answer():
    assert standing.standing_after(1, {}) is None


@pytest.fixture(scope="module")
def first(world, tmp_path_factory):
    """A run of one round with `control: auto`."""
    run = tmp_path_factory.mktemp("auto") / "run"
    result = winnow("round", "--config", world, "--run", run, "--budget", BUDGET, "--set", "control=auto")
    assert result.code == 0, result.err
    return run


def next_round(run, monkeypatch, *found: dict):
    """The round that follows those of which `found` stands for the summaries: what it prints, on one line."""
    monkeypatch.setattr(standing.rounds, "read_summary", lambda run, number: found[number - 1])
    result = winnow("round", "--run", run, "--budget", BUDGET)
    monkeypatch.undo()
    assert result.code == 0, result.err
    return " ".join(result.out.split())


def first_summary(run) -> dict:
    return json.loads((run / "rounds/001/summary.json").read_text())


@pytest.fixture
def run(first, tmp_path):
    shutil.copytree(first, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def test_the_first_round_trains_a_control_and_an_open_answer_trains_the_next(run, monkeypatch):
    assert (run / "rounds/001/control.train").is_dir()
    out = next_round(run, monkeypatch, summary("macro_nll", -0.01, -0.2, 0.18))
    assert (run / "rounds/002/control.train").is_dir() and "no control in this round" not in out


def test_a_clear_gain_ends_the_control_and_the_round_says_why(run, monkeypatch):
    out = next_round(run, monkeypatch, summary("macro_nll", -0.2, -0.3, -0.1))
    assert not (run / "rounds/002/control.train").exists()
    assert "no control in this round, because round 1 has the answer: Yes" in out and "−0.200" in out
    assert json.loads((run / "rounds/002/summary.json").read_text())["selection"]["strategy"] != "random"
    said = winnow("report", run)
    assert f"No control in this round; round 1 said: {headline(first_summary(run))}" in " ".join(said.out.split())
    asked = winnow("round", "--run", run, "--budget", BUDGET, "--set", "control=true")
    assert asked.code == 0 and (run / "rounds/003/control.train").is_dir()  # the control catches up
    caught_up = json.loads((run / "rounds/003/summary.json").read_text())["at_random"]
    assert caught_up["spent"]["examples"] == 3 * BUDGET
    assert caught_up["rounds"] == 2, (
        "the control of round 1 and that of round 3, trained on the picks of rounds 2 and 3"
    )
    changed = winnow("round", "--run", run, "--budget", BUDGET, "--strategy", "uniform", "--no-control")
    assert changed.code == 0 and "no random control was trained" in " ".join(changed.out.split()), (
        "what a control said of another strategy is not said of this one"
    )


def test_a_control_ends_when_its_examples_would_bring_more_than_selecting_can_cost(run, monkeypatch):
    out = next_round(run, monkeypatch, summary("macro_nll", 0.1, -0.03, 0.23, base=2.5))
    assert not (run / "rounds/002/control.train").exists()
    assert "Cannot tell yet whether selecting beats random" in out
    assert (
        "it costs at most 0.230 nats of NLL (95% interval), and as many random examples as another control takes" in out
    )
    assert "would gain about 0.234" in out and "--set control=true trains one" in out


def test_a_plan_counts_a_control_only_where_the_round_has_one(run, monkeypatch):
    def planned(found: dict) -> dict:
        monkeypatch.setattr(standing.rounds, "read_summary", lambda run, number: found)
        done = winnow("plan", "--run", run, "--budget", "5h", "--json")
        assert done.code == 0, done.err
        return json.loads(done.out)

    ended, going_on = planned(summary("macro_nll", -0.2, -0.3, -0.1)), planned(summary("macro_nll", 0.0, -0.3, 0.3))
    assert [plan["seconds"]["train control"] for plan in (ended, going_on)] == [0, pytest.approx(5 * 3600, rel=0.01)]
    assert "round 1 has the answer: Yes" in ended["basis"]["control"]
    assert "later ones do without once it has said enough" in going_on["basis"]["control"]


def test_two_controls_must_say_that_selecting_loses_before_the_default_picks_at_random(run, monkeypatch):
    lost = summary("macro_nll", 0.2, 0.1, 0.3)
    out = next_round(run, monkeypatch, lost)
    assert (run / "rounds/002/control.train").is_dir() and "picks at random" not in out
    out = next_round(run, monkeypatch, lost, lost)
    assert "The default strategy therefore picks at random" in out
    assert json.loads((run / "rounds/003/summary.json").read_text())["selection"]["strategy"] == "random"
    table = pq.read_table(run / "rounds/003/selection/selection.parquet").to_pandas()
    assert (table.outcome == "selected").sum() == BUDGET
    with Run.read(run) as opened:
        assert spread_over(rounds.recorded(opened, 3, "clusters")) == "clusters"
        config = parse(rounds.last_round(opened).config, "run.db")
        assert chosen_before(opened, config, 4) == "kinds", (
            "what random picks were spread over is no choice of the default"
        )
        assert estimate_pool(config, run).several_sources
        other = config.model_copy(update={"select": config.select.model_copy(update={"by": "topic"})})
        assert chosen_before(opened, other, 4) is None and chosen_before(opened, config, 1) is None


@pytest.mark.parametrize("before", [(0.0, -0.2, 0.2), (-0.2, -0.3, -0.1)])
def test_a_loss_that_the_control_before_does_not_share_stays_open(monkeypatch, before):
    found = [summary("macro_nll", *before), summary("macro_nll", 0.2, 0.1, 0.3)]
    earlier = run_of(monkeypatch, found, [{}, {}])
    assert standing.standing(Config(), earlier, 3).answer == "open"


@pytest.mark.parametrize(
    "now",
    [
        {"select": {"strategy": "top"}},
        {"model": {"name": "another"}},
        {"goal": "pool"},
        {"target": {"files": ["mine.jsonl"]}},
    ],
    ids=lambda now: next(iter(now)),
)
def test_another_strategy_base_goal_or_target_asks_again(monkeypatch, now):
    earlier = run_of(monkeypatch, [summary("macro_nll", -0.2, -0.3, -0.1)], [{}])  # of a version that had no goal
    assert standing.standing(Config(), earlier, 2).answer == "pays"
    assert standing.standing(parse(now, "now"), earlier, 2) is None


def run_of(monkeypatch, summaries: list[dict], configs: list[dict]) -> SimpleNamespace:
    """A run whose finished rounds have these summaries and recorded configs."""
    entries = [SimpleNamespace(number=number, config=config) for number, config in enumerate(configs, start=1)]
    monkeypatch.setattr(standing.rounds, "all_rounds", lambda run: entries)
    monkeypatch.setattr(standing.rounds, "recorded", lambda run, number, role: "there")
    monkeypatch.setattr(standing.rounds, "read_summary", lambda run, number: summaries[number - 1])
    return SimpleNamespace(path="runs/one")
