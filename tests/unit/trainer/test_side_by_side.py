"""The proving ground's many adapters on one base: each run's adapter is the one that training it alone gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import saved, table

from benchmarks.proving_ground import side_by_side, writing
from benchmarks.proving_ground.many_adapters import JOINED, freeze
from trainer.config import GenerateConfig, LoraConfig, TrainConfig
from trainer.forward import collate, hidden_states, output_head
from trainer.generate import generate
from trainer.loss import target_nll
from trainer.model import Base
from trainer.optim import learning_rate

RANK, ALPHA, RATE = 32, 64.0, 3e-3
TOKENS = table([11, 29, 17, 40, 8, 23, 31, 12, 19, 27, 35, 9], seed=3)


def alone(base: Base, start: dict[str, torch.Tensor], steps: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """Train one adapter by the trainer's own forward pass and torch's AdamW; PEFT's names."""
    with base.new_adapter(LoraConfig(r=RANK, alpha=ALPHA), seed=0) as model:
        parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(start[name]) if ".lora_A." in name else parameter.zero_()
        optimizer = torch.optim.AdamW(parameters.values(), weight_decay=0.0)
        for number, rows in enumerate(steps):
            batch = collate(TOKENS, rows)
            nll = target_nll(hidden_states(model, batch)[batch.predictors], output_head(model), batch.labels)
            (nll.sum() / len(nll)).backward()
            torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            optimizer.param_groups[0]["lr"] = learning_rate(number, len(steps), TrainConfig(learning_rate=RATE))
            optimizer.step()
            optimizer.zero_grad()
        return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def matrices(adapters, run: int) -> dict[str, torch.Tensor]:
    """One run's matrices under PEFT's names."""
    found = {}
    for (layer, name), (a, bs) in adapters.parameters.items():
        block = "self_attn" if name in ("qkv", "o") else "mlp"
        for part, a_part, b in zip(JOINED[name], a[run].split(RANK, -1), bs, strict=True):
            prefix = f"base_model.model.model.layers.{layer}.{block}.{part}"
            found[f"{prefix}.lora_A.default.weight"] = a_part.T.detach()
            found[f"{prefix}.lora_B.default.weight"] = b[run].T.detach()
    return found


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_run_among_others_is_trained_as_alone(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "NEFTUNE_ALPHA", 0.0)
    monkeypatch.setattr(side_by_side, "EXAMPLES_A_STEP", 2)
    base = Base.load(saved(tmp_path, kind))
    frozen = freeze(base.model)
    runs, seeds = [np.array([0, 1, 2, 3, 4]), np.array([5, 6, 7, 8, 9])], [7, 8]
    fresh = side_by_side.new_adapters(frozen, seeds, RANK, ALPHA)
    steps = side_by_side.steps_of(runs[1], TOKENS.lengths, seeds[1])
    expected = alone(base, matrices(fresh, 1), steps)
    trained = matrices(side_by_side.train_side_by_side(frozen, TOKENS, runs, seeds, [1e-3, RATE], lambda _: None), 1)
    assert trained.keys() == expected.keys() and len(steps) == 3
    for name, matrix in expected.items():
        torch.testing.assert_close(trained[name], matrix, rtol=1e-3, atol=1e-5, msg=name)


def test_measures_are_those_of_the_trainer(tmp_path):
    base = Base.load(saved(tmp_path))
    frozen = freeze(base.model)
    adapters = side_by_side.new_adapters(frozen, [1, 2])
    rows = np.array([3, 0, 7, 5, 1])
    both = side_by_side.measure_side_by_side(frozen, adapters, TOKENS, [rows, rows[:2]], tokens_at_once=90)
    for found, wanted in zip(both, (rows, rows[:2]), strict=True):
        for i, row in enumerate(wanted):
            batch = collate(TOKENS, [row])
            hidden = hidden_states(base.model, batch)[batch.predictors]
            nll = target_nll(hidden, output_head(base.model), batch.labels)
            first = (hidden @ output_head(base.model)[0].T).argmax(1) == batch.labels
            assert found["nll"][i] == pytest.approx(float(nll.sum()), rel=1e-4)
            assert found["nll_no_end"][i] == pytest.approx(float(nll[:-1].sum()), rel=1e-4)
            assert found["targets"][i] == len(nll)
            assert found["correct"][i] == float(first.all())
            assert found["correct_no_end"][i] == float(first[:-1].all())


def test_every_step_has_rows_of_every_length():
    lengths = np.arange(1, 101)
    steps = side_by_side.steps_of(np.arange(100), lengths, seed=5)
    assert sorted(np.concatenate(steps)) == list(range(100)) and len(steps) == 4
    totals = [lengths[rows].sum() for rows in steps]
    assert max(totals) - min(totals) <= 100


class Letters:
    """A tokenizer whose text is the ids."""

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


def test_a_run_among_others_writes_as_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "NEW_TOKENS", 5)
    base = Base.load(saved(tmp_path))
    frozen = freeze(base.model)
    adapters = side_by_side.new_adapters(frozen, [1, 2, 3])
    with torch.no_grad():
        for i, (_, bs) in enumerate(adapters.parameters.values()):
            for b in bs:
                b.normal_(0, 0.3, generator=torch.Generator().manual_seed(i))
    rows = [np.array([3, 0, 7]), np.array([], dtype=np.int64), np.array([5, 1])]
    written = writing.write_answers(base.model, adapters, TOKENS, rows, Letters())
    assert [len(texts) for texts in written] == [3, 0, 2]
    ends = writing.end_tokens(TOKENS, np.concatenate(rows))
    for k, of_run in enumerate(rows):
        with base.new_adapter(LoraConfig(r=RANK, alpha=ALPHA), seed=0) as model:
            own = matrices(adapters, k)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if parameter.requires_grad:
                        parameter.copy_(own[name])
            prompts = [writing.prompt_of_row(TOKENS, int(row)) for row in of_run]
            config = GenerateConfig(max_new_tokens=5, samples=0)
            answers = generate(model, prompts, config, end_ids=ends, seed=0)
        assert written[k] == [Letters().decode([t for t in a[0].tolist() if t not in ends]) for a in answers]
    assert written[0][1] != written[2][0]


def test_rounds_have_every_row_once_as_new_and_half_as_many_again():
    rows = np.arange(100, 140)
    dealt = side_by_side.in_rounds(rows, seed=3, rounds=4)
    assert [len(part) for part in dealt] == [10, 15, 15, 15]
    new = [part[:10] for part in dealt]
    assert sorted(np.concatenate(new).tolist()) == rows.tolist()
    for number, part in enumerate(dealt):
        assert set(part[10:].tolist()) <= set(np.concatenate(new[:number] or [rows[:0]]).tolist())
    assert [part.tolist() for part in side_by_side.in_rounds(rows, 3, 4)] == [part.tolist() for part in dealt]
    in_order = side_by_side.in_rounds(rows, 3, 2, in_order=True)
    assert in_order[0].tolist() == rows[:20].tolist() and in_order[1][:20].tolist() == rows[20:].tolist()


def test_given_adapters_go_on_and_others_start_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "EXAMPLES_A_STEP", 2)
    frozen = freeze(Base.load(saved(tmp_path, "llama")).model)

    def trained(adapters=None):
        first = side_by_side.train_side_by_side(frozen, TOKENS, [np.arange(6)], [5], [RATE], lambda _: None, adapters)
        return {name: matrix.clone() for name, matrix in matrices(first, 0).items()}, first

    once, adapters = trained()
    more, same = trained(adapters)
    assert same is adapters and any(not torch.equal(once[name], more[name]) for name in once)
    again, other = trained()
    assert other is not adapters and all(torch.equal(once[name], again[name]) for name in once)
