"""What a training leaves of its steps: the curve, and the line that tells how it goes."""

from __future__ import annotations

import json
from types import SimpleNamespace

from al.planning.model_shape import model_shape
from al.round.following import Curve, step_note, training_note
from trainer.config import LoraConfig, ModelConfig


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_curve_drops_what_a_killed_run_left_at_and_after_the_step_it_goes_on_from(tmp_path):
    path = tmp_path / "curve.jsonl"
    first = Curve(path)
    for step in (1, 2, 3, 4):
        first.append({"step": step, "loss": 1.0})
    with path.open("a") as file:
        file.write('{"step": 5, "lo')
    again = Curve(path)
    for step in (3, 4):
        again.append({"step": step, "loss": 2.0})
    assert steps(path) == [1, 2, 3, 4]
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [1.0, 1.0, 2.0, 2.0]


def test_a_curve_holds_null_for_what_is_not_finite(tmp_path):
    Curve(tmp_path / "curve.jsonl").append({"step": 1, "loss": float("inf")})
    assert json.loads((tmp_path / "curve.jsonl").read_text()) == {"step": 1, "loss": None}


def test_a_step_tells_loss_speed_and_memory_and_the_rest_when_known():
    metrics = {"loss": 1.2345, "tokens_per_s": 5012.3, "memory_gib": 16.24}
    assert step_note(metrics) == ", loss 1.234, 5,012 tokens/s, 16.2 GiB"
    told = step_note({**metrics, "dev_loss": 1.5, "mfu": 0.456})
    assert told == ", loss 1.234, dev 1.500, 5,012 tokens/s, MFU 46%, 16.2 GiB"


def test_useful_operations_are_two_products_with_a_frozen_weight_and_three_with_a_lora_one(tmp_path):
    from transformers import LlamaConfig

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaConfig(vocab_size=97, num_key_value_heads=2, **sizes).save_pretrained(tmp_path)
    frozen = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    trained = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    shape = model_shape(ModelConfig(name=str(tmp_path)), LoraConfig(r=4))
    assert (shape.linear, shape.lora) == (frozen, trained)
    assert shape.training_flops_per_token == 2 * 2 * frozen + 2 * 3 * trained
    outputs = 2 * (32 + 16 + 16 + 32 + 64 + 64 + 32)
    assert model_shape(ModelConfig(name=str(tmp_path)), LoraConfig(r=4, dora=True)).lora == trained + outputs


def test_the_last_line_of_a_training_has_the_mean_speed_that_its_report_shows():
    report = SimpleNamespace(last_loss=1.2345, tokens_per_s=99.6, peak_gib=2.84, resumed_from=0, seconds=80.0)
    assert training_note(report) == ", last loss 1.234, 100 tokens/s on average, 2.8 GiB at peak"
    report.resumed_from = 4
    assert training_note(report).startswith(" (with the 4 steps before: 80 s), last loss 1.234, ")
