"""Which requests are read at all: this server's name, the token, no page of another site, and a body of bounded size and time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from al.serving.metrics import Metrics
from al.serving.problems import CLIENT_LEFT, Problem
from al.web import SECURITY, foreign_host, foreign_origin, same_token

OPEN = "/health"
"""Answered without a token: whoever supervises the server has none."""
DISCARDED_BYTES = 64 << 20
"""Bytes of a body over the limit that are read and dropped, so that its sender reads the answer."""


@dataclass(frozen=True)
class Access:
    """Who may ask: the bearer `token` (None: everybody) and the accepted Host headers (None: all; pages of other sites are still
    refused). `body_bytes` and `body_seconds` bound a request's body, `send_seconds` how long a client may not read."""

    token: str | None
    hosts: frozenset[str] | None
    body_bytes: int
    body_seconds: float = 30.0
    send_seconds: float = 60.0

    def refusal(self, path: str, headers: Headers) -> Problem | None:
        """Why a request is refused by its headers, or None."""
        found = None if self.hosts is None else foreign_host(headers.get("host"), self.hosts)
        found = found or foreign_origin(headers.get("origin"), self.hosts or frozenset())
        if found is not None:
            return Problem(found.status, found.reason)
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if self.token is None or path == OPEN or (scheme.lower() == "bearer" and same_token(given.strip(), self.token)):
            return None
        return Problem(
            401,
            "the token is missing or wrong: send the header Authorization: Bearer TOKEN (api_key of OpenAI's client).",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


class Guard:
    """The outermost layer of the application: refuses, bounds, adds security headers and counts."""

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics, routes: frozenset[str]):
        self.app, self.access, self.metrics, self.routes = app, access, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            return
        started, status, gave_up = time.monotonic(), CLIENT_LEFT, False

        async def sending(message: Message) -> None:
            """Add headers to the response, and give up a client that does not read."""
            nonlocal status, gave_up
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(SECURITY)
            try:
                async with asyncio.timeout(self.access.send_seconds):
                    await send(message)
            except TimeoutError:
                gave_up = True
                raise

        try:
            await self._guarded(scope, receive, sending)
        except Exception:  # perhaps a group of them
            if not gave_up:
                raise  # else the client does not read, and its connection is closed without the rest
        finally:
            route = scope["path"] if scope["path"] in self.routes else "other"
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - started)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        problem = self.access.refusal(scope["path"], headers)
        body = b""
        if problem is None:
            try:
                body = await self._body(headers, receive)
            except Problem as found:
                problem = found
        if problem is not None:
            await JSONResponse(problem.body(), problem.status, problem.headers)(scope, receive, send)
            return
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receiving() -> Message:
            """The body in one piece, then what happens to the connection."""
            return unread.pop() if unread else await receive()

        await self.app(scope, receiving, send)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body. Raises Problem: 413 too large, 408 too slow."""
        limit = self.access.body_bytes
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self.access.body_seconds):
                while more and size <= DISCARDED_BYTES:
                    message = await receive()
                    part = message.get("body", b"")
                    size, more = size + len(part), message.get("more_body", False)
                    if size <= limit:
                        parts.append(part)
        except TimeoutError:
            raise Problem(
                408, f"the body did not arrive in {self.access.body_seconds:.0f} s.", headers={"Connection": "close"}
            ) from None
        if size > limit:
            raise Problem(
                413, f"the body is larger than {limit:,} bytes.", code="body_too_large", headers={"Connection": "close"}
            )
        return b"".join(parts)
