"""What is in a file of any format, without converting it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.formats import Format, recognize
from converters.layers import ranges
from converters.pack_of_parts import PackParts
from converters.vectors import Vectors
from fs_local.pack.file import Pack


@dataclass(frozen=True)
class About:
    """What there is to say of vectors, or of another tool's checkpoint.

    Attributes:
        format: its name. title: what that is. bytes: size of the file.
        says: what the file says of itself, such as its method or the model it is for.
        layers: blocks after which it steers. width: d.
        lengths: L2 norm of the shortest and of the longest direction; None where vectors depend on the query.
        gate: kind of the gate. experts: K. residual: rank.
        lost: what a pack of it would not hold, one sentence each.
    """

    format: str
    title: str
    bytes: int
    says: tuple[str, ...]
    layers: tuple[int, ...]
    width: int
    lengths: tuple[float, float] | None
    gate: str
    experts: int
    residual: int
    lost: tuple[str, ...]

    def rows(self) -> list[tuple[str, str]]:
        """For people: label and value."""
        gated = "every query" if self.gate == "open" else f"gate {self.gate}"
        rows = [
            ("format", f"{self.format}: {self.title}"),
            ("size", f"{self.bytes / 1024:.0f} KB"),
            ("says", ", ".join(self.says) or "nothing of itself"),
            ("steers", f"after blocks {ranges(self.layers)}, {gated}"),
            ("width", str(self.width)),
        ]
        if self.lengths is not None:
            rows.append(("lengths", f"{self.lengths[0]:.3g} to {self.lengths[1]:.3g}"))
        else:
            rows.append(("experts", f"K = {self.experts}, residual rank {self.residual}"))
        return [*rows, *(("a pack loses", sentence) for sentence in self.lost)]


def inspect(path: Path) -> Pack | About:
    """The pack that is in a file, or what there is to say of anything else.

    Raises:
        FsLocalError: a file that can't be used.
    """
    reader, opened = recognize(path)
    content = reader.read(opened, None)
    if isinstance(content, Pack):
        return content
    return (
        _of_vectors(reader, opened.size, content)
        if isinstance(content, Vectors)
        else _of_parts(reader, opened.size, content)
    )


def _of_vectors(reader: Format, size: int, found: Vectors) -> About:
    lengths = [float(np.linalg.norm(direction.astype(np.float64))) for direction in found.directions.values()]
    says = [found.method and f"method {found.method}", found.model_hint and f"for {found.model_hint}"]
    return About(
        reader.name,
        reader.title,
        size,
        says=tuple(filter(None, says)),
        layers=tuple(found.directions),
        width=found.width,
        lengths=(min(lengths), max(lengths)),
        gate="open",
        experts=1,
        residual=0,
        lost=found.lost,
    )


def _of_parts(reader: Format, size: int, found: PackParts) -> About:
    return About(
        reader.name,
        reader.title,
        size,
        says=found.said,
        layers=tuple(found.layers),
        width=len(found.experts.center),
        lengths=None,
        gate=found.gate.kind,
        experts=len(found.experts.prototypes),
        residual=len(found.experts.residual),
        lost=found.lost,
    )
