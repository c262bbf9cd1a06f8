"""Near copies in the pools of the study: planted, searched for, left out before anything is picked."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from benchmarks.proving_ground import embeddings, inputs, near, planning, prepare, stages, summary, tables
from benchmarks.proving_ground.ground import KIND, WITH
from benchmarks.proving_ground.picking import Picker
from benchmarks.proving_ground.work import Work

POOL, ROWS, SIZE = "sums", 210, 90
FRUITS = ("plums", "pears", "figs", "limes", "dates", "kiwis", "nuts")


def row(i: int) -> dict:
    """A sum about a fruit, with a system message in each third row and a line break in each second. Every hundredth has the same answer."""
    text = f"Mia has {i} {FRUITS[i % 7]}.{chr(10) if i % 2 else ' '}She gets {i + 3} more. How many now?"
    system = [{"role": "system", "content": "Answer with a number."}] if i % 3 == 0 else []
    messages = [*system, {"role": "user", "content": text}, {"role": "assistant", "content": str(2 * (i % 100) + 3)}]
    return {"messages": messages, "source": "a" if i < 150 else "b", "task": f"t{int(i >= 150)}"}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """The clean pool."""
    return [row(i) for i in range(ROWS)]


def test_copies_are_30_percent_and_say_the_same(rows):
    grown, of = near.with_copies(rows)
    assert grown[:ROWS] == rows and list(of[:ROWS]) == list(range(ROWS)) and len(grown) == len(of) == ROWS + SIZE
    texts = {json.dumps(entry["messages"]) for entry in grown}
    assert len(texts) == len(grown)  # no copy equals its original or another copy
    for copy, place in zip(grown[ROWS:], of[ROWS:], strict=True):
        ours, theirs = copy["messages"], rows[place]["messages"]
        assert [m["role"] for m in ours] == [m["role"] for m in theirs] and ours[-1] == theirs[-1]
        assert " ".join(theirs[-2]["content"].split()) in " ".join(ours[-2]["content"].split())
        assert ours[:-2] == theirs[:-2] and (copy["source"], copy["task"]) == (
            rows[place]["source"],
            rows[place]["task"],
        )
    times = sorted(np.bincount(of[ROWS:], minlength=ROWS), reverse=True)
    assert times[0] == 1 + near.MOST and sum(times[:5]) > SIZE / 2  # few rows are copied often
    assert near.with_copies(rows)[0] == grown


def test_what_the_search_did_is_counted_in_families():
    of = np.array([0, 1, 2, 3, 0, 0, 1])  # row 0 has two copies, row 1 one
    figures = near.search_figures(of, np.array([0, 1, 2, 6]))
    assert figures == {"rows": 7, "copies": 3, "left_out": 3, "recall": round(2 / 3, 4), "precision": round(2 / 3, 4)}
    assert near.search_figures(of, np.array([2, 3, 4, 6])) | {"rows": 0} == {
        "rows": 0, "copies": 3, "left_out": 3, "recall": 1.0, "precision": 1.0,
    }  # fmt: skip
    assert near.search_figures(of, np.array([1, 2, 3, 6]))["recall"] == round(
        2 / 3, 4
    )  # all of a family may go, one was its own


def test_the_search_is_that_of_a_round():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(5, 16))
    vectors = np.concatenate([base, base[[1, 1]] + rng.normal(size=(2, 16)) * 0.02]).astype(np.float16)
    keys = np.array([5, 9, 1, 2, 3, 4, 8], dtype=np.uint64)
    assert near.left_by_search(vectors, keys, None).tolist() == [0, 2, 3, 4, 5]  # of 1, 5 and 6 the lowest key stays
    answers = np.array([1, 2, 3, 4, 5, 2, 9], dtype=np.uint64)
    assert near.left_by_search(vectors, keys, answers).tolist() == [0, 2, 3, 4, 5, 6]  # 6 answers otherwise


@pytest.fixture
def work(tmp_path, rows, monkeypatch) -> Work:
    """A work folder whose one pool has near copies, with its splits as `inputs` makes them."""
    found = Work(tmp_path)
    pool = found / f"pools/{POOL}"
    for folder in (pool, found / "inputs/m", found / "kinds"):
        folder.mkdir(parents=True)
    held = [entry | {"accepted": ["1"]} for entry in map(row, (500, 650))]
    for part, entries in (("pool", rows), ("dev", held), ("test", held)):
        (pool / f"{part}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    conversations, arrays = inputs.gather(found / "pools", [POOL])
    inputs.gather_noisy(found / "pools", [POOL], [POOL], conversations, arrays)
    np.savez(found / "inputs/m/splits.npz", **arrays)
    (found / "about.json").write_text(
        json.dumps({"pools": [POOL], "cut": None, "models": {"m": "m"}, "embedder": None})
    )
    monkeypatch.setitem(planning.LIST, "noisy_pools", [POOL])
    return found


def embed(work: Work) -> None:
    """Embeddings in which copies lie where their originals do."""
    splits = np.load(work.inputs() / "splits.npz")
    vectors = np.zeros((splits[f"{POOL}|near"].max() + 1, 8), dtype=np.float16)
    vectors[splits[f"{POOL}|near"]] = np.random.default_rng(0).normal(size=(ROWS, 8))[splits[f"{POOL}|near|of"]]
    np.save(work / "embeddings.npy", vectors)


def run(strategy: str, noise: str = near.NOISE) -> dict:
    """A run of the stage."""
    runs = planning.near_copies("smollm2-135m")
    found = next(r for r in runs if (r["strategy"], r["noise"], r["pool"], r["seed"]) == (strategy, noise, POOL, 1))
    return {**found, "budget": 60}


def test_strategies_pick_from_what_the_search_leaves(work):
    embed(work)
    assert prepare._searched(work, lambda text: None) == [f"{POOL}|searched", f"{POOL}|near"]
    picker, splits = Picker.of(work), np.load(work.inputs() / "splits.npz")
    left = picker.left(POOL, near.NOISE)
    assert len(left) == ROWS and (work / f"kinds/left_{POOL}_near.npz").exists()
    allowed, everything = splits[f"{POOL}|near"][left], splits[f"{POOL}|near"]
    for strategy in ("random", WITH, KIND):
        picked = picker.pick(run(strategy))
        assert len(set(picked)) == 60 and set(picked) <= set(allowed)
    of = dict(zip(everything, splits[f"{POOL}|near|of"], strict=True))
    picked = picker.pick(run(near.ALL))
    assert len(set(picked)) == 60 > len({of[number] for number in picked})  # some rows more than once
    task = dict(zip(everything, splits[f"{POOL}|near|task"], strict=True))
    small = {s: np.mean([task[number] for number in picker.pick(run(s))]) for s in ("random", WITH)}
    assert small[WITH] > small["random"]  # the smaller source has its share
    assert json.loads((work / "results/near.json").read_text())["near"][POOL]["recall"] == 1.0


def test_every_pool_gets_wrong_answers_and_the_noisy_ones_copies_too(work):
    splits = np.load(work.inputs() / "splits.npz")
    (work / "pools/other").symlink_to(work / f"pools/{POOL}")
    conversations, arrays = inputs.gather(work / "pools", [POOL, "other"])
    others, found = inputs.gather_noisy(work / "pools", ["other", POOL], [POOL], conversations, arrays)
    assert all((arrays[name] == splits[name]).all() for name in splits.files if f"{POOL}|near" not in name)
    assert not np.intersect1d(arrays["other|inside"][arrays["other|inside|wrong"]], arrays[f"{POOL}|near"]).size
    assert {name.split("|")[0] for name in arrays if "exchanged" in name} == {POOL, "other"}
    assert "other|near" not in arrays and not any(name.startswith("other") for name in found)
    wanted = {(r["pool"], r["strategy"]) for r in planning.noise("smollm2-135m") if r["noise"] == "inside"}
    assert wanted >= {(pool, strategy) for pool in planning.POOLS for strategy in ("random", WITH)}
    assert [pool for pool, strategy in wanted if strategy == KIND] == [POOL]
    np.savez(work / "inputs/m/splits.npz", **{k: v for k, v in arrays.items() if "|inside" not in k})
    lacks = stages.lacking(work, {**run("random"), "noise": "inside"})
    assert lacks is not None and lacks.startswith("wrong answers; remove ")


def test_a_clean_pool_is_searched_too(work):
    embed(work)
    vectors = np.load(work / "embeddings.npy")
    vectors[100:150] = vectors[:50]  # fifty rows look like fifty others, and answer alike
    vectors[150:160] = vectors[60:70]  # ten more do not
    np.save(work / "embeddings.npy", vectors)
    picker = Picker.of(work)
    left = picker.left(POOL, near.SEARCHED)
    assert len(left) == ROWS - 50
    rows = picker.splits[f"{POOL}|pool"]
    for strategy in ("random", WITH, KIND):
        assert set(picker.pick(run(strategy, near.SEARCHED))) <= set(rows[left])
    assert len(picker.rows(f"{POOL}|searched")) == ROWS - 50 and len(picker.rows(POOL)) == ROWS
    assert stages.lacking(work, run(WITH, near.SEARCHED)) is None
    prepare._searched(work, lambda text: None)
    found = json.loads((work / "results/near.json").read_text())["searched"][POOL]
    assert (found["rows"], found["left_out"], found["by_embeddings_alone"]) == (ROWS, 50, 60)


def test_picks_say_what_they_wait_for(work):
    assert stages.lacking(work, run(near.ALL)) is None
    assert stages.lacking(work, run("random")) == "the search for near-duplicates"
    assert prepare._searched(work, lambda text: None) == []  # no embeddings yet
    embed(work)
    prepare._searched(work, lambda text: None)
    assert stages.lacking(work, run("random")) is None and stages.lacking(work, run(WITH)) == "kinds"
    for seed in (1, 2, 3):
        prepare.find_kinds(work.root, f"{POOL}|near", seed)
    assert stages.lacking(work, run(WITH)) is None and stages.lacking(work, run(KIND)) is None
    arrays = {name: array for name, array in np.load(work.inputs() / "splits.npz").items() if "near" not in name}
    np.savez(work.inputs() / "splits.npz", **arrays)
    assert "run `prepare` again" in stages.lacking(work, run("random"))


def test_rows_without_copies_keep_their_numbers(work, rows):
    splits = np.load(work.inputs() / "splits.npz")
    clean, grown = splits[f"{POOL}|pool"], splits[f"{POOL}|near"]
    assert grown[:ROWS].tolist() == clean.tolist()
    others = np.concatenate([splits[f"{POOL}|{kind}"] for kind in ("exchanged", "inside")])
    assert grown[ROWS:].min() > others.max()
    assert np.array_equal(splits[f"{POOL}|near|task"], splits[f"{POOL}|pool|task"][splits[f"{POOL}|near|of"]])


@pytest.fixture
def embedded(monkeypatch) -> list[str]:
    """Texts that were embedded, by an embedder that goes by the first number of each alone."""

    class Embedder:
        """Of 64 columns."""

        def get_embedding_dimension(self):
            return 64

    texts: list[str] = []

    def embed_texts(some, config, out, embedder):
        texts.extend(some)
        out[:] = [np.random.default_rng(int(re.search(r"\d+", text)[0])).normal(size=64) for text in some]

    monkeypatch.setattr("selection.embed.load_embedder", lambda config: Embedder())
    monkeypatch.setattr("selection.embed.embed_texts", embed_texts)
    return texts


def test_copies_are_embedded(work, embedded):
    embeddings.write(work / "pools", work.inputs(), work.root / "embedder", work / "embeddings.npy")
    splits, vectors = np.load(work.inputs() / "splits.npz"), np.load(work / "embeddings.npy")
    assert vectors[splits[f"{POOL}|near"]].any(axis=1).all() and vectors[splits[f"{POOL}|dev"]].any(axis=1).all()
    assert any(text.startswith(near.OPENINGS[1]) for text in embedded)


def test_pools_are_searched_before_the_rest_is_embedded(work, embedded):
    with pytest.raises(SystemExit, match="give --embedder DIR"):
        prepare.search(work, [POOL], 1, lambda text: None)
    (work / "about.json").write_text(json.dumps(work.about | {"embedder": "embedder"}))
    with pytest.raises(SystemExit, match="--search: expected pools of .* [(]sums[)], found plums"):
        prepare.search(work, [POOL, "plums"], 1, lambda text: None)
    assert not embedded
    prepare.search(work, [POOL], 1, lambda text: None)
    assert len(embedded) == ROWS + SIZE and not (work / "embeddings.npy").exists()  # the pool and its copies, not dev
    assert {file.name for file in work.root.iterdir()} == {"pools", "inputs", "kinds", "results", "about.json"}
    assert all(
        stages.lacking(work, entry) is None for entry in planning.near_copies("smollm2-135m") if entry["pool"] == POOL
    )
    figures = {noise: of[POOL] for noise, of in json.loads((work / "results/near.json").read_text()).items()}
    assert figures["near"] == {
        "rows": ROWS + SIZE, "copies": SIZE, "left_out": SIZE, "recall": 1.0, "precision": 1.0, "by_embeddings_alone": SIZE,
    }  # fmt: skip
    assert figures["searched"]["left_out"] == 0
    prepare.search(work, [POOL], 1, lambda text: None)
    assert len(embedded) == ROWS + SIZE  # what was searched is not embedded again


def test_the_record_keeps_figures_of_pools_that_no_folder_has(tmp_path):
    before = {"near": {"p3-power": {"rows": 1}, POOL: {"rows": 2}}}
    files = [tmp_path / name for name in ("prepared.json", "there.json", "none.json")]
    files[0].write_text(json.dumps({"near": {POOL: {"rows": 3}}, "searched": {POOL: {"rows": 4}}}))
    files[1].write_text("{}")  # nothing was searched there: picks came along
    assert near.recorded(before, files) == {
        "near": {"p3-power": {"rows": 1}, POOL: {"rows": 3}}, "searched": {POOL: {"rows": 4}},
    }  # fmt: skip
    assert before["near"][POOL] == {"rows": 2} and near.recorded({}, files[1:]) == {}


def test_the_page_and_the_summary_have_them_once_played():
    def row_of(strategy: str, seed: int, nll: float, noise: str) -> dict:
        return {
            "model": "smollm2-135m", "pool": POOL, "noise": noise, "sources": False, "budget": 1000, "strategy": strategy, "seed": seed,
            "learning_rate": 0.002, "split": "test", "macro_nll": nll, "macro_em": 0.1,
        }  # fmt: skip

    def made(noise: str, lower: float) -> list[dict]:
        losses = {near.ALL: 1.6, "random": 1.5, WITH: 1.5 - lower, KIND: 1.4}
        return [row_of(name, seed, nll + seed / 100, noise) for name, nll in losses.items() for seed in (1, 2)]

    def on_two(noise: str, lower: float) -> list[dict]:
        return made(noise, lower + 0.01) + [{**row, "pool": "evals-flat"} for row in made(noise, lower - 0.01)]

    before = on_two("inside", 0.2) + on_two("exchanged", 0.3)
    assert "near-duplicates not played" in summary.noisy_difference(before, WITH, [])["note"]
    random_alone = [r for r in made("near", 0.1) if r["strategy"] in ("random", near.ALL)]
    assert "near-duplicates not played" in summary.noisy_difference(before + random_alone, WITH, [])["note"]
    found = summary.noisy_difference(before + on_two("near", 0.1), WITH, [])
    assert found["value"] == pytest.approx(-0.2) and "not played" not in found["note"]
    counted = {POOL: {"rows": 300, "copies": 90, "left_out": 96, "recall": 0.9, "precision": 0.84}}
    searched = {"near": counted, "searched": {POOL: {"rows": 200, "left_out": 50, "by_embeddings_alone": 90}}}
    text = tables._near(before + made("near", 0.1) + made("none", 0.2) + made("searched", 0.15), searched)
    assert "| sums | 200 | 25% | 45% |" in text
    assert (
        "| smollm2-135m, sums, 1,000 | +0.000 ± 0.000 (2), +0.0 | +0.050 ± 0.000 (2), +0.0 | +0.000 ± 0.000 (2), +0.0 |"
        in text
    )
    assert "| sums: 300 | 90 | 96 | 90% | 16% |" in text
    assert (
        "| smollm2-135m, sums | +0.100 ± 0.000 (2), +0.0 | -0.100 ± 0.000 (2), +0.0 | -0.100 ± 0.000 (2), +0.0 |"
        in text
    )
    assert tables._near(before, {}) == ""
