"""A server on a socket, until Ctrl-C or SIGTERM; answers under way then have GRACE_SECONDS to end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from al.serving.connection import Service
from al.serving.metrics import Metrics
from al.serving.models import Limits, ServedModels
from al.serving.worker import BatchWorker
from trainer.config import GenerateConfig
from trainer.gate.limits import context
from trainer.template import ChatTemplate

if TYPE_CHECKING:
    from trainer.model import Base

GRACE_SECONDS = 30
MOST_CONNECTIONS = 1024
HEAD_SECONDS = 30.0
"""A connection on which no request begins for so long, or for twice as long, is closed."""


@contextmanager
def running_service(
    base: Base,
    tokenizer: Any,
    template: ChatTemplate,
    models: dict[str, Path | None],
    config: GenerateConfig,
    limits: Limits,
) -> Iterator[Service]:
    """The models by name (folder of the adapter, None: the base alone), with a thread that answers for them inside the block.

    `limits` are narrowed to the model's context and the cache. Raises as trainer.generation.continuous.continuous_batch.
    """
    from trainer.generation.continuous import continuous_batch

    found = context(base.model.config)
    limits = replace(limits, context=found and found[0])
    with continuous_batch(base, list(models.values()), template.end_ids, config) as (new_batch, rows):
        limits = replace(limits, rows=rows)
        embeddings = base.model.get_input_embeddings().weight.shape[0]
        metrics = Metrics()
        worker = BatchWorker(new_batch, limits.waiting, metrics)
        worker.start()
        try:
            served = ServedModels.of(list(models), tokenizer, template, embeddings, limits, config.max_new_tokens)
            yield Service(served, worker, metrics)
        finally:
            worker.stop()


class _Impatient(H11Protocol):
    """uvicorn waits without end for the head of a request; MOST_CONNECTIONS clients that send none would lock everybody out."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_SECONDS, self._look, self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self, before: object) -> None:
        """Close the connection if it has been idle since the last request, `before`, or since it was made (None)."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is before:
            self.timeout_keep_alive_handler()
        else:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._look, self.cycle if idle else self)


def uvicorn_server(app: ASGIApp) -> uvicorn.Server:
    """The HTTP server of an application, not yet running."""
    config = uvicorn.Config(
        app,
        http=_Impatient,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return uvicorn.Server(config)


def serve_until_stopped(app: ASGIApp, listening: Sequence[socket.socket]) -> None:
    """Serve in this thread until SIGINT or SIGTERM: no new connection is accepted, and answers under way are finished."""

    def stop(number: int, frame: FrameType | None) -> None:
        """uvicorn has a handler of its own while it runs, and raises the signal again afterwards, which is then a normal end."""
        server.should_exit = True

    server = uvicorn_server(app)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=list(listening))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
