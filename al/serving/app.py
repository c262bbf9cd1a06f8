"""The application: all routes behind the guard, with errors in OpenAI's form."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import al
from al.serving.challenge import challenge_routes
from al.serving.connection import Service
from al.serving.guard import Access, Guard
from al.serving.openai_api import openai_routes
from al.serving.problems import ErrorBody, Problem
from al.terminal import displayable

logger = logging.getLogger(__name__)
REFUSALS = (400, 401, 403, 404, 408, 413, 429, 500, 503, 504)
PLAIN_TEXT = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
SHOWN_ERRORS = 5
INVALID = "invalid_request"
"""The code of a body that the OpenAPI document does not allow."""


class Health(BaseModel):
    """`status` is ok as long as requests are answered; else the response is 503."""

    status: str


def make_service_app(service: Service, access: Access) -> ASGIApp:
    """Every route of `service`, for those whom `access` lets in."""
    app = FastAPI(
        title="Winnow",
        version=al.__version__,
        description="Models of a run, through OpenAI's API and that of the LLM Efficiency Challenge.",
        docs_url=None,  # the page would load its scripts from another site
        redoc_url=None,
        responses={status: {"model": ErrorBody} for status in REFUSALS},
    )
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _defect)
    # The guard checks the token; this is for the OpenAPI document.
    needed = [] if access.token is None else [Security(HTTPBearer(auto_error=False))]
    app.include_router(openai_routes(service), dependencies=needed)
    app.include_router(challenge_routes(service), dependencies=needed)

    @app.get("/health", response_model=Health, tags=["server"])
    def health() -> Any:
        """Whether requests are answered; needs no token."""
        if not service.worker.alive:
            raise Problem(503, "the thread that writes answers has ended; its log says why.", code="dead")
        return Health(status="ok")

    @app.get("/metrics", response_class=Response, responses=PLAIN_TEXT, dependencies=needed, tags=["server"])
    def metrics() -> Response:
        """Counters, for Prometheus."""
        body, kind = service.metrics.text()
        return Response(body, media_type=kind)

    paths = app.openapi()["paths"]
    for operation in (operation for path, of in paths.items() if path.startswith("/v1/") for operation in of.values()):
        operation["responses"].pop("422", None)  # FastAPI's own, which _malformed does not send here
    return Guard(app, access, service.metrics, frozenset(paths))


async def _problem(request: Request, problem: Problem) -> Response:
    return JSONResponse(problem.body(), problem.status, problem.headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return await _problem(request, Problem(error.status_code, str(error.detail), headers=error.headers))


async def _defect(request: Request, error: Exception) -> Response:
    return await _problem(request, Problem(500, "a defect of this server; its log says which.", code="internal_error"))


async def _malformed(request: Request, error: RequestValidationError) -> Response:
    """A body that is not as documented: 400 in OpenAI's form under /v1, else 422 with FastAPI's `detail`, as the challenge documents it."""
    if not request.url.path.startswith("/v1/"):
        unread = isinstance(error.body, bytes)
        detail = [
            {"loc": list(e["loc"]), "msg": _unread(request) if unread else e["msg"], "type": e["type"]}
            for e in error.errors()
        ]
        return JSONResponse(displayable({"detail": detail}), 422)
    found = list(dict.fromkeys(_wrong(e, request, error.body) for e in error.errors()))
    said = "; ".join(f"{place}: {what}" if place else what for place, what in found[:SHOWN_ERRORS])
    more = f"; and {len(found) - SHOWN_ERRORS} more" if len(found) > SHOWN_ERRORS else ""
    return await _problem(request, Problem(400, said + more, param=found[0][0], code=INVALID))


def _wrong(error: Any, request: Request, body: Any) -> tuple[str | None, str]:
    """(the parameter, or None for the whole body; what is wrong with it)."""
    if isinstance(body, bytes):
        return None, _unread(request)
    if error["type"] == "json_invalid":
        return None, f"expected JSON, found an error at character {error['loc'][-1]}: {error['ctx']['error']}"
    return _place(error, body), error["msg"]


def _unread(request: Request) -> str:
    """A body that FastAPI has not parsed, for its header."""
    found = request.headers.get("content-type", "no such header")
    return f"expected JSON with the header Content-Type: application/json, found {found:.80}."


def _place(error: Any, body: Any) -> str | None:
    """The keys that lead to a value of `body`, without the names of the types that pydantic has tried for it."""
    parts = []
    for part in error["loc"][1:]:
        if isinstance(body, dict) and (part in body or error["type"] == "missing"):
            body = body.get(part)
        elif isinstance(body, list) and isinstance(part, int):
            body = body[part]
        else:
            continue
        parts.append(str(part))
    return ".".join(parts) or None
