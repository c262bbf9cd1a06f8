"""A review page served on loopback by a thread, until the waiting round is over."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from al.errors import EnvironmentProblem
from al.review.desk import Desk
from al.run.progress import check_stop

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

    listening = _listen(port)
    number = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)
    hosts = frozenset({f"127.0.0.1:{number}", f"localhost:{number}"})
    config = uvicorn.Config(
        make_app(desk, token, hosts),
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


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(128)  # the address is printed before uvicorn is up; a fast browser waits
    except (OSError, OverflowError) as error:
        listening.close()
        raise EnvironmentProblem(
            f"--port {port}: cannot be used ({error}). Name another one, or none to use any free port."
        ) from None
    return listening
