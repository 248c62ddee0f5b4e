"""Where a model's blocks lie: on this machine's processor, on its other devices, or on workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fs_local.errors import ModelError
from fs_local.runtime.backends import Device, local_devices
from fs_local.runtime.guard import Guard
from fs_local.runtime.library import llama

Split = Literal["layer", "row", "none"]
_SPLITS: dict[Split, int] = {"none": 0, "layer": 1, "row": 2}
_NO_TENSOR_SPLIT = "--split tensor can't be steered: it leaves no block's residual stream whole on one device; choose layer, row or none"


@dataclass(frozen=True)
class Placement:
    """What of a model is computed where.

    Attributes:
        gpu_layers: blocks to offload, the last ones first; -1 for all. None: all if a device or a worker is named, else none.
        devices: names of this machine's devices, as `fs-local doctor` lists them; empty for all that there are.
        workers: `host:port` of RPC workers, which come before the devices.
        split: how several devices share a model: whole blocks each, the rows of matrices, or one device alone.
    """

    gpu_layers: int | None = None
    devices: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    split: Split = "layer"

    @property
    def offloads(self) -> int:
        """Blocks to offload, as llama.cpp takes it."""
        if self.gpu_layers is not None:
            return self.gpu_layers
        return -1 if self.workers or self.devices else 0

    @property
    def name(self) -> str:
        """What results depend on, as a part of a name: `cpu`, `gpu12`, `rpc2-gpu`."""
        n = self.offloads
        offloaded = "" if not n else f"gpu{n}" if n > 0 else "gpu"
        named = "-".join([*self.devices, *([self.split] if self.split != "layer" else [])])
        return "-".join(x for x in (f"rpc{len(self.workers)}" if self.workers else "", offloaded or "cpu", named) if x)

    def apply(self, params: Any, join: Any) -> list[Device]:
        """Sets `llama_model_params`; returns the devices that are named there, whose pointers must live as long as the load.

        Args:
            join: gives the devices of workers.

        Raises:
            ModelError: no such device, or nothing to offload to.
        """
        params.n_gpu_layers, params.split_mode = self.offloads, _SPLITS[self.split]
        named = [_named(name) for name in self.devices]
        if not self.workers:
            if self.offloads and not named and not llama().llama_supports_gpu_offload():
                raise ModelError(
                    "this llama-cpp-python was built without a GPU backend; leave out --gpu-layers, or reinstall it with one"
                )
            return named
        return [*join(), *(named or [d for d in local_devices() if d.kind == "gpu" and not d.name.startswith("RPC")])]


def parse_split(text: str) -> Split:
    """Raises ModelError for a split that there is not, or that can't be steered."""
    if text == "tensor":
        raise ModelError(_NO_TENSOR_SPLIT)
    for split in _SPLITS:
        if split == text:
            return split
    raise ModelError(f"--split must be one of {', '.join(sorted(_SPLITS))}; got {text[:40]!r}")


def _named(name: str) -> Device:
    found = local_devices()
    for device in found:
        if device.name == name:
            if device.kind == "cpu":
                raise ModelError(f"--device {name} is where everything runs that is not offloaded; leave it out")
            return device
    others = [d.name for d in found if d.kind != "cpu"]
    raise ModelError(
        f"no device {name[:40]!r} here; {'there is ' + ', '.join(others) if others else 'this llama-cpp-python knows the processor alone'}"
    )


def guard_for(workers: Sequence[str]) -> Guard | None:
    """What calls about these workers go through; None without any."""
    if not workers:
        return None
    from fs_local.runtime.rpc_client import who_is_gone

    return Guard(lambda: who_is_gone(workers))
