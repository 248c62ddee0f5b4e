"""Who is answered: the Host that was called, the page that calls, the key that was shown. Before anything else is read."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fs_local.server.errors import ApiError, error_response
from fs_local.server.settings import ServerSettings, is_address

_CURLS_FORM = "application/x-www-form-urlencoded"
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_ALLOWED_HEADERS = "Authorization, Content-Type, X-Api-Key, X-Request-Id, X-Steering"
_HOST = re.compile(r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]{1,5})?")
_EVERYWHERE = {b"x-content-type-options": b"nosniff", b"referrer-policy": b"no-referrer"}


class Guard:
    """ASGI middleware: a request that passes came by an allowed Host, from no foreign page, as JSON, with its key."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message, origin if origin in self._settings.allow_origins else None)
            await send(message)

        try:
            self._check_host(headers)
            self._check_origin(scope, headers)
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _preflight()(scope, receive, guarded)
                return
            self._check_key(scope, headers)
            _check_content_type(scope, headers)
        except ApiError as error:
            await error_response(scope["path"], error)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def _check_host(self, headers: Headers) -> None:
        """Against DNS rebinding: a page on a name of its own can be made to point here, but can't change what it calls us."""
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            raise ApiError(400, "a request names one Host", code="host_not_allowed")
        name = host_name(hosts[0])
        settings = self._settings
        own = name in _LOOPBACK_NAMES or name == settings.host.lower() or name in map(str.lower, settings.allow_hosts)
        if not (own or (not settings.is_loopback and is_address(name))):
            raise ApiError(
                403, f"this server does not answer to the Host {name!r:.80}; see --allow-host", code="host_not_allowed"
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        origin = headers.get("origin")
        own = f"{scope.get('scheme', 'http')}://{headers.get('host', '')}"
        if origin is not None and origin != own and origin not in self._settings.allow_origins:
            raise ApiError(
                403, f"pages of {origin!r:.80} may not call this server; see --allow-origin", code="origin_not_allowed"
            )

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        """Leaves in the request's state, as `is_owner`, whether what is kept here is the caller's."""
        settings, path, method = self._settings, scope["path"], scope["method"]
        state = scope.setdefault("state", {})
        state["is_owner"] = True
        if (settings.key is None and settings.admin_key is None) or not needs_key(path):
            return
        shown = _shown_key(headers)
        is_admin = settings.admin_key is not None and _same(shown, settings.admin_key)
        is_user = settings.key is not None and _same(shown, settings.key)
        state["is_owner"] = is_admin or (is_user and not settings.is_shared)
        if settings.key is not None and not (is_admin or is_user):
            raise _unknown_key("the admin key" if self._needs_admin(path, method) else "a key")
        if self._needs_admin(path, method) and not is_admin:
            what = "changing packs" if changes_packs(path, method) else "conversations, lessons and fits"
            if settings.admin_key is None:
                raise ApiError(
                    403, f"{what} need an admin key, and this server was started without one: set FS_LOCAL_ADMIN_KEY"
                )
            if not is_user:
                raise _unknown_key("the admin key")
            raise ApiError(403, f"{what} need the admin key; this is a user's")

    def _needs_admin(self, path: str, method: str) -> bool:
        return changes_packs(path, method) or (self._settings.is_shared and is_kept(path))


def host_name(host: str) -> str:
    """The name in a Host header, without its port, in lower case; empty where it is not well-formed."""
    found = _HOST.fullmatch(host.strip().lower())
    if found is None:
        return ""
    name = (found["address"] or found["name"]).rstrip(".")
    return str(ipaddress.ip_address(name)) if is_address(name) else name


def needs_key(path: str) -> bool:
    """Whether a path shows or does anything: all but the health check and the page's own files."""
    return path.startswith(("/v1/", "/api/", "/metrics", "/tokenize", "/detokenize", "/openapi.json"))


def changes_packs(path: str, method: str) -> bool:
    """Whether a request changes what others get."""
    return method not in ("GET", "HEAD", "OPTIONS") and path.startswith(("/v1/steering/packs", "/v1/page/fits"))


def is_kept(path: str) -> bool:
    """Whether a path is of what is kept here for the owner: conversations, lessons, and fits from them."""
    return path.startswith(("/v1/page/conversations", "/v1/page/lessons", "/v1/page/fits", "/v1/page/demo"))


def _shown_key(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _same(shown: str, key: str) -> bool:
    return hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), key.encode())


def _unknown_key(what: str) -> ApiError:
    return ApiError(
        401,
        f"this server asks for {what}: send it as Authorization: Bearer KEY",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _check_content_type(scope: Scope, headers: Headers) -> None:
    """Every POST of a page says that it is JSON, even with nothing in it: a foreign page can't send that without asking first.

    curl says of `-d` that it is a form, and some of Ollama's clients say nothing at all: where nothing shows a browser, that is taken of a
    query, but not of what changes anything here.
    """
    if scope["method"] not in ("POST", "PATCH"):
        return
    from_browser = "origin" in headers or any(name.startswith("sec-fetch-") for name in headers)
    changes = changes_packs(scope["path"], scope["method"]) or is_kept(scope["path"])
    if headers.get("content-type", _CURLS_FORM) == _CURLS_FORM and not (from_browser or changes):
        others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        scope["headers"] = [*others, (b"content-type", b"application/json")]
        return
    kind, _, rest = headers.get("content-type", "").partition(";")
    charset = rest.strip().lower().replace('"', "")
    if kind.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
        raise ApiError(415, "the body must be JSON, sent with Content-Type: application/json", code="not_json")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "compressed bodies are not read; send it without Content-Encoding")


def _preflight() -> Response:
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Methods": "GET, POST, PATCH",
            "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
            "Access-Control-Max-Age": "600",
        },
    )


def _add_headers(message: MutableMapping[str, Any], allowed_origin: str | None) -> None:
    headers = MutableHeaders(raw=message.setdefault("headers", []))
    for name, value in _EVERYWHERE.items():
        headers.setdefault(name.decode(), value.decode())
    headers.add_vary_header("Origin")
    if allowed_origin is not None:
        headers["Access-Control-Allow-Origin"] = allowed_origin
        headers["Access-Control-Expose-Headers"] = "X-Request-Id"
