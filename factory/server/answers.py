"""Errors as answers: which status each kind of error has, and the one body that all have."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as AnyHTTPException

from ...contract.errors import (
    BusyError,
    ConflictError,
    DeniedError,
    InputError,
    JobCancelled,
    NotFoundError,
    OptionError,
    OutputError,
    ProtocolError,
    Sam3dError,
    ServiceError,
    SetupError,
    StorageError,
    TimeLimitError,
    TooLargeError,
)

_STATUS: tuple[tuple[type[Sam3dError], int], ...] = (
    (InputError, 422),
    (ProtocolError, 400),
    (DeniedError, 403),
    (NotFoundError, 404),
    (TimeLimitError, 408),
    (ConflictError, 409),
    (JobCancelled, 409),
    (TooLargeError, 413),
    (BusyError, 429),
    (SetupError, 503),
    (StorageError, 507),
    (OutputError, 507),
)
RETRY_AFTER = 1  # seconds
log = logging.getLogger("sam3d.server")


class Refused(HTTPException):
    """An error of ours in the middle of a body: FastAPI takes any other exception there for its own business."""

    def __init__(self, problem: Sam3dError, status: int | None = None) -> None:
        super().__init__(status or status_of(problem), str(problem))
        self.problem = problem


def status_of(problem: Sam3dError) -> int:
    return next((status for kind, status in _STATUS if isinstance(problem, kind)), 500)


def body_of(problem: Sam3dError) -> dict[str, Any]:
    """Without `detail`: tracebacks and paths belong into the server's log."""
    return {"error": {"code": problem.code, "message": problem.message, "hint": problem.hint}}


def answer(problem: Sam3dError, status: int | None = None, headers: dict[str, str] | None = None) -> Response:
    number = status or status_of(problem)
    more = {**({"Retry-After": str(RETRY_AFTER)} if number == 429 else {}), **(headers or {})}
    text = json.dumps(body_of(problem), ensure_ascii=False).encode("utf-8", "replace")
    return Response(text, number, more, media_type="application/json")


def install(app: FastAPI) -> None:
    """Every error that leaves a call becomes an answer with our body; what nobody expected does so in gate.py."""

    @app.exception_handler(Sam3dError)
    async def ours(_: Request, problem: Sam3dError) -> Response:
        if status_of(problem) >= 500:
            log.warning("%s: %s %s", problem.code, problem, problem.detail)
        return answer(problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, problem: RequestValidationError) -> Response:
        return answer(OptionError(_first(problem), "docs/api.md says what this call takes."))

    @app.exception_handler(AnyHTTPException)
    async def plain(request: Request, problem: AnyHTTPException) -> Response:
        if isinstance(problem, Refused):
            return answer(problem.problem, problem.status_code)
        headers = dict(problem.headers or {})
        if problem.status_code == 404:
            return answer(NotFoundError("There is nothing at this address.", "docs/api.md lists the calls."), headers=headers)
        if problem.status_code == 413:
            return answer(TooLargeError("The body is too large.", "GET /api/v1/info says how large it may be."), headers=headers)
        if problem.status_code == 405:
            headers["Allow"] = ", ".join(sorted(methods_at(request))) or headers.get("Allow", "GET")
            return answer(OptionError("This address doesn't know that method.", f"It knows: {headers['Allow']}."), 405, headers)
        kind = OptionError if problem.status_code < 500 else ServiceError
        return answer(kind(f"{str(problem.detail).rstrip('.')}.", "docs/api.md says what this call takes."), problem.status_code, headers)


def methods_at(request: Request) -> set[str]:
    """All methods that the API's description has for an address; the router's own error names those of one call."""
    found: set[str] = set()
    for path, calls in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{(\w+)\}", lambda m: ".+" if m[1] == "name" else "[^/]+", path), request.url.path):
            found |= {method.upper() for method in calls}
    return found


def _first(problem: RequestValidationError) -> str:
    """The first thing that is wrong, with the place where it stands."""
    errors = problem.errors()
    if not errors:
        return "The call's body can't be read."
    where = ".".join(str(part) for part in errors[0]["loc"] if part not in ("body", "query", "path", "header"))
    text = str(errors[0]["msg"])[:300]
    return f"{where}: {text}." if where else f"{text}."
