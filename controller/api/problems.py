"""Errors as problem+json (RFC 9457), with a detail that is one line; and the limit on requests.

Rules:
    * A `VedetteError` becomes the status that the table below has for it; its text is the detail.
    * A request larger than `MAX_REQUEST` is refused before it is parsed.
"""

from __future__ import annotations

import http
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.errors import BrokerError, FleetError, NotFoundError
from runtime.errors import ModelNotFoundError, ProtocolError, UsageError, VedetteError

__all__ = ["MAX_REQUEST", "RequestLimit", "handle_errors", "problem"]

MAX_REQUEST = 1_048_576  # bytes

STATUS: tuple[tuple[type[VedetteError], int], ...] = (
    (NotFoundError, 404),
    (ModelNotFoundError, 404),
    (FleetError, 409),
    (UsageError, 422),
    (ProtocolError, 422),
    (BrokerError, 503),
    (VedetteError, 500),
)
"""The first that fits decides."""


def problem(status: int, detail: str) -> JSONResponse:
    """Return the response for an error."""
    body = {"type": "about:blank", "title": http.HTTPStatus(status).phrase, "status": status, "detail": detail}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def handle_errors(app: FastAPI) -> None:
    """Make *app* answer every error as a problem."""

    @app.exception_handler(VedetteError)
    async def ours(_request: Request, error: VedetteError) -> JSONResponse:
        return problem(next(status for kind, status in STATUS if isinstance(error, kind)), str(error))

    @app.exception_handler(AnyHTTPException)
    async def theirs(_request: Request, error: AnyHTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, "; ".join(map(_cause, error.errors()[:3])))


def _cause(cause: Any) -> str:
    where = ".".join(str(part) for part in cause["loc"] if part not in {"body", "query", "path"})
    return f"{where or 'request'}: {cause['msg']} (found {str(cause.get('input'))[:60]!r})"


TOO_LARGE = f"request is too large: at most {MAX_REQUEST} bytes are read"


class RequestLimit:
    """Refuse requests whose body is larger than `MAX_REQUEST`, whatever they say of its length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > MAX_REQUEST:
            await problem(413, TOO_LARGE)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_REQUEST:
                raise HTTPException(413, TOO_LARGE)  # FastAPI lets its own through while it reads a body
            return message

        await self._app(scope, counted, send)
