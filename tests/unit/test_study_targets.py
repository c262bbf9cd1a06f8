"""Targets of the study: which rows they take, what aims at them, and what the runs say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.proving_ground import aiming, cost, peer_picks, picking, planning, target_figures, targets
from benchmarks.proving_ground.ground import WITH, Ground
from benchmarks.proving_ground.stage_tables import stage_tables
from selection.vectors import unit


def rows(task: str, count: int, text: str = "") -> list[dict]:
    # Thirteen-word runs that only one row has, as real prompts do.
    words = [" ".join(f"{task}{i}w{j}" for j in range(20)) for i in range(count)]
    return [{"messages": [{"content": text or line}, {"content": "yes"}], "task": task} for line in words]


def entry(has: str, tasks: list[str], dev: int = 4, test: int = 6) -> dict:
    return {"pool": "host", "from": "host", "tasks": tasks, "pool_has": has, "dev": dev, "test": test}


@pytest.fixture
def host(monkeypatch):
    """A pool of two tasks, its splits' arrays, and no files."""
    pool = [*rows("sums", 20), *rows("verse", 30)]
    monkeypatch.setattr(targets, "read_rows", lambda pools, name, part: pool)
    return pool, {
        "host|pool": np.arange(100, 150),
        "host|pool|key": np.arange(50, dtype=np.uint64),
        "host|pool|source": np.zeros(50, int),
        "host|pool|task": np.repeat([0, 1], [20, 30]),
    }


@pytest.mark.parametrize("has, left", [("held", 10), ("kin", 0)])
def test_a_held_target_leaves_the_rest_of_its_task_in_the_pool_and_a_kin_one_nothing(host, has, left):
    pool, splits = host
    found = targets.gather(None, splits, entry(has, ["sums"]), "t")
    assert (found["t|pool|task"] == 0).sum() == left and (found["t|pool|task"] == 1).sum() == 30
    assert (len(found["t|dev"]), len(found["t|test"])) == (4, 6)
    assert not {*found["t|pool"]} & {*found["t|dev"], *found["t|test"]} and not {*found["t|dev"]} & {*found["t|test"]}
    assert (splits["host|pool"][found["t|kept"]] == found["t|pool"]).all()


def test_tasks_of_a_target_count_alike_and_small_ones_are_refused(host):
    _, splits = host
    found = targets.gather(None, splits, entry("held", ["verse", "sums"]), "t")
    assert np.bincount(found["t|dev|task"]).tolist() == [2, 2] and np.bincount(found["t|test|task"]).tolist() == [3, 3]
    with pytest.raises(ValueError, match="sums: expected 25 rows"):
        targets.gather(None, splits, entry("held", ["sums"], 10, 15), "t")


def test_a_row_that_shares_a_held_rows_passage_cannot_be_picked():
    held = rows("sums", 1)
    passage = held[0]["messages"][0]["content"]
    other = [*rows("verse", 3), *rows("verse", 1, text=f"A question about this: {passage}")]
    assert targets.allowed(other, held, set()).tolist() == [True, True, True, False]


def test_a_target_whose_rows_changed_is_refused(host, monkeypatch):
    _, splits = host
    found = targets.gather(None, splits, entry("held", ["sums"]), "t")
    listed = {"t": {**entry("held", ["sums"]), **targets.described(found, "t")}}
    monkeypatch.setattr(targets, "LIST", {"targets": listed})
    targets.check(found)
    found["t|test|key"] = found["t|test|key"] + np.uint64(1)
    with pytest.raises(SystemExit, match="t: expected the rows"):
        targets.check(found)


def aim(near: float, n: int = 200, t: int = 8, d: int = 16, shared: float = 0.0) -> aiming.Aim:
    """A pool of random directions of which the first 40 lie about the target as near as `near`; `shared` points all one way."""
    rng = np.random.default_rng(0)
    centre = unit(rng.normal(size=(1, d)))
    vectors, example = rng.normal(size=(n, d)), centre + 0.3 * unit(rng.normal(size=(t, d)))
    vectors[:40] = near * (centre + 0.3 * unit(rng.normal(size=(40, d)))) + (1 - near) * vectors[:40]
    drift = shared * np.ones(d)
    return aiming.Aim(unit(vectors) + drift, unit(example) + drift, np.arange(n, dtype=np.uint64))


def test_target_examples_take_the_rows_near_them_and_explore_leaves_the_rest_to_chance():
    assert (aim(1.0).nearest(40, seed=1) < 40).all()
    assert 0.4 < (aim(1.0).nearest(40, seed=1, explore=0.5) < 40).mean() < 0.8
    assert len(set(aim(1.0).nearest(150, seed=1).tolist())) == 150


def test_nearness_says_how_near_the_picks_are_to_the_target():
    found = [aim(near, shared=2.0).centred().nearness(30) for near in (0.0, 0.5, 1.0)]
    assert found[2] > 0.9 and found[0] < 0.6 and found[0] < found[1] < found[2]


def test_centred_vectors_have_no_direction_in_common_and_find_the_target():
    drifted = aim(0.9, shared=5.0)
    assert (unit(drifted.vectors) @ unit(drifted.targets).T).min() > 0.9
    np.testing.assert_allclose(drifted.centred().vectors.mean(0), 0, atol=1e-6)
    assert (drifted.centred().nearest(30, 1) < 40).all()


@pytest.mark.parametrize("strategy", aiming.STRATEGIES)
def test_every_strategy_picks_its_budget_of_the_pools_rows_once_each(strategy, tmp_path, monkeypatch):
    space = aim(1.0)
    numbers, examples = np.arange(1000, 1200), np.arange(2000, 2008)
    monkeypatch.setitem(planning.LIST["targets"], "t", {"pool": "host"})
    splits = {"t|pool": numbers, "t|pool|key": space.keys, "t|dev": examples, "t|kept": np.arange(200)}
    whole = np.zeros((2008, 16), dtype=np.float16)
    whole[numbers], whole[examples] = space.vectors, space.targets
    np.save(tmp_path / "embeddings.npy", whole)
    (tmp_path / "pooled/m").mkdir(parents=True)
    np.save(tmp_path / "pooled/m/rows.npy", np.r_[numbers, examples])
    np.save(tmp_path / "pooled/m/vectors.npy", whole[np.r_[numbers, examples]])
    picker = picking.Picker(tmp_path, splits, tmp_path, tmp_path / "embeddings.npy", tmp_path / "pooled")
    monkeypatch.setattr(picker, "groups", lambda pool, by, seed: np.arange(200) % 5)
    picked = picker.pick({**planning.aimed("smollm2-135m", "t", strategy, 3), "model": "m", "budget": 30})
    assert len(set(picked.tolist())) == 30 and set(picked.tolist()) <= set(numbers.tolist())
    if strategy in (aiming.FORMER, "rds", aiming.DEFAULT):
        assert (picked < 1040).all()
    if strategy == "rds, half by kinds":
        assert (picked < 1040).sum() >= 15 and (picked >= 1040).any()


def test_hidden_states_that_were_not_measured_are_asked_for(tmp_path):
    np.save(tmp_path / "rows.npy", np.arange(5))
    np.save(tmp_path / "vectors.npy", np.ones((5, 2)))
    with pytest.raises(SystemExit, match="1 rows have no hidden states"):
        aiming.pooled_of(tmp_path, np.array([1, 7]), np.array([2]), np.zeros(2))


def result(
    strategy: str, seed: int, nll: float, pool: str, model: str = "a", budget: int = 1000, tokens: int = 1000
) -> dict:
    key = {"model": model, "pool": pool, "budget": budget, "strategy": strategy, "seed": seed, "split": "test"}
    return {**key, "macro_nll": nll, "macro_em": 0.5, "tokens": tokens}


def test_the_default_is_compared_with_rds_target_by_target_and_models_of_a_target_are_one():
    held = [name for name, of in targets.LIST["targets"].items() if of["pool_has"] == "held"][:2]
    found = []
    for target, gap in zip(held, (0.1, 0.3), strict=True):
        for model, more in (("a", 0.0), ("b", 0.2)):
            for seed in (1, 2, 3):
                found += [
                    result("rds", seed, 1.0 + seed, target, model),
                    result(aiming.DEFAULT, seed, 1.0 + seed + gap + more, target, model),
                ]
    summary = target_figures.figures(found)
    figure = summary["target_minus_rds"]
    assert figure["value"] == pytest.approx(0.3) and figure["low"] < 0 < figure["high"] and figure["seeds"] == 3
    assert summary["targets"][f"held, {aiming.DEFAULT}"]["minus rds"] == figure
    assert f"absent, {aiming.DEFAULT}" not in summary["targets"]  # never played
    assert Ground(found).cells == []  # targets are no cells of the other figures


def test_a_strategy_is_chosen_on_the_other_targets_and_judged_on_the_one_left_out():
    found, names = [], list(targets.LIST["targets"])[:3]
    for target, centred in zip(
        names, (0.9, 0.9, 1.6), strict=True
    ):  # random 2, RDS+ 1: centred wins on two targets and loses on the third
        nlls = {"random": 2.0, "rds": 1.0, aiming.DEFAULT: centred}
        found += [result(name, seed, nll, target) for name, nll in nlls.items() for seed in (1, 2)]
    chosen = target_figures.chosen_elsewhere(target_figures.runs_of(found))
    gained = {target: values.mean() for (_, target), values in chosen.items()}
    assert gained[names[2]] == pytest.approx(0.6)  # chosen on the first two, which it wins
    assert gained[names[0]] == 0.0  # on the other two RDS+ is better in the mean, and RDS+ less itself is nothing


def ground(nll: float, tokens: int, curve: dict[int, float] | None = None) -> Ground:
    found = [
        result("random", s, value, "p", budget=b, tokens=b)
        for b, value in ((1000, 2.0), (2000, 1.5), (4000, 1.0))
        for s in (1, 2)
    ]
    found += [result(WITH, s, nll, "p", tokens=tokens) for s in (1, 2)]
    found += [result(WITH, s, value, "p", budget=b) for b, value in (curve or {}).items() for s in (1, 2)]
    return Ground(found)


def test_seconds_count_the_selections_tokens_and_those_of_its_control():
    found = ground(1.5, tokens=1500)  # half of random's examples, each half as long again
    assert cost.seconds_ratio(found, found.cells, WITH, 0.0)["value"] == pytest.approx(0.5 * 1.5, abs=1e-3)
    assert cost.seconds_ratio(found, found.cells, WITH)["value"] == pytest.approx(0.5 * 2.5, abs=1e-3)


@pytest.mark.parametrize(
    ("nll", "em", "metric", "base", "answer"),
    [
        ([-0.3, 0.1], [0.0, 0.01], "nll", None, "pays"),
        ([-0.25, 0.1], [0.0, 0.01], "nll", None, "open"),  # inside 2.576 standard errors
        ([-0.3, 0.1], [-0.03, 0.01], "nll", None, "open"),  # gained at the cost of exact match
        ([0.3, 0.1], [-0.03, 0.01], "nll", None, "costs"),
        ([0.0, 0.1], [0.03, 0.01], "em", None, "pays"),
        (
            [0.0, 0.1],
            [0.0, 0.01],
            "em",
            5.0,
            "safe",
        ),  # may cost 0.196; 300 more would bring 4 · ln(601/301) / ln(301) / 2 = 0.242
        ([0.0, 0.1], [0.0, 0.01], "em", 4.2, "open"),  # ... here 3.2 / 4 · 0.242 = 0.194, less than what it may cost
        ([0.0, 0.1], [-0.03, 0.01], "em", 9.0, "costs"),
    ],
)
def test_a_first_round_answers_as_a_run_does(nll, em, metric, base, answer):
    assert cost.evidence({"nll": nll, "em": em, "decides": metric}, base, 1.0).answer == answer


def test_the_control_costs_what_its_first_rounds_leave_open():
    points = ((300, 3.0), (1000, 2.0), (2000, 1.5))
    rows = [result("random", seed, nll, "sums", budget=budget) for budget, nll in points for seed in (1, 2, 3)]
    rows += [result(WITH, seed, 1.0, "sums") for seed in (1, 2, 3)]
    for seed, mean in ((1, -0.3), (2, -0.1), (3, 0.1)):
        paired = {"nll": [mean, 0.1], "em": [0.0, 0.1], "decides": "nll"}
        rows.append({**result(WITH, seed, 1.5, "sums", budget=cost.EARLY), "paired": paired})
    found = Ground(rows)
    model, pool = found.cells[0]
    assert cost.controls(cost.answers(found, WITH, {})) == {found.cells[0]: pytest.approx((0.25 + 1.0 + 1.0) / 3)}
    base = {model: {pool: 3.0 + 0.2 / cost.worth_of_examples(1.0, 0.0, 300, 300)}}  # 300 more would bring 0.2
    said = cost.answers(found, WITH, base)
    assert said == {found.cells[0]: {1: "pays", 2: "safe", 3: "open"}}
    assert cost.controls(said) == {found.cells[0]: pytest.approx((0.25 + 0.25 + 1.0) / 3)}
    with_auto = cost.figures(found, found.cells, WITH, base)
    assert with_auto["gpu_seconds"]["with a control in every round"]["value"] > with_auto["gpu_seconds_ratio"]["value"]
    assert with_auto["first_rounds"] == {"pays": 1, "safe": 1, "costs": 0, "open": 1}
    for name, more in (("random", {}), (WITH, {"paired": {"nll": [-0.3, 0.1], "em": [0.0, 0.1], "decides": "nll"}})):
        rows.append({**result(f"{name}, 2 rounds", 3, 2.5, "sums", budget=2 * cost.EARLY), **more})
    later = cost.figures(found := Ground(rows), found.cells, WITH, base)
    assert later["first_rounds"] == with_auto["first_rounds"] | {
        "second_rounds": {"pays": 1, "safe": 0, "costs": 0, "open": 0}
    }
    assert later["gpu_seconds_ratio"]["note"].endswith("a control of 0.33")  # a quarter twice, and half


@pytest.mark.parametrize(
    ("first", "second", "rounds"),
    [
        ("pays", None, 1),
        ("safe", "open", 1),
        ("open", "pays", 2),
        ("costs", "safe", 2),
        ("costs", "costs", 2),  # the default then picks at random
        ("open", "costs", 4),  # asks for another loss
        ("costs", "open", 4),
        ("open", None, 4),
    ],
)
def test_a_control_is_trained_until_a_round_answers(first, second, rounds):
    assert cost.rounds_with_control(first, second) == rounds


def test_what_a_second_round_says_counts_its_600_examples():
    paired = {"nll": [0.0, 0.1], "em": [0.0, 0.01], "decides": "em"}  # may cost 0.196
    assert cost.evidence(paired, 5.0, 1.0).answer == "safe"
    assert cost.evidence(paired, 5.0, 1.0, 600).answer == "open"  # 300 more bring 4 · ln(901/601) / ln(601) / 2 = 0.127


def test_a_second_round_serves_the_groups_that_the_first_did_not():
    cluster = np.repeat(np.arange(40), 20 + 2 * np.arange(40))
    keys = np.random.default_rng(0).permutation(len(cluster)).astype(np.uint64)
    picks = picking.in_two_rounds(keys, cluster, {"budget": 52, "seed": 1}, WITH)
    assert len(np.unique(picks)) == 52 and len(np.unique(cluster[picks])) == 40  # 20 of 26 go by groups, in each round
    assert picks[:26].tolist() == picking.spread(keys, cluster, {"budget": 26, "seed": 1}, WITH).tolist()


def test_a_strategy_with_a_curve_of_its_own_is_read_off_that():
    found = ground(1.8, 1000, {300: 2.5, 4000: 1.2})
    expected = np.exp(np.log(1000) + np.log(4) * 0.3 / 0.6) / 2000  # between 1.8 at 1,000 and 1.2 at 4,000
    assert cost.needed(found, ("a", "p"), WITH, np.array([1.8])) == pytest.approx(expected, abs=1e-3)
    assert cost.seconds_ratio(Ground([]), [], WITH)["value"] is None


def measured(n: int = 60, dev: int = 5) -> peer_picks.Measured:
    """A pool whose rows' loss rises with their number; the first tenth answers better without its prompt (ratio above 1)."""
    space = aim(1.0, n=n, t=dev)
    nll = np.linspace(0.5, 2.5, n)
    unprompted = np.where(np.arange(n) < n // 10, nll / 2, 3.0)
    return peer_picks.Measured(space, nll, unprompted, space)


def test_rules_by_score_take_high_losses_and_deita_leaves_out_near_copies():
    of = measured()
    top = peer_picks.pick("deita", of, 12, 1, Path("nowhere"))
    assert len(set(top.tolist())) == 12 and np.median(of.nll[top]) > np.median(of.nll)
    vectors = unit(of.hidden.centred().vectors[top])
    assert (vectors @ vectors.T - np.eye(12)).max() <= 0.9 + 1e-6
    assert len(set(peer_picks.pick("qdit", of, 12, 1, Path("nowhere")).tolist())) == 12
    assert (peer_picks.pick("rds to dev", of, 12, 1, Path("nowhere")) < 40).all()


def peer(folder: Path, package: str, script: str) -> Path:
    """A peer whose script is `script`, found by a folder of packages that holds a module of its name."""
    (folder / package).mkdir(parents=True)
    (folder / package / f"{package}_module.py").write_text("RATIO = 1\n")
    (folder / script).write_text(
        "import sys\nimport numpy as np\nimport wana_module\ngiven = np.load(sys.argv[1])\n"
        "ratio = given['nll'] / given['unprompted']\nratio[ratio > wana_module.RATIO] = 0\n"
        "np.save(sys.argv[2], np.argsort(-ratio)[: int(given['budget'])])\n"
    )
    return folder


def test_a_peer_runs_with_its_own_packages_and_what_the_model_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(peer_picks, "RULES", peer(tmp_path, "wana", "wana_ifd.py"))
    assert sorted(peer_picks.pick("ifd, wana", measured(), 5, 1, tmp_path).tolist()) == [55, 56, 57, 58, 59]
    with pytest.raises(SystemExit, match="pip install"):
        peer_picks.pick("loss, DataFlex", measured(), 5, 1, tmp_path)
    (tmp_path / "wana_ifd.py").write_text("raise ValueError('no rows above the bar')")
    with pytest.raises(SystemExit, match="no rows above the bar"):
        peer_picks.pick("ifd, wana", measured(), 5, 1, tmp_path)


def test_a_peer_that_picks_too_few_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(peer_picks, "RULES", peer(tmp_path, "wana", "wana_ifd.py"))
    (tmp_path / "wana_ifd.py").write_text("import sys\nimport numpy as np\nnp.save(sys.argv[2], np.zeros(5, int))\n")
    with pytest.raises(SystemExit, match="expected 5 rows, each once, found 1"):
        peer_picks.pick("ifd, wana", measured(), 5, 1, tmp_path)


def test_each_stage_has_a_table_once_it_has_rows():
    tables = stage_tables([result("random", 1, 2.0, "sums"), result(WITH, 1, 1.5, "sums")])
    assert tables and not any(tables.values())
    found = [result("random", s, 2.0 + s, "sums") for s in (1, 2)] + [
        result("deita", s, 1.5 + s, "sums") for s in (1, 2)
    ]
    found += [result(f"{WITH}, 4 rounds", 1, 1.25, "sums"), result(WITH, 1, 1.5, "sums")]
    found += [result("random", 1, 3.0, "sums", budget=300), result(WITH, 1, 2.0, "sums", budget=300)]
    found += [result("random", 1, 1.0, "irish-kin"), result("rds", 1, 0.25, "irish-kin")]
    found += [result(f"{WITH}, drawn by loss", s, 1.0 + s, "sums") for s in (1, 2)]
    found += [result("label", 1, 2.5, "sums", budget=300)]
    found += [result(f"{name}, 2 rounds", 1, nll, "sums", budget=600) for name, nll in (("random", 2.0), (WITH, 1.75))]
    tables = stage_tables(found)
    assert tables.pop("goal") == ""
    targets_, peers, rounds, losses, asked, smaller = tables.values()
    rounds, second = rounds.split("\n\nTwo rounds of ")
    assert second.startswith("300") and "| a, sums | -0.250 (1)<br>+0.0 |" in second
    assert "| a, sums | +0.500 (1)<br>+0.0 | – | – | – |" in losses  # only seed 1 has both
    assert "| a, sums | -0.500 (1)<br>+0.0 | – | – |" in asked
    assert "| a, irish-kin: kin, evals | 1.000 | – | -0.750 (1)<br>+0.0 |" in targets_
    assert "-0.500 ± 0.000 (2)<br>+0.0" in peers and "other projects" in peers.casefold()
    assert "| a, sums | – | -0.250 (1)<br>+0.0 | – |" in rounds
    assert smaller.startswith("At 300 examples") and "| a, sums | -1.000 (1)<br>+0.0 | – | – | – |" in smaller
