"""Continuations of prompts: one greedy answer and several sampled ones.

Prompts enter longest first, as many as fit; every further step appends one token to each answer under way. Finished answers leave,
and waiting prompts take their place:

    step        1       2       3       4
    answers   a₀ x    a₀ x    a₀ ■                          greedy
              a₁ y    a₁ y    a₁ y    a₁ ■                  drawn
              b₀ z    b₀ ■    c₀ u    c₀ u   …

Shapes: S sequences under way, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial

import numpy as np
import torch

from trainer.activation import measuring
from trainer.config import GenerateConfig
from trainer.errors import DataError, MachineError, TrainerError
from trainer.forward import bound_decoder, causal_lm
from trainer.gate import limits
from trainer.generation.adapters import AdapterSet
from trainer.generation.cached import HOST_TOKENS, PROMPT_TOKENS, CachedEngine, cache_rows
from trainer.generation.engine import Asked, Engine, Prompt
from trainer.generation.plain import PlainEngine
from trainer.generation.sampling import choose, uniform
from trainer.model import plain_attention
from trainer.shortage import Shortage, attempt, report


def generate(
    model: torch.nn.Module,
    prompts: Sequence[Prompt],
    config: GenerateConfig,
    *,
    end_ids: Collection[int],
    seed: int,
    adapters: AdapterSet | None = None,
    owners: Sequence[int] | None = None,
    greedy: bool = True,
    progress: Callable[[int], None] = lambda prompts: None,
) -> list[list[np.ndarray]]:
    """Continuations of each prompt (its token ids) by `model` with its current adapter.

    Per prompt `1 + config.samples` arrays (length,) int64 of new token ids: the greedy continuation, then the sampled
    ones; without `greedy` only the sampled ones. Each ends with the first of `end_ids`, or after `config.max_new_tokens`.
    Order and batching change results only by rounding. When memory runs out, the prompts that are not finished begin again in a
    batch of half the tokens. `progress` receives the number of prompts just finished.

    `model` has one adapter or none. With `adapters`, of a base without one, `owners` (n,) are the numbers of the adapters that
    continue the prompts; all are written side by side.

    Raises DataError for an empty prompt or one that leaves no room in the model's context, TrainerError for `adapters` of a model
    that our decoder does not run, and MachineError if the answers to one prompt do not fit the memory.
    """
    written: dict[int, list[np.ndarray]] = {}
    settings = {"end_ids": end_ids, "seed": seed, "adapters": adapters, "greedy": greedy}
    while waiting := [i for i in range(len(prompts)) if i not in written]:
        theirs = None if owners is None else [owners[i] for i in waiting]
        steps = follow(model, [prompts[i] for i in waiting], config, owners=theirs, **settings)
        short = attempt(partial(_collect, steps, waiting, greedy + config.samples, written, progress))
        if isinstance(short, Shortage):
            config = _smaller_batch(model, config, greedy, [len(prompts[i]) for i in waiting], short)
    return [written[i] for i in range(len(prompts))]


def _collect(
    steps: Iterator[Written],
    numbers: Sequence[int],
    answers: int,
    written: dict[int, list[np.ndarray]],
    progress: Callable[[int], None],
) -> None:
    """Add the answers to each prompt that is finished to `written`, by the prompt's number; those under way are lost when this raises."""
    tokens_of: list[list[int]] = [[] for _ in range(len(numbers) * answers)]
    unfinished = [answers] * len(numbers)
    with closing(steps):
        for under_way, tokens, finished in steps:
            for number, token in zip(under_way, tokens, strict=True):
                tokens_of[number].append(token)
            for number in finished:
                unfinished[number // answers] -= 1
            done = [prompt for prompt in {number // answers for number in finished} if unfinished[prompt] == 0]
            for prompt in done:
                of_prompt = tokens_of[prompt * answers : (prompt + 1) * answers]
                written[numbers[prompt]] = [np.array(answer, dtype=np.int64) for answer in of_prompt]
            if done:
                progress(len(done))


def _smaller_batch(
    model: torch.nn.Module, config: GenerateConfig, greedy: bool, lengths: Sequence[int], found: Shortage
) -> GenerateConfig:
    """`config` with half the tokens of the batch that did not fit. Raises MachineError if that batch had one prompt."""
    answers = greedy + config.samples
    sizes = [answers * (length + config.max_new_tokens) for length in lengths]
    tokens = min(_batch_tokens(model, config, max(sizes)), sum(sizes))
    if tokens <= max(sizes):
        raise MachineError(_too_large(found, config, answers))
    half = max(tokens // 2, max(sizes))
    report(found, f"writing answers of {tokens:,} tokens at once", f"at most {half:,} tokens at once")
    return config.model_copy(update={"batch_tokens": half})


def _too_large(found: Shortage, config: GenerateConfig, answers: int) -> str:
    return (
        f"out of {found.memory} while writing {answers} answers to one prompt ({found.message}). Free memory that other programs use and "
        f"run the same command again, or lower generate.max_new_tokens (now {config.max_new_tokens}) or generate.samples (now "
        f"{config.samples})."
    )


Written = tuple[list[int], list[int], list[int]]
"""Of one step: numbers of answers, the token of each, and which answers are finished. Answer j of prompt i has the number
i · (answers of a prompt) + j."""


def follow(
    model: torch.nn.Module,
    prompts: Sequence[Prompt],
    config: GenerateConfig,
    *,
    end_ids: Collection[int],
    seed: int,
    adapters: AdapterSet | None = None,
    owners: Sequence[int] | None = None,
    greedy: bool = True,
) -> Iterator[Written]:
    """The same token by token, as they are written; arguments as in `generate`, and errors too, but for memory that runs out: the
    library's own error ends it, because tokens that were passed on cannot be taken back."""
    if not greedy and not config.samples:
        raise ValueError("expected greedy or samples of at least 1, found neither")
    check_lengths([len(prompt) for prompt in prompts], causal_lm(model), config)
    if not len(prompts):
        return
    model.eval()
    given = [0] * len(prompts) if owners is None else [int(owner) for owner in owners]
    answers = greedy + config.samples
    asked = [Asked(prompt, answers, config.max_new_tokens, owner) for prompt, owner in zip(prompts, given, strict=True)]
    with _engine(model, prompts, config, adapters, answers) as engine:
        steps = _steps(engine, asked, config, frozenset(end_ids), seed, greedy)
        while True:
            with torch.inference_mode():  # not around the yield, where the caller runs
                step = next(steps, None)
            if step is None:
                return
            yield step


def check_lengths(lengths: Sequence[int], causal: torch.nn.Module, config: GenerateConfig) -> None:
    """Raise DataError if a prompt is empty, or if the longest one and its answer do not fit the model's context."""
    if 0 in lengths:
        raise DataError(f"expected prompts of at least one token, found an empty one at {list(lengths).index(0)}")
    context = limits.context(causal.config)
    longest = max(lengths, default=0)
    if context is not None and longest and longest + config.max_new_tokens > context[0]:
        raise DataError(
            f"a prompt of {longest} tokens and {config.max_new_tokens} new ones do not fit the model's context of "
            f"{context[0]}: lower generate.max_new_tokens or tokens.max_length"
        )


@contextmanager
def _engine(
    model: torch.nn.Module, prompts: Sequence[Prompt], config: GenerateConfig, adapters: AdapterSet | None, answers: int
) -> Iterator[Engine]:
    tokens = config.max_new_tokens
    decoder = bound_decoder(model)
    if adapters is not None and (decoder is None or decoder.parameters()):
        raise TrainerError(
            "several adapters at once need a base model without an adapter that Winnow's own decoder runs"
        )
    if decoder is None:
        with plain_attention(model):
            yield PlainEngine(model, _batch_tokens(model, config, 1))
        return
    sizes = [len(prompt) + tokens for prompt in prompts]
    rows = min(answers * sum(sizes), _batch_tokens(model, config, answers * max(sizes)))
    attached = nullcontext() if adapters is None else adapters.attached(decoder)
    with measuring(model, "auto", min(PROMPT_TOKENS, sum(sizes))), attached:
        yield CachedEngine(model, decoder, rows, adapters)


def _batch_tokens(model: torch.nn.Module, config: GenerateConfig, least: int) -> int:
    """Tokens of all answers under way: as configured, or as suits the device, but at least `least`."""
    asked, decoder = config.batch_tokens, bound_decoder(model)
    if decoder is not None:
        return cache_rows(decoder, model, None if asked == "auto" else asked, least)
    return max(HOST_TOKENS if asked == "auto" else asked, least)


def _steps(
    engine: Engine,
    asked: Sequence[Asked],
    config: GenerateConfig,
    ends: frozenset[int],
    seed: int,
    greedy: bool,
) -> Iterator[Written]:
    answers = greedy + config.samples
    waiting = sorted(range(len(asked)), key=lambda i: -len(asked[i].prompt))
    going: list[int] = []
    counts: list[int] = []
    tokens_S = uniform_SN = torch.empty(0)
    while waiting or going:
        count = engine.fitting([asked[i] for i in waiting]) if waiting else 0
        assert count or going, "no prompt fits although nothing is under way"
        if count:
            chosen, waiting = waiting[:count], waiting[count:]
            logits_SV = engine.admit([asked[i] for i in chosen])
            drawn = torch.from_numpy(np.concatenate([uniform(asked[i].prompt, config, seed, greedy) for i in chosen]))
            drawn = drawn.to(logits_SV.device)
            new_S = choose(logits_SV, drawn[:, 0], config)
            tokens_S, uniform_SN = (
                (new_S, drawn) if not going else (torch.cat([tokens_S, new_S]), torch.cat([uniform_SN, drawn]))
            )
            first = len(going)
            going += [i * answers + j for i in chosen for j in range(answers)]
            counts += [1] * len(new_S)
        else:
            logits_SV = engine.step(tokens_S)
            uniform_S = uniform_SN[:, 0]
            if config.samples:  # greedy answers need no numbers, and no copy of places to the device
                places = torch.tensor(counts, device=tokens_S.device)
                uniform_S = uniform_SN.gather(1, places[:, None])[:, 0]
            tokens_S = choose(logits_SV, uniform_S, config)
            counts = [n + 1 for n in counts]
            first = 0
        host = tokens_S[first:].tolist()
        over = {
            first + k for k, token in enumerate(host) if token in ends or counts[first + k] == config.max_new_tokens
        }
        yield going[first:], host, [going[k] for k in sorted(over)]
        if over:
            kept = [k for k in range(len(going)) if k not in over]
            engine.keep(kept)
            index = torch.tensor(kept, dtype=torch.int64, device=tokens_S.device)
            tokens_S, uniform_SN = tokens_S[index], uniform_SN[index]
            going, counts = [going[k] for k in kept], [counts[k] for k in kept]
