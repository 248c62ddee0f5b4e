"""What a fit leaves: a gate and experts with their training folded away, evaluated in float32.

Shapes: n is a number of queries, d the width of the residual stream, D = layers × d where states of several layers stand one
after the other; K a number of experts, r of gate directions, u of residual directions, m of hidden units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fs_local.arrays import F32

GateKind = Literal["quantile", "logistic", "soft", "open", "cosine_above", "cosine_below"]

CLOSED_BELOW = 0.05
"""A smaller opening counts as 0, so that a closed gate leaves the model bit for bit as it was."""
TINY = np.float32(1e-30)
"""Guards divisions by what may be 0."""


@dataclass(frozen=True)
class Gate:
    """When to steer (FineSteer's SCS, and what other methods have in its place). All arrays float32.

    The opening is `1` where `x ≥ edge`, else `(x/edge)^decay`, and 0 below `CLOSED_BELOW`, with x by kind:

    - `quantile`: F(s), the empirical CDF of the energy ratio over held-out IR queries; edge is the lower tail ε
    - `logistic`: σ(w·(h−μ) + b), trained against general queries
    - `soft`: s itself; edge is 1

    Two kinds have no ramp: `open` is 1 for every query; `cosine_above` (`cosine_below`) is 1 where CAST's similarity x (or −x) is
    greater than the edge, else 0.

    Attributes:
        mean: μ, (D,).
        basis: V transposed, orthonormal rows, (r, D); r = 0 where no subspace was fitted.
        knots: energy ratios at evenly spaced values of F from 0 to 1, ascending, (q,); empty unless quantile.
        coef: w, or CAST's condition vector, (D,); empty for the other kinds.
        intercept: b.
    """

    kind: GateKind
    mean: F32
    basis: F32
    knots: F32
    coef: F32
    intercept: float
    edge: float
    decay: float

    @property
    def ratio_threshold(self) -> float | None:
        """The energy ratio from which on a quantile gate is fully open, where F is ε; None for the other kinds."""
        if self.kind != "quantile":
            return None
        return float(np.interp(self.edge, np.linspace(0, 1, len(self.knots)), self.knots))

    def energy_ratio(self, states: F32) -> F32:
        """`s(h) = ‖Vᵀ(h−μ)‖² / ‖h−μ‖²` (SCS). states: (n, D); returns (n,) in [0, 1]."""
        centred = states - self.mean
        inside = np.square(centred @ self.basis.T).sum(axis=1)
        return np.clip(inside / np.maximum(np.square(centred).sum(axis=1), TINY), 0, 1)  # type: ignore[no-any-return]

    def score(self, states: F32) -> F32:
        """x of the class's description, (n,). states: (n, D)."""
        if self.kind == "open":
            return np.ones(len(states), dtype=np.float32)
        if self.kind == "logistic":
            logits = (states - self.mean) @ self.coef + np.float32(self.intercept)
            return ((1 + np.tanh(logits / 2)) / 2).astype(np.float32)  # σ, without overflow
        if self.kind == "cosine_above":
            return cosine_to_condition(states, self.coef)
        if self.kind == "cosine_below":
            return -cosine_to_condition(states, self.coef)
        ratio = self.energy_ratio(states)
        if self.kind == "soft":
            return ratio
        return empirical_cdf(ratio, self.knots)

    def margin(self, state: F32) -> float:
        """How far a state (D,) is beyond the point where the gate begins to open; negative where it is closed.

        In log-odds for a logistic gate, in energy ratio for a quantile and a soft one, in similarity for CAST's.
        """
        if self.kind == "logistic":
            return float(self.parts(state, 1)[0])
        if self.kind == "open":
            return 1.0
        begins = self.edge * CLOSED_BELOW ** (1 / self.decay)
        if self.kind == "quantile":
            at = float(np.interp(begins, np.linspace(0, 1, len(self.knots)), self.knots))
            return float(self.energy_ratio(state[None])[0]) - at
        return float(self.score(state[None])[0]) - (begins if self.kind == "soft" else self.edge)

    def parts(self, state: F32, places: int) -> F32:
        """What each place of a state (places × d,) carries of a logistic gate's margin, (places,): they add up to it. Zeros for the others."""
        if self.kind != "logistic":
            return np.zeros(places, dtype=np.float32)
        along = (self.coef * (state - self.mean)).reshape(places, -1).sum(axis=1)
        return (along + np.float32(self.intercept / places)).astype(np.float32)  # type: ignore[no-any-return]

    def opening(self, states: F32) -> F32:
        """g(h), (n,) in [0, 1]. states: (n, D)."""
        x = self.score(states)
        if self.kind in ("cosine_above", "cosine_below"):
            return (x > np.float32(self.edge)).astype(np.float32)
        return ramp(x, self.edge, self.decay)


def open_gate(width: int) -> Gate:
    """The gate of methods that have none: open for every query. width: D."""
    empty = np.empty(0, dtype=np.float32)
    zero, no_directions = np.zeros(width, dtype=np.float32), np.empty((0, width), dtype=np.float32)
    return Gate("open", zero, no_directions, empty, empty, intercept=0.0, edge=1.0, decay=1.0)


@dataclass(frozen=True)
class Experts:
    """How to steer (FineSteer's MoSE), W_Q and W_K folded into one matrix. All arrays float32.

    `α(h) = softmax(A(h−c) + a)` and `v(h) = Cᵀα(h) + Uᵀ(W₂ ReLU(W₁(h−c) + b₁) + b₂)`.

    The state is the one after the first steered layer; a vector has a part for every steered layer, D = layers × d.

    Attributes:
        prototypes: C, (K, D).
        center: c, (d,).
        routing: A, (K, d), and routing_bias: a, (K,).
        hidden: W₁, (m, d), and hidden_bias: b₁, (m,).
        output: W₂, (u, m), and output_bias: b₂, (u,).
        residual: U transposed, orthonormal rows, (u, D); u = 0 for no residual.
    """

    prototypes: F32
    center: F32
    routing: F32
    routing_bias: F32
    hidden: F32
    hidden_bias: F32
    output: F32
    output_bias: F32
    residual: F32

    def weights(self, states: F32) -> F32:
        """Routing weights α(h), (n, K), each row adding up to 1. states: (n, d)."""
        logits = (states - self.center) @ self.routing.T + self.routing_bias
        grown = np.exp(logits - logits.max(axis=1, keepdims=True))
        return grown / grown.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]

    def vector(self, states: F32, weights: F32 | None = None) -> F32:
        """Steering vectors v(h), (n, D). states: (n, d); weights: what `weights` gave, if at hand."""
        v = (self.weights(states) if weights is None else weights) @ self.prototypes
        if len(self.residual):
            hidden = np.maximum((states - self.center) @ self.hidden.T + self.hidden_bias, 0)
            v = v + (hidden @ self.output.T + self.output_bias) @ self.residual
        return v


def linear_experts(inner: F32, outer: F32) -> Experts:
    """`v(h) = (h innerᵀ) outer`, a linear map of the state, as experts: x = ReLU(x) − ReLU(−x). inner (r, d), outer (r, D)."""
    r, d = inner.shape
    one, f = np.eye(r), np.float32
    return Experts(
        prototypes=np.zeros((1, outer.shape[1]), dtype=f),
        center=np.zeros(d, dtype=f),
        routing=np.zeros((1, d), dtype=f),
        routing_bias=np.zeros(1, dtype=f),
        hidden=np.concatenate([inner, -inner]).astype(f),
        hidden_bias=np.zeros(2 * r, dtype=f),
        output=np.concatenate([one, -one], axis=1).astype(f),
        output_bias=np.zeros(r, dtype=f),
        residual=outer.astype(f),
    )


def constant_experts(vector: F32, width: int) -> Experts:
    """One vector (D,) for every query. width: d."""
    nothing = linear_experts(np.empty((0, width), dtype=np.float32), np.empty((0, len(vector)), dtype=np.float32))
    return replace(nothing, prototypes=vector.astype(np.float32)[None])


def cosine_to_condition(states: F32, condition: F32) -> F32:
    """CAST's similarity `cos(h, tanh((c cᵀ / c·c) h))`, (n,). states: (n, D); condition: c, (D,)."""
    c = condition / np.maximum(np.linalg.norm(condition), TINY)
    projected = np.tanh((states @ c)[:, None] * c)
    lengths = np.linalg.norm(states, axis=1) * np.linalg.norm(projected, axis=1)
    return ((states * projected).sum(axis=1) / np.maximum(lengths, TINY)).astype(np.float32)  # type: ignore[no-any-return]


def empirical_cdf(values: F32, knots: F32) -> F32:
    """F at `values`, (n,): piecewise linear between `knots`, which stand at evenly spaced values of F from 0 to 1."""
    widths = np.maximum(np.diff(knots), TINY)
    shares: F32 = np.clip((values[:, None] - knots[:-1]) / widths, 0, 1).astype(np.float32)
    return shares.mean(axis=1)  # type: ignore[no-any-return]


def ramp(x: F32, edge: float, decay: float) -> F32:
    """1 where x ≥ edge, else (x/edge)^decay; 0 below `CLOSED_BELOW` (SCS's gate with tail ε = edge and decay γ)."""
    share = np.minimum(x / np.float32(edge), 1)
    g = np.power(share, np.float32(decay))
    return np.where(g < np.float32(CLOSED_BELOW), np.float32(0), g).astype(np.float32)
