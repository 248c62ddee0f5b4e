"""Packs of the shapes that are measured."""

from __future__ import annotations

import dataclasses

import numpy as np

from fs_local.arrays import F32
from fs_local.choices import Scope
from fs_local.method.folded import Experts, Gate, constant_experts, open_gate
from fs_local.pack.file import Pack
from fs_local.pack.manifest import ExpertAbout, Figures, GateSettings, Manifest, SteerSettings
from fs_local.runtime.model import Model
from fs_local.steering import identity

N_EXPERTS, N_RESIDUAL, N_GATE, N_HIDDEN = 10, 10, 8, 16
"""Of the synthetic pack: K, and the ranks of residual and gate, and hidden units."""
WIDE = 4096
_OPEN, _CLOSED = 30.0, -30.0


def synthetic_pack(model: Model, name: str = "synthetic", seed: int = 0, scope: Scope = "all") -> Pack:
    """A pack of the model's shape that steers by noise too small to matter; other noise with another seed."""
    layer = max(1, model.n_layer // 3)
    gate, experts = synthetic_arrays(model.width, seed)
    manifest = Manifest(
        name=name,
        fitted_by="fs-local bench",
        model=identity(model),
        gate=GateSettings.of(gate, [layer]),
        steer=SteerSettings(layers=[layer], strength=1.0, scope=scope),
        experts=[ExpertAbout(pairs=1, queries=[])] * N_EXPERTS,
        data={},
        figures=Figures(),
        seed=0,
        digests={},
    )
    return Pack.of(manifest, gate, experts)


def vector_pack(model: Model, layer: int, vector: F32) -> Pack:
    """A pack that adds a vector (d,) after a block, for every query."""
    gate = open_gate(model.width)
    changed = {
        "gate": GateSettings.of(gate, [layer]),
        "steer": SteerSettings(layers=[layer], strength=1.0, scope="all"),
        "experts": [ExpertAbout(pairs=1, queries=[])],
    }
    manifest = synthetic_pack(model).manifest.model_copy(update=changed)
    return Pack.of(manifest, gate, constant_experts(vector, model.width))


def synthetic_arrays(width: int, seed: int = 0) -> tuple[Gate, Experts]:
    """A logistic gate and experts of the sizes above, seeded noise."""
    rng = np.random.default_rng(seed)

    def noise(*shape: int) -> F32:
        return (rng.standard_normal(shape) * 1e-3).astype(np.float32)

    gate = Gate(
        kind="logistic",
        mean=noise(width),
        basis=noise(N_GATE, width),
        knots=np.empty(0, dtype=np.float32),
        coef=noise(width),
        intercept=_OPEN,
        edge=0.75,
        decay=8.0,
    )
    experts = Experts(
        prototypes=noise(N_EXPERTS, width),
        center=noise(width),
        routing=noise(N_EXPERTS, width),
        routing_bias=noise(N_EXPERTS),
        hidden=noise(N_HIDDEN, width),
        hidden_bias=noise(N_HIDDEN),
        output=noise(N_RESIDUAL, N_HIDDEN),
        output_bias=noise(N_RESIDUAL),
        residual=noise(N_RESIDUAL, width),
    )
    return gate, experts


def held(pack: Pack, opened: bool, gate_layer: int) -> Pack:
    """The pack's experts behind a logistic gate that is held open or closed, at a layer."""
    gate, _ = synthetic_arrays(pack.manifest.model.width)
    gate = dataclasses.replace(gate, coef=np.zeros_like(gate.coef), intercept=_OPEN if opened else _CLOSED)
    settings = GateSettings.of(gate, [gate_layer])
    return Pack.of(pack.manifest.model_copy(update={"gate": settings}), gate, pack.experts)


def steered_layer(pack: Pack) -> int:
    return pack.manifest.steer.layers[0]


def wide(base: Pack) -> Pack:
    identity = base.manifest.model.model_copy(update={"width": WIDE})
    return Pack.of(base.manifest.model_copy(update={"model": identity}), *synthetic_arrays(WIDE))
