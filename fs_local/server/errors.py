"""What a client is told when something is wrong: one sentence, the right status, the shape of the API it spoke."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from fs_local.errors import ContextFullError, EngineClosed, EngineFull, FsLocalError, NotThereError, TakenError

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_LONGEST = 400
"""Characters of a message: what a client sent is quoted in it, and may be long."""


class ApiError(HTTPException):
    """An answer that is an error.

    Attributes:
        param: the field of the request that is wrong, as `messages.0.content`. code: a word for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.message, self.param, self.code = message, param, code


def unsupported(what: str, param: str) -> ApiError:
    """A 400 for a feature of the API that this server does not have."""
    return ApiError(400, f"{what}; leave out {param}", param=param, code="unsupported_parameter")


def busy(message: str) -> ApiError:
    """A 503 that says when to come back."""
    return ApiError(503, message, code="overloaded", headers={"Retry-After": "2"})


def error_body(path: str, status: int, message: str, param: str | None = None, code: str | None = None) -> Any:
    """The JSON of an error, as the API that `path` belongs to has it."""
    message = message.encode("utf-8", "backslashreplace").decode()
    message = message if len(message) <= _LONGEST else message[: _LONGEST - 1] + "…"
    if path.startswith("/api/"):
        return {"error": message}
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(path: str, error: HTTPException) -> JSONResponse:
    """An error as a response."""
    message = getattr(error, "message", None) or str(error.detail)
    body = error_body(path, error.status_code, message, getattr(error, "param", None), getattr(error, "code", None))
    return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))


def of_validation(error: RequestValidationError) -> ApiError:
    """What a schema found wrong, with the field's name."""
    errors = list(error.errors())
    # of a union, the branch that came furthest; what is refused on purpose before all
    first = max(errors, key=lambda e: (e["type"] == "unsupported", len(e["loc"])))
    field = ".".join(str(x) for x in first["loc"] if x != "body" and not _is_branch(x))
    if first["type"] == "extra_forbidden":
        text = f"unknown field {field!r}; this server ignores nothing in silence, so leave it out"
        return ApiError(400, text, param=field, code="unknown_parameter")
    if not field and first["type"] == "missing":
        return ApiError(400, "the body is missing", code="invalid_json")
    if first["type"] == "missing":
        return ApiError(400, f"the field {field!r} is missing", param=field, code="missing_required_parameter")
    said = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{field}: {said}" if field else said, param=field or None, code="invalid_value")


def _is_branch(place: int | str) -> bool:
    """Whether pydantic names a type here, of a union, rather than a field."""
    return isinstance(place, str) and ("[" in place or place in ("str", "int", "bool", "constrained-str"))


def of_library(error: FsLocalError) -> ApiError:
    """What the library refused. Messages with paths in them don't come this way: whoever opens a file says so in its own words."""
    if isinstance(error, EngineFull):
        return busy("too many requests are waiting already; try again in a moment")
    if isinstance(error, EngineClosed):
        return busy("the model is not loaded; try again in a moment")
    if isinstance(error, ContextFullError):
        return ApiError(400, str(error), param="messages", code="context_length_exceeded")
    if isinstance(error, NotThereError):
        return ApiError(404, str(error), code="not_found")
    if isinstance(error, TakenError):
        return ApiError(409, str(error), code="taken")
    return ApiError(400, str(error))
