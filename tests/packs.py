"""Packs with arrays of our choosing, for tests that need a gate to be open, half open or closed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fs_local.capture import capture, query_request
from fs_local.choices import Scope
from fs_local.examples import Query
from fs_local.method.folded import Experts, Gate, GateKind
from fs_local.pack.file import Pack
from fs_local.pack.manifest import (
    ExpertAbout,
    Figures,
    GateSettings,
    Manifest,
    ModelIdentity,
    SteerSettings,
)
from fs_local.runtime.model import Model
from fs_local.steering import identity

INTERCEPTS = {"open": 9.0, "half": -0.1, "closed": -9.0}
EDGE, DECAY = 0.75, 4.0


def random_experts(
    width: int, k: int = 4, u: int = 3, m: int = 5, seed: int = 0, size: float = 1.0, layers: int = 1
) -> Experts:
    added = width * layers
    rng = np.random.default_rng(seed)

    def draw(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    return Experts(
        prototypes=draw(k, added, scale=size),
        center=draw(width),
        routing=draw(k, width, scale=0.05),
        routing_bias=draw(k),
        hidden=draw(m, width, scale=0.05),
        hidden_bias=draw(m),
        output=draw(u, m),
        output_bias=draw(u),
        residual=np.linalg.qr(rng.standard_normal((added, u)))[0].T.astype(np.float32),
    )


def random_gate(kind: GateKind, width: int, rank: int = 4, seed: int = 0) -> Gate:
    rng = np.random.default_rng(seed)
    empty = np.empty(0, dtype=np.float32)
    return Gate(
        kind=kind,
        mean=rng.standard_normal(width).astype(np.float32),
        basis=np.linalg.qr(rng.standard_normal((width, rank)))[0].T.astype(np.float32),
        knots=(0.2 * np.cumsum(rng.uniform(0.5, 1.5, 20)) / 30).astype(np.float32) if kind == "quantile" else empty,
        coef=(0.1 * rng.standard_normal(width)).astype(np.float32)
        if kind == "logistic" or kind.startswith("cosine")
        else empty,
        intercept=0.3 if kind == "logistic" else 0.0,
        edge={"quantile": 0.3, "logistic": 0.8, "soft": 1.0, "open": 1.0, "cosine_above": 0.02, "cosine_below": -0.02}[
            kind
        ],
        decay=2.0,
    )


def describe(
    gate: Gate,
    experts: Experts,
    model: ModelIdentity,
    *,
    layers: list[int],
    gate_layers: list[int],
    strength: float,
    scope: Scope,
    name: str,
) -> Pack:
    manifest = Manifest(
        name=name,
        fitted_by="tests",
        model=model,
        gate=GateSettings.of(gate, gate_layers),
        steer=SteerSettings(layers=layers, strength=strength, scope=scope),
        experts=[ExpertAbout(pairs=1, queries=["a query"])] * len(experts.prototypes),
        data={},
        figures=Figures(open_ir=1.0, validation_error=1.0, constant_error=2.0),
        seed=0,
        digests={},
    )
    return Pack.of(manifest, gate, experts)


def some_identity(width: int, n_layer: int = 30) -> ModelIdentity:
    return ModelIdentity(
        fingerprint="0123456789abcdef",
        name="some model",
        architecture="llama",
        n_layer=n_layer,
        width=width,
        quantization="Q4_0",
    )


def random_pack(kind: GateKind = "logistic", width: int = 64, size: float = 1.0, **sizes: int) -> Pack:
    return describe(
        random_gate(kind, width), random_experts(width, size=size, **sizes), some_identity(width), layers=[10], gate_layers=[8], strength=1.5, scope="all", name="random"
    )  # fmt: skip


def synthetic_pack(
    model: Model,
    gate: str,
    *,
    layer: int | list[int],
    gate_layer: int | list[int],
    scope: Scope = "all",
    size: float = 1.0,
    seed: int = 0,
    name: str = "test",
) -> Pack:
    """A pack for a real model: a gate in a known position, and vectors that depend on the query's state."""
    layers, gate_layers = ([x] if isinstance(x, int) else x for x in (layer, gate_layer))
    width, at_gate = model.width, model.width * len(gate_layers)
    chosen = Gate(
        kind="logistic",
        mean=np.zeros(at_gate, dtype=np.float32),
        basis=np.eye(2, at_gate, dtype=np.float32),
        knots=np.empty(0, dtype=np.float32),
        coef=np.zeros(at_gate, dtype=np.float32),
        intercept=INTERCEPTS[gate],
        edge=EDGE,
        decay=DECAY,
    )
    return describe(
        chosen, random_experts(width, seed=seed, size=size, layers=len(layers)), identity(model), layers=layers, gate_layers=gate_layers, strength=0.7, scope=scope, name=name
    )  # fmt: skip


def telling_pack(
    model: Model,
    ir: Sequence[Query],
    general: Sequence[Query],
    *,
    layer: int = 3,
    gate_layer: int = 2,
    name: str = "telling",
) -> Pack:
    """A pack whose gate is open for some queries of a model and closed for others, whatever they say."""
    requests = [query_request(model, q) for q in (*ir, *general)]
    states = capture(model, requests, [gate_layer]).at(gate_layer).astype(np.float64)
    wanted = np.repeat([8.0, -8.0], [len(ir), len(general)])
    coef, *_ = np.linalg.lstsq(np.column_stack([states, np.ones(len(states))]), wanted)
    pack = synthetic_pack(model, "open", layer=layer, gate_layer=gate_layer, name=name)
    return with_gate(pack, coef[:-1], float(coef[-1]))


def with_gate(pack: Pack, coef: np.ndarray, intercept: float) -> Pack:
    """The same behind a logistic gate of this direction (d,)."""
    settings = pack.manifest.gate.model_copy(update={"intercept": intercept})
    gate = dataclasses.replace(pack.gate, coef=coef.astype(np.float32), intercept=intercept)
    return Pack.of(pack.manifest.model_copy(update={"gate": settings}), gate, pack.experts)
