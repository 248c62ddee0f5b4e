"""A client of OpenAI-compatible servers that takes next to nothing of the machine, and notes when what came."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fs_local.errors import FsLocalError

_SECONDS = 600.0


@dataclass(frozen=True)
class Answered:
    """One streamed answer.

    Attributes:
        began, first, ended: seconds of `time.perf_counter`: the request, its first text, its last event.
        tokens: of the answer. prompt_tokens: of the prompt; cached_tokens: of these, not evaluated for it.
        text: of the answer.
    """

    began: float
    first: float
    ended: float
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    text: str

    @property
    def rate(self) -> float:
        """Tokens a second, from the request on."""
        return self.tokens / (self.ended - self.began)

    @property
    def seconds_a_token(self) -> float:
        """Of those behind the first."""
        return (self.ended - self.first) / max(self.tokens - 1, 1)


class HttpClient:
    """One connection, which is kept.

    Args:
        url: of the server: `http://127.0.0.1:8080`.
        model: the name to ask for; None for the first that the server lists.

    Raises:
        FsLocalError: no such server.
    """

    def __init__(self, url: str, model: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise FsLocalError(f"{url!r} is no server's address; give it as http://127.0.0.1:8080")
        self._url = url
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_SECONDS)
        self.model = model or str(self.get("/v1/models")["data"][0]["id"])

    def get(self, path: str) -> Any:
        """What the server says under a path. Raises FsLocalError: it does not answer, or with an error."""
        response = self._send("GET", path, None)
        return json.loads(response.read())

    def chat(self, messages: list[dict[str, str]], **more: Any) -> Answered:
        """A streamed answer to a conversation, to its end.

        Raises:
            FsLocalError: the server does not answer, or with an error.
        """
        began = time.perf_counter()
        first, usage, text = 0.0, None, []
        for event in self._events(messages, more):
            if event.get("choices"):
                said = event["choices"][0]["delta"].get("content")
                if said:
                    first = first or time.perf_counter()
                    text.append(said)
            usage = event.get("usage") or usage
        ended = time.perf_counter()
        if usage is None:
            raise FsLocalError(f"{self._url} ends a stream without its usage; it can't be measured")
        details = usage.get("prompt_tokens_details") or {}
        cached = int(details.get("cached_tokens", 0))
        return Answered(
            began, first or ended, ended, usage["completion_tokens"], usage["prompt_tokens"], cached, "".join(text)
        )

    def leave(self, messages: list[dict[str, str]], **more: Any) -> None:
        """Asks for an answer, and hangs up when it begins."""
        next(self._events(messages, more), None)
        self._connection.close()

    def close(self) -> None:
        self._connection.close()

    def _events(self, messages: list[dict[str, str]], more: dict[str, Any]) -> Iterator[Any]:
        options = {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0}
        body = {"model": self.model, "messages": messages, **options, **more}
        for line in self._send("POST", "/v1/chat/completions", body):
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])

    def _send(self, method: str, path: str, body: Any) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body)
        was_kept = self._connection.sock is not None
        try:
            self._connection.request(method, path, data, {} if data is None else {"Content-Type": "application/json"})
            response = self._connection.getresponse()
        except OSError as error:
            self._connection.close()
            if was_kept and isinstance(
                error, ConnectionError
            ):  # the server has hung up on a connection that had nothing to do
                return self._send(method, path, body)
            raise FsLocalError(f"{self._url} does not answer: {error}; is the server running?") from error
        if response.status != 200:
            raise FsLocalError(
                f"{self._url} answers {response.status}: {response.read()[:200].decode(errors='replace')}"
            )
        return response
