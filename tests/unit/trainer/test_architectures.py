"""The classes that people fine-tune are exact or refused, as benchmarks/results/architectures.json says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.architecture_check import compare
from benchmarks.architecture_models import tiny_model
from trainer.errors import TrainerError

RECORD = json.loads((Path(__file__).parents[3] / "benchmarks/results/architectures.json").read_text(encoding="utf-8"))
ROWS = {row["model_type"]: row for row in RECORD["rows"]}
EXACT = (
    *(
        "llama",
        "mistral",
        "ministral",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gemma4_text",
        "phi3",
        "smollm3",
    ),
    *(
        "granite",
        "olmo",
        "olmo2",
        "olmo3",
        "glm4",
        "exaone4",
        "nemotron",
        "stablelm",
        "falcon",
        "cohere",
        "mixtral",
        "qwen3_moe",
    ),
    *("phimoe", "nanochat", "gemma3n_text"),
)
REFUSED = ("qwen3_5_text", "lfm2", "jamba", "gpt_oss", "bloom", "xglm")


@pytest.mark.parametrize("model_type", EXACT)
def test_a_class_that_people_use_is_exact(model_type, tmp_path):
    tiny_model(model_type).save_pretrained(tmp_path)
    found = compare(tmp_path, "bfloat16" if model_type in ("gemma2", "nanochat") else "float32")
    assert found.excess <= 1, found.reason
    assert (ROWS[model_type]["verdict"], ROWS[model_type]["path"]) == ("exact", found.path)


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_class_whose_documents_leak_is_refused(model_type, tmp_path):
    tiny_model(model_type).save_pretrained(tmp_path)
    with pytest.raises(TrainerError, match="does not isolate the documents of a pack"):
        compare(tmp_path, "float32")
    assert ROWS[model_type]["verdict"] == "refused"


def test_no_class_in_the_record_is_silently_wrong():
    assert [row for row in RECORD["rows"] if row["verdict"] == "wrong"] == []
    assert {row["model_type"] for row in RECORD["rows"]} >= {*EXACT, *REFUSED}
