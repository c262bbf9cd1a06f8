"""Every score in real rounds: measured once, kept with its example, and the target never trained on."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from command_line import winnow, winnow_child
from tiny_world import WORDS

from al.pool.store import Pool
from selection.registry import SCORES, STRATEGIES

NAMED = tuple(name for name in SCORES if name != "length")
PICKS = 24


def write_messages(path, rows):
    """Conversations of (question, answer, rating); a question may be followed by further turns."""
    lines = []
    for question, answer, rating in rows:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if len(lines) % 3 == 0:
            messages += [{"role": "user", "content": "and then"}, {"role": "assistant", "content": answer[::-1]}]
        lines.append(json.dumps({"messages": messages, "source": path.stem, "rating": rating}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def scored(world, two_rounds, tmp_path_factory):
    """Config of a world with ratings, a target, and every score asked for; and its files."""
    root = tmp_path_factory.mktemp("scored")
    rng = random.Random(3)

    def rows(count, kind):
        picked = (rng.sample(WORDS, rng.randint(4, 9)) for _ in range(count))
        return [(f"{kind} {' '.join(words)}", " ".join(words[:2]), round(rng.random(), 3)) for words in picked]

    pool, target = rows(140, "repeat the start of"), rows(12, "say the start of")
    overlap = pool[:2]  # in the pool as well: must not be trained on
    config = yaml.safe_load(world.read_text())
    config["pool"]["files"] = [str(write_messages(root / "rated.jsonl", pool))]
    config["target"] = {"files": [str(write_messages(root / "target.jsonl", target + overlap))]}
    config["score"] |= {"also": list(NAMED[1:]), "quality": "rating", "gradient_dimension": 64, "by": "nll"}
    config["select"] = {"strategy": "top"}
    config["holdout"] = {"dev": 8, "test": 12}
    path = root / "scored.yaml"
    config["score"]["reference"] = str(two_rounds[0] / "rounds/001/train/adapter")
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def run(scored, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "scored"
    for _ in range(2):
        result = winnow("round", "--config", scored, "--run", path, "--budget", PICKS, "--no-control")
        assert result.code == 0, result.err
    return path


def propose(run, config, *more):
    """The first round of a new run up to its selection, which is not trained on."""
    arguments = ("round", "--config", config, "--run", run, "--review", "--export", run.parent / "batch.csv")
    result = winnow(*arguments, *more)
    assert result.code == 0, result.err
    return proposed(run)


def proposed(run):
    """The selection of a first round that is not over."""
    (path,) = (run / "artifacts/selection").glob("*/selection.parquet")
    return pq.read_table(path).to_pandas()


def table(run, number):
    return pq.read_table(run / f"rounds/{number:03d}/selection/selection.parquet").to_pandas()


def test_every_score_is_kept_with_its_example(run):
    first, second = table(run, 1), table(run, 2)
    assert set(NAMED) <= set(first.columns)
    for name in NAMED:
        measured = first[np.isfinite(first["nll"])][name]
        assert np.isfinite(measured).all() == (name != "forgetting"), name
    assert first["forgetting"].isna().all()  # nothing came before
    assert second["forgetting"].notna().any()
    picked = [json.loads(line) for line in (run / "rounds/002/selection/selection.jsonl").read_text().splitlines()]
    assert all(record["ifd"] is not None and record["less"] is not None for record in picked)


def test_trap_18_ifd_compares_the_same_frame(run):
    """Random weights learn nothing of prompts, so that both losses are nearly alike; a response behind a bare first token, which
    another template would give, is not what they are compared with."""
    first = table(run, 1)
    assert first["ifd"].dropna().between(0.8, 1.2).all() and first["ifd"].std() > 0


def test_forgetting_is_the_loss_now_less_the_lowest_before(run):
    first, second = table(run, 1).set_index("id"), table(run, 2).set_index("id")
    both = second.index[second["forgetting"].notna()]
    expected = second.loc[both, "nll"] - first.loc[both, "nll"]
    np.testing.assert_allclose(second.loc[both, "forgetting"], expected)


def test_learnability_and_quality_come_from_elsewhere(run):
    first = table(run, 1)
    measured = first[np.isfinite(first["nll"])]
    assert np.abs(measured["learnability"]).max() > 1e-3  # the reference is another adapter
    pool = Pool.open(next((run / "artifacts/pool").iterdir()))
    ratings = [entry["rating"] for entry in pool.metadata(first["row"].to_numpy())]
    known = first["quality"].notna()
    np.testing.assert_allclose(first["quality"][known], np.array(ratings)[known])


def test_the_target_is_never_trained_on(run):
    document = json.loads((run / "rounds/001/target/target.json").read_text())
    assert document["examples"] == 14 and document["used"] + document["near_holdout"] == 14
    first = table(run, 1)
    near = first[first["outcome"] == "near_duplicate_of_target"]
    held = first[first["outcome"].isin(["held_out_dev", "held_out_test"])]
    assert len(near) == document["pool_excluded"]
    target = Pool.open(next((run / "artifacts/target_pool").iterdir()))
    assert set(first["id"]) & set(target.ids) <= set(near["id"]) | set(held["id"])
    assert len(set(first["id"]) & set(target.ids)) == 2


def test_gradients_are_preconditioned_from_the_warm_up_on(run):
    measured = [json.loads((run / f"rounds/00{n}/score/score.json").read_text()) for n in (1, 2)]
    assert [document["adam_moments"] for document in measured] == [True, True]
    vectors = np.load(run / "rounds/002/score/gradients.npy")
    assert vectors.dtype == np.float16 and vectors.shape[1] == 64 * len(measured[1]["checkpoint_shares"])
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(float), axis=1), 1, atol=1e-2)


def test_the_report_tells_the_correlation_of_each_score_with_length(run):
    summary = json.loads((run / "rounds/002/summary.json").read_text())
    assert set(NAMED) <= set(summary["scoring"]["length_correlation"])
    page = (run / "rounds/002/report.html").read_text()
    assert "Target:" in page and "learnability" in page


def test_ranking_by_a_combination_and_by_nearness(scored, run, tmp_path):
    wish = ("--set", "score.by={less: 1, quality: 1}", "--set", "select.length_bins=1")
    found = propose(tmp_path / "run", scored, "--budget", PICKS, *wish)
    measured = found[np.isfinite(found["nll"])]
    combined = measured["less"].rank() + measured["quality"].rank()
    assert (measured["outcome"] == "selected").sum() == PICKS
    for _, of_cluster in measured.groupby("cluster"):
        chosen, left = (
            combined[of_cluster.index[of_cluster["outcome"] == name]] for name in ("selected", "quota_full")
        )
        assert chosen.empty or left.empty or chosen.min() >= left.max()


def test_a_kill_in_any_pass_costs_one_shard_and_a_damaged_one_is_measured_again(scored, run, tmp_path):
    path = tmp_path / "killed"
    arguments = ("round", "--config", scored, "--run", path, "--budget", PICKS)
    for _ in range(4):
        assert winnow_child(*arguments, WINNOW_FAILPOINT="score.shard").code == -9
    shards = sorted((path / "scratch").glob("score-*/*.npz"))
    shards[0].write_bytes(b"")
    shards[1].write_bytes(shards[1].read_bytes()[:-40])
    assert winnow_child(*arguments, WINNOW_FAILPOINT="packs.start").code == -9  # all is measured
    for name in NAMED:
        np.testing.assert_allclose(proposed(path)[name], table(run, 1)[name], rtol=1e-6, atol=1e-6)


def test_the_plan_knows_what_scores_cost(scored, tmp_path):
    def plan(*options):
        result = winnow("plan", "--config", scored, "--run", tmp_path / "x", "--budget", 50, "--json", *options)
        assert result.code == 0, result.err
        return result.document

    cheap = plan("--set", "score.also=[]")
    ifd, less = (plan("--set", f"score.also=[{name}]") for name in ("ifd", "less"))
    assert less["disk_gib"] > cheap["disk_gib"] == ifd["disk_gib"]
    large = plan("--set", "score.also=[]", "--set", "score.gradient_dimension=32768", "--set", "score.by=less")
    assert large["disk_gib"] > less["disk_gib"]
    one = plan("--set", "score.also=[less]", "--set", "score.checkpoints=1")
    assert "warm up" in less["seconds"] and "warm up" not in one["seconds"] | ifd["seconds"]
    forward, gradient = cheap["seconds"]["score"], one["seconds"]["score"] - cheap["seconds"]["score"]
    assert less["seconds"]["score"] == pytest.approx(forward + 4 * gradient, abs=0.3)


@pytest.mark.parametrize("strategy", ["random", "uniform", "size"])
def test_strategies_that_measure_nothing_take_any_score(scored, tmp_path, strategy):
    found = propose(tmp_path / "run", scored, "--budget", 5, "--strategy", strategy)
    assert found["ifd"].isna().all() and (found["outcome"] == "selected").sum() == 5


def test_a_target_that_comes_later_is_kept_out_of_both_lineages_from_then_on(scored, tmp_path):
    run = tmp_path / "later"
    base = ("round", "--config", scored, "--run", run, "--budget", PICKS, "--set", "score.also=[]")
    assert winnow(*base, "--set", "target.files=[]").code == 0
    assert winnow_child(*base, "--set", "target.files=[]", WINNOW_FAILPOINT="random.committed").code == -9
    pool = Pool.open(next((run / "artifacts/pool").iterdir()))
    first = run / "rounds/001"
    ours = [int(np.searchsorted(pool.keys, key)) for key in np.load(first / "selection/picked.npy")[:3]]
    drawn = next((run / "artifacts/random").glob("*/picked.npy"), None)
    theirs = [
        int(np.searchsorted(pool.keys, key))
        for path in (run / "artifacts/random").glob("*/picked.npy")
        for key in np.load(path)[:3]
    ]
    assert drawn is not None
    aim = tmp_path / "aim.jsonl"
    aim.write_text("".join(json.dumps({"messages": m}) + "\n" for m in pool.messages(sorted({*ours, *theirs}))))
    result = winnow(*base, "--target", aim, "--set", "train.mode=retrain", "--set", "score.by=less")
    assert result.code == 0, result.err
    excluded = set(np.load(run / "rounds/002/target/excluded.npy").tolist())
    assert set(ours) | set(theirs) <= excluded
    assert not excluded & set(np.load(run / "rounds/002/packs/rows.npy").tolist())
    assert not excluded & set(np.load(run / "rounds/002/control.packs/rows.npy").tolist())
    assert "gradients without Adam" in result.err


def test_another_reference_of_the_same_size_is_another_reference(scored, tmp_path):
    from al.config import load
    from al.run.session import Session
    from al.scoring.stage import _identity

    found = []
    for content in (b"a" * 9 * 2**20, b"b" * 9 * 2**20):
        folder = tmp_path / "reference"
        folder.mkdir(exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(content)
        config = load(scored, [f"score.reference={folder}"])
        found.append(
            _identity(Session(SimpleNamespace(writable=False), config), frozenset({"response", "reference"}), None)
        )
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (("--set", "score.by=nll"), "the target is kept out of training but has no effect on the selection"),
        (("--set", "score.by=rds", "--strategy", "default"), "picker random uses no score"),
        (("--set", "score.by=rds", "--strategy", "top"), None),
    ],
)
def test_settings_that_come_to_nothing_are_told(scored, options, note):
    from al.config import load
    from al.scoring.stage import scoring_notices

    overrides = [part for part in options if "=" in part]
    overrides += [f"select.strategy={options[-1]}"] if "--strategy" in options else []
    found = scoring_notices(load(scored, overrides))
    assert (found == []) if note is None else any(note in line for line in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "score.by=rds", "--set", "target.files=[]"), "--target FILE"),
        (("--set", "score.reference=null"), "score.reference"),
        (("--set", "score.quality=null"), "score.quality to its name"),
        (("--set", "score.quality=nonsense"), "no example that may be picked has a number in column `nonsense`"),
        (("--set", "score.quality=words"), "score.quality"),
        (("--set", "score.by=lss"), "Did you mean 'less'"),
        (("--set", "score.reference=/nowhere"), "expected the directory of an adapter"),
        (("--set", "measure.weights=fp8"), "fp8 needs a GPU"),
    ],
)
def test_what_a_score_lacks_is_said(scored, tmp_path, options, message):
    result = winnow("round", "--config", scored, "--run", tmp_path / "x", "--budget", 5, *options)
    assert result.code in (2, 3, 4, 5) and message in result.err
    assert not list((tmp_path / "x").glob("artifacts/score/*"))  # told before anything was measured


def test_a_target_that_is_all_in_the_holdout_is_refused(scored, run, tmp_path):
    first = table(run, 1)
    held = first[first["outcome"].isin(["held_out_test", "held_out_dev"])]["row"].to_numpy()
    pool = Pool.open(next((run / "artifacts/pool").iterdir()))
    leak = tmp_path / "leak.jsonl"
    leak.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in pool.messages(held)))
    result = winnow("round", "--config", scored, "--run", tmp_path / "x", "--budget", 5, "--target", leak)
    assert result.code != 0 and f"{len(held)} are in dev or test (nearly)" in result.err


@pytest.fixture(scope="module")
def third_round(scored, run):
    """What picks for the third round of the run need: its session, prepared pool and history."""
    from al.config import load
    from al.lineage.history import SELECTED, History
    from al.preparation.stages import prepare
    from al.run.session import Session
    from al.run.store import Run

    with Run.create_or_open(run) as opened:
        session = Session(opened, load(scored, ["score.also=[]", "score.sample_per_cluster=3"]), quiet=True)
        yield session, prepare(session, 3), History.recorded(opened, SELECTED, 3)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_picks_with_what_two_rounds_have_measured(third_round, name):
    from al.config import change
    from al.round.loop import propose
    from selection.strategy import Budget

    session, prepared, history = third_round
    values = session.config.model_dump(mode="json")
    aimed = session.with_config(change(values, [f"select.strategy={name}"], "test"))
    roles = {}
    amount = Budget("tokens", 300) if name in ("default", "less", "k_center") else Budget("examples", 8)
    keep = roles.setdefault
    selection = propose(aimed, prepared, history, amount, keep).artifact
    found = pq.read_table(selection.path / "selection.parquet").to_pandas()
    chosen = found[found.outcome == "selected"]
    assert (len(chosen) == 8) if amount.unit == "examples" else (200 < chosen.tokens.sum() <= 300)
    assert chosen.why.notna().all() and (chosen.trained_round == 0).all()
    assert (found.outcome == "trained").sum() == 2 * PICKS
    assert not np.isin(chosen.row, prepared.target.excluded).any()
    assert ("score.target" in roles) == (name in ("rds", "less"))
    assert selection.manifest["params"]["select"]["strategy"] == ("rds_centered" if name == "default" else name)
