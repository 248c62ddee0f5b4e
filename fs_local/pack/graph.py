"""A pack's decision as an ONNX graph: states in; opening, energy ratio, weights and vector out. Standard operators only.

The graph's matrices are external data inside the pack's `arrays.npz`, so they stand in a pack once, and an unpacked pack runs in
any ONNX runtime as it is.

Inputs: `gate_states` (n, gate layers × d) and `states` (n, d), float32. Outputs: `opening` (n,), `energy_ratio` (n,), `weights`
(n, K), `vector` (n, steered layers × d).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fs_local.arrays import F32
from fs_local.errors import PackError
from fs_local.method.folded import CLOSED_BELOW, TINY, Experts, Gate

GRAPH_MEMBER = "decision.onnx"
ARRAYS_MEMBER = "arrays.npz"
_OPSET = 17
_ALLOWED_OPS = {"Add", "Cast", "Clip", "Constant", "Div", "Less", "MatMul", "Max", "Min", "Mul", "Pow", "ReduceMean", "ReduceSum", "Relu",
                "Sigmoid", "Slice", "Softmax", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where"}  # fmt: skip
_MAX_INLINE_BYTES = 64
_MAX_NODES = 64
_INTERFACE = [("gate_states", 2), ("states", 2), ("opening", 1), ("energy_ratio", 1), ("weights", 2), ("vector", 2)]


class _Builder:
    """Collects nodes; every call returns the name of what it computes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def __call__(self, op: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        from onnx import helper

        out = out or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=out, **attributes))
        return out

    def number(self, value: float) -> str:
        return self._constant(np.array(value, dtype=np.float32))

    def axis(self, value: int) -> str:
        return self._constant(np.array([value], dtype=np.int64))

    def _constant(self, array: Any) -> str:
        from onnx import numpy_helper

        name = f"constant_{array.dtype.name}_{array.tobytes().hex()}"
        self.constants[name] = numpy_helper.from_array(array, name)
        return name


def build_graph(gate: Gate, experts: Experts, spans: dict[str, tuple[int, int]]) -> bytes:
    """Serialized ONNX model of a pack's decision.

    Args:
        spans: of each array in `arrays.npz`, as `archive.write_npz` gives them.
    """
    from onnx import TensorProto, helper

    b = _Builder()
    n = "n"

    centred = b("Sub", "gate_states", "gate_mean")
    inside = b(
        "ReduceSum",
        b("Mul", *[b("MatMul", centred, b("Transpose", "gate_basis", perm=[1, 0]))] * 2),
        b.axis(1),
        keepdims=0,
    )
    whole = b("ReduceSum", b("Mul", centred, centred), b.axis(1), keepdims=0)
    ratio = b(
        "Clip", b("Div", inside, b("Max", whole, b.number(float(TINY)))), b.number(0), b.number(1), out="energy_ratio"
    )
    if gate.kind == "open":
        score = b("Add", b("Mul", ratio, b.number(0)), b.number(1))
    elif gate.kind in ("cosine_above", "cosine_below"):
        score = _cosine(b)
        score = b("Mul", score, b.number(-1)) if gate.kind == "cosine_below" else score
    elif gate.kind == "logistic":
        logits = b("MatMul", centred, b("Unsqueeze", "gate_coef", b.axis(1)))
        score = b("Sigmoid", b("Add", b("Squeeze", logits, b.axis(1)), b.number(gate.intercept)))
    elif gate.kind == "quantile":
        low = b("Slice", "gate_knots", b.axis(0), b.axis(-1))
        widths = b(
            "Max", b("Sub", b("Slice", "gate_knots", b.axis(1), b.axis(len(gate.knots))), low), b.number(float(TINY))
        )
        rise = b("Sub", b("Unsqueeze", ratio, b.axis(1)), low)
        shares = b("Clip", b("Div", rise, widths), b.number(0), b.number(1))
        score = b("ReduceMean", shares, axes=[1], keepdims=0)
    elif gate.kind == "soft":
        score = ratio
    else:
        raise ValueError(f"no graph for a gate of kind {gate.kind}")
    if gate.kind in ("cosine_above", "cosine_below"):
        b("Where", b("Less", b.number(gate.edge), score), b.number(1), b.number(0), out="opening")
    else:
        grown = b("Pow", b("Min", b("Div", score, b.number(gate.edge)), b.number(1)), b.number(gate.decay))
        b("Where", b("Less", grown, b.number(CLOSED_BELOW)), b.number(0), grown, out="opening")

    from_center = b("Sub", "states", "experts_center")
    logits = b("Add", b("MatMul", from_center, b("Transpose", "experts_routing", perm=[1, 0])), "experts_routing_bias")
    weights = b("Softmax", logits, axis=1, out="weights")
    if len(experts.residual):
        hidden = b("MatMul", from_center, b("Transpose", "experts_hidden", perm=[1, 0]))
        hidden = b("Relu", b("Add", hidden, "experts_hidden_bias"))
        beta = b("Add", b("MatMul", hidden, b("Transpose", "experts_output", perm=[1, 0])), "experts_output_bias")
        b("Add", b("MatMul", weights, "experts_prototypes"), b("MatMul", beta, "experts_residual"), out="vector")
    else:
        b("MatMul", weights, "experts_prototypes", out="vector")

    used = {name for node in b.nodes for name in node.input}
    initializers = list(b.constants.values())
    for name, array in graph_arrays(gate, experts).items():
        if name in used:
            tensor = TensorProto(
                name=name, data_type=TensorProto.FLOAT, dims=array.shape, data_location=TensorProto.EXTERNAL
            )
            for key, where in (("location", ARRAYS_MEMBER), ("offset", spans[name][0]), ("length", spans[name][1])):
                tensor.external_data.add(key=key, value=str(where))
            initializers.append(tensor)

    def value(name: str, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        b.nodes,
        "decision",
        [value("gate_states", n, len(gate.mean)), value("states", n, len(experts.center))],
        [
            value("opening", n),
            value("energy_ratio", n),
            value("weights", n, len(experts.prototypes)),
            value("vector", n, experts.prototypes.shape[1]),
        ],
        initializers,
    )
    model = helper.make_model(
        graph, producer_name="fs-local", opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8
    )
    return bytes(model.SerializeToString(deterministic=True))


def _cosine(b: _Builder) -> str:
    """CAST's similarity, as `fs_local.method.folded.cosine_to_condition`."""

    def length(x: str, axis: int) -> str:
        return b("Sqrt", b("ReduceSum", b("Mul", x, x), b.axis(axis), keepdims=1))

    tiny = b.number(float(TINY))
    c = b("Div", "gate_coef", b("Max", length("gate_coef", 0), tiny))
    along = b("MatMul", "gate_states", b("Unsqueeze", c, b.axis(1)))
    projected = b("Tanh", b("Mul", along, c))
    dot = b("ReduceSum", b("Mul", "gate_states", projected), b.axis(1), keepdims=0)
    lengths = b("Squeeze", b("Mul", length("gate_states", 1), length(projected, 1)), b.axis(1))
    return b("Div", dot, b("Max", lengths, tiny))


def graph_arrays(gate: Gate, experts: Experts) -> dict[str, F32]:
    """The arrays of a pack, by their names in `arrays.npz` and in the graph."""
    arrays = {
        "gate_mean": gate.mean,
        "gate_basis": gate.basis,
        "experts_prototypes": experts.prototypes,
        "experts_center": experts.center,
        "experts_routing": experts.routing,
        "experts_routing_bias": experts.routing_bias,
        "experts_hidden": experts.hidden,
        "experts_hidden_bias": experts.hidden_bias,
        "experts_output": experts.output,
        "experts_output_bias": experts.output_bias,
        "experts_residual": experts.residual,
    }
    if gate.kind == "quantile":
        arrays["gate_knots"] = gate.knots
    elif gate.kind in ("logistic", "cosine_above", "cosine_below"):
        arrays["gate_coef"] = gate.coef
    return arrays


def checked_graph(data: bytes, arrays: dict[str, F32]) -> bytes:
    """A pack's graph with its external data filled in from arrays that were checked; ready for a session.

    Raises:
        PackError: not ONNX, an operator or attribute that a decision does not need, or data from anywhere but these arrays.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise PackError("its graph is not ONNX") from error
    graph = model.graph
    if (
        model.functions
        or model.training_info
        or graph.sparse_initializer
        or any(o.domain not in ("", "ai.onnx") for o in model.opset_import)
    ):
        raise PackError("its graph has functions, training parts or non-standard operators")
    for node in graph.node:
        if node.op_type not in _ALLOWED_OPS or node.domain not in ("", "ai.onnx"):
            raise PackError(f"its graph has the operator {node.op_type!r}, which no decision needs")
        if any(a.HasField("g") or a.graphs or a.HasField("t") or a.tensors for a in node.attribute):
            raise PackError(f"its graph has a node {node.name!r} with a graph or tensor inside")
    shapes = [(v.name, len(v.type.tensor_type.shape.dim)) for v in [*graph.input, *graph.output]]
    if shapes != _INTERFACE or len(graph.node) > _MAX_NODES:
        raise PackError("its graph does not have the inputs and outputs of a decision")
    for i, tensor in enumerate(graph.initializer):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            if tensor.name not in arrays or tuple(tensor.dims) != arrays[tensor.name].shape:
                raise PackError(f"its graph wants external data {tensor.name!r}, which is not among its arrays")
            graph.initializer[i].CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
        elif tensor.ByteSize() > _MAX_INLINE_BYTES + 2 * len(tensor.name):
            raise PackError(f"its graph has a large constant {tensor.name!r} of its own")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise PackError("its graph is not valid ONNX") from error
    return bytes(model.SerializeToString())


def session(data: bytes, providers: list[str]) -> Any:
    """An ONNX Runtime session for a checked graph.

    Raises:
        PackError: ONNX Runtime can't run it, or has no such provider.
    """
    import onnxruntime

    missing = [p for p in providers if p not in onnxruntime.get_available_providers()]
    if missing:
        have = ", ".join(onnxruntime.get_available_providers())
        raise PackError(f"ONNX Runtime has no {missing[0]} here; it has {have}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # microseconds of work: a thread pool would only wake up
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise PackError(f"ONNX Runtime can't run the pack's graph: {error}") from error
