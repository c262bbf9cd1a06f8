"""The figures of the proving ground are what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.proving_ground import judging, noise, tables, wrong_answers
from benchmarks.proving_ground.ground import PROPORTIONAL, drawn, over_pools
from benchmarks.proving_ground.summary import (
    CLUSTERS,
    KIND,
    WITH,
    WITHOUT,
    Ground,
    by_goal,
    examples_for,
    geometric_share,
    longer_share,
    mean_difference,
    noisy_difference,
    oracle_part,
    worse_cells,
    written_share,
)

CURVE = [(300, 2.0), (1000, 1.6), (2000, 1.4), (4000, 1.2)]


def row(strategy: str, seed: int, nll: float, budget: int = 1000, pool: str = "a", em: float = 0.3) -> dict:
    where = {"model": "m", "pool": pool, "budget": budget, "strategy": strategy, "seed": seed, "split": "test"}
    return {**where, "macro_nll": nll, "macro_em": em}


def ground(ours: list[float], oracle: list[float], em: list[float] | None = None, pool: str = "a") -> Ground:
    noise = [0.01, -0.01, 0.02, -0.02, 0.0]
    rows = [row("random", s, nll + noise[s], budget, pool) for budget, nll in CURVE for s in range(5)]
    rows += [row(WITH, s, nll + noise[s], pool=pool, em=(em or [0.3] * 5)[s]) for s, nll in enumerate(ours)]
    rows += [row("oracle_size", s, nll + noise[s], pool=pool) for s, nll in enumerate(oracle)]
    return Ground(rows)


@pytest.mark.parametrize("nll, examples", [(1.6, 1000), (1.4, 2000), (1.3, 2828), (1.0, 8000), (2.1, 222)])
def test_random_needs_as_many_examples_as_its_curve_says(nll, examples):
    assert examples_for(CURVE, nll) == pytest.approx(examples, rel=0.01)


def test_a_share_is_kept_between_a_tenth_and_two():
    found = ground([1.6] * 5, [1.4] * 5)
    assert found.share(("m", "a"), 1.4) == pytest.approx(0.5)
    assert found.share(("m", "a"), 0.2) == 0.1 and found.share(("m", "a"), 3.0) == 2.0


def test_a_pool_has_headroom_where_the_oracle_gains_two_standard_errors():
    assert ground([1.5] * 5, [1.5, 1.45, 1.5, 1.45, 1.5]).headroom(("m", "a"))
    assert not ground([1.5] * 5, [1.3, 1.9, 1.5, 1.8, 1.4]).headroom(("m", "a"))


def test_gains_are_parts_of_the_oracles():
    assert oracle_part(ground([1.5] * 5, [1.4] * 5), WITH)["value"] == pytest.approx(0.5)


def test_the_mean_share_is_geometric():
    found = Ground([])
    for pool, nll in (("a", 1.4), ("b", 1.2)):
        found.runs.update(ground([nll] * 5, [1.2] * 5, pool=pool).runs)
    assert geometric_share(found, [("m", "a"), ("m", "b")], WITH)["value"] == pytest.approx(
        np.sqrt(0.5 * 0.25), rel=1e-3
    )


def test_a_cell_is_worse_when_its_measures_say_so_together():
    assert worse_cells(ground([1.8, 1.81, 1.79, 1.8, 1.8], [1.4] * 5), WITH)["which"] == ["m, a, macro_nll"]
    assert worse_cells(ground([1.5, 1.7, 1.6, 1.65, 1.55], [1.4] * 5), WITH)["value"] == 0
    lost = worse_cells(ground([1.5, 1.7, 1.6, 1.65, 1.55], [1.4] * 5, em=[0.2, 0.21, 0.19, 0.2, 0.2]), WITH)
    assert lost["which"] == ["m, a, macro_em"]


def test_a_larger_budget_is_compared_with_random_at_larger_ones():
    found = Ground(
        [row("random", 1, nll, budget, "evals") for budget, nll in CURVE]
        + [row(WITH, seed, nll, 2000, "evals") for seed, nll in enumerate((1.15, 1.2, 1.25))]
    )
    share = longer_share(found, "m", WITH, 2000)
    assert share["value"] == pytest.approx(0.5) and share["low"] < 0.5 < share["high"]
    assert longer_share(found, "m", "oracle_size", 2000)["value"] is None


def test_differences_are_the_strategys_less_randoms():
    found = Ground([])
    for pool, nll, em in (("a", 1.5, 0.32), ("b", 1.3, 0.36)):
        found.runs.update(ground([nll] * 5, [1.2] * 5, em=[em] * 5, pool=pool).runs)
    assert mean_difference(found, found_cells := [("m", "a"), ("m", "b")], WITH)["value"] == pytest.approx(-0.2)
    assert mean_difference(found, found_cells, WITH, "macro_em")["value"] == pytest.approx(4.0)


def test_models_on_one_pool_count_as_one():
    cells = {("m", "a"): -0.1, ("n", "a"): -0.3, ("m", "b"): -0.4, ("n", "b"): -0.4}
    found = over_pools({cell: np.array([value - 0.01, value + 0.01]) for cell, value in cells.items()})
    assert found["value"] == pytest.approx(-0.3) and found["note"] == "2 pools, m, n" and found["seeds"] == 2
    assert found["high"] - found["low"] == pytest.approx(2 * 12.706 * 0.1, abs=1e-3)  # t of two pools, -0.2 and -0.4
    assert over_pools({("m", "a"): np.zeros(2), ("n", "a"): np.ones(2)})["value"] is None, "one pool has no interval"


def test_pools_are_drawn_with_all_their_models():
    cells = [("m", "a"), ("n", "a"), ("m", "b")]
    draws = list(drawn(cells, 0, 50))
    assert draws[0] == (cells, None) and len(draws) == 51
    assert {tuple(of) for of, _ in draws[1:]} == {
        (*cells[:2], *cells[:2]), (*cells[:2], cells[2]), (cells[2], *cells[:2]), (cells[2], cells[2]),
    }  # fmt: skip


def test_a_table_has_the_strategies_that_its_model_played():
    rows = [row("random", 1, 2.0), row(WITH, 1, 1.5), {**row(CLUSTERS, 1, 1.0), "model": "n"}]
    about = {"a": {"examples": 1000, "tasks": 3, "sources": 2}}
    assert (
        tables._table(Ground(rows), "m", about).splitlines()[0]
        == f"| pool: examples, tasks, sources | random | {WITH} |"
    )


def test_the_default_without_sources_is_what_it_does_on_each_pool():
    rows = [row(name, 1, nll, pool=pool) for pool in "ab" for name, nll in ((KIND, 1.0), (CLUSTERS, 2.0))]
    found = Ground(rows, uneven={"a"})
    assert found.values(("m", "a"), WITHOUT).tolist() == [1.0] and found.values(("m", "b"), WITHOUT).tolist() == [2.0]


def test_a_goal_weighs_tasks_alike_or_as_the_pool_does():
    rows = [row("random", 1, 2.0, pool=pool) for pool in "ab"]
    for pool, alike, mixed in (("a", -0.2, 0.1), ("b", -0.4, 0.3)):
        paired = {"nll": [alike, 0.1], "em": [0.01, 0.1], "of_pool": {"nll": mixed, "em": -0.02}}
        rows.append({**row(PROPORTIONAL, 1, 1.8, pool=pool), "paired": paired})
    found = by_goal(Ground(rows), PROPORTIONAL, 1000)
    assert {name: entry["value"] for name, entry in found.items()} == {
        "tasks alike, nll": -0.3, "tasks alike, em": 1.0, "the pool's mix, nll": 0.2, "the pool's mix, em": -2.0,
    }  # fmt: skip
    assert found["the pool's mix, nll"]["low"] == pytest.approx(0.2 - 12.706 * 0.1, abs=1e-3)


def test_noisy_rows_are_a_ground_of_their_own():
    rows = [row("random", s, 2.0) for s in (1, 2)]
    for i, pool in enumerate("ab"):
        for where in ("inside", "exchanged"):
            for name, nll in (("random", 1.5), (WITH, 1.2 - 0.1 * i)):
                rows += [{**row(name, s, nll, pool=pool), "model": "qwen-0.5b", "noise": where} for s in (1, 2)]
    assert Ground(rows).values(("m", "a"), "random").tolist() == [2.0, 2.0]
    assert noisy_difference(rows, WITH, ())["value"] == pytest.approx(-0.35)


def test_written_answers_have_a_share_of_their_own():
    rows = [
        {**row("random", 1, 1.0, budget), "generated_em": em} for budget, em in ((1000, 0.4), (2000, 0.5), (4000, 0.6))
    ]
    rows += [{**row(WITH, 1, 1.0), "generated_em": 0.5}, row(WITH, 2, 1.0)]
    rows += [{**entry, "pool": "b"} for entry in rows if entry["budget"] == 1000 or entry["strategy"] == "random"]
    rows[-2]["generated_em"] = 0.4  # as random at 1,000
    found = written_share(Ground(rows), WITH)
    assert found["value"] == pytest.approx(0.5**0.5, abs=1e-4) and found["note"].startswith(
        "2 cells of m; seeds of random at other budgets: 1"
    )
    assert written_share(Ground(rows), WITH, of=[("m", "a")])["value"] == pytest.approx(0.5)


def tasks(count: int) -> list[dict]:
    answers = {"sky": ("blue", "grey", "black"), "sum": ("4", "5", "6"), "one": ("same",) * 3}
    return [
        {"messages": [{"content": f"{task} {i}"}, {"content": texts[i % 3]}], "task": task}
        for task, texts in answers.items()
        for i in range(count)
    ]


@pytest.mark.parametrize("kind", noise.KINDS)
def test_a_tenth_of_the_rows_have_a_wrong_answer_and_the_others_are_as_they_were(kind):
    rows = tasks(60)
    found, wrong = noise.planted(rows, kind)
    of = {task: {noise.answer(row) for row in rows if row["task"] == task} for task in ("sky", "sum", "one")}
    assert wrong.sum() == (12 if kind == "inside" else 18)
    for before, after, planted in zip(rows, found, wrong, strict=True):
        assert before["messages"][0] == after["messages"][0] and (before == after) == (not planted)
        if planted:
            assert (noise.answer(after) in of[before["task"]]) == (kind == "inside")
            assert noise.answer(after) != noise.answer(before)


def test_alternatives_are_a_rows_answer_and_then_the_others_of_its_task():
    rows = tasks(6)
    made, of = noise.alternatives(rows, 100)
    assert sorted(set(of.tolist())) == list(range(12))  # the task with one answer has no other
    for number in (0, 7):
        texts = [noise.answer(entry) for entry, row in zip(made, of, strict=True) if row == number]
        assert texts[0] == noise.answer(rows[number]) and len(texts) == len(set(texts)) == 3


def test_tasks_count_where_random_at_4000_learns_them(monkeypatch):
    rows = [{"task": task, "accepted": ["yes"]} for task in ("easy", "hard") for _ in range(5)]
    monkeypatch.setattr(judging, "read_rows", lambda pools, pool, part: rows)
    key = {"model": "m", "pool": "p", "noise": "none", "sources": False, "seed": 1, "learning_rate": 1, "split": "test"}
    four = {**key, "budget": 4000, "strategy": "random", "part": "dev", "answers": ["yes"] + ["no"] * 9}
    test = {
        **key,
        "budget": 1000,
        "strategy": "random",
        "part": "test",
        "answers": ["yes", "Yes.", "no", "no", "no"] + ["yes"] * 5,
    }
    learned = {}
    found = judging.judged([four, test], None, learned)
    assert [(run["generated_em"], run["generated_tasks"]) for run in found] == [(0.4, 1)]
    assert learned == {"m|p": ["easy"]}
    assert judging.judged([test], None, learned) == found, "the tasks that count are kept for later runs"
    assert judging.judged([test], None, {}) == []


def test_wrong_answers_of_a_task_that_the_model_knows_are_told_by_the_other_pools():
    rng = np.random.default_rng(3)

    def pool() -> tuple[np.ndarray, ...]:
        wrong = rng.random(400) < 0.1
        nll = np.where(wrong[:, None], [4.0, 0.5, 5.0], [0.5, 4.0, 5.0]) + rng.normal(0, 0.3, (400, 3))
        return wrong_answers.features(nll.ravel(), np.repeat(np.arange(400), 3), wrong, np.arange(400) % 4)

    for entry in wrong_answers.held_out({name: pool() for name in "abc"}).values():
        assert (
            entry["rows"] == 400
            and entry["found"] >= 0.9 * entry["wrong"]
            and entry["found"] >= 0.8 * entry["suspected"]
        )


def test_rows_of_tasks_that_the_model_does_not_know_do_not_count():
    nll = np.tile([2.0, 1.0, 3.0], 50)
    _, wrong, counts = wrong_answers.features(nll, np.repeat(np.arange(50), 3), np.zeros(50, bool), np.zeros(50, int))
    assert not wrong.any() and not counts.any()
