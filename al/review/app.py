"""The review page's server: FastAPI on loopback, for clients with the token.

A page of another site can make the user's browser send requests to this server. Every request must therefore name this server as
its host (a foreign name that resolves to loopback is refused) and carry the token. Changes must carry it in a header, which other
sites cannot set.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field

from al.errors import UserError
from al.review.desk import Desk, View
from al.review.page import render_page
from al.run.status import status
from al.web import SECURITY, Refusal, foreign_host, foreign_origin, same_token
from selection.errors import SelectionError

HEADER = "x-review-token"
LARGEST_BODY = 4 * 2**20


class ChangeRequest(BaseModel, extra="forbid"):
    """One change of the draft; see `al.review.draft.changed`."""

    kind: str = Field(max_length=20)
    key: str = Field("", max_length=1000)
    value: bool | int | str | None = None


class ApproveRequest(BaseModel, extra="forbid"):
    """Approval of the draft at `revision`, the one that the page shows."""

    revision: int


def make_app(desk: Desk, token: str, hosts: frozenset[str]) -> FastAPI:
    """The application for one review.

    Args:
        token: required in every request; GET in the query or a header, POST in the header.
        hosts: accepted values of the Host header, with port.
    """
    app = FastAPI(title="Winnow review", docs_url=None, redoc_url=None, openapi_url=None)
    page, policy = render_page()

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Refuse requests that fail `refusal`; add security headers to every response."""
        response = refusal(request, token, hosts) or await call_next(request)
        response.headers.update(SECURITY | {"Content-Security-Policy": policy})
        return response

    @app.exception_handler(UserError)
    @app.exception_handler(SelectionError)
    async def refuse(request: Request, error: Exception) -> Response:
        """A user error as JSON: 409 for a state of the run, 422 for anything else."""
        return JSONResponse({"error": str(error)}, 409 if getattr(error, "exit_code", 0) == 5 else 422)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        """A request with invalid fields as JSON, 422."""
        said = "; ".join(f"{'.'.join(str(part) for part in e['loc'][1:])}: {e['msg']}" for e in error.errors())
        return JSONResponse({"error": said}, 422)

    @app.get("/")
    def index() -> HTMLResponse:
        """The page."""
        return HTMLResponse(page)

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        """The state of the review; see `Desk.state`."""
        return desk.state()

    @app.get("/api/examples")
    def examples(
        view: View = "batch",
        cluster: Annotated[int | None, Query(ge=0)] = None,
        source: Annotated[str | None, Query(max_length=1000)] = None,
        search: Annotated[str, Query(max_length=200)] = "",
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> dict[str, Any]:
        """A page of examples; see `Desk.examples`."""
        return desk.examples(view, cluster, source, search, offset, limit)

    @app.get("/api/examples/{name}")
    def example(name: str) -> dict[str, Any]:
        """One example with its full text."""
        return desk.example(name)

    @app.post("/api/change")
    def change(wanted: ChangeRequest) -> dict[str, Any]:
        """Apply one change to the draft; returns the new state."""
        return desk.change(wanted.kind, wanted.key, wanted.value)

    @app.post("/api/undo")
    def undo() -> dict[str, Any]:
        """Take back the last change; returns the new state."""
        return desk.undo()

    @app.post("/api/approve")
    def approve(wanted: ApproveRequest) -> dict[str, Any]:
        """Approve the draft at a revision."""
        return desk.approve(wanted.revision)

    @app.get("/status")
    def progress() -> dict[str, Any]:
        """The run's status with `approved` and `finished`, polled by the page after the approval."""
        desk.watched = time.monotonic()
        found = status(desk.proposed.session.run.path)
        return {**found, "approved": desk.approved.is_set(), "finished": desk.finished}

    return app


def refusal(request: Request, token: str, hosts: frozenset[str]) -> Response | None:
    """The refusal of a request, or None if it may pass: 400 host, 403 token or origin, 411 and 413 body."""
    reading = request.method in ("GET", "HEAD")
    given = request.headers.get(HEADER) or (request.query_params.get("token") if reading else None)
    found = foreign_host(request.headers.get("host"), hosts)
    if found is None and not same_token(given, token):
        found = Refusal(403, "the token is missing or wrong; open the address that was printed.")
    found = found or foreign_origin(request.headers.get("origin"), hosts)
    if found is None and not reading:
        found = _refused_body(request.headers.get("content-length", ""))
    return None if found is None else JSONResponse({"error": found.reason}, found.status)


def _refused_body(length: str) -> Refusal | None:
    if not length.isdecimal():
        return Refusal(411, "expected a Content-Length.")
    if int(length) > LARGEST_BODY:
        return Refusal(413, f"the request is larger than {LARGEST_BODY:,} bytes.")
    return None
