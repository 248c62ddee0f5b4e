"""An engine without a model, for what is about HTTP alone: it answers with the query's words, one a piece."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fs_local.engine import EngineClosed, EngineFull, Prompt, Request, Steer


@dataclass
class FakeDecision:
    pack: str
    opening: float
    strength: float
    energy_ratio: float = 0.5
    weights: Sequence[float] = (0.75, 0.25)
    layers: tuple[int, ...] = (3,)
    margin: float = 0.5
    carried: tuple[tuple[int, str, float], ...] = ((3, "last", 0.5),)

    @property
    def is_open(self) -> bool:
        return self.opening > 0 and self.strength != 0


@dataclass
class FakePiece:
    text: str
    finish_reason: str | None
    decisions: list[FakeDecision]
    prompt_tokens: int
    generated_tokens: int
    tokens: tuple[int, ...] = ()
    logprobs: list[Any] = field(default_factory=list)
    cached_tokens: int = 0
    prompt_seconds: float = 0.001
    seconds: float = 0.002
    seed: int = 0


class FakeModel:
    """Bytes are its tokens."""

    name, architecture, quantization, fingerprint = "fake", "llama", "Q4_0", "0123456789abcdef"
    n_layer, width, n_vocab, n_ctx_train = 4, 8, 257, 4096
    template = SimpleNamespace(source="{{ messages }}", renders_tools=False)
    end_tokens = (256,)
    bos = -1

    def metadata(self, key: str) -> str | None:
        return None

    def tokenize(self, text: str, *, special: bool = True, add_bos: bool = False) -> list[int]:
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def close(self) -> None:
        pass

    def text(self, tokens: Sequence[int]) -> str:
        return b"".join(self.piece(t) for t in tokens).decode("utf-8", "replace")


class FakeStream:
    def __init__(self, engine: FakeEngine, request: Request, decisions: list[FakeDecision]) -> None:
        self._engine, self._request, self._decisions = engine, request, decisions
        self.closed = False
        engine.running.add(self)

    async def __aiter__(self) -> AsyncIterator[FakePiece]:
        request = self._request
        words = bytes(request.prompt.tokens).decode("utf-8", "replace").split() or ["nothing"]
        if request.max_tokens == 0:
            yield FakePiece("", "stop", self._decisions, len(request.prompt.tokens), 0)
        limit = 0 if request.max_tokens == 0 else min(len(words), request.max_tokens or len(words))
        for i in range(limit):
            if self._engine.delay:
                await asyncio.sleep(self._engine.delay)
            if self._engine.closed:
                raise EngineClosed("closed")
            if self.closed:
                return
            end = None if i < limit - 1 else "stop" if limit == len(words) else "length"
            yield FakePiece((" " if i else "") + words[i], end, self._decisions, len(request.prompt.tokens), i + 1)
        self.close()

    def close(self) -> None:
        self.closed = True
        self._engine.running.discard(self)


class FakeEngine:
    """Opens every gate for queries that say `harm`."""

    n_ctx = 4096

    def __init__(self, packs: Sequence[Any], delay: float = 0.0, room: int = 64) -> None:
        self.model = FakeModel()
        self.packs, self.delay, self.room = list(packs), delay, room
        self.running: set[FakeStream] = set()
        self.strengths = {p.manifest.name: p.manifest.steer.strength for p in packs}
        self.off: set[str] = set()
        self.requests: list[Request] = []
        self.closed = False

    @property
    def stats(self) -> dict[str, float]:
        return {"running": len(self.running)}

    def prompt(self, messages: Sequence[dict[str, str]], tools: Sequence[Any] = ()) -> Prompt:
        tokens = tuple(" ".join(m["content"] for m in messages).encode())
        return Prompt.plain(tokens)

    def submit(self, request: Request) -> FakeStream:
        if len(self.running) >= self.room:
            raise EngineFull("full")
        self.requests.append(request)
        return FakeStream(self, request, self.decide(request.prompt, request.steer))

    def decide(self, prompt: Prompt, steer: Steer) -> list[FakeDecision]:
        time.sleep(0)
        opening = 1.0 if b"harm" in bytes(prompt.tokens) else 0.0
        return [
            FakeDecision(name, opening, steer.strengths.get(name, strength))
            for name, strength in self.strengths.items()
            if steer.enabled and name not in steer.disabled | self.off
        ]

    def set_strength(self, name: str, strength: float) -> None:
        self.strengths[name] = strength

    def enable(self, name: str, enabled: bool) -> None:
        self.off.discard(name) if enabled else self.off.add(name)

    def replace_pack(self, pack: Any) -> None:
        self.strengths[pack.manifest.name] = pack.manifest.steer.strength

    def set_packs(self, packs: Sequence[Any]) -> None:
        self.packs, self.off = list(packs), set()
        self.strengths = {p.manifest.name: p.manifest.steer.strength for p in packs}

    def close(self) -> None:
        self.closed = True


def pack_file(folder: Path, name: str = "refusal", strength: float = 1.5) -> Path:
    """A real pack, for no real model."""
    from tests.packs import describe, random_experts, random_gate, some_identity

    path = folder / f"{re.sub(r'[^a-z]', '', name)}.fspack"
    gate, experts = random_gate("logistic", 64), random_experts(64)
    describe(
        gate, experts, some_identity(64), layers=[10], gate_layers=[8], strength=strength, scope="all", name=name
    ).save(path)
    return path
