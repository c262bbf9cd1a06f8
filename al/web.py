"""What Winnow's servers share: the socket, and the refusal of requests that a page of another site makes the user's browser send.

Such a page can reach a server on loopback by its address, or by a name of its own that resolves to it. It cannot set the Host header, and
a browser names the page in the Origin header of what it sends across sites.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from dataclasses import dataclass

from al.errors import ConfigError, EnvironmentProblem

SECURITY = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every response."""


@dataclass(frozen=True)
class Refusal:
    """The status and the reason of a request that is not answered."""

    status: int
    reason: str


def foreign_host(host: str | None, hosts: frozenset[str]) -> Refusal | None:
    """400 if the Host header is none of `hosts`."""
    if (host or "").lower() in hosts:
        return None
    return Refusal(400, "this server answers only on loopback, at the address it printed.")


def foreign_origin(origin: str | None, hosts: frozenset[str]) -> Refusal | None:
    """403 if a browser sends the request for a page that is not from `hosts`."""
    if origin is None or origin.removeprefix("http://") in hosts:
        return None
    return Refusal(403, "requests from other sites are not answered.")


def same_token(given: str | None, token: str) -> bool:
    """Whether `given` is the token, in a time that does not depend on where they differ."""
    return secrets.compare_digest((given or "").encode(), token.encode())


def is_loopback(host: str) -> bool:
    """Whether `host`, an IP address or localhost, is reached from this machine alone. Raises ConfigError for any other name."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(
            f"--host {host}: expected an IP address or localhost, e.g. 127.0.0.1, or 0.0.0.0 for all networks."
        ) from None


def host_names(host: str, port: int) -> frozenset[str]:
    """Host headers of requests to a loopback address of this machine."""
    names = {"127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host}
    return frozenset({f"{name}:{port}" for name in names} | (names if port == 80 else set()))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; `port` 0 is any free port. Raises EnvironmentProblem if address or port cannot be used.

    Its protocol is named because asyncio sets TCP_NODELAY only on such sockets. Without it a response's second packet waits up to 40 ms
    for the client's acknowledgement of the first.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)  # the address is printed before uvicorn is up; a fast client waits
    except (OSError, OverflowError) as error:
        listening.close()
        raise EnvironmentProblem(
            f"--port {port}: cannot be used on {host} ({error}). Name another one, or 0 for any free port."
        ) from None
    return listening
