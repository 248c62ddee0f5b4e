"""Checkpoints of FineSteer's own code, `MoSE.pt` and `orthogonal_residual.pt`, folded into experts.

Settled from github.com/YukinoAsuna/FineSteer at a94a440, the code that the paper's authors name as official (arXiv 2604.15488):

- `train_variant` (run_truthfulqa.py) saves `{"state_dict": …, "metadata": …}`; the names of the state_dict are those of `MoSE`
  (finesteer_moe/core.py): buffers `prototypes` C (K, d) and `residual_basis` U (d, u); linear layers `query` and `key` (a, d) with
  biases; `beta.0` (m, d) and `beta.2` (u, m) with biases; `value` (d, d) with bias in the variant `orthogonal_residual` alone.
- `MoSE.forward`: `α = softmax(query(h) key(C)ᵀ / √a)`, `v = α value(C) + beta(h) Uᵀ`, `beta` a ReLU network, all in float32.
- `--layer L` (by default 12) stands for two places: `h` is the query's last token in `hidden_states[L]`, after block L−1 here; `v` is
  added by a forward hook of `layers[L]`, after block L, at every position of the prompt and of what is generated. So a pack has
  both blocks: it reads its state after block L−1, where it adds zeros, and adds v after block L.
- λ (`--strength`, by default 2.5) and L are options of a run, and not in the file. There is no gate: the code leaves SCS out.

Older trees (`SteeringModel` in steering.py of github.com/jzhang538/FineSteer) save a network without its prototypes and its basis,
so nothing can be made of their files; the message lists what is missing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.pack_of_parts import PackParts
from fs_local.errors import DataError
from fs_local.method.folded import Experts, open_gate
from fs_local.tensor_file import TensorFile, converted_types

_PREFIX = "state_dict."
_NAMES = ("prototypes", "residual_basis", "query.weight", "query.bias", "key.weight", "key.bias")
_BETA = ("beta.0.weight", "beta.0.bias", "beta.2.weight", "beta.2.bias")
_VALUE = ("value.weight", "value.bias")


def matches(file: TensorFile) -> bool:
    """Whether these are tensors of such a checkpoint, or what is left of one."""
    found = {name.removeprefix(_PREFIX) for name in file.tensors}
    return len(found & {*_NAMES, *_BETA}) >= 2


def read(file: TensorFile, layers: frozenset[int] | None) -> PackParts:
    """Reads and folds a checkpoint.

    Args:
        layers: L, the one `--layer` that it was trained for.

    Raises:
        DataError: tensors missing, unknown, of wrong shapes or types, or not finite; or no single layer, or layer 0.
    """
    path = file.path
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in file.tensors.items()}
    wanted = [*_NAMES, *_BETA, *(_VALUE if tensors.keys() & set(_VALUE) else ())]
    if tensors.keys() != set(wanted) or len(tensors) != len(file.tensors):
        raise DataError(
            f"{path} is no MoSE checkpoint of FineSteer: it has {file.names()}; wanted are {', '.join(wanted)}"
        )
    sides = _sides({name: tensor.shape for name, tensor in tensors.items()}, path)
    if layers is None or len(layers) != 1:
        raise DataError(
            f"{path} does not say at which layer it acts; give --layers with one number, the --layer that FineSteer was run with "
            "(its default is 12)"
        )
    (layer,) = layers
    if layer == 0:
        raise DataError("FineSteer's layer 0 reads the embeddings, before any block, which a pack can't do")

    def take(name: str) -> NDArray[np.float64]:
        return tensors[name].read().astype(np.float64)

    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
        prototypes = take("prototypes")
        keys = prototypes @ take("key.weight").T + take("key.bias")
        keys -= keys.mean(axis=0)  # what all experts share does not change a softmax, and only costs digits
        keys /= np.sqrt(sides["a"])
        routing, routing_bias = keys @ take("query.weight"), keys @ take("query.bias")
        if "value.weight" in tensors:
            prototypes = prototypes @ take("value.weight").T + take("value.bias")

        def added_after_second(rows: NDArray[np.float64]) -> NDArray[np.float32]:
            return np.concatenate([np.zeros_like(rows), rows], axis=1).astype(np.float32)

        f = np.float32
        experts = Experts(
            prototypes=added_after_second(prototypes),
            center=np.zeros(sides["d"], dtype=f),
            routing=routing.astype(f),
            routing_bias=routing_bias.astype(f),
            hidden=tensors["beta.0.weight"].read(),
            hidden_bias=tensors["beta.0.bias"].read(),
            output=tensors["beta.2.weight"].read(),
            output_bias=tensors["beta.2.bias"].read(),
            residual=added_after_second(take("residual_basis").T),
        )
    if not all(np.isfinite(a).all() for a in (experts.prototypes, experts.routing, experts.routing_bias)):
        raise DataError(f"{path} has weights so large that their products are not finite")
    return PackParts(
        method="finesteer",
        gate=open_gate(sides["d"]),
        gate_layers=[layer - 1],
        experts=experts,
        layers=[layer - 1, layer],
        files={"prototypes": (sides["K"], path)},
        said=(f"layer {layer}",),
        lost=(
            "the strength, which FineSteer is told at run time (its --strength, by default 2.5): the pack's is 1; use it with --strength",
            "a gate: the checkpoint has none, so every query is steered",
            *converted_types(list(tensors.values())),
        ),
    )


def _sides(shapes: dict[str, tuple[int, ...]], path: Path) -> dict[str, int]:
    """The sides K, d, u, a, m, which all shapes must agree on."""
    expected = {
        "prototypes": "Kd",
        "residual_basis": "du",
        "query.weight": "ad",
        "query.bias": "a",
        "key.weight": "ad",
        "key.bias": "a",
        "beta.0.weight": "md",
        "beta.0.bias": "m",
        "beta.2.weight": "um",
        "beta.2.bias": "u",
        "value.weight": "dd",
        "value.bias": "d",
    }
    sides: dict[str, int] = {}
    for name, sizes in expected.items():
        shape = shapes.get(name)
        if shape is None:
            continue
        if len(shape) != len(sizes) or any(sides.setdefault(s, n) != n for s, n in zip(sizes, shape, strict=True)):
            known = ", ".join(f"{s} = {n}" for s, n in sides.items())
            raise DataError(f"{path} has {name!r} of shape {shape}, where ({', '.join(sizes)}) is wanted, with {known}")
    return sides
