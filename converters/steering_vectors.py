"""`SteeringVector` of the package steering-vectors, or its tensors: one direction a layer.

Settled from github.com/steering-vectors/steering-vectors, steering_vectors/steering_vector.py at dac8fb9: `layer_activations` is
{n: tensor (d,)}, and `patch_activations` adds tensor n to the *output* of module n of `layer_type`, by a forward hook: for
`decoder_block`, the default, that is block n here. Other types act inside a block (`mlp`, `self_attn`, …), which a pack can't do.

The package has no file format of its own. Read are an object saved by `torch.save`, its `layer_activations` alone saved so, and the
same tensors in a safetensors or npz file, named `layer_activations.{n}` or `{n}`.
"""

from __future__ import annotations

import math

from converters.vectors import Vectors, checked_vectors
from fs_local.arrays import F32
from fs_local.errors import DataError
from fs_local.tensor_file import TensorFile, converted_types

_PREFIX = "layer_activations."
_BLOCK = "decoder_block"


def matches(file: TensorFile) -> bool:
    """Whether these tensors are named after layers."""
    return bool(file.tensors) and (
        any(name.startswith(_PREFIX) for name in file.tensors) or all(name.isdecimal() for name in file.tensors)
    )


def read(file: TensorFile) -> Vectors:
    """Reads the directions.

    Raises:
        DataError: of another layer type than decoder_block, or tensors that are no directions of one model.
    """
    kind = file.texts.get("layer_type")
    if kind not in (None, _BLOCK):
        raise DataError(
            f"{file.path} acts on {kind[:40]!r} inside each block; only vectors of layer type {_BLOCK} are converted"
        )
    directions: dict[int, F32] = {}
    for name, tensor in file.tensors.items():
        number = name.removeprefix(_PREFIX)
        if not number.isdecimal() or not number.isascii() or str(int(number[:9])) != number:
            raise DataError(f"{file.path} has a tensor {name[:60]!r}, which names no layer")
        if max(tensor.shape, default=0) != math.prod(tensor.shape):
            raise DataError(f"{file.path} has {name[:60]!r} of shape {tensor.shape}, which is no vector")
        if int(number) in directions:
            raise DataError(f"{file.path} has layer {number} twice")
        directions[int(number)] = tensor.read().reshape(-1)
    lost = converted_types(list(file.tensors.values()))
    if kind is None:
        lost = (f"the layer type, which the file does not say: {_BLOCK}, the package's default, is taken for it", *lost)
    return checked_vectors(file.path, directions, method="steering-vectors", lost=lost)
