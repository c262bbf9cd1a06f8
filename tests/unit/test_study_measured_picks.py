"""Picks of the study that a base model's measurements decide: by loss on top of kinds, and prompts that it is unsure of."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.proving_ground import by_loss, labelling
from benchmarks.proving_ground.ground import KIND
from benchmarks.proving_ground.planning import plan

N = 600
KEYS = np.random.default_rng(4).permutation(N).astype(np.uint64) + np.uint64(1000)
GROUP = np.repeat([0, 1, 2], [400, 150, 50])
LOSS = np.where(np.arange(N) % 2 == 0, 1.0, 4.0)


def test_rows_are_drawn_in_proportion_to_their_weight_and_every_seed_draws_others():
    first = [np.argmax(by_loss.in_proportion(KEYS, LOSS, seed)) for seed in range(2000)]
    heavy = np.mean(LOSS[first] == 4.0)
    assert heavy == pytest.approx(0.8, abs=0.03)  # 300 rows of weight 4 against 300 of weight 1
    assert len(set(first)) > 500


@pytest.mark.parametrize("strategy", by_loss.STRATEGIES)
def test_losses_change_what_they_should_and_nothing_else(strategy):
    loss = np.where(GROUP == 2, 8.0, LOSS) if strategy.endswith(by_loss.SHARES) else LOSS
    picks = by_loss.pick(strategy, KEYS, GROUP, loss, 90, 1, 0.0)
    assert len(np.unique(picks)) == 90
    counts, high = np.bincount(GROUP[picks], minlength=3), np.mean(LOSS[picks] == 4.0)
    if strategy.endswith(by_loss.DRAWN):
        assert counts.tolist() == [30, 30, 30]
        assert high > 0.65
    else:
        assert counts[2] > 1.8 * counts[0]
        assert 0.35 < high < 0.65


def test_a_row_without_a_loss_is_drawn_last():
    loss = LOSS.copy()
    loss[:100] = np.nan
    picks = by_loss.pick(f"{KIND}, {by_loss.DRAWN}", KEYS, GROUP, loss, 120, 1, 0.0)
    assert not np.isin(picks, np.arange(100)).any()


def test_a_quarter_is_at_random_where_the_default_has_it_so():
    with_random = by_loss.pick(f"{KIND}, {by_loss.DRAWN}", KEYS, GROUP, LOSS, 120, 1, 0.25)
    counts = np.bincount(GROUP[with_random], minlength=3)
    assert counts[0] > 40 > counts[2]


def test_candidates_are_as_many_of_each_cluster_and_cover_the_budget_four_times():
    places = labelling.candidates(KEYS, GROUP, 1, budget=30)
    assert np.bincount(GROUP[places]).tolist() == [40, 40, 40]
    few = labelling.candidates(KEYS, GROUP, 1, budget=100)
    assert np.bincount(GROUP[few]).tolist() == [200, 150, 50]
    assert set(places.tolist()) != set(labelling.candidates(KEYS, GROUP, 2, budget=30).tolist())


def test_clusters_take_turns_with_the_prompt_that_the_model_is_least_sure_of(tmp_path):
    places = labelling.candidates(KEYS, GROUP, 1, budget=30)
    rows = np.arange(N) * 3 + 7
    entropy, disagreement = np.sin(np.arange(N)), np.cos(np.arange(N))
    np.savez(tmp_path / "m.npz", rows=rows[places], entropy=entropy[places], disagreement=disagreement[places])
    picks = labelling.pick("label, entropy", KEYS, rows, GROUP, 1, 30, tmp_path / "m.npz")
    for group in range(3):
        measured = places[GROUP[places] == group]
        best = measured[np.argsort(-entropy[measured])][:10]
        assert sorted(picks[GROUP[picks] == group]) == sorted(best)
    assert set(picks) != set(labelling.pick("label", KEYS, rows, GROUP, 1, 30, tmp_path / "m.npz"))
    with pytest.raises(SystemExit, match="were not measured"):
        labelling.pick("label", KEYS, rows + 1, GROUP, 1, 30, tmp_path / "m.npz")


def test_both_stages_are_planned_with_picks_of_each_model():
    pools = ("sums", "few-large")
    runs = plan("smollm2-135m", ["by_loss", "label"], pools)
    assert len(runs) == 2 * 3 * 4 + 2 * 5 * 4
    own = [run for run in runs if run["strategy"] in (*by_loss.STRATEGIES, *labelling.STRATEGIES)]
    assert all(run["picks"].startswith("smollm2-135m|") for run in own)
    assert len({run["picks"] for run in own}) == len(own) == 2 * 3 * 4 + 2 * 5 * 2
