"""What every route works with, and what happens when a client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request

from al.serving.answers import Writing, WritingRequest
from al.serving.metrics import Metrics
from al.serving.models import ServedModels
from al.serving.problems import CLIENT_LEFT, Problem
from al.serving.worker import BatchWorker

T = TypeVar("T")


@dataclass(frozen=True)
class Service:
    """The models, the thread that runs them, and the counters."""

    served: ServedModels
    worker: BatchWorker
    metrics: Metrics

    def writing(self, wanted: WritingRequest) -> Writing:
        """Begin to write answers. Raises Problem: 400 over a limit, 429 if the queue is full."""
        return Writing(self.served, self.worker, self.metrics, wanted)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client closes the connection. Raises Problem 499 then."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Problem(CLIENT_LEFT, "the client closed the connection.")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
