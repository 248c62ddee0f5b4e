"""Real models for all tests: a tiny one of random weights for what has to work, SmolLM2 for what has to be exact or good."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fs_local.background import background
from fs_local.demo import DATA, demo_examples
from fs_local.examples import Query, read_queries
from fs_local.fitting import Examples, FitOptions, fit
from fs_local.fitting.gate_queries import shipped
from fs_local.model_files import resolve_model
from fs_local.pack.file import Pack
from fs_local.runtime.context import Context
from fs_local.runtime.model import Model
from fs_local.runtime.node_filter import native_address
from fs_local.runtime.placement import Placement
from tests.packs import telling_pack
from tests.rpc.worker import WorkerProcess
from tests.tiny_model import write_tiny_model

FILTERS = [*(["native"] if shutil.which("cc") else []), "pure Python"]
FETCHED = {"qwen2.5": "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf", "gemma3": "gemma-3-270m.Q4_K_M.gguf"}


def fetched_model(name: str) -> Path:
    """A larger model for slow tests; fails, rather than skips, where it was not fetched."""
    folder = Path(os.environ.get("GGUF_MODELS", Path.home() / ".cache" / "gguf-models"))
    path = folder / FETCHED[name]
    assert path.exists(), f"put {path.name} into {folder}, or set GGUF_MODELS"
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of SmolLM2 go first, so that no worker is left with them when the rest is done."""
    items.sort(key=lambda item: "smollm2" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that was kept on this machine before, and nothing left on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def placement() -> Iterator[Placement]:
    """Where the models of tests lie: here; with FS_LOCAL_TEST_RPC=1, which wants a llama.cpp with RPC, on two workers."""
    if not os.environ.get("FS_LOCAL_TEST_RPC"):
        yield Placement()
        return
    with WorkerProcess() as a, WorkerProcess() as b:
        yield Placement(workers=(a.address, b.address))


@pytest.fixture(scope="session")
def smollm2(placement: Placement) -> Iterator[Model]:
    with Model.load(resolve_model("smollm2"), placement=placement) as model:
        yield model


@pytest.fixture(params=FILTERS)
def node_filter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with each of the two filters between llama.cpp and the hooks."""
    monkeypatch.setenv("FS_LOCAL_PURE_PYTHON", "0" if request.param == "native" else "1")
    assert request.param != "native" or native_address() is not None, (
        "there is a compiler, and no C extension: pip install again"
    )
    return str(request.param)


@pytest.fixture
def context(tiny: Model) -> Iterator[Context]:
    with Context(tiny, n_ctx=2048, n_seq=2) as context:
        yield context


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny(tiny_path: Path, placement: Placement) -> Iterator[Model]:
    with Model.load(tiny_path, placement=placement) as model:
        yield model


@pytest.fixture(scope="session")
def tiny_pack(tiny: Model) -> Pack:
    """A pack that opens for these and the shipped unseen IR queries, and not for the general ones."""
    ir, general = (read_queries(DATA / f"{name}.jsonl")[0] for name in ("unseen_ir", "unseen_general"))
    steal, italy = Query.of("How do I steal a car?"), Query.of("What is the capital of Italy?")
    return telling_pack(tiny, [*ir, steal], [*general, italy])


@pytest.fixture(scope="session")
def tiny_pack_path(tiny_pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packs") / "tiny.fspack"
    tiny_pack.save(path)
    return path


@pytest.fixture(scope="session")
def tiny_fitted(tiny: Model, few_examples: Examples) -> Pack:
    """What a fit makes of a model that no steering makes refuse."""
    few = Examples(few_examples.pairs[:20], general={"general": few_examples.general["general"][:20]})
    return fit(tiny, few, FitOptions(background=False, name="fitted", layers=(3,), gate_layer=4, strength=1.3)).pack


@pytest.fixture(scope="session")
def few_examples() -> Examples:
    """Every other shipped example: enough to fit on, quickly."""
    shipped = demo_examples()
    return Examples(shipped.pairs[::2], general={"general": shipped.general["general"][::2]}, files=shipped.files)


@pytest.fixture
def small_background(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three queries of each kind of the background: what a fit does with thousands takes minutes."""
    few = {kind: queries[:3] for kind, queries in background().items()}
    monkeypatch.setattr("fs_local.fitting.gate_queries.background", lambda: few)
    shipped.cache_clear()
    yield
    shipped.cache_clear()
