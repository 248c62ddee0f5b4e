"""What this machine and this installation can do: versions, backends, threads, memory, the kernel probe, and a test of both hooks."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fs_local.errors import FsLocalError
from fs_local.model_files import ALIASES, resolve_model
from fs_local.runtime.backends import has_rpc, local_devices
from fs_local.runtime.context import Context
from fs_local.runtime.kernel_probe import KernelProbe, probe_kernels, write_tiny_model
from fs_local.runtime.layer_states import LayerStates
from fs_local.runtime.library import llama
from fs_local.runtime.model import Model
from fs_local.runtime.node_filter import native_address
from fs_local.runtime.placement import Placement
from fs_local.runtime.threads import default_threads
from fs_local.version import __version__

_TOLERANCE = 0.01
"""Of the effect of adding: what a device may differ by that fuses what a hook cuts apart. A processor may not differ at all."""
_PACKAGES = ("llama_cpp_python", "numpy", "scikit-learn", "gguf", "onnx", "onnxruntime")


@dataclass(frozen=True)
class HookTest:
    """Both hooks on one model.

    Attributes:
        where: the device that computes; empty for this machine's processor.
        read_changes: largest difference that reading states makes to a logit; 0 on a processor.
        write_differs: of adding from the callback and the native control vector, the same; 0 on a processor.
        effect: of adding, against not adding.
        native: the model's graph has a control-vector hook.
        stops: a graph that a hook ends computes nothing after it, however many parts it has.
    """

    model: str
    where: str
    read_changes: float
    native: bool
    write_differs: float
    effect: float
    stops: bool

    @property
    def ok(self) -> bool:
        most = _TOLERANCE * self.effect if self.where else 0.0
        same = self.read_changes <= most and (self.write_differs <= most or not self.native)
        return same and self.effect > 0 and self.stops


@dataclass(frozen=True)
class Diagnosis:
    versions: dict[str, str]
    machine: str
    threads: int
    memory_total: int
    memory_available: int
    gpu_offload: bool
    devices: list[str]
    rpc: bool
    native_filter: bool
    onnx_providers: list[str]
    kernels: KernelProbe
    hooks: list[HookTest]
    aliases: dict[str, str]

    @property
    def ok(self) -> bool:
        return all(h.ok for h in self.hooks)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def diagnose(model: str | None = None, workers: tuple[str, ...] = ()) -> Diagnosis:
    """Runs all checks; the kernel probe anew.

    Args:
        model: one to test the hooks on, besides a tiny one. Both are tested on every device.
        workers: RPC workers, another device.

    Raises:
        ModelError: llama-cpp-python or the model can't be loaded.
    """
    import onnxruntime

    kernels = probe_kernels(refresh=True)
    api = llama()
    versions = {
        "fs-local": __version__,
        "Python": sys.version.split()[0],
        "llama.cpp": api.llama_version().decode(),
    }
    for package in _PACKAGES:
        try:
            versions[package.replace("_", "-")] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package.replace("_", "-")] = "missing"
    with tempfile.TemporaryDirectory(prefix="fs-local-") as folder:
        tiny = Path(folder) / "tiny.gguf"
        write_tiny_model(tiny, n_layer=4)
        places = _places(workers)
        hooks = [check_hooks(tiny, where, placement) for where, placement in places]
    if model is not None:
        path = resolve_model(model)
        hooks += [check_hooks(path, where, placement) for where, placement in places]
    memory = psutil.virtual_memory()
    return Diagnosis(
        versions=versions,
        machine=f"{platform.system()} {platform.machine()}",
        threads=default_threads(),
        memory_total=memory.total,
        memory_available=memory.available,
        gpu_offload=bool(api.llama_supports_gpu_offload()),
        devices=[f"{d.name} ({d.description})" for d in local_devices()],
        rpc=has_rpc(),
        native_filter=native_address() is not None,
        onnx_providers=onnxruntime.get_available_providers(),
        kernels=kernels,
        hooks=hooks,
        aliases={alias: _installed(alias) for alias in ALIASES},
    )


def _places(workers: tuple[str, ...]) -> list[tuple[str, Placement]]:
    """Every place that can compute a whole model, with its name."""
    gpus = [d.name for d in local_devices() if d.kind == "gpu"]
    places = [("", Placement()), *((name, Placement(devices=(name,))) for name in gpus)]
    return [*places, (", ".join(workers), Placement(workers=workers))] if workers else places


def check_hooks(path: Path, where: str = "", placement: Placement | None = None) -> HookTest:
    """Reads, writes, sets a control vector and ends the graph after a block in the middle of a model, and compares logits."""
    with Model.load(path, placement=placement) as model, Context(model, n_ctx=64) as context:
        tokens, layer = [1, 2, 3, 4, 5], max(1, model.n_layer // 2)
        addition = np.random.default_rng(0).standard_normal(model.width, dtype=np.float32)
        seen: list[int] = []

        def logits() -> Any:
            context.clear()
            context.decode(tokens, start=0)
            return context.logits()

        def read(states: LayerStates) -> bool:
            states.read()
            return True

        def write(states: LayerStates) -> bool:
            states.add(addition)
            return True

        def stop(states: LayerStates) -> bool:
            seen.append(states.layer)
            return False

        plain = logits()
        with context.hooked([layer], read):
            reading = logits()
        with context.hooked([layer], write):
            writing = logits()
        with context.control_vector({layer: addition}):
            native = logits()
        context.clear()
        with context.hooked([layer - 1, *range(layer, model.n_layer)], stop):
            context.decode(tokens, start=0)
        stops = seen == [layer - 1] and context.stopped_early
        context.clear(zero=True)
    return HookTest(
        model=path.name,
        where=where,
        read_changes=_most(plain, reading),
        native=not np.array_equal(plain, native),
        write_differs=_most(writing, native),
        effect=_most(plain, writing),
        stops=stops,
    )


def _most(a: Any, b: Any) -> float:
    """The largest difference; infinite where one is no number."""
    difference = float(np.abs(a - b).max())
    return difference if np.isfinite(difference) else float("inf")


def _installed(alias: str) -> str:
    try:
        return str(resolve_model(alias))
    except FsLocalError as error:
        return str(error)
