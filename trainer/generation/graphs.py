"""A step of many small kernels as one CUDA graph: the GPU no longer waits for Python to launch them.

A graph has a fixed number of sequences. Graphs are recorded for powers of two when first needed; a batch uses the next larger one, and
padding sequences write to the cache's last row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from trainer.decoder.layer import Pass


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    embeddings_Sd: torch.Tensor
    run: Pass
    begins_S: torch.Tensor
    places_S: torch.Tensor
    logits_SV: torch.Tensor


class StepGraphs:
    """Graphs of `step` (embeddings_Sd, pass, begins_S, places_S) → logits_SV; `spare`: the cache row of padding. `width`: of embeddings."""

    def __init__(self, step: Callable[..., torch.Tensor], spare: int, width: int):
        self.step, self.spare, self.width = step, spare, width
        self.recorded: dict[int, _Recorded] = {}
        self.pool: tuple[int, int] | None = None

    def __call__(
        self, embeddings_Sd: torch.Tensor, run: Pass, begins_S: torch.Tensor, places_S: torch.Tensor
    ) -> torch.Tensor:
        """Logits (S, V), valid until the next call."""
        count = len(embeddings_Sd)
        size = 1 << (count - 1).bit_length()
        if size not in self.recorded:
            self.recorded[size] = self._record(size, embeddings_Sd, run)
        held = self.recorded[size]
        held.begins_S.fill_(self.spare)
        held.places_S.zero_()
        angles = [pair for rope in run.angles for pair in zip(held.run.angles[rope], run.angles[rope], strict=True)]
        for target, source in (
            (held.embeddings_Sd, embeddings_Sd),
            (held.begins_S, begins_S),
            (held.places_S, places_S),
            *angles,
        ):
            target[:count].copy_(source)
        held.graph.replay()
        return held.logits_SV[:count]

    def _record(self, size: int, embeddings_Sd: torch.Tensor, run: Pass) -> _Recorded:
        embeddings = embeddings_Sd.new_zeros(size, self.width)
        angles = {rope: tuple(x.new_zeros(size, x.shape[1]) for x in pair) for rope, pair in run.angles.items()}
        begins = torch.full((size,), self.spare, dtype=torch.int64, device=embeddings.device)
        places = torch.zeros_like(begins)
        held = replace(run, angles=angles)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles kernels and allocates what outlives a step
            self.step(embeddings, held, begins, places)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            logits = self.step(embeddings, held, begins, places)
        self.pool = graph.pool()
        return _Recorded(graph, embeddings, held, begins, places, logits)
