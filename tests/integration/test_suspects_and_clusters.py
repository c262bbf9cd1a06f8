"""What later rounds make of measured losses: wrong answers are held back, and clusters follow."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from command_line import winnow
from safetensors.numpy import load_file, save_file
from tiny_world import WORDS

from al.pool.store import Pool

WRONG = "nine bridge opposite"


def outspoken(model: str, copy: Path) -> Path:
    """The model with a louder head: random ones of this size are nearly even in every token, whatever they are taught."""
    shutil.copytree(model, copy)
    weights = load_file(copy / "model.safetensors")
    save_file(
        weights | {"lm_head.weight": 12 * weights["lm_head.weight"]}, copy / "model.safetensors", {"format": "pt"}
    )
    return copy


@pytest.fixture(scope="module")
def measured(world, tmp_path_factory) -> Path:
    """Two rounds on two tasks in one cluster: one that is soon learned, with some wrong answers in it, and one that cannot be. The
    second round measures all."""
    root, rng = tmp_path_factory.mktemp("suspects"), random.Random(2)
    easy = [(f"agree with {' '.join(rng.sample(WORDS[:18], 5))}", "yes") for _ in range(90)]
    hard = [(f"{' '.join(rng.sample(WORDS[18:], 9))}", " ".join(rng.choices(WORDS, k=2))) for _ in range(60)]
    rows = [(prompt, WRONG if i % 15 == 4 else answer) for i, (prompt, answer) in enumerate(easy)] + hard
    pool = root / "pool.jsonl"
    pool.write_text("".join(json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in rows))
    config = yaml.safe_load(world.read_text())
    config["pool"]["files"], config["model"]["name"] = (
        [str(pool)],
        str(outspoken(config["model"]["name"], root / "model")),
    )
    config["holdout"], config["cluster"] = {"dev": 4, "test": 8}, {"k": 1}
    config["score"]["sample_per_cluster"] = "all"
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    do_round(
        root / "run", "--config", root / "config.yaml", "--strategy", "random", "--set", "train.epochs=6", budget=40
    )
    do_round(root / "run", "--strategy", "loss", "--set", "train.epochs=1")
    return root / "run"


def do_round(run, *more, budget=12):
    result = winnow("round", "--run", run, "--budget", budget, "--no-control", *more)
    assert result.code == 0, result.err
    return result


@pytest.fixture
def again(measured, tmp_path) -> Path:
    """A copy of the run, to go on with."""
    return shutil.copytree(measured, tmp_path / "run", symlinks=True)


def table(run, number):
    return pq.read_table(run / f"rounds/{number:03d}/selection/selection.parquet").to_pandas()


def suspects(run, number):
    return pq.read_table(run / f"rounds/{number:03d}/suspects/suspects.parquet").to_pandas()


def wrong(run) -> set[str]:
    """Ids of the wrong answers that are neither held out nor trained on in the first round."""
    pool = Pool.open(run / "rounds/001/pool")
    planted = {pool.ids[row] for row, m in enumerate(pool.messages(np.arange(len(pool)))) if m[-1]["content"] == WRONG}
    first = table(run, 1)
    return planted & set(first[first.outcome == "quota_full"].id)


def test_wrong_answers_are_suspected_once_the_task_is_learned_and_held_back(measured):
    assert len(suspects(measured, 1)) == 0  # nothing was measured
    found, second = suspects(measured, 2), table(measured, 2)
    assert len(wrong(measured)) >= 2
    assert set(found.id) == wrong(measured)
    assert set(second[second.outcome == "suspected_noise"].id) == set(found.id)
    assert set(second[second.suspicion.notna()].id) == set(found.id)
    assert (found["round"] == 2).all() and (found.nll > found.neighbour_nll).all() and (found.z >= 1.75).all()
    assert found.reason.str.contains("where its 16 nearest neighbours have").all()
    document = json.loads((measured / "rounds/002/suspects/suspects.json").read_text())
    assert document["suspects"] == len(found) and document["measured"] == np.isfinite(second.nll).sum()
    summary = json.loads((measured / "rounds/002/summary.json").read_text())
    assert summary["selection"]["outcomes"]["suspected_noise"] == len(found)
    page = (measured / "rounds/002/report.html").read_text()
    assert f"noise.release=[{found.id.iloc[0]}]" in page


def test_suspects_stay_so_until_they_are_measured_again(measured, again):
    before = suspects(measured, 2)
    do_round(again, "--strategy", "random")  # measures nothing
    assert set(suspects(again, 3).key) == set(before.key) and (suspects(again, 3)["round"] == 2).all()
    third = table(again, 3)
    assert set(third[third.outcome == "suspected_noise"].id) == set(before.id)
    assert third[third.outcome == "suspected_noise"].suspicion.tolist() != [None] * len(before)
    do_round(again, "--strategy", "loss")  # measures all
    assert (suspects(again, 4)["round"] == 4).all() and wrong(again) <= set(suspects(again, 4).id)


def test_noise_that_is_not_held_back_is_listed_all_the_same(measured, again):
    do_round(again, "--strategy", "random", "--set", "noise.hold=false")
    third, before = table(again, 3), suspects(measured, 2)
    assert set(suspects(again, 3).id) == set(before.id) == set(third[third.suspicion.notna()].id)
    assert "suspected_noise" not in set(third.outcome)
    page = (again / "rounds/003/report.html").read_text()
    assert page.count("suspected noise: NLL") >= len(before)


def test_a_suspect_that_is_released_may_be_picked(measured, again):
    freed = suspects(measured, 2).id.iloc[0]
    everything = int(table(measured, 2).outcome.isin(["quota_full", "tail_cut"]).sum())
    refused = winnow("round", "--run", again, "--budget", everything + 2, "--no-control", "--strategy", "random")
    assert refused.code == 3 and "held back as suspected noise" in refused.err and "noise.hold=false" in refused.err
    do_round(again, "--strategy", "random", "--set", f"noise.release=[{freed}]", budget=everything + 1)
    outcomes = table(again, 3).set_index("id").outcome
    assert outcomes[freed] == "selected"
    assert (outcomes == "suspected_noise").sum() == len(suspects(measured, 2)) - 1


def clusters(run, number):
    return json.loads((run / f"rounds/{number:03d}/clusters/clusters.json").read_text())


def test_the_third_round_splits_a_cluster_whose_losses_are_uneven(measured, again):
    assert [clusters(measured, number)["k"] for number in (1, 2)] == [1, 1]
    do_round(again, "--strategy", "loss")
    found, assigned = clusters(again, 3), table(again, 3)
    assert found["k"] == 2 == len(found["names"]) and len(found["changes"]) == 1
    assert found["changes"][0]["old"] == [0] and found["changes"][0]["new"] == [0, 1]
    assert [name[-4:] for name in found["names"]] == [" · 1", " · 2"]
    pool = Pool.open(again / "rounds/003/pool")
    easy = np.array([m[0]["content"].startswith("agree") for m in pool.messages(np.arange(len(pool)))])
    assert max(np.mean(assigned.cluster[easy] == 0), np.mean(assigned.cluster[~easy] == 1)) > 0.9
    link = (again / "rounds/003/clusters").resolve()
    assert link.parent.name == "adapted_clusters"
    assert (pq.read_table(link / "clusters.parquet")["cluster"].to_numpy() == assigned.cluster).all()
    quotas = json.loads((again / "rounds/003/selection/quotas.json").read_text())
    assert [entry["name"] for entry in quotas] == found["names"]
    assert [entry["size"] for entry in quotas] == np.bincount(assigned.cluster).tolist()
    assert sum(entry["picked"] for entry in quotas) == 12
    summary = json.loads((again / "rounds/003/summary.json").read_text())
    told = [{key: cluster[key] for key in entry} for cluster, entry in zip(summary["clusters"], quotas, strict=True)]
    assert told == quotas and Counter(summary["map"]["cluster"]) == Counter(assigned.cluster.tolist())
    reason = found["changes"][0]["reason"]
    assert {cluster["change"] for cluster in summary["clusters"]} == {
        f"split from cluster 0 of the round before: {reason}"
    }
    page = (again / "rounds/003/report.html").read_text()
    assert all(name in page for name in found["names"])


def test_clusters_that_do_not_adapt_stay_those_of_the_pool(measured, again):
    do_round(again, "--strategy", "random", "--set", "cluster.adapt=false")
    assert clusters(again, 3)["k"] == 1 and "changes" not in clusters(again, 3)
    assert (again / "rounds/003/clusters").resolve() == (again / "rounds/001/clusters").resolve()


def test_another_number_of_clusters_is_not_what_adapted_ones_go_on_from(again):
    do_round(again, "--strategy", "random", "--set", "cluster.k=4")
    assert clusters(again, 3)["k"] == 4 and "changes" not in clusters(again, 3)
    do_round(again, "--strategy", "random")
    assert clusters(again, 4)["k"] >= 4 and "changes" in clusters(again, 4)
