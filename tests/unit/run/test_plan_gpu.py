"""`plan --gpu`: a card by name or by memory, its speed from its specification, and the settings that fit it."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from command_line import winnow
from huggingface_hub import constants

from al.config import CONFIG_DIR, change, load
from al.errors import ConfigError
from al.planning import near_duplicates
from al.planning.cards import CARDS, REACHED_FLOPS, UNCERTAINTY, find_card, machine_of
from al.planning.cost import forward_tokens_per_s, training_memory, training_tokens_per_s
from al.planning.limits import fits, settings_that_fit, usable_bytes
from al.planning.model_shape import PUBLISHED, ModelShape, model_shape
from al.program import PROGRAM
from trainer.config import LoraConfig, ModelConfig
from trainer.errors import MachineError

RECORDS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
MISTRAL = "mistralai/Mistral-7B-v0.1"
pytestmark = pytest.mark.usefixtures("no_embedder")


@pytest.fixture(autouse=True)
def without_hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@cache
def shape_of(rank: int = 16) -> ModelShape:
    return model_shape(ModelConfig(name=MISTRAL), LoraConfig(r=rank))


def default(**changes):
    values = load(CONFIG_DIR / "mistral-7b.yaml", ()).model_dump(mode="json")
    return change(values, [f"{key.replace('__', '.')}={value}" for key, value in changes.items()], "test")


@pytest.mark.parametrize(
    ("text", "name", "gigabytes"),
    [
        *(
            (text, "RTX 4090", 24)
            for text in ("RTX 4090", "rtx-4090", "4090", "NVIDIA GeForce RTX 4090", "RTX4090 24GB")
        ),
        ("A100", "A100", 40),
        ("a100-80gb", "A100", 80),
        ("H100", "H100", 80),
        ("h100 pcie", "H100 PCIe", 80),
        ("H200", "H200", 141),
        ("L40", "L40", 48),
        ("l40s", "L40S", 48),
        ("6000 Ada", "RTX 6000 Ada", 48),
    ],
)
def test_a_card_is_found_by_the_ways_to_write_its_name(text, name, gigabytes):
    card = find_card(text)
    assert (card.name, card.gigabytes) == (name, gigabytes)


@pytest.mark.parametrize(
    "text", ["RTX 4070", "T4", "A6000 Ada", "rtx", "", "4090 laptop", "RTX 4090 48GB", "999GB", "0GB", "24"]
)
def test_another_card_is_refused_with_the_list_and_never_taken_for_a_similar_one(text):
    with pytest.raises(ConfigError, match=r"--gpu .*such as 24GB.*RTX 4090.*H200"):
        find_card(text)


def test_a_size_of_memory_means_the_slowest_card_and_the_least_usable_memory_of_that_size():
    card, like = find_card("24GB"), [card for card in CARDS if card.gigabytes == 24]
    assert card.tflops == min(one.tflops for one in like)
    assert card.memory_gib == pytest.approx(min(one.memory_gib for one in like))
    smaller = find_card("20 GiB")
    assert (
        smaller.memory_gib == pytest.approx(card.memory_gib * 20 / 24) and smaller.title == "RTX 3090 or faster (20 GB)"
    )


@pytest.mark.parametrize("name", ["train_h100", "train_h100_without_xformers", "score_h100", "gpu_round"])
def test_the_share_of_a_specification_is_what_large_products_reached_in_our_records(name):
    record = json.loads((RECORDS / f"{name}.json").read_text())
    measured = record.get("matmul_tflops") or record["planned"]["device"]["matmul_tflops"]
    assert measured == pytest.approx(REACHED_FLOPS * find_card("H100").tflops, rel=0.03)


def test_from_the_specification_alone_every_measured_speed_is_within_the_stated_error():
    machine, rows = machine_of(find_card("H100")), json.loads((RECORDS / "train_h100.json").read_text())["rows"]
    ours = [row for row in rows if row["name"].startswith("winnow") and "planned_gib" in row]
    assert len(ours) >= 6
    for row in ours:
        settings = row["settings"]
        config = default(
            lora__r=row["rank"],
            train__packs_per_step=4,
            train__packs_per_batch=settings["packs_per_batch"],
            train__activation_memory=settings["activation_memory"],
        )
        planned = training_tokens_per_s(config, shape_of(row["rank"]), machine)
        error = UNCERTAINTY if "dropout" in settings else 0.15
        assert planned == pytest.approx(row["tokens_per_s"], rel=error), row["name"]
    scored = {row["name"]: row for row in json.loads((RECORDS / "score_h100.json").read_text())["rows"]}["winnow-nf4"]
    config = default(measure__batch_tokens=scored["settings"]["batch_tokens"])
    assert forward_tokens_per_s(config, shape_of(), machine) == pytest.approx(scored["tokens_per_s"], rel=0.15)


def test_settings_that_fit_do_fit_and_change_nothing_that_need_not_change():
    small, large, tiny = (machine_of(find_card(text)) for text in ("12GB", "H200", "2GB"))
    config, shape = default(), shape_of(256)
    assert settings_that_fit(config, shape, large) == [] and fits(config, shape, large)
    assert settings_that_fit(config, shape, tiny) is None
    found = settings_that_fit(config, shape, small)
    assert not fits(config, shape, small) and found[0].startswith("train.packs_per_batch=")
    changed = change(config.model_dump(mode="json"), found, "test")
    needed = sum(training_memory(changed, model_shape(ModelConfig(name=MISTRAL), changed.lora), small).values())
    assert needed <= usable_bytes(small)


def test_a_well_known_base_is_planned_without_the_hub_and_another_one_is_an_error():
    shape = shape_of()
    assert shape.published and shape.linear == 32 * 218_103_808 and shape.linear + shape.other == 7_241_732_096
    assert all(name.count("/") == 1 for name in PUBLISHED)
    with pytest.raises(MachineError, match="nobody/nothing"):
        model_shape(ModelConfig(name="nobody/nothing"), LoraConfig())


@pytest.fixture
def table(tmp_path, monkeypatch) -> Path:
    """A CSV file of 300 rows in the current folder, and no GPU."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    rows = [f"Name the number after {n},It is {n + 1}" for n in range(300)]
    (tmp_path / "mine.csv").write_text("question,answer\n" + "\n".join(rows) + "\n")
    return tmp_path / "mine.csv"


def test_a_plan_for_a_card_needs_no_gpu_no_hub_and_makes_nothing(table):
    few = ("--set", "holdout.dev=20", "--set", "holdout.test=40")
    found = winnow("plan", "--pool", "mine.csv", "--budget", "200", "--gpu", "24GB", *few)
    assert found.code == 0, found.err
    answer, second, *_ = found.out.splitlines()
    assert re.fullmatch(
        r"Fits RTX 3090 or faster \(24 GB\): 20\.7 of 20\.8 usable GiB\. About \d+ s \(assumed, ±35%\) for 200 examples, about "
        r"[\d,]+ tokens\. Near-duplicates are not counted\.",
        answer,
    )
    assert second.startswith("pool      about 300 examples") and "RTX 3090 or faster (24 GB)" in found.out
    assert "not measured on that card: expect ±35%" in found.out and "fits      as configured" in found.out
    assert found.out.splitlines()[-1] == f"next      {PROGRAM} round --budget 200 --pool mine.csv {' '.join(few)}"
    assert "up to 240 can be picked, 60 become dev and test; near-duplicates are not subtracted" in found.out
    assert [path.name for path in table.parent.iterdir()] == ["mine.csv"]
    small = winnow("plan", "--pool", "mine.csv", "--budget", "200", "--gpu", "12GB", *few)
    assert small.code == 0 and "fits      only with --set train.packs_per_batch=" in small.out
    lacking = r"Does not fit RTX 3060 or faster \(12 GB\): [\d.]+ of 11\.0 usable GiB, but does with --set train"
    assert re.match(lacking, small.out)
    tiny = winnow("plan", "--pool", "mine.csv", "--budget", "1", "--gpu", "2GB", *few)
    assert re.match(r"Does not fit [^:]*: [\d.]+ of 1\.\d usable GiB\. About .* for 1 example, ", tiny.out)


def test_without_a_gpu_the_error_names_the_way_to_plan_for_one(table):
    found = winnow("plan", "--pool", "mine.csv", "--budget", "200")
    assert found.code == 4 and found.err.count("\n") == 1 and "plan --gpu 24GB" in found.err


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        (("--gpu", "RTX 9"), 2, "--gpu RTX 9: expected a size of memory"),
        (("--gpu", "24GB", "--set", "model.name=nobody/nothing"), 4, "model.name: .* the hub does not answer"),
        (("--gpu", "24GB", "--set", "model.name=./absent"), 4, "model.name: expected a model directory"),
    ],
)
def test_what_cannot_be_planned_is_one_line(table, wrong, code, said):
    found = winnow("plan", "--pool", "mine.csv", "--budget", "200", *wrong)
    assert found.code == code and found.err.count("\n") == 1
    assert re.search(said, found.err), found.err


THINGS = "bag pan scarf lamp bench clock kettle ladder tent drum saddle mirror violin carpet boat oven stove kite helmet chair".split()
DOINGS = (
    "clean mend paint sell store move weigh insure lend wrap polish oil hang fold dry test rent label sand ship".split()
)
PLACES = (
    "attic cellar garden kitchen shop harbour school barn office museum train desert theatre hospital cave tower factory forest market "
    "airport"
).split()


def test_readme_shows_what_a_plan_of_such_a_file_prints(table, monkeypatch):
    """The command of README's section on plans, on 8,000 rows of a help desk that are all distinct; "…" stands for lines left out."""
    random = np.random.default_rng(0)
    monkeypatch.setattr(near_duplicates, "embedder_here", lambda config: config)
    monkeypatch.setattr(near_duplicates, "_embedded", lambda texts, *more: random.normal(size=(len(texts), 384)))
    page = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")
    command, sample = re.search(r"### Plan a round.*?```\n(.*?)\n```\n```\n(.*?)\n```", page, re.DOTALL).groups()
    rows = [
        f"How do I {DOINGS[n // 20 % 20]} a {THINGS[n % 20]} at the {PLACES[n // 400]}?,First {DOINGS[n % 20]} it; then take it to the "
        f"{PLACES[n // 20 % 20]} and {DOINGS[n // 400]} the {THINGS[n % 19]}. Ask again after {n % 7 + 2} days.,care"
        for n in range(8000)
    ]
    (table.parent / "my.csv").write_text("text,reply,topic\n" + "\n".join(rows) + "\n")
    found = winnow(*shlex.split(command)[2:])
    assert found.code == 0, found.err
    shown, printed = [line for line in sample.splitlines() if line != "…"], found.out.splitlines()
    assert [line for line in printed if line in shown] == shown
