"""What the formats share: directions by block, and the constant part of a pack.

Shapes: d is the width of the residual stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.layers import MAX_LAYERS, check_held, ranges
from fs_local.arrays import F32
from fs_local.errors import DataError, PackError
from fs_local.files import read_at_most
from fs_local.pack.file import Pack
from fs_local.pack.manifest import SCOPES, ModelIdentity
from fs_local.printable import printable
from fs_local.runtime import gguf_header
from fs_local.tensor_file import TensorFile

MAX_FILE_BYTES = 64 << 20
"""Of a file of vectors; those of a model with 126 blocks of width 16,384 have 8 MB."""
MAX_TEXT = 100
_MAX_MESSAGE = 500


@dataclass(frozen=True)
class Vectors:
    """Directions that are added after blocks, for every query, and what a file says of them.

    Attributes:
        directions: block, as in `l_out-{il}` -> float32 (d,), finite, all of one width; blocks ascend.
        model_hint: what the file says of its model; empty if nothing.
        method: how they were made, as the file says; empty if it doesn't.
        lost: what reading the file could not keep, one sentence each.
        block_0: the number that block 0 has in the file.
    """

    directions: dict[int, F32]
    model_hint: str = ""
    method: str = ""
    lost: tuple[str, ...] = ()
    block_0: int = 0

    @property
    def width(self) -> int:
        """d."""
        return len(next(iter(self.directions.values())))

    def only(self, path: Path, layers: frozenset[int]) -> Vectors:
        """The directions of these layers, as the file at `path` counts them.

        Raises:
            DataError: it has no direction for one of them.
        """
        held = {layer + self.block_0 for layer in self.directions}
        check_held(path, layers, held)
        if held == layers:
            return self
        kept = {layer - self.block_0: self.directions[layer - self.block_0] for layer in sorted(layers)}
        lost = f"directions for layers {ranges(held - layers)} of the file, which --layers leaves out"
        return replace(self, directions=kept, lost=(*self.lost, lost))


def checked_vectors(
    path: Path,
    directions: dict[int, F32],
    *,
    model_hint: str = "",
    method: str = "",
    lost: tuple[str, ...] = (),
    block_0: int = 0,
) -> Vectors:
    """Vectors, if these are directions of one model. path: the file they are from, for messages.

    Raises:
        DataError: no directions, too many, of several widths, or with values that are not finite.
    """
    if not directions:
        raise DataError(f"{path} has no directions")
    if not all(0 <= layer < MAX_LAYERS for layer in directions):
        raise DataError(f"{path} has a direction for a block beyond 0 to {MAX_LAYERS - 1}")
    widths = {direction.shape for direction in directions.values()}
    if len(widths) > 1 or len(shape := widths.pop()) != 1 or shape[0] == 0:
        raise DataError(f"{path} has directions that are not vectors of one width")
    if not any(direction.any() for direction in directions.values()):
        raise DataError(f"{path} has only zeros, which steer nothing")
    for layer, direction in directions.items():
        if not np.isfinite(direction).all():
            raise DataError(
                f"{path} has a direction for block {layer} with values that are not finite (NaN or infinite)"
            )
    return Vectors(
        dict(sorted(directions.items())), printable(model_hint, MAX_TEXT), printable(method, MAX_TEXT), lost, block_0
    )


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        DataError: it can't be read, or is too large for a file of vectors.
    """
    try:
        data = read_at_most(path, MAX_FILE_BYTES)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    if data is None:
        raise DataError(f"{path} is too large for steering vectors: the limit is {MAX_FILE_BYTES:,} bytes")
    return data


def directions_of(file: TensorFile) -> dict[int, F32]:
    """The directions of a file that has nothing but float32 tensors `direction.{n}`.

    Raises:
        DataError: other names, types, or more than steering vectors take.
    """
    path, layers = file.path, {name: layer_of(file.path, name) for name in file.tensors}
    if any(tensor.dtype != "F32" for tensor in file.tensors.values()):
        raise DataError(f"{path} has directions that are not float32; save them as float32")
    if sum(4 * math.prod(tensor.shape) for tensor in file.tensors.values()) > MAX_FILE_BYTES:
        raise DataError(f"{path} is too large for steering vectors: the limit is {MAX_FILE_BYTES:,} bytes")
    return {layers[name]: tensor.read() for name, tensor in file.tensors.items()}


def layer_of(path: Path, name: str) -> int:
    """n of `direction.n`.

    Raises:
        DataError: a name of another form.
    """
    prefix, _, number = name.partition(".")
    if prefix != "direction" or not number.isdecimal() or not number.isascii() or str(int(number[:9])) != number:
        raise DataError(f"{path} has an array {name[:60]!r}; steering vectors are named direction.0, direction.1, …")
    return int(number)


def model_identity(path: Path) -> ModelIdentity:
    """What a pack's manifest says of a model, from the head of its file: no weights are loaded.

    Raises:
        ModelError: the file can't be read.
        DataError: it is not a language model.
    """
    header = gguf_header.read_header(path)
    n_layer, width = header.number("block_count"), header.number("embedding_length")
    if not (1 <= n_layer <= MAX_LAYERS and 1 <= width <= 1 << 20):
        raise DataError(f"{path} ({header.architecture}) is not a language model's file: it says nothing of its blocks")
    return ModelIdentity(
        fingerprint=gguf_header.fingerprint(header),
        name=gguf_header.model_name(header, path),
        architecture=header.architecture,
        n_layer=n_layer,
        width=width,
        quantization=gguf_header.quantization(header),
    )


def constant_part(pack: Pack) -> Vectors:
    """A pack's mean steering vector, strength included; `lost` says what it lacks of the pack.

    It is the prototypes' mean, weighted by the experts' training pairs, times the strength. For a pack of one expert without a
    residual and with an open gate, that is what the pack adds, bit for bit.

    Raises:
        PackError: the pack has no constant part (its vectors are a linear map of the state).
    """
    m, prototypes = pack.manifest, pack.experts.prototypes
    pairs = np.array([about.pairs for about in m.experts], dtype=np.float64)
    weights = pairs / pairs.sum() if pairs.sum() > 0 else np.full(len(pairs), 1 / len(pairs))
    mean = prototypes[0] if len(prototypes) == 1 else (weights @ prototypes.astype(np.float64)).astype(np.float32)
    if not mean.any():
        raise PackError(
            f"pack {m.name} has no constant part: all its steering depends on the query; a vector can't hold it"
        )
    steered = np.float32(m.steer.strength) * mean
    if not np.isfinite(steered).all() or not steered.any():
        raise PackError(
            f"pack {m.name} has strength {m.steer.strength:g}, at which its mean vector is no usable vector"
        )
    lost = _lost_by_constant(pack, mean, weights)
    directions = dict(zip(m.steer.layers, steered.reshape(len(m.steer.layers), -1), strict=True))
    return Vectors(directions, m.model.architecture, f"fs-local {m.method}", tuple(lost))


def _lost_by_constant(pack: Pack, mean: F32, weights: NDArray[np.float64]) -> list[str]:
    m, figures, lost = pack.manifest, pack.manifest.figures, []
    if m.gate.kind != "open":
        opens = "" if figures.open_ir is None else f" for {figures.open_ir:.1%} of IR queries"
        if opens and figures.open_general is not None:
            opens += f" and {figures.open_general:.1%} of general ones"
        lost.append(
            f"the gate ({m.gate.kind}{', it opens' + opens if opens else ''}): the vector steers 100% of all queries"
        )
    if len(weights) > 1:
        apart = float(weights @ np.linalg.norm(pack.experts.prototypes - mean, axis=1)) / float(np.linalg.norm(mean))
        lost.append(
            f"the routing among {len(weights)} experts: their vectors are {apart:.2f} of the mean vector's length away from it"
        )
    if len(pack.experts.residual):
        lost.append(f"the residual, of rank {len(pack.experts.residual)}")
    if figures.validation_error and figures.constant_error is not None:
        lost.append(
            "the fit to each query: on pairs held out of the fit, the mean vector's squared distance from preferred less undesired "
            f"states is {figures.constant_error / figures.validation_error:.2f} times that of the pack's own vectors "
            f"({figures.constant_error:.4g} against {figures.validation_error:.4g}, both at strength 1)"
        )
    if m.steer.scope != "all":
        lost.append(
            f"the scope ({SCOPES[m.steer.scope]}): the vector steers all of them, unless the other tool says otherwise"
        )
    return lost


def shortened(error: Exception) -> str:
    """An error's message without most of a long name that a file put into it."""
    text = str(error)
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}…"
