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
from fs_local.runtime.context import Context, default_threads
from fs_local.runtime.kernel_probe import KernelProbe, probe_kernels, write_tiny_model
from fs_local.runtime.layer_states import LayerStates
from fs_local.runtime.library import llama
from fs_local.runtime.model import Model
from fs_local.runtime.node_filter import native_address
from fs_local.version import __version__

_PACKAGES = ("llama_cpp_python", "numpy", "scikit-learn", "gguf", "onnx", "onnxruntime")


@dataclass(frozen=True)
class HookTest:
    """Both hooks on one model.

    Attributes:
        read_changes_nothing: reading states leaves the logits as they were, bit for bit.
        native: the model's graph has a control-vector hook.
        write_equals_control_vector: adding from the callback and the native control vector give the same logits, bit for bit.
        steers: and these logits differ from the unsteered ones.
    """

    model: str
    read_changes_nothing: bool
    native: bool
    write_equals_control_vector: bool
    steers: bool

    @property
    def ok(self) -> bool:
        return self.read_changes_nothing and self.steers and (self.write_equals_control_vector or not self.native)


@dataclass(frozen=True)
class Diagnosis:
    versions: dict[str, str]
    machine: str
    threads: int
    memory_total: int
    memory_available: int
    gpu_offload: bool
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


def diagnose(model: str | None = None) -> Diagnosis:
    """Runs all checks; the kernel probe anew. `model`: a model to test the hooks on, besides a tiny one.

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
        hooks = [check_hooks(tiny)]
    if model is not None:
        hooks.append(check_hooks(resolve_model(model)))
    memory = psutil.virtual_memory()
    return Diagnosis(
        versions=versions,
        machine=f"{platform.system()} {platform.machine()}",
        threads=default_threads(),
        memory_total=memory.total,
        memory_available=memory.available,
        gpu_offload=bool(api.llama_supports_gpu_offload()),
        native_filter=native_address() is not None,
        onnx_providers=onnxruntime.get_available_providers(),
        kernels=kernels,
        hooks=hooks,
        aliases={alias: _installed(alias) for alias in ALIASES},
    )


def check_hooks(path: Path) -> HookTest:
    """Reads, writes, and sets a control vector after a block in the middle of a model, and compares logits."""
    with Model.load(path) as model, Context(model, n_ctx=64) as context:
        tokens, layer = [1, 2, 3, 4, 5], max(1, model.n_layer // 2)
        addition = np.random.default_rng(0).standard_normal(model.width, dtype=np.float32)

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

        plain = logits()
        with context.hooked([layer], read):
            reading = logits()
        with context.hooked([layer], write):
            writing = logits()
        with context.control_vector({layer: addition}):
            native = logits()
    return HookTest(
        model=path.name,
        read_changes_nothing=bool(np.array_equal(plain, reading)),
        native=not np.array_equal(plain, native),
        write_equals_control_vector=bool(np.array_equal(writing, native)),
        steers=not np.array_equal(plain, writing),
    )


def _installed(alias: str) -> str:
    try:
        return str(resolve_model(alias))
    except FsLocalError as error:
        return str(error)
