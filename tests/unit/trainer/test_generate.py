"""Continuations are those of transformers' own greedy search, and what is drawn belongs to prompt and seed alone."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import VOCABULARY, build, saved, table

from trainer import generate as generation
from trainer.adapters import save_adapter
from trainer.attention import PACKED_ATTENTION
from trainer.config import GenerateConfig, LoraConfig, ModelConfig
from trainer.errors import CheckpointError, DataError, MachineError, TrainerError
from trainer.families import FAMILIES
from trainer.forward import bind_decoder, bound_decoder, collate, hidden_states
from trainer.gate.architecture import prepare_attention
from trainer.generate import follow, generate
from trainer.generation import sampling
from trainer.generation.adapters import AdapterSet
from trainer.generation.cached import CachedEngine
from trainer.generation.plain import PlainEngine
from trainer.generation.spans import Spans
from trainer.loss import Head, target_nll
from trainer.measure import measure
from trainer.model import Base, plain_attention

LENGTHS = [5, 30, 1, 17, 24, 9]
ENDS = (2, 40, 41)
KINDS = [
    *((kind, {}) for kind in FAMILIES),
    ("mistral", {"sliding_window": 7}),
    ("gpt_neox", {}),
    ("gpt2", {}),
    ("cohere", {"logit_scale": 0.25}),
]


def prompts(lengths=LENGTHS, seed=0):
    return table(list(lengths), seed).documents


def config(**changes):
    return GenerateConfig(**{"max_new_tokens": 12, "samples": 0, "temperature": 1.0, "batch_tokens": 100, **changes})


def ready(kind="llama", **changes):
    model = build(kind, **changes)
    prepare_attention(model)
    bind_decoder(model)
    return model


def lists(written):
    return [[answer.tolist() for answer in of_prompt] for of_prompt in written]


def alone(model, prompt, size, ends=ENDS):
    """What transformers' own generate writes after one prompt."""
    ids = torch.tensor(prompt)[None].long()
    with torch.no_grad(), plain_attention(model):
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=size, do_sample=False, eos_token_id=list(ends), pad_token_id=0
        )  # fmt: skip
    return found[0, len(prompt) :].tolist()


@pytest.mark.parametrize(("kind", "changes"), KINDS, ids=[kind for kind, _ in KINDS])
def test_greedy_answers_in_batches_are_those_of_transformers_one_at_a_time(kind, changes):
    model = ready(kind, **changes)
    expected = [[alone(model, prompt, 12)] for prompt in prompts()]
    assert lists(generate(model, prompts(), config(), end_ids=ENDS, seed=0)) == expected
    assert len({str(answer) for answer in expected}) > 3


def test_padding_and_company_do_not_change_the_logits(monkeypatch):
    seen = {}

    def record(logits, uniform, config):
        seen.setdefault(len(logits), []).append(logits.clone())
        return logits.argmax(-1)

    monkeypatch.setattr(generation, "choose", record)
    model = ready()
    for batch in (prompts()[:2], prompts()[:1]):
        generate(model, batch, config(max_new_tokens=6, batch_tokens=10**6), end_ids=(), seed=0)
    for together, single in zip(seen[2], seen[1], strict=True):
        assert (together[1] - single[0]).abs().max() < 1e-4 < (together[0] - single[0]).abs().max()


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.5, "top_p": 0.9}])
def test_drawn_answers_depend_on_seed_and_prompt_and_not_on_the_batch(changes):
    model, settings = ready(), {"samples": 3, **changes}
    whole = lists(generate(model, prompts(), config(**settings, batch_tokens=10**6), end_ids=ENDS, seed=0))
    single = lists(generate(model, prompts(), config(**settings, batch_tokens=1), end_ids=ENDS, seed=0))
    backward = lists(generate(model, prompts()[::-1], config(**settings, batch_tokens=500), end_ids=ENDS, seed=0))
    assert whole == single == backward[::-1]
    assert all(len({str(answer) for answer in of_prompt}) > 2 for of_prompt in whole)
    other = lists(generate(model, prompts(), config(**settings), end_ids=ENDS, seed=1))
    assert [answers[0] for answers in other] == [answers[0] for answers in whole]
    assert all(one[1:] != two[1:] for one, two in zip(whole, other, strict=True))


def test_every_answer_has_random_numbers_of_its_own():
    settings = config(samples=2)
    drawn = [sampling.uniform(prompt, settings, seed)[1:] for prompt in prompts() for seed in (0, 1)]
    assert len(np.unique(np.concatenate(drawn))) == len(LENGTHS) * 2 * 2 * 12


def test_more_samples_and_more_tokens_leave_the_first_ones_as_they_were():
    model = ready()
    few = lists(generate(model, prompts(), config(samples=2), end_ids=(), seed=0))
    more = lists(generate(model, prompts(), config(samples=4, max_new_tokens=20), end_ids=(), seed=0))
    assert [[answer[:12] for answer in answers[:3]] for answers in more] == few


def test_tokens_are_drawn_as_often_as_they_are_probable():
    logits = torch.tensor([0.5, 0.0, 2.0, -1.0, 1.5])
    uniform = torch.from_numpy(np.random.default_rng(0).random(20_000))
    for settings, kept in (
        ({}, range(5)),
        ({"temperature": 0.5}, range(5)),
        ({"top_p": 0.7}, (2, 4)),
        ({"top_p": 0.85}, (0, 2, 4)),
    ):
        chosen = sampling.choose(logits.expand(20_000, 5), uniform, config(samples=1, **settings))
        expected = torch.zeros(5)
        expected[list(kept)] = (logits[list(kept)] / settings.get("temperature", 1.0)).softmax(0)
        assert (torch.bincount(chosen, minlength=5) / 20_000 - expected).abs().max() < 0.015


def test_a_draw_at_either_end_of_the_unit_interval_is_a_probable_token():
    logits = torch.full((2, 5), -torch.inf)
    logits[:, 1:3] = 0.0
    ends = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    assert sampling.choose(logits, ends, config(samples=1)).tolist() == [1, 2]


def test_an_end_token_stops_an_answer_and_stays_in_it():
    model = ready()
    free = lists(generate(model, prompts(), config(samples=2), end_ids=(), seed=0))
    end = free[0][0][3]
    stopped = lists(generate(model, prompts(), config(samples=2), end_ids=(end,), seed=0))
    for before, after in zip(sum(free, []), sum(stopped, []), strict=True):
        assert after == (before[: before.index(end) + 1] if end in before else before)
    assert len(stopped[0][0]) <= 4 and any(len(answer) == 12 for answer in sum(stopped, []))


@pytest.mark.parametrize(("kind", "engine"), [("llama", CachedEngine), ("gpt_neox", PlainEngine)])
def test_generation_ends_with_its_last_answer_and_ended_answers_are_not_computed(monkeypatch, kind, engine):
    model, sizes = ready(kind), []
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda self, tokens: sizes.append(len(tokens)) or step(self, tokens))
    answers = generate(model, prompts(), config(batch_tokens=10**6), end_ids=range(40, VOCABULARY), seed=0)
    lengths = [len(of_prompt[0]) for of_prompt in answers]
    assert max(lengths) < 12
    assert sizes == [sum(length > n for length in lengths) for n in range(1, max(lengths))]


@pytest.mark.parametrize("samples", [0, 2])
def test_the_budget_of_tokens_is_kept_and_used(monkeypatch, samples):
    model, admitted, done = ready(), [], []
    admit = CachedEngine.admit

    def record(self, *given):
        logits = admit(self, *given)
        admitted.append(sum(sequence.size for sequence in self.under_way))
        return logits

    monkeypatch.setattr(CachedEngine, "admit", record)
    budget = 80 * (1 + samples)
    generate(model, prompts(), config(samples=samples, batch_tokens=budget), end_ids=(), seed=0, progress=done.append)
    assert max(admitted) <= budget and len(admitted) < len(LENGTHS)
    assert sum(done) == len(LENGTHS)


def test_a_waiting_prompt_takes_the_place_of_a_finished_answer(monkeypatch):
    model, company = ready(), []
    admit = CachedEngine.admit
    monkeypatch.setattr(
        CachedEngine, "admit", lambda self, *given: company.append(len(self.under_way)) or admit(self, *given)
    )
    given_prompts = prompts([9, 5, 7, 8, 6, 9, 4, 3, 8, 7], seed=3)
    ends = range(40, VOCABULARY)
    expected = lists(generate(model, given_prompts, config(batch_tokens=10**6), end_ids=ends, seed=0))
    assert company == [0]
    assert lists(generate(model, given_prompts, config(batch_tokens=63), end_ids=ends, seed=0)) == expected
    assert max(company) > 0, "no prompt was read while other answers were under way"


def test_a_prompt_that_is_over_the_budget_goes_alone_with_all_its_answers():
    done = []
    answers = generate(ready(), prompts(), config(samples=2, batch_tokens=1), end_ids=(), seed=0, progress=done.append)
    assert done[0] == 1 and sum(done) == 6 and [len(of_prompt) for of_prompt in answers] == [3] * 6


def test_a_long_prompt_is_read_in_passes_of_their_own(monkeypatch):
    from trainer.generation import cached

    expected = lists(generate(ready(), prompts(), config(batch_tokens=10**6), end_ids=ENDS, seed=0))
    read, passes = CachedEngine._read, []
    monkeypatch.setattr(cached, "PROMPT_TOKENS", 26)
    monkeypatch.setattr(
        CachedEngine,
        "_read",
        lambda self, batch, *given: passes.append(sum(map(len, batch))) or read(self, batch, *given),
    )
    assert lists(generate(ready(), prompts(), config(batch_tokens=10**6), end_ids=ENDS, seed=0)) == expected
    assert passes == [30, 24, 26, 6]


def test_tokens_arrive_one_step_at_a_time_and_the_caller_keeps_its_own_mode():
    model, settings = ready(), config(samples=1)
    expected = [
        answer
        for of_prompt in lists(generate(model, prompts(), settings, end_ids=ENDS, seed=0))
        for answer in of_prompt
    ]
    found = [[] for _ in expected]
    ended = []
    for numbers, tokens, finished in follow(model, prompts(), settings, end_ids=ENDS, seed=0):
        assert not torch.is_inference_mode_enabled()
        for number, token in zip(numbers, tokens, strict=True):
            found[number].append(token)
        ended += finished
    assert found == expected and sorted(ended) == list(range(len(expected)))
    assert max(len(tokens) for tokens in found) > 1


def test_a_reader_that_leaves_early_leaves_nothing_behind(tmp_path):
    base = Base.load(wide(tmp_path / "model", "nf4"))
    steps = follow(base.model, prompts(), config(), end_ids=(), seed=0)
    next(steps)
    assert base.decoder.resident
    steps.close()
    assert not base.decoder.resident and base.decoder.nf4[0].resident is None


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=60))
def test_spans_never_overlap_and_gaps_are_joined(actions):
    spans, taken = Spans(30), {}
    for give, size in actions:
        if give and taken:
            begin = min(taken)
            spans.give(begin, taken.pop(begin))
        else:
            begin = spans.take(size)
            if begin is not None:
                taken[begin] = size
        rows = [row for start, length in [*taken.items(), *spans.gaps] for row in range(start, start + length)]
        assert sorted(rows) == list(range(30))
        ends = [begin + length for begin, length in spans.gaps]
        assert not set(ends) & {begin for begin, _ in spans.gaps}, "adjacent gaps"
        if begin is None and not give:
            assert all(length < size for _, length in spans.gaps)


def test_what_cannot_be_continued_is_refused_before_anything_runs():
    model = ready()
    assert generate(model, [], config(), end_ids=(), seed=0) == []
    with pytest.raises(DataError, match="empty one at 1"):
        generate(model, [[3], [], [4]], config(), end_ids=(), seed=0)
    with pytest.raises(DataError, match="250 tokens and 12 new ones.*context of 256"):
        generate(model, prompts([250]), config(), end_ids=(), seed=0)


def test_memory_for_one_prompt_alone_that_is_not_there_names_the_keys_to_lower(monkeypatch):
    def fail(*arguments):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(CachedEngine, "step", fail)
    with pytest.raises(
        MachineError, match=r"3 answers to one prompt \(no room\).*max_new_tokens \(now 12\).*samples \(now 2\)"
    ):
        generate(ready(), prompts(), config(samples=2, batch_tokens=5000), end_ids=(), seed=0)


def wide(path, quantization: str) -> ModelConfig:
    """A model whose layers are wide enough for NF4."""
    made = saved(path, "llama", hidden_size=64, intermediate_size=128)
    return made.model_copy(update={"quantization": quantization})


@pytest.mark.parametrize(("dora", "quantization"), [(False, "none"), (False, "nf4"), (True, "nf4")])
def test_generating_leaves_scoring_and_gradients_as_they_were_and_the_other_way_round(tmp_path, dora, quantization):
    base = Base.load(wide(tmp_path / "model", quantization))
    tokens, settings = table(LENGTHS), config(samples=1, max_new_tokens=6)
    with base.new_adapter(LoraConfig(r=2, dora=dora), seed=0) as model:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
        assert (bound_decoder(model) is None) == dora
        first = lists(generate(model, prompts(), settings, end_ids=ENDS, seed=0))
        before = measure(model, tokens, np.arange(len(LENGTHS)), batch_tokens=64)
        gradient = _gradient(model, tokens)
        again = lists(generate(model, prompts(), settings, end_ids=ENDS, seed=0))
        after = measure(model, tokens, np.arange(len(LENGTHS)), batch_tokens=64)
        assert first == again
        for one, other in zip(astuple(before), astuple(after), strict=True):
            np.testing.assert_array_equal(one, other)
        torch.testing.assert_close(_gradient(model, tokens), gradient, rtol=0, atol=0)
        assert gradient.abs().max() > 0
        assert base.model.config._attn_implementation == PACKED_ATTENTION
    bare = lists(generate(base.model, prompts(), settings, end_ids=ENDS, seed=0))
    assert bare != first


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_several_adapters_at_once_write_what_each_writes_alone(tmp_path, quantization):
    base = Base.load(wide(tmp_path / "model", quantization))
    shapes = [{"r": 2}, {"r": 5, "alpha": 7.0}, {"r": 4, "rslora": True, "targets": ("q_proj", "down_proj")}]
    paths, settings, alone_each = [], config(samples=1, max_new_tokens=8), []
    for k, shape in enumerate(shapes):
        with base.new_adapter(LoraConfig(**shape), seed=k) as model:
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(k))
            paths.append(tmp_path / str(k))
            save_adapter(model, paths[-1])
            alone_each.append(lists(generate(model, prompts(), settings, end_ids=ENDS, seed=0)))
    before = lists(generate(base.model, prompts(), settings, end_ids=ENDS, seed=0))
    assert len({str(answers) for answers in [*alone_each, before]}) == 4
    owners = [2, 0, 1, 0, 2, 2, 1, 1, 0] * 2
    several = [prompts()[i % 6] for i in range(len(owners))]
    for budget in (10**6, 90):
        found = generate(
            base.model, several, config(samples=1, max_new_tokens=8, batch_tokens=budget), end_ids=ENDS, seed=0,
            adapters=AdapterSet.load(paths, base.decoder), owners=owners,
        )  # fmt: skip
        assert lists(found) == [alone_each[owner][i % 6] for i, owner in enumerate(owners)]
    assert lists(generate(base.model, prompts(), settings, end_ids=ENDS, seed=0)) == before


def test_adapters_that_do_not_fit_are_refused_by_name(tmp_path):
    base, other = Base.load(wide(tmp_path / "model", "none")), Base.load(saved(tmp_path / "other"))
    with other.new_adapter(LoraConfig(r=2), seed=0) as model:
        save_adapter(model, tmp_path / "adapter")
    with base.new_adapter(LoraConfig(r=2, dora=True), seed=0) as model:
        save_adapter(model, tmp_path / "dora")
        with pytest.raises(TrainerError, match="without an adapter"):
            generate(model, prompts(), config(), end_ids=(), seed=0, adapters=AdapterSet(0, []), owners=[0] * 6)
    with pytest.raises(CheckpointError, match="q_proj does not fit"):
        AdapterSet.load([tmp_path / "adapter"], base.decoder)
    with pytest.raises(CheckpointError, match="expected a plain LoRA, found use_dora"):
        AdapterSet.load([tmp_path / "dora"], base.decoder)
    with pytest.raises(CheckpointError, match="expected an adapter"):
        AdapterSet.load([tmp_path / "model"], base.decoder)


def _gradient(model, tokens):
    batch = collate(tokens, range(len(LENGTHS)))
    parameter = next(p for name, p in model.named_parameters() if "lora_B" in name and p.requires_grad)
    weight = model.get_base_model().get_output_embeddings().weight
    target_nll(hidden_states(model, batch)[batch.predictors], Head(weight), batch.labels).sum().backward()
    gradient = parameter.grad.clone()
    model.zero_grad(set_to_none=True)
    return gradient


def test_greedy_answers_are_what_scoring_calls_the_most_probable(tmp_path):
    """Two forwards, one model: the decoder that scores agrees with the transformers forward that generates."""
    from trainer.uncertainty import continuation_documents

    with Base.load(wide(tmp_path / "model", "nf4")).new_adapter(LoraConfig(r=2), seed=0) as model:
        written = [answers[0] for answers in generate(model, prompts(), config(), end_ids=ENDS, seed=0)]
        documents = continuation_documents(prompts(), written, ENDS)
        assert measure(model, documents, np.arange(len(LENGTHS)), batch_tokens=64).correct.all()
