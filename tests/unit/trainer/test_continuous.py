"""Answers that share steps with others are those that each request gets alone, with the log-probabilities of a forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import VOCABULARY, saved, table

from trainer.adapters import save_adapter
from trainer.config import GenerateConfig, LoraConfig
from trainer.errors import TrainerError
from trainer.generate import generate
from trainer.generation.continuous import Request, continuous_batch
from trainer.generation.engine import Asked
from trainer.generation.sampling import Draw, choose_each
from trainer.model import Base, plain_attention

GREEDY = Draw(temperature=0)
PROMPTS = [document.tolist() for document in table([5, 30, 1, 17, 24, 9]).documents]
ENDS = frozenset(range(40, VOCABULARY, 4))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A model that our decoder runs and one that it does not."""
    return {kind: Base.load(saved(tmp_path_factory.mktemp(kind), kind)) for kind in ("llama", "gpt_neox")}


@pytest.fixture(scope="module")
def adapters(bases, tmp_path_factory):
    """Two adapters of the Llama."""
    paths = [tmp_path_factory.mktemp("adapter") / str(k) for k in range(2)]
    for k, path in enumerate(paths):
        with bases["llama"].new_adapter(LoraConfig(r=2 + k), seed=k) as model:
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(k))
            save_adapter(model, path)
    return paths


def config(rows=10_000):
    return GenerateConfig(batch_tokens=rows)


def request(prompt, new=8, draw=GREEDY, seed=0, answers=1, owner=0, **more):
    return Request(Asked(prompt, answers, new, owner), draw, seed, **more)


def played(batch, arrivals):
    """{key: ({answer: tokens}, {answer: why it ended})} of requests that arrive before steps: arrivals[step] = {key: request}."""
    found, number = {}, 0
    with torch.inference_mode():
        while batch.busy or number <= max(arrivals):
            for key, wanted in arrivals.get(number, {}).items():
                batch.add(key, wanted)
            for step in batch.step():
                tokens, ended = found.setdefault(step.request, ({}, {}))
                tokens.setdefault(step.answer, []).extend(step.tokens)
                if step.ended:
                    ended[step.answer] = step.ended
            number += 1
    return found


def ids(tokens):
    return {answer: [token.id for token in of_answer] for answer, of_answer in tokens.items() if answer is not None}


def reference(model, tokens):
    """(T - 1, V) log-probabilities of one whole forward pass of transformers."""
    with torch.no_grad(), plain_attention(model):
        return model(torch.tensor([tokens])).logits[0, :-1].float().log_softmax(-1)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_logprobs_of_prompt_and_answer_are_those_of_a_teacher_forced_forward(bases, kind):
    base = bases[kind]
    arrivals = {
        0: {0: request(PROMPTS[0], draw=Draw(0.7, 0.9, 50), answers=2, top=3, scored=True), 1: request(PROMPTS[1])},
        2: {2: request(PROMPTS[3], draw=Draw(1.3), top=0), 3: request(PROMPTS[2], new=0, top=5, scored=True)},
    }
    with continuous_batch(base, [None], (), config()) as (new_batch, _):
        found = played(new_batch(), arrivals)
    for key, prompt in ((0, PROMPTS[0]), (2, PROMPTS[3])):
        tokens, _ = found[key]
        for answer in range(2 if key == 0 else 1):
            written = [token.id for token in tokens[answer]]
            logprobs = reference(base.model, prompt + written)
            scored = [*tokens[None][1:], *tokens[answer]] if key == 0 else tokens[answer]
            first = 0 if key == 0 else len(prompt) - 1
            for place, token in enumerate(scored, first):
                assert token.logprob == pytest.approx(float(logprobs[place, token.id]), abs=1e-4)
                best = logprobs[place].topk(3 if key == 0 else 1)
                expected = list(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if key == 0 else []
                assert [i for i, _ in token.top] == [i for i, _ in expected]
                assert [v for _, v in token.top] == pytest.approx([v for _, v in expected], abs=1e-4)
    assert [token.id for token in found[0][0][None]] == PROMPTS[0] and found[0][0][None][0].logprob is None
    assert found[1][0][0][0].logprob is None and found[1][0][0][0].top == ()
    assert [token.id for token in found[3][0][None]] == PROMPTS[2] and list(found[3][0]) == [None], (
        "nothing was asked for"
    )


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_a_request_gets_the_same_answer_whatever_joins_and_leaves(bases, kind):
    rng = np.random.default_rng(0)
    wanted = {}
    for key in range(14):
        draw = [GREEDY, Draw(1.0), Draw(0.8, 0.9), Draw(1.5, 1.0, 7)][key % 4]
        wanted[key] = request(
            PROMPTS[key % 6], int(rng.integers(1, 12)), draw, key % 3, answers=1 + key % 2, top=key % 3 or None
        )
    with continuous_batch(bases[kind], [None], ENDS, config(300)) as (new_batch, _):
        alone = {key: played(new_batch(), {0: {key: one}})[key] for key, one in wanted.items()}
        for seed in range(3):
            order, steps = np.random.default_rng(seed).permutation(14), np.random.default_rng(seed).integers(0, 20, 14)
            arrivals = {}
            for key in order.tolist():
                arrivals.setdefault(int(steps[key]), {})[key] = wanted[key]
            found = played(new_batch(), arrivals)
            assert {key: (ids(a), b) for key, (a, b) in found.items()} == {
                key: (ids(a), b) for key, (a, b) in alone.items()
            }
    assert {reason for _, ended in alone.values() for reason in ended.values()} == {"stop", "length"}


def test_answers_are_those_that_generate_writes_with_the_same_seed(bases):
    settings = GenerateConfig(max_new_tokens=10, samples=3, temperature=0.9, top_p=0.95)
    expected = generate(bases["llama"].model, PROMPTS, settings, end_ids=ENDS, seed=5, greedy=False)
    with continuous_batch(bases["llama"], [None], ENDS, config()) as (new_batch, _):
        arrivals = {0: {k: request(prompt, 10, Draw(0.9, 0.95), 5, answers=3) for k, prompt in enumerate(PROMPTS)}}
        found = played(new_batch(), arrivals)
    assert [list(ids(found[k][0]).values()) for k in range(6)] == [
        [a.tolist() for a in answers] for answers in expected
    ]


def test_each_adapter_and_the_base_answer_their_own_requests(bases, adapters):
    base = bases["llama"]
    settings = GenerateConfig(max_new_tokens=8, samples=0)
    expected = []
    for path in [None, *adapters]:
        with base.adapter(path) as model:
            expected.append([a[0].tolist() for a in generate(model, PROMPTS, settings, end_ids=ENDS, seed=0)])
    assert len({str(answers) for answers in expected}) == 3
    with continuous_batch(base, [None, *adapters], ENDS, config()) as (new_batch, _):
        arrivals = {k: {(k, owner): request(PROMPTS[k], owner=owner) for owner in range(3)} for k in range(6)}
        found = played(new_batch(), arrivals)
        scored = played(new_batch(), {0: {0: request(PROMPTS[1], 0, owner=1, top=0, scored=True)}})[0][0][None]
    assert [[ids(found[k, owner][0])[0] for k in range(6)] for owner in range(3)] == expected
    with base.adapter(adapters[0]) as model:
        logprobs = reference(model, PROMPTS[1]).gather(1, torch.tensor(PROMPTS[1])[1:, None])[:, 0]
    assert [token.logprob for token in scored[1:]] == pytest.approx(logprobs.tolist(), abs=1e-4)


def test_several_adapters_of_a_model_without_our_decoder_are_refused(bases):
    with (
        pytest.raises(TrainerError, match="several adapters at once"),
        continuous_batch(bases["gpt_neox"], [None, None], (), config()),
    ):
        pass


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_a_dropped_request_frees_its_place_and_changes_no_other(bases, kind):
    with continuous_batch(bases[kind], [None], (), config(60)) as (new_batch, _), torch.inference_mode():
        alone = ids(played(new_batch(), {0: {0: request(PROMPTS[0], 20)}})[0][0])[0]
        batch = new_batch()
        batch.add(0, request(PROMPTS[0], 20))
        batch.add(1, request(PROMPTS[5], 12, answers=1))
        batch.add(2, request(PROMPTS[3], 20))
        batch.add(3, request(PROMPTS[2], 2))
        written = [step for _ in range(3) for step in batch.step()]
        assert 2 not in {step.request for step in written}, "no room for 37 tokens next to 25 and 21"
        batch.drop(1)
        batch.drop(2)
        batch.drop(7)
        later = []
        while batch.busy:
            later += batch.step()
    assert {step.request for step in later} == {0, 3}
    of_first = [token.id for step in written + later if step.request == 0 for token in step.tokens]
    assert of_first == alone


def test_one_answer_of_several_may_be_dropped(bases):
    with continuous_batch(bases["llama"], [None], (), config()) as (new_batch, _), torch.inference_mode():
        batch = new_batch()
        batch.add(0, request(PROMPTS[0], 6, Draw(1.0), answers=3))
        batch.step()
        batch.drop(0, 1)
        later = [step for _ in range(6) for step in batch.step()]
    assert {step.answer for step in later} == {0, 2} and sum(step.ended == "length" for step in later) == 2


def test_each_row_is_drawn_as_its_own_settings_say():
    logits = torch.tensor([0.5, 0.0, 2.0, -1.0, 1.5])
    cases = [(GREEDY, (2,)), (Draw(), range(5)), (Draw(0.5), range(5)), (Draw(top_p=0.7), (2, 4)), (Draw(top_k=3), (0, 2, 4)),
             (Draw(2.0, 0.6, 3), (2, 4)), (Draw(1e-7), (2,)), (Draw(5e-324), (2,)), (Draw(top_k=1), (2,)),
             (Draw(top_k=99), range(5))]  # fmt: skip
    count = 8_000
    uniform = torch.from_numpy(np.random.default_rng(0).random(count * len(cases)))
    chosen = choose_each(logits.expand(len(uniform), 5), uniform, [draw for draw, _ in cases] * count).view(count, -1)
    for column, (draw, kept) in enumerate(cases):
        expected = torch.zeros(5)
        expected[list(kept)] = (logits[list(kept)] / max(draw.temperature or 1.0, 1e-30)).softmax(0)
        assert (torch.bincount(chosen[:, column], minlength=5) / count - expected).abs().max() < 0.02, draw


def test_every_token_of_the_vocabulary_can_be_drawn():
    logits = torch.zeros(1, VOCABULARY).expand(VOCABULARY, -1)
    places = (torch.arange(VOCABULARY, dtype=torch.float64) + 0.5) / VOCABULARY
    assert choose_each(logits, places, [Draw(top_k=200)] * VOCABULARY).tolist() == list(range(VOCABULARY))


def test_prompts_take_the_places_that_were_found_for_them(bases):
    """Gaps of 10 and 9 rows hold answers of 5, 5 and 9 in this order; longest first they would not."""
    with continuous_batch(bases["llama"], [None], (), config(26)) as (new_batch, _), torch.inference_mode():
        batch = new_batch()
        for key, (length, new) in enumerate([(8, 2), (1, 6), (7, 2)]):
            batch.add(key, request(PROMPTS[1][:length], new))
        first = [step for _ in range(2) for step in batch.step()]
        assert {step.request for step in first if step.ended} == {0, 2}
        for key, length in enumerate([3, 3, 7], 3):
            batch.add(key, request(PROMPTS[4][:length], 2))
        assert {step.request for step in batch.step() if step.answer is not None} == {3, 4, 5}
        later = [step for _ in range(5) for step in batch.step()]
    assert not batch.busy and [step.request for step in later if step.ended] == [3, 4, 5, 1]


def test_scoring_a_prompt_leaves_the_answers_under_way_to_their_adapters(bases, adapters):
    """The scored prompt has as many tokens as there are answers, and another adapter."""
    writing = {1: request(PROMPTS[0], owner=1), 2: request(PROMPTS[3], owner=2)}
    scored = request(PROMPTS[5][:2], 0, owner=0, top=0, scored=True)
    with continuous_batch(bases["llama"], [None, *adapters], (), config()) as (new_batch, _):
        alone = played(new_batch(), {0: writing})
        found = played(new_batch(), {0: writing, 2: {3: scored}, 4: {4: scored}})
    assert {key: ids(found[key][0]) for key in writing} == {key: ids(alone[key][0]) for key in writing}
