"""What Prometheus reads from /metrics: requests, tokens, times, and what is under way."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server, in a registry of its own. They are written by the event loop and the worker's thread."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "winnow_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "winnow_request_seconds", "Time of whole requests.", ["route"], buckets=SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "winnow_first_token_seconds", "Time to a request's first token.", buckets=SECONDS, registry=registry
        )
        self.prompt_tokens = Counter("winnow_prompt_tokens", "Tokens of prompts that were read.", registry=registry)
        self.new_tokens = Counter("winnow_generated_tokens", "Tokens that were written.", registry=registry)
        self.step_sequences = Histogram(
            "winnow_step_sequences", "Answers that share a step.", buckets=SEQUENCES, registry=registry
        )

    def watch(self, waiting: Callable[[], float], under_way: Callable[[], float]) -> None:
        """Read the numbers of requests that wait and of answers under way when they are asked for."""
        for name, text, read in (
            ("winnow_waiting_requests", "Requests whose prompts are not read yet.", waiting),
            ("winnow_running_answers", "Answers under way.", under_way),
        ):
            Gauge(name, text, registry=self.registry).set_function(read)

    def answered(self) -> int:
        """Requests so far, refused ones included."""
        return int(
            sum(one.value for found in self.requests.collect() for one in found.samples if one.name.endswith("_total"))
        )

    def text(self) -> tuple[bytes, str]:
        """(body, content type) of /metrics."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
