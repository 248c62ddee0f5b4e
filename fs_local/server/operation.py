"""What an operator sees: request ids, a line of log a request without any of its text, metrics, health."""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fs_local.server.errors import ApiError, error_response
from fs_local.server.shape import Piece

log = logging.getLogger("fs_local.server")
router = APIRouter()
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("fs_local_requests", "Requests", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "fs_local_request_seconds",
            "From a request's head to its response's end",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first = Histogram(
            "fs_local_first_token_seconds",
            "From a request's head to its first token",
            buckets=_SECONDS,
            registry=registry,
        )
        self.prompt = Counter("fs_local_prompt_tokens", "Tokens of prompts", registry=registry)
        self.cached = Counter("fs_local_cached_tokens", "Tokens of prompts that the cache held", registry=registry)
        self.generated = Counter("fs_local_generated_tokens", "Tokens generated", registry=registry)
        self.decisions = Counter("fs_local_decisions", "Decisions", ["pack", "open"], registry=registry)
        self.opening = Histogram(
            "fs_local_opening",
            "Openings of gates",
            ["pack"],
            buckets=(0, 0.1, 0.25, 0.5, 0.75, 0.9, 1),
            registry=registry,
        )
        self.loaded = Gauge("fs_local_model_loaded", "Whether the model is in memory", registry=registry)
        self.engine = Gauge("fs_local_engine", "The engine's own figures", ["figure"], registry=registry)


class Watch:
    """What is written down of one request."""

    def __init__(self, metrics: Metrics, request_id: str) -> None:
        self.id = request_id
        self._metrics, self._start = metrics, time.perf_counter()
        self._first: float | None = None
        self._noted: dict[str, Any] = {}

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def began(self) -> None:
        """The first token was there."""
        if self._first is None:
            self._first = self.seconds
            self._metrics.first.observe(self._first)

    def answered(self, ends: Sequence[Piece]) -> None:
        """Answers came to their ends."""
        self.began()
        metrics = self._metrics
        prompt, cached, generated = (
            sum(getattr(end, name) for end in ends) for name in ("prompt_tokens", "cached_tokens", "generated_tokens")
        )
        metrics.prompt.inc(prompt)
        metrics.cached.inc(cached)
        metrics.generated.inc(generated)
        self.decided([d for end in ends for d in end.decisions])
        self._noted.update(
            prompt_tokens=prompt,
            cached_tokens=cached,
            generated_tokens=generated,
            first_token_ms=round(1000 * (self._first or 0.0), 1),
            open=sorted({d.pack for end in ends for d in end.decisions if d.is_open}),
        )

    def decided(self, decisions: Sequence[Any]) -> None:
        """Decisions were made."""
        for decision in decisions:
            self._metrics.decisions.labels(decision.pack, str(bool(decision.is_open)).lower()).inc()
            self._metrics.opening.labels(decision.pack).observe(float(decision.opening))

    def failed(self, error: ApiError) -> None:
        """An answer ended before its end, when its status had been sent already."""
        self._noted["error"] = error.code or error.status_code

    def ended(self, method: str, route: str, status: int) -> None:
        """The response was sent, or its client is gone (status 499)."""
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(self.seconds)
        record = {
            "id": self.id,
            "method": method,
            "route": route,
            "status": status,
            "ms": round(1000 * self.seconds, 1),
        }
        log.info(json.dumps({**record, **self._noted}))


class Watched:
    """ASGI middleware: every request has an id and is written down."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        watch = Watch(self._metrics, given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)
        scope.setdefault("state", {})["watch"] = watch
        status, whole = 499, False

        async def watched(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = watch.id
            await send(message)
            whole = whole or (message["type"] == "http.response.body" and not message.get("more_body", False))

        try:
            await self._app(scope, receive, watched)
        except Exception as error:  # our own mistake: where it was is for the log, and nothing of it for strangers
            where = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-8:]]
            log.error(json.dumps({"id": watch.id, "error": type(error).__name__, "where": where}))
            if status == 499:
                text = f"something went wrong here; the log says more under the id {watch.id}"
                await error_response(scope["path"], ApiError(500, text))(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            watch.ended(scope["method"], route, status if whole else 499)


@router.get("/health")
async def health(http: HttpRequest) -> JSONResponse:
    """200 when requests are answered at once or after a load that they start themselves; 503 while starting or stopping."""
    state = http.app.state
    if state.backend.stopping:
        return JSONResponse({"status": "stopping"}, 503)
    if not state.started.is_set():
        return JSONResponse({"status": "loading model"}, 503, headers={"Retry-After": "2"})
    return JSONResponse({"status": "ok", "loaded": state.backend.is_loaded})


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(http: HttpRequest) -> Response:
    """Prometheus' text format."""
    found: Metrics = http.app.state.metrics
    engine = http.app.state.backend.loaded_engine
    found.loaded.set(engine is not None)
    for name, value in figures(engine).items():
        found.engine.labels(name).set(value)
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST)


def figures(engine: Any) -> dict[str, float]:
    """The numbers among the engine's own statistics."""
    stats = getattr(engine, "stats", None)
    if stats is None:
        return {}
    found = (
        stats if isinstance(stats, dict) else {k: getattr(stats, k) for k in getattr(stats, "__dataclass_fields__", ())}
    )
    return {k: float(v) for k, v in found.items() if isinstance(v, int | float)}
