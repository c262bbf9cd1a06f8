"""Training on several GPUs at once, with the bits of one.

Rank r of N computes the micro-batches i ≡ r (mod N) of a step. Gradients are not averaged: each rank owns a slice of all values, gets that
slice of every micro-batch, adds them in the order of the micro-batches, and the sums are gathered:

    micro-batch      0        1        2        3                    a step of 4 micro-batches on 2 ranks
    rank 0        a0 b0             a2 b2            ──▶  a = ((a0 + a1) + a2) + a3
    rank 1                 a1 b1             a3 b3   ──▶  b = ((b0 + b1) + b2) + b3   ──▶  both have a, b

Floating-point addition depends on the order, and one process adds in this order too. A mean of the ranks' means would also weight short
micro-batches more. The loss is one more value. What is exchanged is LoRA's gradients once for each micro-batch: 168 MB at rank 16 of
the Mistral-7B shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for another one: as long as rank 0 may evaluate or write a checkpoint."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together: `rank` of `world`."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this is the rank that evaluates, reports and writes."""
        return self.rank == 0

    def any(self, here: bool) -> bool:
        """Whether `here` is true on any rank."""
        if self.world == 1:
            return here
        flag = torch.tensor(float(here), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag.item())

    def from_first(self, value: Callable[[], float]) -> float:
        """What `value` returns on rank 0, which alone calls it."""
        if self.world == 1:
            return value()
        found = torch.tensor(value() if self.first else 0.0, dtype=torch.float64, device=self.device)
        dist.broadcast(found, 0)
        return float(found.item())


@contextmanager
def joined(rank: int, world: int, meeting: str, device: torch.device) -> Iterator[Ranks]:
    """Inside the block this process is `rank` of `world`. `meeting`: a URL at which all ranks meet, such as file:///shared/new-file."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=world, timeout=PATIENCE)
    try:
        yield Ranks(rank, world, device)
    finally:
        dist.destroy_process_group()


class OrderedSum:
    """The sum of gradients and losses over the micro-batches of a step, in their order, from all ranks. One for each step."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], ranks: Ranks):
        self._parameters, self._ranks = list(parameters.values()), ranks
        self._size = -(-(sum(p.numel() for p in self._parameters) + 1) // ranks.world)
        self._mine: torch.Tensor | None = None
        self._present = torch.zeros(len(self._parameters), device=ranks.device)

    def add(self, loss: torch.Tensor | None, counted: Sequence[bool]) -> None:
        """Exchange one micro-batch of each rank: this one's gradients, which are taken out of the parameters, and its loss (None: this rank
        has none). `counted`: whether there is one on each rank, in order."""
        flat = torch.zeros(self._size * self._ranks.world, device=self._ranks.device)
        if loss is not None:
            start = 0
            for number, parameter in enumerate(self._parameters):
                if parameter.grad is not None:
                    flat[start : start + parameter.numel()] = parameter.grad.view(-1)
                    self._present[number] = 1
                    parameter.grad = None
                start += parameter.numel()
            flat[start] = loss
        received = torch.empty_like(flat)
        dist.all_to_all_single(received, flat)
        for part, counts in zip(received.view(self._ranks.world, self._size), counted, strict=True):
            if counts:
                self._mine = part.clone() if self._mine is None else self._mine.add_(part)

    def finish(self) -> torch.Tensor:
        """Put the sums into the parameters' gradients; returns that of the losses. A parameter without a gradient on any rank has none."""
        mine = torch.zeros(self._size, device=self._ranks.device) if self._mine is None else self._mine
        whole = torch.empty(self._size * self._ranks.world, device=self._ranks.device)
        dist.all_gather(list(whole.view(self._ranks.world, self._size)), mine)
        dist.all_reduce(self._present, dist.ReduceOp.MAX)
        start = 0
        for parameter, present in zip(self._parameters, self._present.tolist(), strict=True):
            if present:
                parameter.grad = whole[start : start + parameter.numel()].view_as(parameter).clone()
            start += parameter.numel()
        return whole[start].clone()
