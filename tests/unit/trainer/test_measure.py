"""Statistics equal those of one example a call over full logits, however the examples are batched."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import build, table

from trainer.gate.architecture import prepare_attention
from trainer.measure import Wanted, measure

LENGTHS = [12, 3, 40, 1, 2, 25, 7]
EVERYTHING = Wanted(conversation=True, turns=True, pooled=True)


def conversations():
    """Documents of LENGTHS with two or three responses each where they are long enough; two of them touch."""
    tokens = table(LENGTHS)
    for row, turns in ((0, [(3, 5), (8, 12)]), (2, [(4, 9), (9, 14), (30, 40)]), (5, [(2, 25)]), (6, [(1, 2), (5, 7)])):
        tokens.marks[row][:] = 0
        for start, stop in turns:
            tokens.marks[row][start:stop] = 1
            tokens.marks[row][stop - 1] = 2
    return tokens


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
        output = plain(ids[None], use_cache=False, output_hidden_states=True)
    log_p = output.logits[0, :-1].double().log_softmax(-1)
    nll = -log_p.gather(1, ids[1:, None])[:, 0].numpy()
    entropy = -(log_p.exp() * log_p).sum(-1).numpy()
    first, second = log_p.exp().topk(2).values.T.numpy()
    right = (log_p.argmax(-1) == ids[1:]).numpy()
    target, body = marks > 0, marks == 1
    hidden = output.hidden_states[-1][0].double()
    pooled = (hidden * torch.arange(1, len(ids) + 1)[:, None]).sum(0)

    def mean(values):
        return values[target].mean() if target.any() else np.nan

    return {
        "nll_total": nll[target].sum(),
        "nll_mean": mean(nll),
        "entropy_mean": mean(entropy),
        "top_mean": mean(first),
        "margin_mean": mean(first - second),
        "accuracy": mean(right),
        "targets": target.sum(),
        "nll_total_no_end": nll[body].sum(),
        "correct": bool(target.any() and right[target].all()),
        "correct_no_end": bool(body.any() and right[body].all()),
        "conversation_nll": nll.sum(),
        "conversation_tokens": len(ids) - 1,
        "pooled": (pooled / pooled.norm()).numpy(),
        "turns": turns_of(nll, marks),
    }


def turns_of(nll, marks):
    """[(nll, tokens)] of each response, by walking over the tokens."""
    turns, open_ = [], False
    for value, mark in zip(nll, marks, strict=True):
        if mark and not open_:
            turns.append([0.0, 0])
        if mark:
            turns[-1][0] += value
            turns[-1][1] += 1
        open_ = mark == 1
    return turns


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
    check_against_reference(model, tokens)
    found = measure(model, tokens, np.arange(len(LENGTHS)), batch_tokens=30)
    assert found.correct.tolist() == [True, False, False, False, False, False, False]
    assert found.correct_no_end[5]


def test_every_statistic_of_conversations_of_several_turns(model):
    found = check_against_reference(model, conversations())
    assert found.turns.counts.tolist() == [2, 1, 3, 0, 1, 1, 2]


def check_against_reference(model, tokens):
    found = measure(model, tokens, np.arange(len(LENGTHS)), batch_tokens=30, wanted=EVERYTHING)
    ends = np.cumsum(found.turns.counts)
    for row in range(len(LENGTHS)):
        expected = reference(tokens, row)
        turns = slice(ends[row] - found.turns.counts[row], ends[row])
        assert found.turns.counts[row] == len(expected["turns"])
        for i, (nll, count) in zip(range(turns.start, turns.stop), expected.pop("turns"), strict=True):
            assert found.turns.nll_total[i] == pytest.approx(nll, rel=1e-5, abs=1e-6)
            assert found.turns.targets[i] == count
        np.testing.assert_allclose(found.pooled[row], expected.pop("pooled"), atol=1e-3)  # float16
        for name, value in expected.items():
            assert getattr(found, name)[row] == pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True), (row, name)
    return found


def test_what_was_not_asked_for_is_not_there(model):
    found = measure(model, table([5]), np.array([0]), batch_tokens=30)
    assert (found.conversation_nll, found.conversation_tokens, found.turns, found.pooled) == (None,) * 4


def test_whole_conversations_change_nothing_of_the_responses(model):
    tokens, rows = conversations(), np.arange(len(LENGTHS))
    alone = measure(model, tokens, rows, batch_tokens=50)
    whole = measure(model, tokens, rows, batch_tokens=50, wanted=EVERYTHING)
    for name, values in asdict(alone).items():
        if values is not None:
            np.testing.assert_allclose(getattr(whole, name), values, rtol=1e-5, atol=1e-6, err_msg=name)


@given(order=st.permutations(range(len(LENGTHS))), batch_tokens=st.integers(1, 200), cut=st.integers(0, len(LENGTHS)))
@settings(max_examples=15, deadline=None)
def test_order_batches_and_shards_change_nothing_but_rounding(model, order, batch_tokens, cut):
    tokens, order = conversations(), np.array(order)
    expected = by_row(measure(model, tokens, np.arange(len(LENGTHS)), batch_tokens=10**6, wanted=EVERYTHING))
    for shard in (order[:cut], order[cut:]):
        found = by_row(measure(model, tokens, shard, batch_tokens=batch_tokens, wanted=EVERYTHING))
        for name, values in found.items():
            for i, row in enumerate(shard):
                tolerance = 1e-3 if name == "pooled" else 1e-5
                np.testing.assert_allclose(values[i], expected[name][row], rtol=tolerance, atol=tolerance, err_msg=name)


def by_row(statistics):
    """Every statistic as a list over rows; those of turns as the row's part."""
    turns = statistics.turns
    ends = np.cumsum(turns.counts)[:-1]
    columns = {name: values for name, values in vars(statistics).items() if name != "turns"}
    return columns | {"turn_nll": np.split(turns.nll_total, ends), "turn_targets": np.split(turns.targets, ends)}


def test_trap_17_other_documents_of_a_pack_have_no_weight_in_a_pooled_vector(model):
    """In a padded batch the pads would come last and weigh most."""
    tokens, wanted = table([3, 60, 2]), Wanted(pooled=True)
    together = measure(model, tokens, np.arange(3), batch_tokens=100, wanted=wanted).pooled
    alone = [measure(model, tokens, np.array([row]), batch_tokens=100, wanted=wanted).pooled[0] for row in range(3)]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(together.astype(float), axis=1), 1, atol=1e-2)


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
    found = measure(model, table([3]), np.array([]), batch_tokens=8, wanted=EVERYTHING)
    assert all(len(values) == 0 for name, values in vars(found).items() if name != "turns")
    assert all(len(values) == 0 for values in vars(found.turns).values())


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
