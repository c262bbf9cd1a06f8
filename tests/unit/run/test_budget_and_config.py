"""Budgets and configuration as a user types them."""

from __future__ import annotations

import time

import pytest

from al import config
from al.budget import parse_budget
from al.commands.options import Options
from al.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("5000", "examples", 5000),
        ("5_000", "examples", 5000),
        ("5k", "examples", 5000),
        ("2Mtok", "tokens", 2e6),
        ("1.5Mtok", "tokens", 1.5e6),
        ("500ktok", "tokens", 5e5),
        ("30min", "seconds", 1800),
        ("1.5h", "seconds", 5400),
        ("90s", "seconds", 90),
    ],
)
def test_budgets_are_examples_tokens_or_training_time(text, unit, amount):
    request = parse_budget(text)
    assert (request.unit, request.amount, request.text) == (unit, amount, text)


@pytest.mark.parametrize("text", ["0", "-5", "0Mtok", "0min", "many", "5 apples", "", "1.5", "1e400", "nan"])
def test_a_budget_that_means_nothing_is_refused_with_what_would(text):
    with pytest.raises(ConfigError, match="--budget"):
        parse_budget(text)


def write(tmp_path, text, name="c.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("train: {lerning_rate: 1}", "train.learning_rate"),
        ("sede: 1", "seed"),
        ("select: {stratgy: random}", "select.strategy"),
        ("tran: {epochs: 1}", "train"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path, text, hint):
    with pytest.raises(ConfigError, match=f"unknown key.*did you mean `{hint}") as caught:
        config.load(write(tmp_path, text))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: -1}", "train.epochs.*greater than 0"),
        ("seed: x", "seed.*integer"),
        ("train: [1]", "train"),
        ("- 1", "mapping"),
        ("a: [", "YAML"),
        ("train: {schedule: sine}", "cosine"),
        ("control: always", r": `control`: Input should be a valid boolean or 'auto', found 'always'$"),
        ("cluster: {k: x}\nseed: y", r": `seed`: [^`]* found 'y'; `cluster.k`: [^`]* or 'auto', found 'x'$"),
        ("evaluate: {groups: {int: 3}}", "`evaluate.groups.int`"),
    ],
)
def test_a_wrong_value_names_key_expectation_and_what_was_found(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        config.load(write(tmp_path, text))


def test_set_overrides_are_typed_and_win_over_the_file(tmp_path):
    path = write(tmp_path, "train: {epochs: 2}\nseed: 1")
    loaded = config.load(path, ["train.epochs=3", "control=false", "pool.files=[a.jsonl, b.jsonl]"])
    assert (
        loaded.train.epochs == 3
        and loaded.control is False
        and loaded.seed == 1
        and loaded.pool.files == ["a.jsonl", "b.jsonl"]
    )
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        config.load(path, ["train.epochs"])
    with pytest.raises(ConfigError, match="train.epochs"):
        config.load(path, ["train.epochs=many"])


def test_a_config_extends_another_and_circles_are_refused(tmp_path):
    write(tmp_path, "seed: 3\ntrain: {epochs: 2, replay: 0.5}", "base.yaml")
    loaded = config.load(write(tmp_path, "extends: base.yaml\ntrain: {epochs: 4}"))
    assert (loaded.seed, loaded.train.epochs, loaded.train.replay) == (3, 4, 0.5)
    write(tmp_path, "extends: y.yaml", "x.yaml")
    with pytest.raises(ConfigError, match="circular"):
        config.load(write(tmp_path, "extends: x.yaml", "y.yaml"))


@pytest.mark.parametrize("path", sorted(config.CONFIG_DIR.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_is_valid(path):
    assert config.load(path)


def test_every_key_is_documented():
    undocumented = [name for name, field in config.walk(config.Config) if len(field.description or "") < 15]
    assert undocumented == []
    assert "train.learning_rate: float" in config.schema_text()


def test_yaml_cannot_build_python_objects(tmp_path):
    """Trap 30: configs are read with safe_load."""
    with pytest.raises(ConfigError, match="YAML"):
        config.load(write(tmp_path, "seed: !!python/object/apply:os.getcwd []"))


def test_a_config_cannot_turn_on_remote_code_by_itself(tmp_path):
    """Trap 30: only the user's own command line can."""
    path = write(tmp_path, "model: {trust_remote_code: true}")
    with pytest.raises(ConfigError, match="--trust-remote-code"):
        Options(config_path=path).load_config()
    assert Options(config_path=path, trust_remote_code=True).load_config().model.trust_remote_code is True
    assert Options(config_path=write(tmp_path, "{}")).load_config().model.trust_remote_code is False


def test_the_difference_of_two_configs_names_dotted_keys():
    assert config.difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}, "d": 4}) == {
        "a.b": [1, 3],
        "d": [None, 4],
    }


def test_reading_a_config_is_quick():
    started = time.perf_counter()
    for _ in range(5):
        config.load(config.CONFIG_DIR / "mistral-7b.yaml")
    assert (time.perf_counter() - started) / 5 < 0.2


@pytest.mark.parametrize(
    ("given", "threshold"),
    [([], 0.95), (["embed.distill=true"], 0.985), (["embed.distill=true", "dedup.threshold=0.9"], 0.9)],
)
def test_a_distilled_embedder_has_a_threshold_of_its_own_unless_one_is_given(tmp_path, given, threshold):
    loaded = config.load(write(tmp_path, "seed: 1"), given)
    assert loaded.dedup.threshold == threshold
    assert config.Config.model_validate(loaded.model_dump()) == loaded
