"""Packs with arrays of our choosing, for tests that need a gate to be open, half open or closed."""

from __future__ import annotations

import numpy as np

from fs_local.method.folded import Experts, Gate
from fs_local.pack.file import Pack
from fs_local.pack.manifest import (
    ExpertAbout,
    Figures,
    GateSettings,
    Manifest,
    ModelIdentity,
    Scope,
    SteerSettings,
)
from fs_local.runtime.model import Model

INTERCEPTS = {"open": 9.0, "half": -0.1, "closed": -9.0}
EDGE, DECAY = 0.75, 4.0


def random_experts(width: int, k: int = 4, u: int = 3, m: int = 5, seed: int = 0, size: float = 1.0) -> Experts:
    rng = np.random.default_rng(seed)

    def draw(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    return Experts(
        prototypes=draw(k, width, scale=size),
        center=draw(width),
        routing=draw(k, width, scale=0.05),
        routing_bias=draw(k),
        hidden=draw(m, width, scale=0.05),
        hidden_bias=draw(m),
        output=draw(u, m),
        output_bias=draw(u),
        residual=np.linalg.qr(rng.standard_normal((width, u)))[0].T.astype(np.float32),
    )


def random_gate(kind: str, width: int, rank: int = 4, seed: int = 0) -> Gate:
    rng = np.random.default_rng(seed)
    empty = np.empty(0, dtype=np.float32)
    return Gate(
        kind=kind,
        mean=rng.standard_normal(width).astype(np.float32),
        basis=np.linalg.qr(rng.standard_normal((width, rank)))[0].T.astype(np.float32),
        knots=np.sort(rng.uniform(0, 0.2, 20)).astype(np.float32) if kind == "quantile" else empty,
        coef=(0.1 * rng.standard_normal(width)).astype(np.float32) if kind == "logistic" else empty,
        intercept=0.3 if kind == "logistic" else 0.0,
        edge={"quantile": 0.3, "logistic": 0.8, "soft": 1.0}[kind],
        decay=2.0,
    )


def describe(
    gate: Gate,
    experts: Experts,
    identity: ModelIdentity,
    *,
    layer: int,
    gate_layer: int,
    strength: float,
    scope: Scope,
    name: str,
) -> Pack:
    manifest = Manifest(
        name=name,
        fitted_by="tests",
        model=identity,
        gate=GateSettings(kind=gate.kind, layer=gate_layer, edge=gate.edge, decay=gate.decay, intercept=gate.intercept),
        steer=SteerSettings(layer=layer, strength=strength, scope=scope),
        experts=[ExpertAbout(pairs=1, queries=["a query"])] * len(experts.prototypes),
        data={},
        figures=Figures(
            open_ir=1.0,
            open_general=None,
            auroc=None,
            validation_error=1.0,
            constant_error=2.0,
            unsteered_margin=0.0,
            trials=[],
        ),
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


def random_pack(kind: str = "logistic", width: int = 64, **sizes: int) -> Pack:
    return describe(
        random_gate(kind, width), random_experts(width, **sizes), some_identity(width), layer=10, gate_layer=8, strength=1.5, scope="all", name="random"
    )  # fmt: skip


def synthetic_pack(
    model: Model,
    gate: str,
    *,
    layer: int,
    gate_layer: int,
    scope: Scope = "all",
    size: float = 1.0,
    seed: int = 0,
    name: str = "test",
) -> Pack:
    """A pack for a real model: a gate in a known position, and vectors that depend on the query's state."""
    width = model.width
    identity = ModelIdentity(
        fingerprint=model.fingerprint,
        name=model.name,
        architecture=model.architecture,
        n_layer=model.n_layer,
        width=width,
        quantization=model.quantization,
    )
    chosen = Gate(
        kind="logistic",
        mean=np.zeros(width, dtype=np.float32),
        basis=np.eye(2, width, dtype=np.float32),
        knots=np.empty(0, dtype=np.float32),
        coef=np.zeros(width, dtype=np.float32),
        intercept=INTERCEPTS[gate],
        edge=EDGE,
        decay=DECAY,
    )
    return describe(
        chosen, random_experts(width, seed=seed, size=size), identity, layer=layer, gate_layer=gate_layer, strength=0.7, scope=scope, name=name
    )  # fmt: skip
