"""The noise has the paper's size for each document, and scoring never sees it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import build, table

from trainer.forward import collate
from trainer.gate.architecture import prepare_attention
from trainer.measure import measure
from trainer.neftune import noisy_embeddings

ALPHA, LENGTHS = 5.0, [400, 25, 100]


@pytest.fixture(scope="module")
def noise():
    """One (length, width) array of noise per document."""
    model, tokens = build("llama"), table(LENGTHS)
    batch = collate(tokens, range(3))
    clean = model.get_input_embeddings()(batch.input_ids)
    return (noisy_embeddings(model, batch, ALPHA, [(sum(LENGTHS), 7)]) - clean).detach().split(LENGTHS)


def test_noise_is_uniform_within_alpha_over_the_root_of_length_times_width(noise):
    for length, found in zip(LENGTHS, noise, strict=True):
        bound = ALPHA / np.sqrt(length * 32)
        assert 0.97 * bound < found.abs().max() <= bound * (1 + 1e-4)
        assert abs(found.std().item() / (bound / np.sqrt(3)) - 1) < 4 / np.sqrt(found.numel())
        assert abs(found.mean().item()) < 4 * bound / np.sqrt(3 * found.numel())


def test_trap_1_shorter_documents_get_more_noise_than_the_pack_length_would_give(noise):
    assert noise[1].std() / noise[0].std() == pytest.approx(np.sqrt(400 / 25), rel=0.1)


def test_noise_depends_on_the_seed_alone():
    model, batch = build("llama"), collate(table([9, 4]), [0, 1])
    torch.manual_seed(0)
    one, same, other = (noisy_embeddings(model, batch, ALPHA, [(13, seed)]) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_trap_1_measuring_in_training_mode_sees_no_noise(monkeypatch):
    model, tokens = build("llama"), table([9, 4])
    prepare_attention(model)
    expected = measure(model, tokens, np.arange(2), batch_tokens=64).nll_total
    monkeypatch.setattr("trainer.neftune.noisy_embeddings", None)
    model.train()
    assert np.array_equal(measure(model, tokens, np.arange(2), batch_tokens=64).nll_total, expected)
