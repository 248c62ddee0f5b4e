"""An engine of the tiny model, with a pack that opens for half of all queries and one that opens for none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fs_local.engine import Engine
from fs_local.pack.file import Pack
from fs_local.runtime.model import Model
from tests.packs import synthetic_pack


@pytest.fixture(scope="module")
def packs(tiny: Model) -> list[Pack]:
    return [
        synthetic_pack(tiny, "half", layer=3, gate_layer=2, seed=1, name="half"),
        synthetic_pack(tiny, "closed", layer=2, gate_layer=4, seed=2, name="closed"),
    ]


@pytest.fixture
def engine(tiny: Model, packs: list[Pack]) -> Iterator[Engine]:
    with Engine(tiny, packs, n_ctx=1024, n_seq=4) as engine:
        yield engine
