"""A gate and experts as another tool's files hold them, for a model that they don't name; and the pack that they make with one.

Shapes: d is the width of the residual stream, D = steered layers × d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from converters.vectors import MAX_TEXT, Vectors
from fs_local.errors import DataError
from fs_local.files import file_digest
from fs_local.method.folded import Experts, Gate, constant_experts, open_gate
from fs_local.method.readings import Reading
from fs_local.pack.archive import MAX_PACK_BYTES
from fs_local.pack.file import Pack
from fs_local.pack.manifest import (
    DataDigest,
    ExpertAbout,
    Figures,
    GateSettings,
    Manifest,
    Method,
    ModelIdentity,
    SteerSettings,
)


@dataclass(frozen=True)
class PackParts:
    """What a pack is made of, but for the model. At strength 1, prompt and generation.

    Attributes:
        method: as a manifest names it.
        gate, experts: as in a pack. gate_layers, layers: the blocks whose states the gate takes, and those that are steered.
        gate_readings: which of the query's states it takes there.
        files: what they were read from: what its rows are -> (how many rows, the file).
        said: what the file says of itself. model_hint: what it says of its model; empty if nothing.
        name: of the pack, if the file's own name does not do.
        lost: what could not be kept, one sentence each.
    """

    method: Method
    gate: Gate
    gate_layers: list[int]
    experts: Experts
    layers: list[int]
    files: dict[str, tuple[int, Path]]
    said: tuple[str, ...] = ()
    model_hint: str = ""
    name: str = ""
    lost: tuple[str, ...] = ()
    gate_readings: Sequence[Reading] = ("last",)


def vector_parts(vectors: Vectors, path: Path) -> PackParts:
    """Vectors as parts: an open gate, and one expert. path: the file they are from."""
    flat = np.concatenate(list(vectors.directions.values()))
    layers = list(vectors.directions)
    return PackParts(
        method="vector",
        gate=open_gate(vectors.width),
        gate_layers=layers[:1],
        experts=constant_experts(flat, vectors.width),
        layers=layers,
        files={"directions": (len(layers), path)},
        said=(f"method {vectors.method}",) if vectors.method else (),
        model_hint=vectors.model_hint,
        lost=vectors.lost,
    )


def check_fits(parts: PackParts, model: ModelIdentity) -> None:
    """Compares parts with a model.

    Raises:
        DataError: another width, or a block that the model doesn't have.
    """
    width, last = len(parts.experts.center), max(*parts.gate_layers, *parts.layers)
    if width != model.width or last >= model.n_layer:
        hint = f" for {parts.model_hint}" if parts.model_hint not in ("", "unknown") else ""
        raise DataError(
            f"the vectors{hint} have width {width} and go up to block {last}, "
            f"and {model.name} has width {model.width} and blocks 0 to {model.n_layer - 1}"
        )


def as_pack(parts: PackParts, model: ModelIdentity, *, name: str, source: str) -> Pack:
    """The pack of these parts for a model.

    Args:
        name: of the pack. source: what the parts are from, for the manifest.

    Raises:
        DataError: parts for another model, or larger than a pack.
    """
    check_fits(parts, model)
    gate, experts = parts.gate, parts.experts
    said = [source, *parts.said, *([f"for {parts.model_hint}"] if parts.model_hint else [])]
    size = sum(getattr(experts, field.name).nbytes for field in fields(experts))
    if size > MAX_PACK_BYTES * 3 // 4:
        raise DataError(f"{size:,} bytes of vectors are more than a pack holds ({MAX_PACK_BYTES:,} bytes)")
    manifest = Manifest(
        method=parts.method,
        name=(parts.name or name)[:MAX_TEXT],
        fitted_by=", ".join(said),
        model=model,
        gate=GateSettings.of(gate, parts.gate_layers, parts.gate_readings),
        steer=SteerSettings(layers=parts.layers, strength=1.0, scope="all"),
        experts=[ExpertAbout(pairs=0, queries=[])] * len(experts.prototypes),
        data={what: DataDigest(rows=rows, sha256=file_digest(path)) for what, (rows, path) in parts.files.items()},
        figures=Figures(),
        seed=0,
        digests={},
    )
    return Pack.of(manifest, gate, experts)
