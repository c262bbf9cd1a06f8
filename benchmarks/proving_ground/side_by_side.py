"""Training and measuring of many runs at once, on `many_adapters`.

A run is rows of a token table to train on, once each, in steps of `EXAMPLES_A_STEP` examples. Every step of a run has rows of every
length alike (the rows are sorted by length and dealt out at random within each stretch), so that steps of different runs
take about as many tokens and little is padded. Learning rate, clipping, noise on embeddings and optimizer are the trainer's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.proving_ground.many_adapters import Adapters, FrozenBase, hidden_states, new_adapters
from trainer.attention import PackLayout
from trainer.config import TrainConfig
from trainer.loss import Head, target_nll, target_statistics
from trainer.optim import learning_rate
from trainer.tokens import TokenTable

EXAMPLES_A_STEP = 25
NEFTUNE_ALPHA = 5.0
ROUND_TO = 128


@dataclass(frozen=True)
class Block:
    """Documents of K runs, each run's laid end to end and padded to T tokens; see many_adapters for shapes.

    ids, positions (N,). pack: borders along N, padding being documents of its own. predictors (P,): places in N whose next
    token is a target; labels (P,); run (P,): the run of each; document (P,): index among the rows given; end (P,) bool: the
    label is an end-of-turn token. lengths (N,): of each token's document.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: torch.Tensor
    pack: PackLayout
    predictors: torch.Tensor
    labels: torch.Tensor
    run: torch.Tensor
    document: np.ndarray
    end: np.ndarray
    runs: int


def lay_out(table: TokenTable, rows: Sequence[np.ndarray], device: torch.device) -> Block:
    """One block of `rows[k]` for each run k."""
    totals = [int(table.lengths[r].sum()) for r in rows]
    width = -(-max(totals) // ROUND_TO) * ROUND_TO
    longest = max(int(table.lengths[r].max()) for r in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    kinds = np.zeros((len(rows), width), dtype=np.uint8)
    borders, document, count = [0], np.zeros((len(rows), width), dtype=np.int64), 0
    for k, of_run in enumerate(rows):
        at = 0
        for row in of_run:
            tokens, targets = table.ids(int(row)), table.targets(int(row))
            stop = at + len(tokens)
            ids[k, at:stop], kinds[k, at:stop], document[k, at:stop] = tokens, targets, count
            kinds[k, at] = 0
            at, count = stop, count + 1
            borders.append(k * width + at)
        while at < width:
            at = min(at + longest, width)
            borders.append(k * width + at)
    return _block(ids, kinds, document, np.array(borders), device)


def _block(
    ids: np.ndarray, kinds: np.ndarray, document: np.ndarray, borders: np.ndarray, device: torch.device
) -> Block:
    lengths = np.diff(borders)
    labels = np.flatnonzero(kinds.ravel())
    pack = PackLayout(
        tuple(borders.tolist()), torch.from_numpy(borders.astype(np.int32)).to(device), int(lengths.max())
    )

    def tensor(array: np.ndarray) -> torch.Tensor:
        """The array on the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return Block(
        ids=tensor(ids.ravel()),
        positions=tensor(np.arange(ids.size) - np.repeat(borders[:-1], lengths)),
        lengths=tensor(np.repeat(lengths, lengths)),
        pack=pack,
        predictors=tensor(labels - 1),
        labels=tensor(ids.ravel()[labels]),
        run=tensor(labels // ids.shape[1]),
        document=document.ravel()[labels],
        end=kinds.ravel()[labels] == 2,
        runs=len(ids),
    )


def steps_of(rows: np.ndarray, lengths: np.ndarray, seed: int) -> list[np.ndarray]:
    """The rows in steps of about EXAMPLES_A_STEP, every step with rows of every length alike."""
    rng = np.random.default_rng([seed, 0x57E9])
    count = math.ceil(len(rows) / EXAMPLES_A_STEP)
    rows = rng.permutation(rows)
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    step = np.concatenate([rng.permutation(count) for _ in range(0, len(rows), count)])[: len(rows)]
    return [rng.permutation(rows[step == s]) for s in range(count)]


def in_rounds(rows: np.ndarray, seed: int, rounds: int, in_order: bool = False) -> list[np.ndarray]:
    """What each of so many equal rounds trains on: the rows dealt out at random, or in the order they have, and from the second round on
    also `train.replay` times as many of the earlier ones, as a round that continues does."""
    rng = np.random.default_rng([seed, 0x80D5])
    dealt = np.array_split(rows if in_order else rng.permutation(rows), rounds)
    again = [rng.permutation(np.concatenate(dealt[:r])) for r in range(1, rounds)]
    replay = [part[: round(TrainConfig().replay * len(new))] for part, new in zip(again, dealt[1:], strict=True)]
    return [dealt[0], *(np.concatenate(both) for both in zip(dealt[1:], replay, strict=True))]


def train_side_by_side(
    base: FrozenBase,
    table: TokenTable,
    runs: Sequence[np.ndarray],
    seeds: Sequence[int],
    rates: Sequence[float],
    log: Callable[[str], None] = print,
    adapters: Adapters | None = None,
) -> Adapters:
    """Train one adapter for each run, all with as many rows; `rates` are their peak learning rates.

    `adapters` that are given go on, with new moments of the optimizer and the longer warm-up of an adapter that continues.
    """
    device, config = base.device, TrainConfig(learning_rate=1.0)
    if adapters is None:
        adapters = new_adapters(base, list(seeds))
    else:
        config = config.model_copy(update={"warmup_ratio": config.rewarmup_ratio})
    plans = [steps_of(rows, table.lengths, seed) for rows, seed in zip(runs, seeds, strict=True)]
    steps = len(plans[0])
    optimizer = Adam(adapters.all(), torch.tensor(list(rates), device=device))
    noise = torch.Generator(device=device).manual_seed(int(seeds[0]))
    began = time.perf_counter()
    for step in range(steps):
        block = lay_out(table, [plan[step] for plan in plans], device)
        loss = _loss(base, adapters, block, noise)
        loss.sum().backward()
        _clip_each(adapters.all())
        optimizer.step(learning_rate(step, steps, config))
        if step in (0, steps - 1):
            shown = " ".join(f"{value:.3f}" for value in loss.detach().tolist()[:6])
            log(
                f"step {step + 1}/{steps}, {len(block.ids):,} tokens, losses {shown}, {time.perf_counter() - began:.1f} s"
            )
    return adapters


class Adam:
    """AdamW without decay (torch's defaults) whose learning rate is each run's own: `rates` (K,) times the schedule's factor."""

    def __init__(self, parameters: list[torch.nn.Parameter], rates: torch.Tensor):
        self.parameters, self.rates, self.steps = parameters, rates, 0
        self.mean = [torch.zeros_like(p) for p in parameters]
        self.square = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, factor: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        """Move the parameters by their gradients, and forget the gradients."""
        self.steps += 1
        gradients = [p.grad for p in self.parameters]
        torch._foreach_lerp_(self.mean, gradients, 1 - betas[0])
        torch._foreach_mul_(self.square, betas[1])
        torch._foreach_addcmul_(self.square, gradients, gradients, 1 - betas[1])
        divisor = torch._foreach_sqrt(self.square)
        torch._foreach_div_(divisor, math.sqrt(1 - betas[1] ** self.steps))
        torch._foreach_add_(divisor, eps)
        moves = torch._foreach_div(self.mean, divisor)
        rate = self.rates * (-factor / (1 - betas[0] ** self.steps))
        torch._foreach_mul_(moves, [rate.view(-1, 1, 1)] * len(moves))
        torch._foreach_add_(self.parameters, moves)
        for parameter in self.parameters:
            parameter.grad = None


def _loss(base: FrozenBase, adapters: Adapters, block: Block, noise: torch.Generator) -> torch.Tensor:
    """(K,) mean NLL per target of each run's step."""
    embedded = base.embeddings[block.ids]
    drawn = torch.empty(embedded.shape, device=base.device).uniform_(-1, 1, generator=noise)
    scale = NEFTUNE_ALPHA * torch.rsqrt(block.lengths.float() * embedded.shape[1])
    embedded = (embedded.float() + drawn * scale[:, None]).to(embedded.dtype).view(block.runs, -1, embedded.shape[1])
    hidden = hidden_states(base, adapters, embedded, block.positions, block.pack).flatten(0, 1)
    nll = target_nll(hidden.index_select(0, block.predictors), Head(base.head), block.labels)
    count = torch.bincount(block.run, minlength=block.runs)
    return torch.zeros(block.runs, device=base.device).index_add(0, block.run, nll) / count


def _clip_each(parameters: list[torch.nn.Parameter], most: float = 1.0) -> None:
    """Scale each run's gradient down to norm `most`."""
    norms = torch.stack([p.grad.flatten(1).norm(dim=1) for p in parameters]).norm(dim=0)
    scale = (most / (norms + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([p.grad for p in parameters], [scale.view(-1, *[1] * (p.dim() - 1)) for p in parameters])


@torch.no_grad()
def measure_side_by_side(
    base: FrozenBase, adapters: Adapters, table: TokenTable, tests: Sequence[np.ndarray], tokens_at_once: int = 200_000
) -> list[dict[str, np.ndarray]]:
    """Of each run on its test rows: (n,) summed "nll" in nats, "targets", "correct" (teacher-forced: every response token is the
    model's first choice), the same without the end token as "nll_no_end", "targets_no_end", "correct_no_end"."""
    runs = len(tests)
    names = ("nll", "targets", "wrong", "nll_no_end", "targets_no_end", "wrong_no_end")
    found = [{name: np.zeros(len(rows)) for name in names} for rows in tests]
    each = max(1, tokens_at_once // runs)
    parts = [_by_tokens(table.lengths[rows], each) for rows in tests]
    for turn in range(max(map(len, parts))):
        chosen = [p[min(turn, len(p) - 1)] for p in parts]
        block = lay_out(table, [rows[i] for rows, i in zip(tests, chosen, strict=True)], base.device)
        embedded = base.embeddings[block.ids].view(runs, -1, base.embeddings.shape[1])
        hidden = hidden_states(base, adapters, embedded, block.positions, block.pack).flatten(0, 1)
        said = target_statistics(hidden.index_select(0, block.predictors), Head(base.head), block.labels)
        nll, wrong = said.nll.double().cpu().numpy(), ~said.correct.cpu().numpy()
        for k, at in _documents(chosen):
            if turn < len(parts[k]):
                here = (block.document >= at) & (block.document < at + len(chosen[k]))
                _add(found[k], chosen[k][block.document[here] - at], nll[here], wrong[here], block.end[here])
    return [_finished(entry) for entry in found]


def _documents(chosen: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """(run, number of its first document) of a block."""
    starts = np.cumsum([0, *map(len, chosen)])
    return [(k, int(start)) for k, start in enumerate(starts[:-1])]


def _add(entry: dict[str, np.ndarray], place: np.ndarray, nll: np.ndarray, wrong: np.ndarray, end: np.ndarray) -> None:
    for suffix, part in (("", np.ones(len(end), bool)), ("_no_end", ~end)):
        for name, values in (("nll", nll), ("targets", np.ones(len(end))), ("wrong", wrong)):
            np.add.at(entry[name + suffix], place[part], values[part].astype(float))


def _finished(entry: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for suffix in ("", "_no_end"):
        entry["correct" + suffix] = (entry.pop("wrong" + suffix) == 0).astype(float)
    return entry


def _by_tokens(lengths: np.ndarray, most: int) -> list[np.ndarray]:
    """Indices of documents, sorted by length, in parts of at most `most` tokens."""
    order = np.argsort(lengths, kind="stable")
    parts, start, total = [], 0, 0
    for i, length in enumerate(lengths[order]):
        if total + length > most and i > start:
            parts.append(order[start:i])
            start, total = i, 0
        total += length
    return [*parts, order[start:]]
