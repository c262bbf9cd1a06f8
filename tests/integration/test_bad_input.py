"""What users get wrong: one clear message, the documented exit code, and nothing lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import ROOT, winnow


def changed(world, tmp_path, **sections):
    """The world's config with sections changed, as a file."""
    values = yaml.safe_load(world.read_text())
    for section, entries in sections.items():
        values[section] = {**values.get(section, {}), **entries} if isinstance(entries, dict) else entries
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def refused(code, *words, config, run, budget="20", more=()):
    result = winnow("round", "--config", config, "--run", run, "--budget", budget, *more)
    assert result.code == code, result.err
    for word in words:
        assert word in result.err, result.err
    assert "Traceback" not in result.err
    return result


def test_a_missing_file(world, tmp_path):
    config = changed(world, tmp_path, pool={"files": ["nowhere/data.jsonl"]})
    assert refused(3, "nowhere/data.jsonl", config=config, run=tmp_path / "run")


def test_an_empty_pool(world, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    config = changed(world, tmp_path, pool={"files": [str(tmp_path / "empty.jsonl")]})
    assert refused(3, "empty.jsonl", "no rows", config=config, run=tmp_path / "run")


def test_no_pool_at_all(world, tmp_path):
    assert refused(3, "pool.files", config=changed(world, tmp_path, pool={"files": []}), run=tmp_path / "run")


def test_a_budget_larger_than_the_pool(world, tmp_path):
    assert refused(
        3, "100000 examples asked for", "Ask for at most", config=world, run=tmp_path / "run", budget="100000"
    )
    done = winnow("round", "--config", world, "--run", tmp_path / "run", "--budget", 20, "--no-control")
    assert done.code == 0, "what was finished before the error is used by the next round"


@pytest.mark.parametrize("budget", ["0", "-5", "0tok", "many", "1.5", "5parsecs"])
def test_a_budget_that_is_none(world, tmp_path, budget):
    assert refused(2, "--budget", config=world, run=tmp_path / "run", budget=budget)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("setting", "hint"), [("select.strategy=defualt", "default"), ("select.picker=topp", "top")])
def test_an_unknown_strategy_or_picker(world, tmp_path, setting, hint):
    assert refused(2, "unknown", f"Did you mean '{hint}'", config=world, run=tmp_path / "run", more=("--set", setting))


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("train.learning_rat=1e-4", "train.learning_rate"),
        ("tarin.epochs=2", "`train`"),
        ("train.epochs=often", "train.epochs"),
        ("lora.r=0", "lora.r"),
        ("nonsense", "KEY=VALUE"),
    ],
)
def test_a_config_typo(world, tmp_path, setting, hint):
    assert refused(2, hint, config=world, run=tmp_path / "run", more=("--set", setting))


def test_a_config_that_is_not_there_or_not_yaml(world, tmp_path):
    assert refused(2, "no such config file", "mistral-7b.yaml", config=tmp_path / "none.yaml", run=tmp_path / "run")
    (tmp_path / "bad.yaml").write_text("a: [1,")
    assert refused(2, "not valid YAML", config=tmp_path / "bad.yaml", run=tmp_path / "run")


def test_trap_5_examples_over_the_length_limit_are_counted_never_cut_in_silence(world, tmp_path):
    result = winnow(
        "round",
        "--config",
        world,
        "--run",
        tmp_path / "run",
        "--budget",
        20,
        "--no-control",
        "--set",
        "tokens.max_length=49",
        "--json",
    )
    assert result.code == 0, result.err
    pool = result.document["pool"]
    assert pool["overlength"] > 10 and pool["truncated"] == 0
    assert result.document["selection"]["outcomes"]["over_length"] > 0


def test_every_example_over_the_length_limit(world, tmp_path):
    assert refused(
        3,
        "longer than tokens.max_length (8)",
        config=world,
        run=tmp_path / "run",
        more=("--set", "tokens.max_length=8"),
    )


def test_a_pool_without_any_response(world, tmp_path):
    data = tmp_path / "questions.jsonl"
    data.write_text(
        "".join(json.dumps({"messages": [{"role": "user", "content": f"what is {i}?"}]}) + "\n" for i in range(60))
    )
    config = changed(world, tmp_path, pool={"files": [str(data)]})
    result = refused(3, config=config, run=tmp_path / "run")
    assert "60 have no response" in result.err


def test_a_holdout_that_takes_everything(world, tmp_path):
    assert refused(
        3,
        "holdout.dev",
        "leave nothing to pick",
        config=world,
        run=tmp_path / "run",
        more=("--set", "holdout.test=5000"),
    )


def test_more_clusters_than_examples(world, tmp_path):
    more = ("--set", "cluster.k=5000", "--set", "select.by=nothing")
    assert refused(3, "cluster.k", config=world, run=tmp_path / "run", more=more)


def test_no_gpu_where_the_config_needs_one(world, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert refused(4, "CUDA", "model.device", config=world, run=tmp_path / "run", more=("--set", "model.device=cuda"))


def test_a_model_that_is_not_there(world, tmp_path):
    result = refused(
        4,
        "no-such-model",
        config=changed(world, tmp_path, model={"name": str(tmp_path / "no-such-model")}),
        run=tmp_path / "run",
    )
    assert "model.name" in result.err


def test_an_embedder_that_is_not_there(world, tmp_path):
    assert refused(
        4, "embed.model", config=changed(world, tmp_path, embed={"model": str(tmp_path / "none")}), run=tmp_path / "run"
    )


def test_trap_30_a_config_cannot_turn_on_remote_code(world, tmp_path):
    assert refused(
        2,
        "--trust-remote-code",
        config=changed(world, tmp_path, model={"trust_remote_code": True}),
        run=tmp_path / "run",
    )


def test_another_process_in_the_same_run(world, tmp_path):
    run = tmp_path / "run"
    holder = (
        "import sys; from pathlib import Path; from al.run.store import Run; "
        f"run = Run.create_or_open(Path({str(run)!r})); print('in', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", holder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "in\n"
        assert refused(5, f"pid {child.pid}", "another process", config=world, run=run)
        assert winnow("status", "--run", run).code == 0, "looking is allowed meanwhile"
    finally:
        child.communicate("")
    assert winnow("round", "--config", world, "--run", run, "--budget", 20, "--no-control").code == 0


def test_a_run_made_with_another_pool(world, tmp_path):
    run = tmp_path / "run"
    assert winnow("round", "--config", world, "--run", run, "--budget", 20, "--no-control").code == 0
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    assert refused(
        5, "other.jsonl", "pool import", config=changed(world, tmp_path, pool={"files": [str(other)]}), run=run
    )


def test_a_pool_file_that_changed_since(world, tmp_path):
    data = tmp_path / "data.jsonl"
    source = Path(yaml.safe_load(world.read_text())["pool"]["files"][0]) / "source-1.jsonl"
    lines = source.read_text().splitlines()
    data.write_text("\n".join(lines))
    config = changed(world, tmp_path, pool={"files": [str(data)]}, holdout={"dev": 5, "test": 9})
    run = tmp_path / "run"
    assert winnow("round", "--config", config, "--run", run, "--budget", 20, "--no-control").code == 0
    data.write_text("\n".join(lines[1:]))
    assert refused(5, "data.jsonl changed since", config=config, run=run)


def test_a_full_disk_loses_nothing(world, tmp_path, monkeypatch):
    import errno

    import numpy as np

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        assert refused(4, "full", "same command again", config=world, run=run)
    assert not list((run / "artifacts").glob(".tmp-*"))
    assert winnow("round", "--config", world, "--run", run, "--budget", 20, "--no-control").code == 0


def test_training_that_diverges(world, tmp_path):
    assert refused(
        6,
        "learning_rate",
        config=world,
        run=tmp_path / "run",
        more=("--set", "train.learning_rate=1e30", "--set", "train.max_grad_norm=1e30"),
    )


def test_a_budget_that_the_pool_cannot_fill_says_what_is_left_out_and_by_which_key(world, tmp_path):
    result = winnow("round", "--config", world, "--run", tmp_path / "run", "--budget", 5000, "--no-control")
    assert result.code == 3 and "5000 examples asked for, but only" in result.err
    assert "(held out as test: holdout.test)" in result.err and "Left out of" in result.err


def test_a_round_after_all_is_picked_says_what_is_left_out(world, tmp_path):
    (tmp_path / "few.jsonl").write_text("".join(f'{{"prompt": "say {word}", "completion": "red"}}\n' for word in "abc"))
    settings = ("--pool", tmp_path / "few.jsonl", "--set", "holdout.dev=0", "--set", "holdout.test=1", "--no-control")
    asked = (
        "--config",
        world,
        "--run",
        tmp_path / "run",
        *settings,
        "--set",
        "dedup.threshold=1",
        "--set",
        "cluster.k=1",
    )
    assert winnow("round", *asked, "--budget", 2).code == 0
    result = winnow("round", *asked, "--budget", 1)
    left_out = "Left out of 3: 2 (trained on in an earlier round), 1 (held out as test: holdout.test)."
    assert result.code == 3 and f"can be picked in round 2. {left_out} Add data with" in result.err
