"""How to steer: the Mixture-of-Steering-Experts (FineSteer, MoSE), as an estimator over states and differences of states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import calinski_harabasz_score

from fs_local.arrays import F32, F64
from fs_local.errors import FitError
from fs_local.method.folded import TINY, Experts
from fs_local.method.group_splits import Numbers, alone, split
from fs_local.method.rows import Rows
from fs_local.method.subspace import group_means, mean_square, principal, spread

_CLUSTER_PCA = 50
_INPUT_PCA = 64
_MINI_BATCHES_FROM = 5000
"""Pairs, from which on K-Means goes by mini-batches."""
_PATIENCE = 20
_MIN_PAIRS = 5
VALIDATION = 0.2


@dataclass
class _Shapes:
    """Shapes of the trained parameters: W_Q (k, p), W_K (k, c), β: W₁ (m, p), W₂ (u, m), b₂ (u,)."""

    shapes: list[tuple[int, ...]]

    def split(self, theta: F64) -> list[F64]:
        parts, at = [], 0
        for shape in self.shapes:
            n = int(np.prod(shape))
            parts.append(theta[at : at + n].reshape(shape))
            at += n
        return parts

    @property
    def size(self) -> int:
        return sum(int(np.prod(s)) for s in self.shapes)


class Objective:
    """`1/M Σ‖Cᵀα(zᵢ) + Uᵀβ(zᵢ) − δᵢ‖² / scale + λ_reg‖Θ‖²` and its gradient, over Θ = (W_Q, W_K, β).

    Args:
        inputs: z, (M, p); its last column is 1, so that W_Q and W₁ have a bias.
        targets: δ, (M, d).
        prototypes: C, (K, d).
        keys: what W_K is applied to, (K, c): C in the coordinates of its own span.
        residual: U transposed, (u, d).
        key_width, hidden_width: d_k and m.
        penalty: λ_reg.
        scale: what errors are measured in, so that λ_reg means the same for every model.
    """

    def __init__(
        self,
        inputs: F64,
        targets: Rows | F64,
        prototypes: F64,
        keys: F64,
        residual: F64,
        key_width: int,
        hidden_width: int,
        penalty: float,
        scale: float,
    ) -> None:
        self.z, self.penalty, self.scale, self.keys = inputs, penalty, scale, keys
        p, u, c = inputs.shape[1], len(residual), keys.shape[1]
        self.layout = _Shapes([(key_width, p), (key_width, c), (hidden_width, p), (u, hidden_width), (u,)])
        # everything v can reach lies in span(C, U): there the error is small matrices, and outside it is a constant
        basis, _ = np.linalg.qr(np.concatenate([prototypes, residual]).T)
        rows = Rows.of(targets)
        self.c, self.u, self.d = prototypes @ basis, residual @ basis, rows.each(lambda chunk: chunk @ basis)
        self.outside = mean_square(rows) * len(rows) - float(np.square(self.d).sum())

    def predict(self, theta: F64) -> tuple[F64, F64, F64]:
        """α (M, K), hidden activations (M, m), and v in the coordinates of span(C, U)."""
        w_q, w_k, w_1, w_2, b_2 = self.layout.split(theta)
        logits = (self.z @ w_q.T) @ (w_k @ self.keys.T) / np.sqrt(len(w_q))
        alpha = np.exp(logits - logits.max(axis=1, keepdims=True))
        alpha /= alpha.sum(axis=1, keepdims=True)
        hidden = np.maximum(self.z @ w_1.T, 0)
        return alpha, hidden, alpha @ self.c + (hidden @ w_2.T + b_2) @ self.u

    def error(self, theta: F64) -> float:
        """Mean squared error without the penalty, in units of `scale`."""
        _, _, v = self.predict(theta)
        return (float(np.square(v - self.d).sum()) + self.outside) / len(self.z) / self.scale

    def __call__(self, theta: F64) -> tuple[float, F64]:
        w_q, w_k, _, w_2, _ = self.layout.split(theta)
        alpha, hidden, v = self.predict(theta)
        off = v - self.d
        value = (float(np.square(off).sum()) + self.outside) / len(self.z) / self.scale + self.penalty * float(
            theta @ theta
        )
        g_v = 2 * off / len(self.z) / self.scale
        g_alpha = g_v @ self.c.T
        g_logits = alpha * (g_alpha - (alpha * g_alpha).sum(axis=1, keepdims=True)) / np.sqrt(len(w_q))
        g_beta = g_v @ self.u.T
        g_hidden = (g_beta @ w_2) * (hidden > 0)
        parts = [
            (w_k @ self.keys.T) @ g_logits.T @ self.z,
            (self.z @ w_q.T).T @ g_logits @ self.keys,
            g_hidden.T @ self.z,
            g_beta.T @ hidden,
            g_beta.sum(axis=0),
        ]
        return value, np.concatenate([g.ravel() for g in parts]) + 2 * self.penalty * theta


def squared_error(experts: Experts, states: Rows, differences: Rows) -> float:
    """`mean ‖v(h) − δ‖²` over pairs, at least one. states: (n, d); differences: (n, D)."""
    total = 0.0
    for at, chunk in states.chunks():
        delta = differences.read(np.arange(at.start, at.stop))
        total += float(np.square(experts.vector(chunk).astype(np.float64) - delta).sum())
    return total / len(states)


class MixtureOfSteeringExperts(BaseEstimator):  # type: ignore[misc]
    """Prototype experts, dense routing, and a residual, fitted on pairs.

    Args:
        n_experts: (least, most) K, chosen by the Calinski-Harabasz index; equal for a fixed K.
        residual_rank: u, principal directions of the residual; 0 for none.
        key_width: d_k. hidden_width: m, hidden units of β.
        penalty: λ_reg.
        validation: share of the pairs held out for early stopping, by groups of near twins.
        max_iter: of L-BFGS. seed: of folds, clusters and initial parameters.

    Attributes after `fit`:
        experts_: the folded experts.
        n_experts_: K. labels_: expert of each training pair, (M,). index_: Calinski-Harabasz index by K.
        train_, stopping_: row numbers of the pairs that are trained on, and of those that stop the training.
        stopping_error_: `mean ‖v(h) − δ‖²` of the latter. It chose the number of iterations, so it is lower than that of other pairs;
            `squared_error` on pairs that were not given to `fit` is what can be reported.
        n_iter_: iterations until then.
    """

    def __init__(
        self,
        n_experts: tuple[int, int] = (2, 10),
        residual_rank: int = 8,
        key_width: int = 16,
        hidden_width: int = 16,
        penalty: float = 1e-4,
        validation: float = VALIDATION,
        max_iter: int = 300,
        seed: int = 0,
    ) -> None:
        self.n_experts = n_experts
        self.residual_rank = residual_rank
        self.key_width = key_width
        self.hidden_width = hidden_width
        self.penalty = penalty
        self.validation = validation
        self.max_iter = max_iter
        self.seed = seed

    def fit(
        self, states: Rows | F32, differences: Rows | F32, groups: Numbers | None = None
    ) -> MixtureOfSteeringExperts:
        """Fits on query states h (M, d) and differences δ = h₊ − h₋ (M, D), D = steered layers × d.

        Args:
            groups: of near twins, a number for each pair, (M,); None where there are none.

        Raises:
            FitError: too few pairs, differences that are all zero, values that are not finite, or parameters out of range.
        """
        h, delta = Rows.of(states), Rows.of(differences)
        self._check(h, delta)
        self.train_, self.stopping_ = split(alone(len(h)) if groups is None else groups, self.seed, self.validation)
        train, stopping = self.train_, self.stopping_
        known = delta[train]

        labels = self._cluster(known)
        prototypes = group_means(known, labels, self.n_experts_)
        residual = principal(known, min(self.residual_rank, len(train) - 1, delta.width), self.seed).axes

        inputs = principal(h[train], min(_INPUT_PCA, len(train) // 2, h.width), self.seed)
        to_z = inputs.axes / np.sqrt(inputs.variance[:1].sum() + 1e-30)  # no axes, where all pairs have one query
        z = np.column_stack([h.each(lambda chunk: (chunk - inputs.mean) @ to_z.T), np.ones(len(h))])
        scale = mean_square(known)
        # W_K C depends only on C within its own span: K coordinates in place of d
        span, _ = np.linalg.qr(prototypes.T)
        keys = prototypes @ span / np.sqrt(scale)

        hidden_width = self.hidden_width if len(residual) else 0
        shape = (prototypes, keys, residual, self.key_width, hidden_width, self.penalty, scale)
        objective, stops = Objective(z[train], known, *shape), Objective(z[stopping], delta[stopping], *shape)
        theta = self._train(objective, stops, np.random.default_rng(self.seed))

        self.stopping_error_ = stops.error(theta) * scale
        self.experts_ = self._fold(objective, theta, to_z, inputs.mean, prototypes, residual)
        self.labels_ = labels
        return self

    def vector(self, states: F32) -> F32:
        """v(h), (n, D). states: (n, d)."""
        return self.experts_.vector(np.asarray(states, dtype=np.float32))

    def _check(self, states: Rows, differences: Rows) -> None:
        least, most = self.n_experts
        if not 1 <= least <= most:
            raise FitError(f"the number of experts must be at least 1, and a range must ascend; got {least} to {most}")
        if self.residual_rank < 0 or not 0 < self.validation < 1 or self.penalty < 0:
            raise FitError("experts need residual_rank ≥ 0, 0 < validation < 1 and penalty ≥ 0")
        if len(states) != len(differences):
            raise FitError(f"states {states.shape} and differences {differences.shape} must be rows of the same pairs")
        if len(states) < _MIN_PAIRS:
            raise FitError(f"{len(states)} pairs are too few to fit experts; give at least 8, better 60 or more")
        if not (states.all_finite() and differences.all_finite()):
            raise FitError("the states of the pairs are not finite (NaN or infinite)")
        if not any(chunk.any() for _, chunk in differences.chunks()):
            raise FitError("preferred and undesired answers give the same states; they must differ")

    def _cluster(self, delta: Rows) -> NDArray[np.int32]:
        """K-Means on the normalized δ, K by the Calinski-Harabasz index (MoSE's prototypes)."""
        directions = delta.mapped(lambda chunk: chunk / np.maximum(np.linalg.norm(chunk, axis=1, keepdims=True), TINY))
        # with all their axes, these are the directions themselves as far as distances go
        axes = principal(directions, min(_CLUSTER_PCA, len(delta) - 1, delta.width), self.seed)
        points = axes.coordinates(directions)
        least, most = self.n_experts
        most = max(least, min(most, len(points) // 2))
        if least > len(points) // 2:
            raise FitError(f"{least} experts need at least {2 * least} pairs to train on; there are {len(points)}")
        self.index_: dict[int, float] = {}
        best: NDArray[np.int32] | None = None
        if spread(directions) < 1e-6:
            most = 0  # all differences point one way
        for k in range(least, most + 1):
            means = KMeans if len(points) < _MINI_BATCHES_FROM else MiniBatchKMeans
            labels: NDArray[np.int32] = means(k, n_init=10, random_state=self.seed).fit(points).labels_
            if len(np.unique(labels)) < k:
                continue  # fewer distinct points than clusters
            index = float(calinski_harabasz_score(points, labels)) if k > 1 else 0.0
            if best is None or index > max(self.index_.values()):
                best, self.n_experts_ = labels, k
            self.index_[k] = index
        if best is None:
            best, self.n_experts_ = np.zeros(len(points), dtype=np.int32), 1
        return best

    def _train(self, objective: Objective, stops: Objective, rng: np.random.Generator) -> F64:
        """L-BFGS with early stopping: the parameters of the lowest error on the pairs that stop it."""
        parts = objective.layout.shapes
        start = np.concatenate(
            [
                rng.normal(0, 1 / np.sqrt(max(1, s[-1])), s).ravel() if i in (0, 1, 2) else np.zeros(s).ravel()
                for i, s in enumerate(parts)
            ]
        )
        best, best_error, since, self.n_iter_, n = start, stops.error(start), 0, 0, 0

        def watch(theta: F64) -> None:
            nonlocal best, best_error, since, n
            n += 1
            error = stops.error(theta)
            if error < best_error:
                best, best_error, since, self.n_iter_ = theta.copy(), error, 0, n
            else:
                since += 1
                if since >= _PATIENCE:
                    raise StopIteration

        minimize(  # type: ignore[call-overload]  # its stubs know no callable object as objective
            objective, start, jac=True, method="L-BFGS-B", callback=watch, options={"maxiter": self.max_iter}
        )
        return best

    def _fold(
        self, objective: Objective, theta: F64, to_z: F64, center: F64, prototypes: F64, residual: F64
    ) -> Experts:
        """(W_K C)(W_Q h)/√d_k is linear in h: one K×d matrix. The same for β's first layer."""
        w_q, w_k, w_1, w_2, b_2 = objective.layout.split(theta)
        routing = (w_k @ objective.keys.T).T @ w_q / np.sqrt(len(w_q))
        f = np.float32
        return Experts(
            prototypes=prototypes.astype(f),
            center=center.astype(f),
            routing=(routing[:, :-1] @ to_z).astype(f),
            routing_bias=routing[:, -1].astype(f),
            hidden=(w_1[:, :-1] @ to_z).astype(f),
            hidden_bias=w_1[:, -1].astype(f),
            output=w_2.astype(f),
            output_bias=b_2.astype(f),
            residual=residual.astype(f),
        )
