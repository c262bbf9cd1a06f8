"""`plan` for a card that is not here and for a limit of time: what fits, and what each figure rests on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import winnow

from al.commands.plan import _fits
from al.config import CONFIG_DIR, load
from al.planning import near_duplicates
from al.planning.cards import UNCERTAINTY, find_card, machine_of
from al.planning.cost import GIB, training_memory
from al.planning.limits import RANKS, costs_of_ranks, largest_rank, longest_sequence, rounds_in, usable_bytes
from al.planning.model_shape import model_shape

SEVEN_BILLION = {
    "model_type": "mistral",
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    (folder / "config.json").write_text(json.dumps(SEVEN_BILLION))
    return folder


@pytest.fixture(scope="module")
def planned(base, tmp_path_factory) -> dict:
    pool = tmp_path_factory.mktemp("pool") / "rows.jsonl"
    rows = [{"question": f"What is {n} and {n}? " * 40, "answer": f"It is {2 * n}."} for n in range(300)]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("--config", "efficiency-challenge", "--set", f"model.name={base}", "--pool", pool, "--json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "embedder_here", lambda config: None)
        result = winnow(
            "plan", *arguments, "--budget", "5h", "--until", "22h", "--gpu", "rtx-4090", "--run", base / "no-run"
        )
    assert result.code == 0, result.err
    return result.document


def test_the_plan_of_the_challenge_fits_its_card_and_its_day(planned):
    limits, until = planned["limits"], planned["until"]
    assert planned["card"] == "RTX 4090 (24 GB)" and planned["peak_gib"] <= planned["device"]["memory_gib"]
    assert limits["rank"] <= limits["largest_rank"] and limits["sequence"] <= limits["longest_sequence"]
    assert until["rounds"] == 4 and planned["total_seconds"] <= 22 * 3600
    assert until["tokens"] == pytest.approx((1 + 3 / 1.5) * planned["round"]["tokens"], rel=0.01), (
        "half of a round is replayed"
    )
    assert any("4 rounds of 5h take" in text for text in planned["warnings"]), "this pool is small"


def test_each_figure_says_what_it_rests_on(planned, world, tmp_path):
    basis = planned["basis"]
    assert basis["time"].startswith("extrapolated to RTX 4090") and "not measured" in basis["time"]
    assert planned["uncertainty"] == UNCERTAINTY
    assert basis["pool"].startswith("estimated: every row read") and basis["memory"].startswith("calculated")
    here = winnow("plan", "--config", world, "--run", tmp_path / "run", "--budget", 24)
    assert here.code == 0, here.err
    answer = here.out.splitlines()[0]
    assert (
        answer.startswith("Fits this machine without a GPU: ")
        and " s (speed measured here) for 24 examples, " in answer
    )
    assert "basis     time: measured here" in here.out and "fits      as configured; rank 4 takes" in here.out


def test_limits_are_the_last_values_that_fit(base):
    config = load(CONFIG_DIR / "efficiency-challenge.yaml", (f"model.name={base}",))
    machine = machine_of(find_card("RTX 4090"))
    rank = largest_rank(config, model_shape(config.model, config.lora), machine)

    def needed(r: int) -> float:
        lora = config.lora.model_copy(update={"r": r})
        return sum(
            training_memory(config.model_copy(update={"lora": lora}), model_shape(config.model, lora), machine).values()
        )

    assert needed(rank) <= usable_bytes(machine) < needed(RANKS[RANKS.index(rank) + 1])
    small = replace(machine, memory_gib=1.0)
    shape = model_shape(config.model, config.lora)
    assert largest_rank(config, shape, small) is None and longest_sequence(config, shape, small) is None
    assert longest_sequence(config, shape, machine) > 2048


def test_what_ranks_cost_is_what_the_memory_holds_for_them_and_how_fast_they_train(base):
    config = load(CONFIG_DIR / "efficiency-challenge.yaml", (f"model.name={base}",))
    machine, shape = machine_of(find_card("RTX 4090")), model_shape(config.model, config.lora)
    found = costs_of_ranks(config, shape, machine, largest_rank(config, shape, machine))
    assert {16, 64, config.lora.r} <= {one["rank"] for one in found}
    for one in found:
        lora = config.lora.model_copy(update={"r": one["rank"]})
        exact, other = model_shape(config.model, lora), config.model_copy(update={"lora": lora})
        held = training_memory(other, exact, machine)["LoRA weights, optimizer"]
        assert one["lora_gib"] == pytest.approx(held / GIB, abs=0.01)
    speeds = [one["tokens_per_s"] for one in found]
    assert speeds == sorted(speeds, reverse=True) and speeds[0] > speeds[-1]


@pytest.mark.parametrize(
    ("settings", "largest", "length", "first", "last"),
    [
        ([], 64, 4_096, "fits is 64", "sequences up to 4,096 tokens fit (configured: 2,048)"),
        (["lora.r=8"], 8, None, "fits is 8 with the other settings as they are", "no sequence length fits with these"),
        (["lora.r=8"], None, None, "no rank fits with the other settings as they are", "no sequence length fits with"),
    ],
)
def test_what_fits_is_said_for_the_settings_as_they_are(settings, largest, length, first, last):
    ranks = [{"rank": 16, "lora_gib": 0.47, "tokens_per_s": 1_200}]
    limits = {"rank": 16, "largest_rank": largest, "ranks": ranks, "longest_sequence": length, "sequence": 2_048}
    lines = _fits(limits | {"settings": settings})
    assert "rank 16 takes 0.5 GiB for LoRA weights and optimizer; " in lines[0] and lines[0].endswith(first)
    assert lines[-1].strip().startswith(last) and len(lines) == 2, "one rank is not compared"


def test_rounds_are_counted_until_the_time_is_over():
    first, later = {"total_seconds": 10.0}, {"total_seconds": 4.0}
    assert [rounds_in(first, later, seconds) for seconds in (9.9, 10.0, 13.9, 14.0, 22.0)] == [0, 1, 1, 2, 4]
