"""A server with a real engine: the tiny model, or another, and packs whose gates stand as we want them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fs_local.runtime.model import Model
from fs_local.server.backend import Backend
from fs_local.server.run import Server, open_backend
from fs_local.server.settings import ServerSettings
from tests.packs import synthetic_pack
from tests.server.serving import serving

GATES = {"opened": "open", "half": "half", "shut": "closed"}


def write_packs(model: Model, folder: Path) -> list[Path]:
    """Three packs: `opened` and `half` steer every query, `shut` none."""
    paths = []
    for seed, (name, gate) in enumerate(GATES.items()):
        pack = synthetic_pack(model, gate, layer=3, gate_layer=2, scope="all", size=0.5, seed=seed, name=name)
        paths.append(folder / f"{name}.fspack")
        pack.save(paths[-1])
    return paths


@contextmanager
def real_server(
    model: Path, packs: Sequence[Path] = (), settings: ServerSettings | None = None, **options: Any
) -> Iterator[tuple[Server, Backend]]:
    """Serves a model, by the name of its file, while the `with` lasts."""
    given = {"n_threads": 1, "n_ctx": 8192, **options}
    backend = open_backend(model.stem, model, packs, **given)
    with serving(backend, settings) as server:
        yield server, backend
