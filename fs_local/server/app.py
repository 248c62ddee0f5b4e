"""The application: all routes behind who may call, how much they may send, and what is written down of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from fs_local.errors import FsLocalError
from fs_local.server import (
    ollama,
    ollama_models,
    openai_chat,
    openai_completions,
    openai_responses,
    operation,
    page_conversations,
    page_fits,
    page_lessons,
    page_text,
    steering_compare,
    steering_decide,
    steering_packs,
    tokens,
)
from fs_local.server.backend import Backend
from fs_local.server.bodies import Bodies
from fs_local.server.errors import ApiError, error_response, of_library, of_validation
from fs_local.server.fits import Fits
from fs_local.server.operation import Metrics, Watched
from fs_local.server.security import Guard
from fs_local.server.settings import ServerSettings
from fs_local.user_data import user_database
from fs_local.version import __version__

_STATUSES = {
    400: "The request can't be used; the message says why.",
    401: "The key is missing or wrong.",
    403: "Not for this Host, page or key.",
    404: "There is no such route, model or pack.",
    408: "The body took too long to come.",
    409: "The pack's file can't be used.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    500: "Something went wrong here.",
    503: "Too many requests wait, or the model is not ready.",
}
PAGE = Path(__file__).parents[1] / "page"
_CONTENT_SECURITY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create_app(backend: Backend, settings: ServerSettings) -> FastAPI:
    """Everything that is served. It loads nothing itself: whoever starts it calls `backend.load` and sets `app.state.started`."""
    app = FastAPI(
        title="fs-local",
        version=__version__,
        docs_url=None,  # the usual page of documentation comes from elsewhere on the net
        redoc_url=None,
        lifespan=_lifespan,
        responses={status: {"description": text} for status, text in _STATUSES.items()},
    )
    app.state.backend, app.state.metrics, app.state.started = backend, Metrics(), anyio.Event()
    app.state.database, app.state.fits = user_database(), Fits(backend)
    for part in (
        openai_chat,
        openai_completions,
        openai_responses,
        ollama,
        ollama_models,
        steering_packs,
        steering_decide,
        steering_compare,
        tokens,
        operation,
        page_conversations,
        page_fits,
        page_lessons,
        page_text,
    ):
        app.include_router(part.router)
    if PAGE.is_dir():
        app.mount("/", _Page(directory=PAGE, html=True))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _problem)
    app.add_exception_handler(FsLocalError, _refused)
    app.add_middleware(Bodies)  # the last one added sees a request first
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(Watched, metrics=app.state.metrics)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        found = described()
        for path in found["paths"].values():
            for operation_ in path.values():
                operation_["responses"].pop("422", None)  # ours is a 400
        return found

    app.openapi = openapi  # type: ignore[method-assign]
    return app


_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


class _Page(StaticFiles):
    """The page's own files, and nothing from anywhere else."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            others = [r for r in scope["app"].routes if not isinstance(r, Mount)]
            asked = [{**scope, "root_path": "", "method": method} for method in _METHODS]
            allowed = [at["method"] for at in asked if any(r.matches(at)[0] is Match.FULL for r in others)]
            if allowed:
                raise HTTPException(405, headers={"Allow": ", ".join(allowed)})
            if scope["method"] not in ("GET", "HEAD"):
                raise HTTPException(404)

        async def strict(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _CONTENT_SECURITY.encode())]
            await send(message)

        await super().__call__(scope, receive, strict)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    backend: Backend = app.state.backend
    async with anyio.create_task_group() as group:
        if backend.idle is not None:
            group.start_soon(backend.unload_when_idle)
        yield
        group.cancel_scope.cancel()
    await app.state.fits.cancel()
    await backend.close()


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(request.url.path, of_validation(error))


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if not isinstance(error, ApiError):
        what = {
            404: f"there is no {request.url.path:.80} here",
            405: f"{request.method} is not for {request.url.path:.80}",
        }
        error = ApiError(error.status_code, what.get(error.status_code, str(error.detail)), headers=error.headers)
    return error_response(request.url.path, error)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, FsLocalError)
    return error_response(request.url.path, of_library(error))
