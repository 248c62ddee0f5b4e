"""Finds out, in a child process, whether llama.cpp's AMX and repacking kernels run on this machine.

Some virtual machines announce AMX and fault at its first instruction: SIGSEGV in the first decode, which no `try` can catch.
So a child decodes a tiny model with those kernels on; if it dies, models are loaded without them
(`use_extra_bufts = False`). The finding is kept per machine and llama.cpp build.

The child is kernel_trial.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from fs_local.errors import ModelError

_TIMEOUT_S = 60.0
_SIGILL, _SIGABRT, _SIGBUS, _SIGFPE, _SIGSEGV = -4, -6, (-10 if sys.platform == "darwin" else -7), -8, -11
_WINDOWS_ACCESS_VIOLATION, _WINDOWS_ILLEGAL_INSTRUCTION = 0xC0000005, 0xC000001D
_FAULTS = {_SIGILL, _SIGABRT, _SIGBUS, _SIGFPE, _SIGSEGV, _WINDOWS_ACCESS_VIOLATION, _WINDOWS_ILLEGAL_INSTRUCTION}


@dataclass(frozen=True)
class KernelProbe:
    """What the child found. `exit_code` is negative for a signal (-11: SIGSEGV)."""

    usable: bool
    exit_code: int

    def explain(self) -> str:
        if self.usable:
            return "AMX and repacking kernels work"
        return f"AMX or repacking kernels fault here (the child ended with {self.exit_code}); models are loaded without them"


def probe_kernels(refresh: bool = False) -> KernelProbe:
    """The finding for this machine and llama.cpp build, from the cache or a child process.

    Raises:
        ModelError: the child ended in a way that says nothing about the kernels: an import error, no memory, no time.
    """
    cache = Path(platformdirs.user_cache_dir("fs-local")) / f"kernels-{_machine_key()}.json"
    if not refresh:
        try:
            kept = json.loads(cache.read_text())
            return KernelProbe(bool(kept["usable"]), int(kept["exit_code"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing kept, or nothing usable: probe again
    found = _probe()
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        beside = cache.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(asdict(found)))
        beside.replace(cache)
    except OSError:
        pass  # a read-only home costs half a second at each start, no more
    return found


def _probe() -> KernelProbe:
    with tempfile.TemporaryDirectory(prefix="fs-local-") as folder:
        model = Path(folder) / "probe.gguf"
        write_tiny_model(model)
        try:
            child = subprocess.run(
                [sys.executable, "-m", "fs_local.runtime.kernel_trial", str(model)],
                capture_output=True,
                timeout=_TIMEOUT_S,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        except subprocess.TimeoutExpired as error:
            raise ModelError(
                f"the kernel probe did not end within {_TIMEOUT_S:.0f} s; try again when the machine is less busy"
            ) from error
    if (
        child.returncode != 0 and child.returncode not in _FAULTS
    ):  # of ours, the installation or the system, not of the kernels
        lines = child.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise ModelError(f"the kernel probe failed ({child.returncode}): {lines[-1]}")
    return KernelProbe(child.returncode == 0, child.returncode)


def _machine_key() -> str:
    from fs_local.runtime.library import library_folder

    parts = [platform.node(), platform.machine(), sys.platform]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        parts += sorted(
            {line for line in cpuinfo.read_text().splitlines() if line.startswith(("model name", "flags", "Features"))}
        )
    for library in sorted(library_folder().glob("*ggml-cpu*")):
        stat = library.stat()
        parts.append(f"{library} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def write_tiny_model(path: Path, n_layer: int = 1, width: int = 256) -> None:
    """Writes a llama-architecture GGUF, about 1 MB, whose matrices use the quantizations that have AMX or repacking kernels.

    Blocks add nothing; embeddings and output are seeded noise, so that logits show what a hook does.
    """
    import numpy as np
    from gguf import GGMLQuantizationType as Q
    from gguf import GGUFWriter
    from gguf.constants import GGML_QUANT_SIZES

    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(width)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 4)
    writer.add_vocab_size(64)
    writer.add_tokenizer_model("no_vocab")

    def matrix(name: str, rows: int, kind: Q) -> None:
        block, size = GGML_QUANT_SIZES[kind]
        writer.add_tensor(name, np.zeros((rows, width // block * size), dtype=np.uint8), raw_dtype=kind)

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(width, dtype=np.float32))

    noise = np.random.default_rng(0)

    def dense(name: str) -> None:
        writer.add_tensor(name, noise.standard_normal((64, width), dtype=np.float32))

    dense("token_embd.weight")
    for i in range(n_layer):
        ones(f"blk.{i}.attn_norm.weight")
        for name, kind in (("attn_q", Q.Q4_0), ("attn_k", Q.Q4_1), ("attn_v", Q.Q8_0), ("attn_output", Q.Q4_K)):
            matrix(f"blk.{i}.{name}.weight", width, kind)
        ones(f"blk.{i}.ffn_norm.weight")
        for name, kind in (("ffn_gate", Q.Q5_K), ("ffn_up", Q.Q6_K), ("ffn_down", Q.IQ4_XS)):
            matrix(f"blk.{i}.{name}.weight", width, kind)
    ones("output_norm.weight")
    dense("output.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
