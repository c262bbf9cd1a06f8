"""Statistics equal those of one example a call over full logits, however the examples are batched."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import build, table

from trainer.architecture import prepare_attention
from trainer.measure import measure

LENGTHS = [12, 3, 40, 1, 2, 25, 7]


@pytest.fixture(scope="module")
def model():
    made = build("llama")
    prepare_attention(made)
    return made


def reference(tokens, row):
    """The same numbers from full logits of one document, in float64."""
    ids, marks = torch.tensor(tokens.ids(row)).long(), tokens.targets(row)[1:]
    plain = build("llama")
    with torch.no_grad():
        log_p = plain(ids[None], use_cache=False).logits[0, :-1].double().log_softmax(-1)
    nll = -log_p.gather(1, ids[1:, None])[:, 0].numpy()
    entropy = -(log_p.exp() * log_p).sum(-1).numpy()
    right = (log_p.argmax(-1) == ids[1:]).numpy()
    target, body = marks > 0, marks == 1
    return {
        "nll_total": nll[target].sum(),
        "nll_mean": nll[target].mean() if target.any() else np.nan,
        "entropy_mean": entropy[target].mean() if target.any() else np.nan,
        "targets": target.sum(),
        "nll_total_no_end": nll[body].sum(),
        "correct": bool(target.any() and right[target].all()),
        "correct_no_end": bool(body.any() and right[body].all()),
    }


def with_right_answers(tokens, model):
    """Rows 0 and 5 with responses that the model itself would give, row 5 but for the end token."""
    from trainer.forward import collate, hidden_states, output_head

    for row, last in ((0, 12), (5, 24)):
        for place in range(LENGTHS[row] // 2, last):
            batch = collate(tokens, [row])
            with torch.no_grad():
                logits = hidden_states(model, batch)[place - 1] @ output_head(model)[0].T
            tokens.documents[row][place] = int(logits.argmax())
    return tokens


def test_every_statistic_equals_the_unpacked_reference(model):
    tokens = with_right_answers(table(LENGTHS), model)
    found = asdict(measure(model, tokens, np.arange(len(LENGTHS)), batch_tokens=30))
    assert found["correct"].tolist() == [True, False, False, False, False, False, False]
    assert found["correct_no_end"][5]
    for row in range(len(LENGTHS)):
        for name, expected in reference(tokens, row).items():
            assert found[name][row] == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True), (row, name)


@given(order=st.permutations(range(len(LENGTHS))), batch_tokens=st.integers(1, 200))
@settings(max_examples=15, deadline=None)
def test_order_and_batching_change_nothing_but_rounding(model, order, batch_tokens):
    tokens = table(LENGTHS)
    expected = asdict(measure(model, tokens, np.arange(len(LENGTHS)), batch_tokens=10**6))
    found = asdict(measure(model, tokens, np.array(order), batch_tokens=batch_tokens))
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name][list(order)], rtol=1e-5, atol=1e-6)


def test_documents_without_tokens_or_targets_are_reported_empty(model):
    tokens = table([5, 4])
    tokens.documents[0] = tokens.documents[0][:0]
    tokens.marks[0] = tokens.marks[0][:0]
    tokens.marks[1][:] = 0
    done = []
    found = measure(model, tokens, np.array([0, 1]), batch_tokens=64, progress=done.append)
    assert found.targets.tolist() == [0, 0] and found.nll_total.tolist() == [0, 0]
    assert np.isnan(found.nll_mean).all() and not found.correct.any()
    assert sum(done) == 2


def test_progress_counts_every_row_and_may_stop_the_work(model):
    tokens, done = table(LENGTHS), []
    measure(model, tokens, np.arange(len(LENGTHS)), batch_tokens=20, progress=done.append)
    assert sum(done) == len(LENGTHS) and len(done) > 2

    def interrupt(rows):
        if rows:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(model, tokens, np.arange(len(LENGTHS)), batch_tokens=20, progress=interrupt)


def test_nothing_to_measure_gives_empty_arrays(model):
    assert all(len(values) == 0 for values in asdict(measure(model, table([3]), np.array([]), batch_tokens=8)).values())


def test_dropout_does_not_act_and_the_mode_stays_evaluation(tmp_path):
    from tiny_models import saved

    from trainer.config import LoraConfig
    from trainer.model import Base

    with Base.load(saved(tmp_path / "model")).new_adapter(LoraConfig(r=2, dropout=0.5), seed=0) as model:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.3)
        model.train()
        one, two = (measure(model, table([9]), np.array([0]), batch_tokens=64) for _ in range(2))
        assert one.nll_total == two.nll_total
        assert not model.training
        assert replace(one, nll_total=two.nll_total).targets == two.targets
