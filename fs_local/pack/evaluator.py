"""Evaluates a pack's decision for one query: by numpy, or by ONNX Runtime. Both agree to 1e-5."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fs_local.arrays import F32
from fs_local.errors import PackError
from fs_local.method.folded import CLOSED_BELOW, TINY, Experts, Gate, empirical_cdf
from fs_local.pack.graph import session


@dataclass(frozen=True)
class Evaluated:
    """Opening g, the score x that it comes from (NaN where ONNX Runtime evaluates: its graph does not give it) and energy ratio s
    (numbers), routing weights α (K,), steering vector v (D,), float32."""

    opening: float
    score: float
    energy_ratio: float
    weights: F32
    vector: F32


class Evaluator(Protocol):
    """Evaluates a decision from the query's states at the gate's layers, one after the other, and at the first steered layer (d,)."""

    def __call__(self, gate_state: F32, state: F32) -> Evaluated: ...


class NumpyEvaluator:
    """The default: no session to start, microseconds a query.

    Computes what `Gate` and `Experts` do, for one state: matrices that meet the same vector are stacked. Products are row by row
    or by einsum, which stay on this thread: a multithreaded BLAS would fight with llama.cpp's threads over the cores.
    """

    def __init__(self, gate: Gate, experts: Experts) -> None:
        self._gate, self._center = gate, experts.center
        self._gate_rows = np.concatenate([gate.basis, gate.coef.reshape(-1, len(gate.mean))])
        self._layer_rows = np.concatenate([experts.routing, experts.hidden])
        self._bias = np.concatenate([experts.routing_bias, experts.hidden_bias])
        self._directions = np.concatenate([experts.prototypes, experts.residual])
        self._n_experts, self._output, self._output_bias = len(experts.prototypes), experts.output, experts.output_bias

    def __call__(self, gate_state: F32, state: F32) -> Evaluated:
        gate, k = self._gate, self._n_experts
        centred = gate_state - gate.mean
        along = np.vecdot(self._gate_rows, centred)
        inside = along[: len(gate.basis)]
        ratio = np.float32(min(inside.dot(inside) / max(centred.dot(centred), TINY), 1))
        if gate.kind == "logistic":
            score = (1 + math.tanh((float(along[-1]) + gate.intercept) / 2)) / 2  # σ, without overflow
            opening = _ramp(score, gate)
        elif gate.kind == "soft":
            score = float(ratio)
            opening = _ramp(score, gate)
        elif gate.kind != "quantile":  # no ramp, and nothing to save
            score, opening = float(gate.score(gate_state[None])[0]), float(gate.opening(gate_state[None])[0])
        else:
            score = float(empirical_cdf(ratio.reshape(1), gate.knots)[0])
            opening = _ramp(score, gate)

        activations = np.vecdot(self._layer_rows, state - self._center)
        activations += self._bias
        mixed = np.empty(len(self._directions), dtype=np.float32)  # α, then β: what each direction counts
        weights = mixed[:k]
        np.exp(activations[:k] - activations[:k].max(), out=weights)
        weights /= weights.sum()
        np.add(self._output.dot(np.maximum(activations[k:], 0)), self._output_bias, out=mixed[k:])
        return Evaluated(opening, score, float(ratio), weights, np.einsum("i,ij->j", mixed, self._directions))


def _ramp(score: float, gate: Gate) -> float:
    """`ramp` of one number, without numpy's price for that."""
    g = min(score / gate.edge, 1.0) ** gate.decay
    return g if g >= CLOSED_BELOW else 0.0


class OnnxEvaluator:
    """ONNX Runtime on the pack's graph.

    Args:
        graph: as `fs_local.pack.graph.checked_graph` returns it.
        providers: execution providers, best first; None for CoreML where there is one, then CPU.
    """

    def __init__(self, graph: bytes, providers: list[str] | None = None) -> None:
        import onnxruntime

        if providers is None:
            wanted = ("CoreMLExecutionProvider", "CPUExecutionProvider")
            providers = [p for p in wanted if p in onnxruntime.get_available_providers()]
        self._session = session(graph, providers)

    def __call__(self, gate_state: F32, state: F32) -> Evaluated:
        try:
            opening, ratio, weights, vector = self._session.run(
                ["opening", "energy_ratio", "weights", "vector"],
                {"gate_states": gate_state[None], "states": state[None]},
            )
            return Evaluated(
                float(opening[0]), math.nan, float(ratio[0]), np.asarray(weights[0]), np.asarray(vector[0])
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise PackError(f"ONNX Runtime can't run the pack's graph: {error}") from error
