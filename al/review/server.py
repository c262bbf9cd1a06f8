"""A review page served on loopback by a thread, until the round that waits for it is over."""

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
"""How long a page that is being looked at is still served after the round is over, so that it can say so."""


@dataclass(frozen=True)
class Served:
    """A page that is being served: its address with the token in it."""

    desk: Desk
    url: str

    def wait(self) -> None:
        """Until it is approved. Raises Interrupted when the user asks to stop; the draft is kept."""
        while not self.desk.approved.wait(0.2):
            check_stop()


@contextmanager
def serve(desk: Desk, port: int) -> Iterator[Served]:
    """Serve the page on 127.0.0.1; `port` 0 takes one that is free.

    Raises:
        EnvironmentProblem: the port is taken or must not be used.
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
        listening.listen(128)  # the address is printed before uvicorn is up: a browser that is as fast waits
    except (OSError, OverflowError) as error:
        listening.close()
        raise EnvironmentProblem(
            f"--port {port}: cannot be listened on ({error}). Name another one, or none to take any that is free."
        ) from None
    return listening
