"""A review page served on loopback by a thread, until the waiting round is over."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from al.review.desk import Desk
from al.run.progress import check_stop
from al.web import host_names, listen

LAST_LOOK_SECONDS = 3.0
"""Seconds to keep serving an open page after the round is over, so that it can show the end."""


@dataclass(frozen=True)
class Served:
    """A page that is being served; `address` contains the token."""

    desk: Desk
    url: str

    def wait(self) -> None:
        """Wait until the review is approved. Raises Interrupted if the user stops; the draft is kept."""
        while not self.desk.approved.wait(0.2):
            check_stop()


@contextmanager
def serve(desk: Desk, port: int) -> Iterator[Served]:
    """Serve the page on 127.0.0.1; `port` 0 uses any free port.

    Raises:
        EnvironmentProblem: the port is taken or not permitted.
    """
    import uvicorn

    from al.review.app import make_app

    listening = listen("127.0.0.1", port)
    number = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)
    config = uvicorn.Config(
        make_app(desk, token, host_names("127.0.0.1", number)),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="review page", daemon=True)
    thread.start()
    try:
        yield Served(desk, f"http://127.0.0.1:{number}/?token={token}")
        if desk.finished and time.monotonic() - desk.watched < 2 * LAST_LOOK_SECONDS:
            time.sleep(LAST_LOOK_SECONDS)
    finally:
        server.should_exit = True
        thread.join(timeout=5)
        listening.close()
