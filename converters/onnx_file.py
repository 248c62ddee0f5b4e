"""ONNX: a pack's decision alone, with its weights inside, and a README of its inputs and outputs in its metadata.

Runs in any ONNX runtime. What it leaves to its user: reading the states, and adding strength × opening × vector after the blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from fs_local.errors import DataError, PackError
from fs_local.method.readings import Reading
from fs_local.pack.file import Pack
from fs_local.pack.graph import checked_graph, graph_arrays, session

Dtype = Literal["float32", "float16"]
_PROBES = 64
_SMALL = 64


def matches(head: bytes) -> bool:
    """Whether a file that starts like this is ONNX as `write` writes it: IR version 8, then the producer's name."""
    return head[:3] == b"\x08\x08\x12"


def read(path: Path) -> NoReturn:
    """ONNX is not read.

    Raises:
        DataError: always.
    """
    raise DataError(f"{path} is ONNX, which is written and not read; convert the pack that it was made from")


def write(pack: Pack, dtype: Dtype = "float32") -> tuple[bytes, tuple[str, ...]]:
    """The file's bytes, and what it can't hold.

    Args:
        dtype: of the weights in the file. Inputs, outputs and all computation stay float32.

    Raises:
        PackError: float16 can't hold the weights.
    """
    import onnx

    model = onnx.load_model_from_string(checked_graph(pack.graph, graph_arrays(pack.gate, pack.experts)))
    exact = bytes(model.SerializeToString(deterministic=True))
    if dtype == "float16":
        _halve(model)
    model.doc_string = _readme(pack)
    m = pack.manifest
    about = {
        "readme": model.doc_string,
        "name": m.name,
        "method": m.method,
        "gate_layers": " ".join(map(str, m.gate.layers)),
        "steer_layers": " ".join(map(str, m.steer.layers)),
        "strength": repr(m.steer.strength),
        "scope": m.steer.scope,
        "model": m.model.name,
        "fingerprint": m.model.fingerprint,
        "weights": dtype,
    }
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    data = bytes(model.SerializeToString(deterministic=True))
    lost = [
        "strength, layers and scope are text in the metadata: the graph gives opening and vector, and applies nothing"
    ]
    if dtype == "float16":
        lost.append(_float16_error(pack, exact, data))
    return data, tuple(lost)


def _readme(pack: Pack) -> str:
    m, d = pack.manifest, pack.manifest.model.width
    where = {
        "all": "every position, prompt and generation",
        "turn": "every position from the last user message on",
        "prompt": "every position of the prompt",
        "generation": "every position from the last prompt token on",
    }
    return (
        f"Decides, per query, whether and how {m.model.name} (fingerprint {m.model.fingerprint}) is steered.\n"
        f"Inputs, float32; n queries at once, after the chat template; of several states, one after the other:\n"
        f"  gate_states (n, {len(pack.gate.mean)}): residual stream after block {_numbers(m.gate.layers)}, of {_tokens(m.gate.readings)}\n"
        f"  states (n, {len(pack.experts.center)}): residual stream after block {_numbers(m.steer.read_layers)}, of {_tokens(m.steer.readings)}\n"
        f"Outputs, float32:\n"
        f"  opening (n,): 0 leaves the query alone, 1 steers fully\n"
        f"  energy_ratio (n,): share of the query's energy in the gate's subspace\n"
        f"  weights (n, {len(m.experts)}): of the experts\n"
        f"  vector (n, {d * len(m.steer.layers)}): one part of {d} for each of the blocks {_numbers(m.steer.layers)}\n"
        f"Use: add {m.steer.strength!r} * opening * vector's part to the residual stream after its block, at {where[m.steer.scope]}.\n"
        f"Blocks count from 0; 'after block i' is l_out-i in llama.cpp, hidden_states[i + 1] in transformers."
    )


def _tokens(readings: list[Reading]) -> str:
    named = {
        "last": "the last prompt token",
        "user_last": "the last token of the user's text",
        "user_mean": "the mean over the user's text",
        "mean": "the mean over the prompt",
    }
    return ", ".join(named[r] for r in readings)


def _numbers(layers: list[int]) -> str:
    return ", ".join(map(str, layers))


def _halve(model: Any) -> None:
    """Stores float32 weights as float16, each with a Cast back before its use."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for i, tensor in enumerate(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or tensor.ByteSize() <= _SMALL + 2 * len(tensor.name):
            continue
        name = tensor.name
        with np.errstate(over="ignore"):
            half = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.isfinite(half).all():
            raise PackError(f"the pack's array {name!r} has values beyond float16's 65,504; write it as float32")
        model.graph.initializer[i].CopyFrom(numpy_helper.from_array(half, f"{name}_float16"))
        casts.append(helper.make_node("Cast", [f"{name}_float16"], [name], name=f"cast_{name}", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _float16_error(pack: Pack, exact: bytes, halved: bytes) -> str:
    """What float16 weights change, on random states around those the pack was fitted on."""
    rng, gate, experts = np.random.default_rng(0), pack.gate, pack.experts

    def around(center: Any) -> Any:
        size = float(np.linalg.norm(center)) / len(center) ** 0.5 or 1.0
        return center + np.float32(size) * rng.standard_normal((_PROBES, len(center)), dtype=np.float32)

    inputs = {"gate_states": around(gate.mean), "states": around(experts.center)}
    (g, v), (g16, v16) = (
        session(data, ["CPUExecutionProvider"]).run(["opening", "vector"], inputs) for data in (exact, halved)
    )
    share = float(np.abs(v16 - v).max()) / max(float(np.abs(v).max()), 1e-30)
    return (
        f"float16 weights: over {_PROBES} random states, openings differ by {float(np.abs(g16 - g).max()):.1g} at most, and vectors by "
        f"{share:.1g} of their largest value"
    )
