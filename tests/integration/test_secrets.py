"""Tokens and passwords that are in reach of a run: none is in a file that the run writes, nor in what it prints."""

from __future__ import annotations

import pytest
from command_line import winnow

SECRETS = {
    "HF_TOKEN": "hf_planted0token1of2the3environment4",
    "HUGGING_FACE_HUB_TOKEN": "hf_planted5older6name",
    "WANDB_API_KEY": "planted7key8of9a0tracker",
    "MLFLOW_TRACKING_PASSWORD": "planted-password-of-mlflow",
    "AWS_SECRET_ACCESS_KEY": "planted/secret/key/of/a/cloud",
    "HTTPS_PROXY": "http://somebody:planted-proxy-password@127.0.0.1:9",
}
PASSWORD = "planted-url-password"


def planted():
    return [*SECRETS.values(), "planted-proxy-password", PASSWORD]


def files_with_a_secret(folder):
    wanted = [secret.encode() for secret in planted()]
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(secret in path.read_bytes() for secret in wanted)
    ]


@pytest.fixture
def run(world, tmp_path, monkeypatch):
    """A finished round, made with every secret in the environment, and what it printed."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    options = ("--set", "evaluate.generations=0", "--set", "holdout.test=8", "--set", "holdout.dev=8")
    done = winnow("round", "--config", world, "--run", tmp_path / "run", "--budget", 10, "--no-control", *options)
    assert done.code == 0, done.err
    return tmp_path / "run", done


def test_no_secret_is_in_any_file_of_a_run(run, tmp_path):
    path, done = run
    failed = winnow("pool", "import", f"https://somebody:{PASSWORD}@127.0.0.1:9/rows.jsonl", "--run", path)
    looked = [winnow(command, "--run", path) for command in ("status", "report", "doctor")]
    exported = winnow("export-run", tmp_path / "run.tar", "--run", path)
    assert failed.code and exported.code == 0
    assert files_with_a_secret(tmp_path) == []
    for result in (done, *looked, exported):
        assert not [secret for secret in planted() if secret in result.out + result.err]


@pytest.mark.parametrize(
    "setting", ["model.name=URL", "embed.model=URL", 'pool.files=["URL"]', 'target.files=["a", "URL"]', "--pool"]
)
@pytest.mark.parametrize("user", [f"somebody:{PASSWORD}", PASSWORD])
def test_a_url_with_a_password_in_a_config_is_refused_before_it_is_recorded(world, tmp_path, setting, user):
    url = f"https://{user}@127.0.0.1:9/rows.jsonl"
    given = ("--pool", url) if setting == "--pool" else ("--set", setting.replace("URL", url))
    refused = winnow("round", "--config", world, "--run", tmp_path / "run", "--budget", 10, *given)
    assert refused.code == 2 and "has a user or password" in refused.err
    assert PASSWORD not in refused.out + refused.err
    assert files_with_a_secret(tmp_path) == []


def test_the_search_would_find_one(tmp_path):
    (tmp_path / "events.jsonl").write_text(f'{{"url": "https://somebody:{PASSWORD}@host"}}')
    assert files_with_a_secret(tmp_path) == ["events.jsonl"]
