"""llama.cpp's control vector: one buffer for all blocks but the first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fs_local.arrays import F32
from fs_local.errors import ModelError


def control_vector_buffer(vectors: Mapping[int, F32], n_layer: int, width: int) -> F32:
    """The buffer, float32, (n_layer - 1, width).

    Args:
        vectors: layer -> float32, (width,); layers that the model has.

    Raises:
        ModelError: block 0 (the buffer starts at block 1), or a vector of another width.
    """
    buffer = np.zeros((n_layer - 1, width), dtype=np.float32)
    for layer, vector in vectors.items():
        if layer == 0:
            raise ModelError("block 0 can't have a control vector in llama.cpp; choose a layer from 1 on")
        if vector.shape != (width,):
            raise ModelError(f"a control vector of shape {vector.shape} for a model of width {width}")
        buffer[layer - 1] = vector
    return buffer
