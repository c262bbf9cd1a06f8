"""What the benchmarks for GPUs promise before there is one: the checkpoint that they build, the card that they imitate, and that one failed
part loses no other."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, MistralConfig, PreTrainedTokenizerFast

from trainer.config import ModelConfig
from trainer.model import Base
from trainer.quantization import nf4_layers

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import card_memory  # noqa: E402
import gpu_tables  # noqa: E402
import many_gpus  # noqa: E402
from many_gpus import Found  # noqa: E402
from random_nf4 import save_random_nf4  # noqa: E402


def saved_tokenizer(folder: Path) -> Path:
    """A folder with a tokenizer of a few words."""
    words = {word: number for number, word in enumerate(("<unk>", "red", "green", "blue"))}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>"))).save_pretrained(folder)
    return folder


def test_a_random_checkpoint_is_what_transformers_stores_of_the_same_weights(tmp_path: Path):
    config = MistralConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "plain")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", dtype=torch.bfloat16, device_map={"": "cpu"}, quantization_config=settings
    )
    theirs.save_pretrained(tmp_path / "theirs")

    save_random_nf4(tmp_path / "ours", config, saved_tokenizer(tmp_path / "tokenizer"))

    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.get_default_dtype() == torch.float32
    base = Base.load(ModelConfig(name=str(tmp_path / "ours"), device="cpu", compute_dtype="float32"))
    assert base.decoder is not None and len(nf4_layers(base.model)) == 14


def test_inside_the_block_the_gpu_is_a_smaller_card(monkeypatch: pytest.MonkeyPatch):
    fractions, before = [], torch.cuda.mem_get_info
    whole = SimpleNamespace(total_memory=100 * card_memory.GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: whole)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * card_memory.GIB)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    with pytest.raises(ZeroDivisionError), card_memory.card(24.0, 1.5):
        assert torch.cuda.mem_get_info(torch.device("cpu")) == (17.5 * card_memory.GIB, 24 * card_memory.GIB)
        raise ZeroDivisionError
    assert fractions == [pytest.approx(0.225), 1.0]
    assert torch.cuda.mem_get_info is before


def test_a_part_that_fails_and_one_that_hangs_lose_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def hangs(bench: many_gpus.Bench) -> Found:
        """As a rank that waits for another one."""
        time.sleep(60)
        raise AssertionError

    def fails(bench: many_gpus.Bench) -> Found:
        """As a part whose worker dies."""
        raise RuntimeError("worker 1 ended")

    done = Found(2.0, 10, "tokens", ["a"])
    parts = {"score": fails, "embed": lambda bench: done, "train": hangs, "lineages": lambda bench: done}
    monkeypatch.setattr(many_gpus, "PARTS", parts)
    monkeypatch.setattr(many_gpus, "prepared", lambda session: None)
    monkeypatch.setattr(many_gpus, "LEAST_SECONDS", 0)
    closed: list[bool] = []
    session = SimpleNamespace(engine=SimpleNamespace(close=lambda: closed.append(True)))
    found: dict[str, Found | str] = {}
    limits = argparse.Namespace(part_seconds=0.3)

    many_gpus.measure(session, tmp_path / "work", limits, time.monotonic() + 30, found.__setitem__)

    assert found["embed"] == found["lineages"] == done
    assert found["score"] == "RuntimeError: worker 1 ended" and "not finished after" in found["train"]
    assert len(closed) == 2  # workers of a failed part may still be at it


def test_a_row_says_what_is_known_of_a_part():
    one = {
        "score": Found(4.0, 10, "examples", ["a"]),
        "train": Found(3.0, 9, "tokens", ["b"]),
        "embed": "OSError: full",
    }
    many = {
        "score": Found(2.0, 10, "examples", ["a"]),
        "train": "TimeoutError: late",
        "embed": Found(1.0, 5, "examples", []),
    }
    score, embed, train = many_gpus.rows_of({1: one, 2: many}, 2)
    assert (score["speedup"], score["equal"]) == (2.0, True)
    assert embed["error_one"] == "OSError: full" and embed["seconds_many"] == 1.0
    assert train["error_many"] == "TimeoutError: late" and "speedup" not in train


PROVENANCE = {"device": "a GPU", "date": "2026-11-30T12:00:00+00:00", "command": "python x.py"} | {
    "versions": dict.fromkeys(("torch", "transformers", "peft", "bitsandbytes"), "1.0")
}


def test_a_part_that_failed_is_in_the_table_of_several_gpus():
    one = {"score": Found(4.0, 1000, "examples", ["a"]), "train": Found(3.0, 9, "tokens", ["b"])}
    many = {"score": Found(2.0, 1000, "examples", ["a"]), "train": "TimeoutError: late\nTraceback"}
    record = PROVENANCE | {"gpus": 2, "shape": "tiny", "rows": many_gpus.rows_of({1: one, 2: many}, 2)}
    lines = gpu_tables.many_gpus(record).splitlines()
    assert "| scoring | 1,000 examples | 4.0 | 2.0 | 2.00 × |" in lines
    assert "| one training on all GPUs | 9 tokens | 3.0 | failed: TimeoutError: late |  |" in lines


def test_the_table_of_a_card_has_plan_and_peaks_and_says_what_did_not_hold():
    works = [("training", 20.0, 21.0), ("scoring", 9.0, 10.5), ("answers", 8.0, 12.25)]
    row = {
        "rank": 16,
        "planned": {"card": "RTX 3090 or faster (24 GB)", "card_gib": 22.1, "peak_gib": 20.45},
        "limit_gib": 21.35,
        "works": [{"name": name, "allocated_gib": a, "reserved_gib": r} for name, a, r in works],
        "held": True,
    }
    rows = [row, {"rank": 256, "error": "OutOfMemoryError: a | b", "held": False}]
    lines = gpu_tables.card_memory(PROVENANCE | {"rows": rows}).splitlines()
    assert "| 16 | 20.45 | 20.00 | 21.00 | 12.25 | yes |" in lines
    assert "| 256 |  |  |  |  | no: OutOfMemoryError: a   b |" in lines
    assert any("22.1 GiB" in line and "21.35 GiB" in line for line in lines)
