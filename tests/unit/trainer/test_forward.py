"""A pack of documents gives what each document gives alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import build, saved, table

from trainer.attention import PACKED_ATTENTION
from trainer.errors import DataError, TrainerError
from trainer.families import FAMILIES
from trainer.forward import collate, hidden_states, output_head
from trainer.gate.architecture import prepare_attention
from trainer.loss import Head, target_nll, target_statistics
from trainer.model import Base, plain_attention

LENGTHS = [5, 30, 1, 17, 24]


def packed_logits(model, tokens, rows):
    batch = collate(tokens, rows)
    with torch.no_grad():
        return output_head(model).logits(hidden_states(model, batch)).split(batch.lengths.tolist())


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *((kind, {}) for kind in FAMILIES),
        ("llama", {"tie_word_embeddings": True, "attention_bias": True}),
        ("mistral", {"sliding_window": 7}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
        ("gpt_neox", {}),
        ("gpt2", {}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("cohere", {}),
    ],
)
def test_trap_2_each_document_in_a_pack_has_the_logits_it_has_alone(kind, changes):
    model, tokens = build(kind, **changes), table(LENGTHS)
    rows = range(len(LENGTHS))
    with torch.no_grad():
        alone = [model(torch.tensor(tokens.ids(r))[None].long(), use_cache=False).logits[0] for r in rows]
    prepare_attention(model)
    packed = packed_logits(model, tokens, rows)
    for one, other in zip(alone, packed, strict=True):
        assert (one - other).abs().max() < 1e-5


def test_sliding_window_is_honoured_and_matters():
    tokens = table([30])
    wide, narrow = (build("mistral", sliding_window=window) for window in (None, 7))
    for model in (wide, narrow):
        prepare_attention(model)
    assert (packed_logits(wide, tokens, [0])[0] - packed_logits(narrow, tokens, [0])[0]).abs().max() > 1e-2


def test_order_of_documents_in_a_pack_does_not_matter():
    model, tokens = build("llama"), table(LENGTHS)
    prepare_attention(model)
    forward, backward = packed_logits(model, tokens, [0, 1, 3]), packed_logits(model, tokens, [3, 1, 0])
    for one, other in zip(forward, reversed(backward), strict=True):
        assert (one - other).abs().max() < 1e-5


def test_every_supported_family_uses_packed_attention():
    for kind in FAMILIES:
        assert prepare_attention(build(kind)) == PACKED_ATTENTION


def test_trap_2_no_mask_over_the_pack_is_built(monkeypatch):
    import transformers.masking_utils as masks

    def refuse(*args, **kwargs):
        raise AssertionError("a mask over the whole pack was built")

    model, tokens = build("llama"), table(LENGTHS)
    prepare_attention(model)
    for name in ("sdpa_mask", "eager_mask"):
        monkeypatch.setattr(masks, name, refuse)
    assert len(packed_logits(model, tokens, [0, 1])) == 2


def test_recurrent_model_is_refused_because_documents_leak():
    with pytest.raises(TrainerError, match="does not isolate the documents of a pack"):
        prepare_attention(build("mamba"))


def test_packed_model_refuses_padded_batches_but_takes_them_in_plain_attention(tmp_path):
    base = Base.load(saved(tmp_path / "model"))
    ids = torch.arange(3, 9).reshape(2, 3)
    with pytest.raises(TrainerError, match="plain_attention"):
        base.model(ids)
    with torch.no_grad(), plain_attention(base.model) as model:
        assert model(ids).logits.shape[:2] == (2, 3)
        assert model.generate(ids, max_new_tokens=2, do_sample=False).shape == (2, 5)
    assert base.model.config._attn_implementation == PACKED_ATTENTION


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_trap_3_every_target_but_a_first_token_is_predicted_exactly_once(lengths, seed):
    rng = np.random.default_rng(seed)
    tokens = table(lengths, seed)
    for mark in tokens.marks:
        mark[:] = rng.integers(0, 3, len(mark))
    batch = collate(tokens, range(len(lengths)))
    expected = [
        (d, t, tokens.ids(d)[t]) for d in range(len(lengths)) for t in range(1, lengths[d]) if tokens.targets(d)[t]
    ]
    place = batch.predictors.numpy() - np.array(batch.borders)[batch.label_documents]
    assert list(zip(batch.label_documents, place + 1, batch.labels.numpy(), strict=True)) == expected
    assert batch.label_kinds.tolist() == [tokens.targets(d)[t] for d, t, _ in expected]
    assert batch.position_ids.tolist() == [t for length in lengths for t in range(length)]


def test_empty_documents_are_refused():
    tokens = table([4, 4])
    tokens.documents[1] = tokens.documents[1][:0]
    for rows in ([], [0, 1]):
        with pytest.raises(DataError, match="at least one token"):
            collate(tokens, rows)


@pytest.mark.parametrize("chunk", [1, 16 * 97, 10**6])
def test_loss_and_its_gradient_equal_cross_entropy_over_full_logits(monkeypatch, chunk):
    monkeypatch.setattr("trainer.loss.CHUNK_ELEMENTS", {"cpu": chunk})
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(97, 8, generator=generator), torch.randn(97, generator=generator)
    labels, upstream = torch.randint(0, 97, (50,), generator=generator), torch.rand(50, generator=generator)
    hidden = torch.randn(50, 8, generator=generator, requires_grad=True)
    twin = hidden.detach().clone().requires_grad_()
    nll = target_nll(hidden, Head(weight, bias), labels)
    (nll * upstream).sum().backward()
    logits = twin @ weight.T + bias
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    (expected * upstream).sum().backward()
    torch.testing.assert_close(nll, expected)
    torch.testing.assert_close(hidden.grad, twin.grad)
    found = target_statistics(hidden, Head(weight, bias), labels)
    torch.testing.assert_close(found.nll, expected.detach())
    torch.testing.assert_close(found.entropy, torch.distributions.Categorical(logits=logits.detach()).entropy())
    assert torch.equal(found.correct, logits.argmax(-1) == labels)
