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


def copying(model: str, copy: Path) -> Path:
    """The model with weights that make what stands in the context likely, so that it knows without training which responses belong to
    their prompts: even attention adds the mean of all embeddings to each, and the head finds what lies near."""
    shutil.copytree(model, copy)
    weights = load_file(copy / "model.safetensors")
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=weights["model.embed_tokens.weight"].shape)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    value = np.linalg.qr(rng.normal(size=(32, 16)))[0].T
    heads = np.repeat(value.reshape(2, 8, 32), 2, axis=0).reshape(32, 32)  # two query heads share one of values
    changed = {"model.embed_tokens.weight": embedding, "lm_head.weight": 1.5 * embedding}
    for layer in (0, 1):
        of = f"model.layers.{layer}."
        changed |= {of + name: 0 * weights[of + name] for name in ("self_attn.q_proj.weight", "mlp.down_proj.weight")}
        changed[of + "self_attn.v_proj.weight"] = value
        changed[of + "self_attn.o_proj.weight"] = heads.T * (layer == 0)
    save_file(
        weights | {name: np.ascontiguousarray(w, dtype=np.float32) for name, w in changed.items()},
        copy / "model.safetensors",
        {"format": "pt"},
    )
    return copy


@pytest.fixture(scope="module")
def measured(world, tmp_path_factory) -> Path:
    """Two rounds on two tasks in one cluster, answers to which repeat words of their prompts: out of two, which is easy, with some of
    the answers exchanged, and out of five. The second round measures all."""
    root, rng = tmp_path_factory.mktemp("suspects"), random.Random(2)
    rows = []
    for i in range(90):
        two, other = np.reshape(rng.sample(WORDS[:18], 4), (2, 2)).tolist()
        answer = " ".join(rng.choices(other if i % 9 == 4 else two, k=8))
        rows.append((f"easy {' '.join(rng.choices(two, k=8))}", answer))
    for _ in range(60):
        five = rng.sample(WORDS[18:], 5)
        rows.append((" ".join(five), " ".join(five[:4])))
    pool = root / "pool.jsonl"
    pool.write_text("".join(json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in rows))
    config = yaml.safe_load(world.read_text())
    config["pool"]["files"], config["model"]["name"] = (
        [str(pool)],
        str(copying(config["model"]["name"], root / "model")),
    )
    config["holdout"], config["cluster"] = {"dev": 4, "test": 8}, {"k": 1}
    config["score"]["sample_per_cluster"] = "all"
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    do_round(
        root / "run",
        "--config",
        root / "config.yaml",
        "--strategy",
        "random",
        "--set",
        "train.learning_rate=1e-4",
        budget=40,
    )
    do_round(root / "run", "--strategy", "loss")
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


def is_wrong(messages) -> bool:
    return not set(messages[-1]["content"].split()) <= set(messages[0]["content"].split())


def wrong(run) -> set[str]:
    """Ids of the wrong answers that are neither held out nor trained on in the first round."""
    pool = Pool.open(run / "rounds/001/pool")
    planted = {pool.ids[row] for row, m in enumerate(pool.messages(np.arange(len(pool)))) if is_wrong(m)}
    first = table(run, 1)
    return planted & set(first[first.outcome == "quota_full"].id)


def test_wrong_answers_are_suspected_once_the_task_is_learned_and_held_back(measured):
    assert len(suspects(measured, 1)) == 0  # nothing was measured
    found, second = suspects(measured, 2), table(measured, 2)
    right = wrong(measured) & set(found.id)
    assert len(right) >= 0.6 * len(wrong(measured)) >= 3 and len(right) >= 0.7 * len(found)
    assert set(second[second.outcome == "suspected_noise"].id) == set(found.id)
    assert set(second[second.suspicion.notna()].id) == set(found.id)
    assert (found["round"] == 2).all() and (found.nll > found.nll_unprompted).all() and (found.gain < 0).all()
    assert found.reason.str.startswith("its prompt makes its response less likely: NLL").all()
    document = json.loads((measured / "rounds/002/suspects/suspects.json").read_text())
    looked_at = int(np.isfinite(second.nll).sum())
    assert document == {"looked_at": looked_at, "found": len(found), "suspects": len(found)}
    summary = json.loads((measured / "rounds/002/summary.json").read_text())
    assert summary["selection"]["outcomes"]["suspected_noise"] == len(found)
    page = (measured / "rounds/002/report.html").read_text()
    assert f"noise.release=[{found.id.iloc[0]}]" in page
    assert summary["scoring"]["noise"] == document and "measured with and without their prompts" in page


def test_suspects_stay_so_until_they_are_measured_again(measured, again):
    before = suspects(measured, 2)
    do_round(again, "--strategy", "random", "--set", "noise.look=measured")  # measures nothing
    assert set(suspects(again, 3).key) == set(before.key) and (suspects(again, 3)["round"] == 2).all()
    third = table(again, 3)
    assert set(third[third.outcome == "suspected_noise"].id) == set(before.id)
    assert third[third.outcome == "suspected_noise"].suspicion.tolist() != [None] * len(before)
    do_round(again, "--strategy", "loss")  # measures all
    assert (suspects(again, 4)["round"] == 4).all() and len(suspects(again, 4)) > 0


def test_noise_that_is_not_held_back_is_listed_all_the_same(measured, again):
    do_round(again, "--strategy", "random", "--set", "noise.hold=false", "--set", "noise.look=measured")
    third, before = table(again, 3), suspects(measured, 2)
    assert set(suspects(again, 3).id) == set(before.id) == set(third[third.suspicion.notna()].id)
    assert "suspected_noise" not in set(third.outcome)
    page = (again / "rounds/003/report.html").read_text()
    assert page.count("suspected noise: its prompt") >= len(before)


def test_a_suspect_that_is_released_may_be_picked(measured, again):
    freed = suspects(measured, 2).id.iloc[0]
    everything = int(table(measured, 2).outcome.isin(["quota_full", "tail_cut"]).sum())
    only = ("--no-control", "--strategy", "random", "--set", "noise.look=measured")
    refused = winnow("round", "--run", again, "--budget", everything + 2, *only)
    assert refused.code == 3 and "held back as suspected noise" in refused.err and "noise.hold=false" in refused.err
    do_round(again, *only[1:], "--set", f"noise.release=[{freed}]", budget=everything + 1)
    outcomes = table(again, 3).set_index("id").outcome
    assert outcomes[freed] == "selected"
    assert (outcomes == "suspected_noise").sum() == len(suspects(measured, 2)) - 1


def looked_at(run, number) -> set[int]:
    """Rows that a round measured for their noise alone."""
    return set(pq.read_table(run / f"rounds/{number:03d}/shortlist/statistics.parquet")["row"].to_pylist())


def picked(run, number) -> set[int]:
    return set(np.flatnonzero(table(run, number).outcome == "selected").tolist())


def test_every_pick_is_looked_at_before_it_is_one_where_that_is_asked_for(again):
    do_round(again, "--strategy", "random", "--set", "noise.look=picks", budget=30)
    third = table(again, 3)
    assert len(picked(again, 3)) == 30 and picked(again, 3) <= looked_at(again, 3)
    assert not third[third.outcome == "selected"].id.isin(suspects(again, 3).id).any()


def test_where_a_twentieth_was_suspected_some_picks_are_looked_at_by_default(again):
    do_round(again, "--strategy", "random", budget=30)
    assert 0 < len(looked_at(again, 3) & picked(again, 3)) < 30
    assert len(looked_at(again, 3)) <= 30 / 3  # a ninth of the time of training


def test_nothing_is_looked_at_where_nobody_asks(again):
    do_round(again, "--strategy", "random", "--set", "noise.look=none")
    assert not looked_at(again, 3)
    do_round(again, "--strategy", "loss", "--set", "noise.look=none")
    assert "nll_unprompted_mean" not in pq.read_schema(again / "rounds/004/score/statistics.parquet").names
    do_round(again, "--strategy", "loss", "--set", "noise.look=none", "--set", "score.also=[ifd]")
    assert "nll_unprompted_mean" in pq.read_schema(again / "rounds/005/score/statistics.parquet").names
    assert (suspects(again, 5)["round"] == 2).all()


def test_a_base_model_that_is_asked_for_ifd_is_not_asked_for_noise(measured, tmp_path):
    do_round(
        tmp_path / "run", "--config", measured.parent / "config.yaml", "--strategy", "loss", "--set", "score.also=[ifd]"
    )
    document = json.loads((tmp_path / "run/rounds/001/suspects/suspects.json").read_text())
    assert document == {"looked_at": 0, "found": 0, "suspects": 0}


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
    easy = np.array([m[0]["content"].startswith("easy") for m in pool.messages(np.arange(len(pool)))])
    assert max(np.mean(assigned.cluster[easy] == 0), np.mean(assigned.cluster[~easy] == 1)) > 0.9
    sizes = np.bincount(assigned.cluster)
    quality, of_pool = found["quality"], clusters(measured, 1)["quality"]
    assert quality == of_pool | {"k": 2, "smallest": int(sizes.min()), "largest": int(sizes.max())}
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
        f"split from group 0 of the previous clustering: {reason}"
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
