"""AlphaSteer's steering matrices, one of d × d a layer, as a low-rank map of the state.

Settled from AlphaSteer's code (arXiv 2506.07022), read in github.com/sudden-deaf/AlphaSteer and github.com/pngado/AlphaSteer-Next,
which are copies of its public repository:

- `calc_steering_main` (src/calc_steering_matrix.py) saves one float32 tensor of shape (layers, d, d) by `torch.save`; the layers
  that it was not told to calculate are zeros.
- `AlphaLlamaDecoderLayer.forward` (src/AlphaSteerModel/AlphaLlama.py) adds `h M[n] · strength` to the *input* of decoder layer n,
  which is after block n−1 here; `h` is the prompt's last token there, and every position of the prompt gets the same vector. Passes
  of one token are left alone: what is generated is not steered.
- `strength` is a setting of a run (from −0.1 to −0.5 in its configurations), and not in the file.

Each layer reads its own state, and a pack has one: so one layer makes one pack. `M = P D`, where every row of the ridge problem's
target is the same direction, has rank 1 but for rounding; as much of its SVD is kept as `TOLERANCE` asks for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from converters.layers import check_held, ranges
from converters.pack_of_parts import PackParts
from fs_local.arrays import F32
from fs_local.errors import DataError
from fs_local.method.folded import linear_experts, open_gate
from fs_local.tensor_file import Tensor, TensorFile, converted_types

TOLERANCE = 0.01
"""Largest error of the low-rank map, as a share of the matrix's Frobenius norm."""
_FIRST_RANK = 32


def matches(file: TensorFile) -> bool:
    """Whether this is a lone tensor with three sides."""
    return len(file.tensors) == 1 and len(next(iter(file.tensors.values())).shape) == 3


def read(file: TensorFile, layers: frozenset[int] | None) -> PackParts:
    """Reads one layer's matrix.

    Args:
        layers: the one layer, as AlphaSteer counts them; None where the file has no more than one.

    Raises:
        DataError: matrices that are not square or not finite, or no single layer that has one.
    """
    path, (matrices,) = file.path, file.tensors.values()
    n_layers, d, also_d = matrices.shape
    if d != also_d:
        raise DataError(f"{path} has a tensor of shape {matrices.shape}; steering matrices are square, (layers, d, d)")
    matrices.check_type()
    if layers is None or len(layers) != 1:
        held = _with_matrix(matrices)
        if len(held) != 1 or layers is not None:
            raise DataError(
                f"{path} has matrices for layers {ranges(held) or 'none'}, each for its own layer's state, and a pack decides from one "
                "state: choose one with --layers, or make a pack of each"
            )
        layers = frozenset(held)
    (layer,) = layers
    check_held(path, layers, range(n_layers))
    if layer == 0:
        raise DataError("AlphaSteer's layer 0 acts on the embeddings, before any block, which a pack can't do")
    matrix = matrices.read(layer)
    if not matrix.any():
        raise DataError(
            f"{path} has no matrix for layer {layer}; it has some for layers {ranges(_with_matrix(matrices)) or 'none'}"
        )
    inner, outer, error = low_rank(matrix, TOLERANCE)
    others = [n for n in _with_matrix(matrices) if n != layer]
    return PackParts(
        method="alphasteer",
        gate=open_gate(d),
        gate_layers=[layer - 1],
        experts=linear_experts(inner, outer),
        layers=[layer - 1],
        files={"matrices": (1, path)},
        said=(f"layer {layer}",),
        name=f"{path.stem}-layer-{layer}",
        lost=(
            f"the matrix's full rank: of {d}, {len(inner)} are kept, with an error of {error:.2g} of its norm ({TOLERANCE:g} is allowed)",
            *(
                (f"the matrices of layers {ranges(others)}; packs of several layers can be used together",)
                if others
                else ()
            ),
            "the strength, which AlphaSteer is told at run time (-0.1 to -0.5 in its configurations): the pack's is 1, which with a "
            "matrix made for negative ones steers the other way; use it with --strength",
            "that generated tokens are not steered: AlphaSteer adds to the prompt alone, the pack to what is generated too",
            *converted_types([matrices]),
        ),
    )


def low_rank(matrix: F32, tolerance: float) -> tuple[F32, F32, float]:
    """`h M ≈ (h innerᵀ) outer`, of the lowest rank r that errs by no more than `tolerance`, found by SVD.

    Args:
        matrix: M, (d, d), not all zeros.
        tolerance: error as a share of M's Frobenius norm.

    Returns:
        inner (r, d) and outer (r, d), float32, and the error.
    """
    exact = matrix.astype(np.float64)
    total = float(np.square(exact).sum())
    for n in (_FIRST_RANK, len(exact)):
        u, s, vt = randomized_svd(exact, min(n, len(exact)), random_state=0) if n < len(exact) else np.linalg.svd(exact)
        left_out = total - np.cumsum(np.square(s))
        enough: NDArray[np.intp] = np.flatnonzero(left_out <= (tolerance**2) * total)
        if len(enough):
            break
    r = int(enough[0]) + 1 if len(enough) else len(s)
    root = np.sqrt(s[:r])
    inner, outer = (root[:, None] * u[:, :r].T).astype(np.float32), (root[:, None] * vt[:r]).astype(np.float32)
    error = np.linalg.norm(exact - inner.T.astype(np.float64) @ outer) / np.sqrt(total)
    return inner, outer, float(error)


def _with_matrix(matrices: Tensor) -> list[int]:
    return [n for n in range(matrices.shape[0]) if matrices.read(n).any()]
