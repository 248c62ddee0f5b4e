"""The one model that is served: loads it, unloads it when idle, and knows its packs and by which names it may be asked for."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio.to_thread import run_sync

from fs_local.engine import Request
from fs_local.errors import FsLocalError, PackError
from fs_local.server.errors import ApiError, busy
from fs_local.server.shape import EngineLike, Stream

UNSTEERED = "unsteered"
_LATEST = "latest"  # Ollama's clients append it to names without a tag


@dataclass
class ServedPack:
    """A pack of the server, as it stands for all requests.

    Attributes:
        path: its file. pack: what was read from it. digest: `sha256:` of its content.
        enabled, strength: what requests get that don't say otherwise; None is the pack's own strength.
    """

    path: Path
    pack: Any
    digest: str
    enabled: bool = True
    strength: float | None = None

    @classmethod
    def load(cls, path: Path) -> ServedPack:
        """Reads a pack. Raises PackError."""
        from fs_local.pack.file import Pack

        pack = Pack.load(path)
        return cls(path, pack, f"sha256:{hashlib.sha256(pack.to_bytes()).hexdigest()}")

    @property
    def name(self) -> str:
        return str(self.pack.manifest.name)


@dataclass(frozen=True)
class ModelFile:
    """A model's file as it was when it was loaded: one that changes under a running model would end the process."""

    path: Path
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> ModelFile:
        found = os.stat(path)
        return cls(path, found.st_size, found.st_mtime_ns)

    def is_unchanged(self) -> bool:
        try:
            return ModelFile.of(self.path) == self
        except OSError:
            return False


class Backend:
    """Opens the engine when it is needed, and lends it to requests.

    Args:
        name: what clients call the model.
        path: its file.
        packs: in their order.
        open_engine: loads the model with these packs; called in a thread.
        idle: seconds without a request after which the model is unloaded; None never.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        packs: Sequence[ServedPack],
        open_engine: Callable[[Sequence[Any]], EngineLike],
        idle: float | None = None,
    ) -> None:
        for pack in packs:
            self.check_name(pack.name)
        self.name, self.packs, self.idle = name, {p.name: p for p in packs}, idle
        self.created = int(time.time())
        self.stopping = False
        self._open_engine = open_engine
        self._file = ModelFile.of(path)
        self._engine: EngineLike | None = None
        self._changing = anyio.Lock()  # one loads, unloads, or changes packs at a time
        self._users = 0
        self._last_used = time.monotonic()
        self._streams: set[Stream] = set()
        self._once: dict[Callable[[EngineLike], Any], Any] = {}

    @property
    def is_loaded(self) -> bool:
        return self._engine is not None

    @property
    def path(self) -> Path:
        """The model's file."""
        return self._file.path

    @property
    def size(self) -> int:
        """Bytes of the model's file."""
        return self._file.size

    @property
    def loaded_engine(self) -> EngineLike | None:
        """The engine, if it is loaded; to look at, not to use."""
        return self._engine

    def names(self) -> list[str]:
        """All names a request may ask for: the model, the model unsteered, and with one pack alone."""
        return [self.name, f"{self.name}:{UNSTEERED}", *(f"{self.name}:{p}" for p in self.packs)]

    def asked_for(self, model: str) -> str | None:
        """What follows the model's name in the name a request gives: nothing, `unsteered`, or a pack.

        Raises:
            ApiError: 404, no such model.
        """
        model = model.removesuffix(f":{_LATEST}")
        if model == self.name:
            return None
        if model not in self.names():
            some = ", ".join(self.names()[:4])
            raise ApiError(
                404, f"there is no model {model!r:.80} here; there is {some}", param="model", code="model_not_found"
            )
        return model[len(self.name) + 1 :]

    async def load(self) -> None:
        """Opens the engine, if it is not open.

        Raises:
            FsLocalError: the model or a pack can't be used.
        """
        async with self._changing:
            if self._engine is None:
                engine = await run_sync(self._open_engine, [p.pack for p in self.packs.values()])
                for pack in self.packs.values():
                    if pack.strength is not None:
                        engine.set_strength(pack.name, pack.strength)
                    engine.enable(pack.name, pack.enabled)
                self._engine = engine

    @asynccontextmanager
    async def using(self) -> AsyncIterator[EngineLike]:
        """The engine for as long as the `with` lasts; loads it first if it was unloaded.

        Raises:
            ApiError: 503 while stopping, or when the model's file is no longer what was loaded.
        """
        if self.stopping:
            raise busy("the server is shutting down")
        if not self._file.is_unchanged():
            raise ApiError(
                503, "the model's file changed on disk since it was loaded; restart the server", code="model_changed"
            )
        self._users += 1
        try:
            if self._engine is None:
                try:
                    await self.load()
                except FsLocalError as error:
                    raise ApiError(503, "the model can't be loaded; the server's log says why") from error
            assert self._engine is not None
            yield self._engine
        finally:
            self._users -= 1
            self._last_used = time.monotonic()

    @asynccontextmanager
    async def answering(self, engine: EngineLike, requests: Sequence[Request]) -> AsyncIterator[list[Stream]]:
        """The answers to these requests, all or none of them; whatever is left of them when the `with` ends is cancelled."""
        streams: list[Stream] = []
        try:
            for request in requests:
                streams.append(engine.submit(request))
            self._streams.update(streams)
            yield streams
        finally:
            for stream in streams:
                stream.close()
            self._streams.difference_update(streams)

    async def once(self, make: Callable[[EngineLike], Any], engine: EngineLike) -> Any:
        """What `make` makes of the engine, made at its first use and kept while the engine is open."""
        if make not in self._once:
            self._once[make] = await run_sync(make, engine)
        return self._once[make]

    async def change_pack(self, name: str, *, strength: float | None, enabled: bool | None) -> ServedPack:
        """Sets what all requests from now on get of a pack."""
        async with self._changing:
            pack = self.pack(name)
            if strength is not None:
                pack.strength = strength
                if self._engine is not None:
                    self._engine.set_strength(name, strength)
            if enabled is not None:
                pack.enabled = enabled
                if self._engine is not None:
                    self._engine.enable(name, enabled)
            return pack

    async def reload_pack(self, name: str) -> ServedPack:
        """Reads a pack's file again, and puts it in the old one's place between two requests. One that can't be used changes nothing.

        Raises:
            ApiError: 409, the file can't be used.
        """
        async with self._changing:
            old = self.pack(name)
            try:
                new = await run_sync(ServedPack.load, old.path)
                if new.name != name:
                    raise PackError(f"its file now holds a pack called {new.name!r:.80}")
                if self._engine is not None:
                    self._engine.replace_pack(new.pack)
                    if old.strength is not None:
                        self._engine.set_strength(name, old.strength)
                    self._engine.enable(name, old.enabled)
            except (FsLocalError, OSError) as error:
                said = str(error).replace(str(old.path), "its file")
                raise ApiError(
                    409, f"{name} was not reloaded, and stays as it was: {said}", code="pack_unusable"
                ) from error
            new.enabled, new.strength = old.enabled, old.strength
            self.packs[name] = new
            return new

    async def put_pack(self, pack: ServedPack) -> None:
        """Puts a pack into service, in the place of the one that has its name; requests under way end with the packs that they began with.

        Raises:
            PackError: a pack for another model, or of another scope than the others; the packs are then as before.
        """
        async with self._changing:
            packs = {**self.packs, pack.name: pack}
            if self._engine is not None:
                await run_sync(self._engine.set_packs, [p.pack for p in packs.values()])
                for each in packs.values():
                    if each.strength is not None:
                        self._engine.set_strength(each.name, each.strength)
                    self._engine.enable(each.name, each.enabled)
            self.packs = packs

    @staticmethod
    def check_name(name: str) -> None:
        """Raises PackError: a pack can't be called so here."""
        if name in (UNSTEERED, _LATEST):
            raise PackError(
                f"a pack can't be called {UNSTEERED} or {_LATEST} here: model names end so; fit it under another --name"
            )

    def pack(self, name: str) -> ServedPack:
        """A pack by its name. Raises ApiError: 404."""
        if name not in self.packs:
            raise ApiError(404, f"there is no pack {name!r:.80} here", code="pack_not_found")
        return self.packs[name]

    async def unload_when_idle(self) -> None:
        """Runs for as long as the server does, where there is an `idle`."""
        assert self.idle is not None
        while True:
            left = self._last_used + self.idle - time.monotonic()
            await anyio.sleep(max(left, 0.05 if self._users == 0 else self.idle))
            async with self._changing:
                if self._users == 0 and time.monotonic() - self._last_used >= self.idle:
                    await self._unload()

    async def _unload(self) -> None:
        engine, self._engine = self._engine, None
        self._once.clear()
        if engine is not None:
            await run_sync(_free, engine)

    async def drain(self, seconds: float) -> None:
        """Lets answers under way end, for this long; ends the rest with an error. No new ones are taken."""
        self.stopping = True
        with anyio.move_on_after(seconds):
            while self._streams:
                await anyio.sleep(0.02)
        if self._streams and self._engine is not None:
            await run_sync(self._engine.close)

    async def close(self) -> None:
        """Frees the engine."""
        self.stopping = True
        async with self._changing:
            await self._unload()


def _free(engine: EngineLike) -> None:
    engine.close()
    engine.model.close()


def metadata(engine: EngineLike) -> Mapping[str, Any]:
    """What there is to say of a model, without its path."""
    model = engine.model
    return {
        "architecture": model.architecture,
        "quantization": model.quantization,
        "fingerprint": model.fingerprint,
        "n_layer": model.n_layer,
        "width": model.width,
        "n_vocab": model.n_vocab,
        "n_ctx": engine.n_ctx,
        "n_ctx_train": model.n_ctx_train,
    }
