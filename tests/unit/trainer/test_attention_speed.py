"""The benchmark of attention finds wrong results, and chooses tiles and the length for FlashAttention 2 from what it measured."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed (requirements-dev.txt)")

from benchmarks import attention_speed as speed  # noqa: E402
from benchmarks import render  # noqa: E402
from trainer.decoder.packed_attention import TILINGS, Call, Tiling  # noqa: E402

CPU = torch.device("cpu")
TINY = speed.Shape(2, 1, 16, 3.0, 9)
MODELS = {"plain": speed.Shape(1, 1, 16), "windowed": speed.Shape(2, 1, 16, None, 9)}
TRIED = {64: {"forward": ((16, 16, 4, 1), (32, 16, 4, 1)), "queries": ((16, 16, 4, 1),), "keys": ((16, 16, 4, 1),)}}


@pytest.fixture
def small(monkeypatch):
    """Sizes that Triton's interpreter computes in seconds."""
    monkeypatch.setattr(speed, "MODELS", MODELS)
    monkeypatch.setattr(speed, "CHECKED", {**MODELS, "tiny": TINY})
    monkeypatch.setattr(speed, "CHECKED_LENGTHS", (1, 9))
    monkeypatch.setattr(speed, "PACKS", {"220": 6, "8192": 12})
    monkeypatch.setattr(speed, "TRIED", TRIED)
    monkeypatch.setitem(TILINGS, 64, speed.Tilings(*[Tiling(16, 16, 4, 1)] * 3))


def test_the_record_has_checks_tiles_and_times(small):
    record = json.loads(json.dumps(speed.measure(CPU, (torch.float32,), 12)))
    assert [c["right"] for c in record["checks"]] == [True] * 3
    assert {(row["model"], row["kernel"]) for row in record["sweep"]} >= {("plain", k) for k in speed.KERNELS}
    assert all(row["right"] and row["ms"] > 0 for row in record["sweep"])
    assert len(record["rows"]) == 4 and all("flash" not in row for row in record["rows"])
    text = speed.report(record)
    assert "| plain | 8192 | 12 |" in text and record["tilings"]["64"] in text
    section = render.attention_speed(
        {**record, "versions": dict.fromkeys(("torch", "transformers", "peft", "bitsandbytes"), "1")}
    )
    assert "3 of 3 shapes" in section and section.count("| plain |") == 2


@pytest.mark.parametrize("what", ["key_gradient", "query_gradient"])
def test_a_wrong_gradient_is_found(monkeypatch, small, what):
    right = getattr(Call, what)

    def wrong(self, *given):
        made = right(self, *given)
        given[-1][3] *= 1.05
        return made

    monkeypatch.setattr(Call, what, wrong)
    found = speed.check("tiny", TINY, CPU, torch.float32, (2, 5))
    assert not found["right"] and found["errors"]["out"] < 1e-5


def test_a_leak_between_documents_is_found(monkeypatch, small):
    right = Call.forward

    def leaking(self, q, k, v, out):
        log_sums = right(self, q, k, v, out)
        out[-1] += 1e-4 * v[0, 0]
        return log_sums

    monkeypatch.setattr(Call, "forward", leaking)
    found = speed.check("tiny", TINY, CPU, torch.float32, (2, 5))
    assert found["same_bits_twice"] and not found["isolated"] and not found["right"]


def test_an_exception_is_a_wrong_result(monkeypatch, small):
    monkeypatch.setattr(Call, "forward", lambda *given: 1 / 0)
    assert speed.check_one(("tiny", CPU, torch.float32))["right"] is False


def test_the_fastest_right_tiles_are_chosen(small):
    slow, quick = TRIED[64]["forward"]
    row = {"model": "plain", "kernel": "forward", "right": True}
    rows = [{**row, "pack": "220", "tiling": slow, "ms": 3.0}, {**row, "pack": "220", "tiling": quick, "ms": 2.0}]
    assert speed.fastest(rows)[64].forward == Tiling(*quick)
    assert speed.fastest([rows[0], {**rows[1], "right": False}])[64].forward == Tiling(*slow)
    assert speed.fastest([rows[0], {**rows[1], "pack": "8192"}])[64].forward == Tiling(*slow)


def test_flash_attention_starts_where_it_is_faster(small):
    def row(mean, ours):
        return {
            "model": "plain", "mean_of_a_token": mean, "flash": {"forward": 1.0, "backward": 2.0},
            "packed": {"forward": ours / 3, "backward": 2 * ours / 3},
        }  # fmt: skip

    assert speed.crossings([row(100, 2.0), row(400, 2.5), row(1600, 4.0)])[64] == 800
    assert speed.crossings([row(100, 2.0), row(400, 2.5)])[64] == 800
    assert speed.crossings([row(400, 4.0), row(1600, 5.0)])[64] == 0


@pytest.mark.parametrize("mean", [220, 1000, 8192])
def test_lengths_add_up(mean):
    lengths = speed.lengths_of(mean, 8192)
    assert sum(lengths) == 8192 and min(lengths) > 0
    assert len(lengths) == round(8192 / mean) and (mean == 8192) == (len(set(lengths)) == 1)


def test_a_row_that_is_not_a_number_is_wrong():
    rows = torch.ones(4, 3)
    assert speed.row_error(rows, rows) == 0
    assert speed.row_error(torch.where(torch.arange(4)[:, None] == 2, torch.nan, rows), rows) == torch.inf
