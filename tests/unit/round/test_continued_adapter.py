"""A round that continues an adapter trains that adapter, and says so if the config asks for another."""

from __future__ import annotations

from pathlib import Path

import pytest

from al.config import Config
from al.errors import ConfigError
from al.round.train import check_continued
from al.run.artifacts import Artifact


def trained(config):
    return Artifact("train", "0" * 8, Path("nowhere"), {"params": {"lora": config.lora.model_dump(mode="json")}})


def with_lora(**settings):
    return Config.model_validate({"lora": settings})


def test_another_rank_or_target_for_a_continued_adapter_is_refused_naming_both():
    before = trained(with_lora(r=4))
    check_continued(with_lora(r=4), before)
    check_continued(with_lora(r=8), None)
    with pytest.raises(ConfigError, match=r"lora\.r=8: .* which has lora\.r=4\. .*train\.mode=retrain.* new run"):
        check_continued(with_lora(r=8), before)
    with pytest.raises(ConfigError, match=r"lora\.targets=\['q_proj'\].*lora\.targets=all-linear"):
        check_continued(with_lora(r=4, targets=["q_proj"]), before)


def test_another_initialisation_changes_nothing_of_a_continued_adapter():
    check_continued(with_lora(init="gaussian"), trained(with_lora()))
