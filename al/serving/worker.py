"""The thread that owns the model. Requests reach it through a bounded queue; its steps return to the event loop of each request."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from al.serving.metrics import Metrics
from al.serving.problems import Problem
from trainer.shortage import shortage

if TYPE_CHECKING:
    from trainer.generation.continuous import ContinuousBatch, Request, Step

logger = logging.getLogger(__name__)
LONGEST_RETRY = 60


class Ticket:
    """What a client waits for: the steps of its requests, numbered as submitted. Used by one task of one event loop."""

    def __init__(self, worker: BatchWorker, keys: range):
        self.keys, self._worker = keys, worker
        self._loop, self._steps = asyncio.get_running_loop(), asyncio.Queue[tuple[int, "Step"] | Problem]()

    async def next(self, until: float) -> tuple[int, Step]:
        """(number of the request, its next step). Raises Problem: 504 after `until` (of the loop's clock), 500 or 503 if writing failed."""
        try:
            async with asyncio.timeout_at(until):
                found = await self._steps.get()
        except TimeoutError:
            raise Problem(504, "the answer took longer than this server's limit of time.", code="timeout") from None
        if isinstance(found, Problem):
            raise found
        return found

    def drop(self, request: int, answer: int) -> None:
        """Stop writing one answer."""
        self._worker.drop([self.keys[request]], answer)

    def close(self) -> None:
        """Stop whatever is still under way. Nobody waits any more."""
        self._worker.drop(self.keys, None)

    def put(self, found: tuple[int, Step] | Problem) -> None:
        """Pass on a step, from any thread. A loop that is closed has no one who waits."""
        try:
            self._loop.call_soon_threadsafe(self._steps.put_nowait, found)
        except RuntimeError:
            if not self._loop.is_closed():
                raise


class BatchWorker:
    """Writes the answers to all requests in one thread, between `start` and `stop`.

    `new_batch` makes an empty batch; it is called again after a step has failed. At most `most_waiting` requests wait for a place.
    """

    def __init__(self, new_batch: Callable[[], ContinuousBatch], most_waiting: int, metrics: Metrics):
        self._new_batch, self._most_waiting, self._metrics = new_batch, most_waiting, metrics
        self._changed = threading.Condition()
        self._orders: list[Callable[[ContinuousBatch], None]] = []
        self._tickets: dict[int, Ticket] = {}
        self._unread: set[int] = set()
        self._keys, self._stopping = itertools.count(), False
        self._recent_seconds, self._since_end, self._running = 1.0, 0.0, 0
        self._thread = threading.Thread(target=self._run, name="writing answers", daemon=True)
        metrics.watch(lambda: self.waiting, lambda: self.running)

    @property
    def waiting(self) -> int:
        """Requests whose prompts are not read yet."""
        return len(self._unread)

    @property
    def running(self) -> int:
        """Answers under way after the last step."""
        return self._running

    @property
    def open(self) -> int:
        """Requests that someone waits for."""
        return len(self._tickets)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step; requests that are not finished get an error."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, requests: Sequence[Request]) -> Ticket:
        """Queue requests of one client. Raises Problem 429 if the queue is full; an empty one takes any number."""
        with self._changed:
            if self._stopping:
                raise Problem(503, "the server is shutting down.", code="shutting_down")
            if self._unread and len(self._unread) + len(requests) > self._most_waiting:
                seconds = min(LONGEST_RETRY, math.ceil(self._recent_seconds))
                raise Problem(
                    429,
                    f"{len(self._unread)} requests wait already, of {self._most_waiting} that may; try again in {seconds} s.",
                    code="queue_full",
                    headers={"Retry-After": str(seconds)},
                )
            first = next(self._keys)
            keys = range(first, first + len(requests))
            self._keys = itertools.count(keys.stop)
            ticket = Ticket(self, keys)
            for key, request in zip(keys, requests, strict=True):
                self._tickets[key] = ticket
                self._unread.add(key)
                self._orders.append(lambda batch, key=key, request=request: batch.add(key, request))
            self._changed.notify()
        return ticket

    def drop(self, keys: Iterable[int], answer: int | None) -> None:
        """Stop writing answer number `answer` (None: all) of these requests; those that have ended are ignored."""
        with self._changed:
            for key in keys:
                if key in self._tickets:
                    self._orders.append(lambda batch, key=key: batch.drop(key, answer))
                    if answer is None:
                        self._forget(key)
            self._changed.notify()

    def _forget(self, key: int) -> None:
        self._tickets.pop(key, None)
        self._unread.discard(key)

    @property
    def alive(self) -> bool:
        """Whether requests are answered. A batch that cannot be made again, for lack of memory, ends the thread."""
        return self._thread.is_alive() and not self._stopping

    def _run(self) -> None:
        try:
            self._write()
        finally:
            with self._changed:
                self._stopping = True
            self._fail(None)

    def _write(self) -> None:
        import torch

        with torch.inference_mode():
            batch = self._new_batch()
            while (orders := self._next_orders(batch.busy)) is not None:
                started = time.monotonic()
                try:
                    for order in orders:
                        order(batch)
                    steps = batch.step()
                except Exception as error:
                    logger.exception("writing answers failed")
                    self._fail(error)
                    batch = self._new_batch()
                    continue
                self._running = batch.sequences
                self._deliver(steps)
                self._learn(steps, time.monotonic() - started)

    def _next_orders(self, busy: bool) -> list[Callable[[ContinuousBatch], None]] | None:
        """What has changed since the last step; waits if there is nothing to write. None: stop."""
        with self._changed:
            while not (busy or self._orders or self._stopping):
                self._changed.wait()
            orders, self._orders = self._orders, []
            return None if self._stopping else orders

    def _deliver(self, steps: Sequence[Step]) -> None:
        with self._changed:
            self._unread.difference_update(step.request for step in steps)
            found = [(self._tickets.get(step.request), step) for step in steps]
        written = sum(step.answer is not None for step in steps)
        if written:
            self._metrics.new_tokens.inc(written)
            self._metrics.step_sequences.observe(written)
        for ticket, step in found:  # last: whoever has an answer may ask for the metrics at once
            if ticket is not None:
                ticket.put((ticket.keys.index(step.request), step))

    def _learn(self, steps: Sequence[Step], seconds: float) -> None:
        """Estimate how long it takes until a place is free: the steps since the last answer that ended."""
        self._since_end += seconds
        if any(step.ended for step in steps):
            self._recent_seconds, self._since_end = self._since_end, 0.0

    def _fail(self, error: Exception | None) -> None:
        with self._changed:
            tickets = set(self._tickets.values())
            self._tickets.clear()
            self._unread.clear()
            self._orders.clear()
            self._running = 0
        if error is None:
            problem = Problem(503, "the server is shutting down.", code="shutting_down")
        elif (short := shortage(error)) is not None:
            problem = Problem(
                503, f"out of {short.memory} while writing answers; try fewer or shorter ones.", code="out_of_memory"
            )
        else:
            problem = Problem(500, "writing answers failed; the server's log says why.", code="internal_error")
        for ticket in tickets:
            ticket.put(problem)
