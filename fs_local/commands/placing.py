"""Where a model's blocks lie: the options that every command has that loads a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from fs_local.runtime.placement import Placement

GpuLayers = Annotated[
    Optional[int],
    typer.Option(help="Blocks to offload; -1 for all. By default none, or all with --rpc or --device."),
]
DeviceOption = Annotated[
    Optional[str], typer.Option(metavar="NAME,…", help="Devices to offload to, as doctor lists them; by default all.")
]
SplitOption = Annotated[str, typer.Option(help="How devices share a model: layer, row, or none.")]
Rpc = Annotated[
    Optional[str],
    typer.Option(metavar="HOST:PORT,…", help="Workers that compute blocks of the model: fs-local worker elsewhere."),
]


@dataclass(frozen=True)
class Placing:
    """The options."""

    gpu_layers: GpuLayers = None
    device: DeviceOption = None
    split: SplitOption = "layer"
    rpc: Rpc = None

    @property
    def placement(self) -> Placement:
        """What they say. Raises ModelError."""
        from fs_local.runtime.placement import Placement, parse_split
        from fs_local.runtime.rpc_client import endpoints

        return Placement(
            self.gpu_layers,
            tuple(name.strip() for name in self.device.split(",")) if self.device else (),
            endpoints(self.rpc) if self.rpc else (),
            parse_split(self.split),
        )
