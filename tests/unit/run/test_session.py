"""What a session holds: models that are loaded once, and out of the way when they do not work."""

from __future__ import annotations

from types import SimpleNamespace

import al.engine.models
from al.run.session import Session
from selection.config import EmbedConfig


class Device:
    """An embedder that only remembers where it was sent."""

    def __init__(self):
        self.device, self.seen = "cuda:0", []

    def to(self, device):
        self.device = device
        self.seen.append(device)
        return self


def session(**embed):
    config = SimpleNamespace(embed=EmbedConfig(**embed), model="one")
    return Session(SimpleNamespace(writable=False), config, quiet=True)


def test_the_embedder_is_loaded_once_and_waits_in_main_memory(monkeypatch):
    loaded = []
    monkeypatch.setattr(al.engine.models, "load_embedder", lambda config: loaded.append(config) or Device())
    ours = session(model="small")
    for _ in range(2):
        with ours.embedder.at_work() as embedder:
            assert embedder.device == "cuda:0"
        assert embedder.device == "cpu"
    assert len(loaded) == 1


def test_another_config_shares_it_only_if_it_names_the_same(monkeypatch):
    ours = session(model="small")
    same = ours.with_config(SimpleNamespace(embed=EmbedConfig(model="small"), model="two"))
    other = ours.with_config(SimpleNamespace(embed=EmbedConfig(model="large"), model="one"))
    assert same.embedder is ours.embedder and other.embedder is not ours.embedder
