"""What each method makes of the same rows: experts that a pack can hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fs_local.arrays import F32
from fs_local.choices import ExpertForm
from fs_local.errors import FitError
from fs_local.fitting.options import FitOptions
from fs_local.fitting.states import PairStates, QueryStates
from fs_local.method.experts import MixtureOfSteeringExperts
from fs_local.method.folded import Experts, constant_experts
from fs_local.method.group_splits import Numbers
from fs_local.method.rivals import (
    AdaptiveSteering,
    LogisticStrength,
    MeanDifference,
    NullSpaceMaps,
    PrincipalDirection,
    RandomDirection,
    RidgeMap,
)

TAKE_QUERIES = ("alphasteer", "adasteer", "dsas")
"""Methods whose experts are fitted on states of IR and general queries too."""
DIRECTIONS: dict[str, Callable[[int], MeanDifference | PrincipalDirection | RandomDirection]] = {
    "finesteer": lambda _: MeanDifference(),
    "caa": lambda _: MeanDifference(),
    "repe": lambda _: PrincipalDirection(),
    "random": RandomDirection,
    "cast": lambda _: PrincipalDirection(),
    "alphasteer": lambda _: MeanDifference(),
    "dsas": lambda _: MeanDifference(),
}
"""The estimator of the methods that have one vector a block, made with a seed: a new one of that kind needs its line here, and its name in
`fs_local.choices`."""
RESIDUAL_RANKS = (8, 0)
Layers = tuple[int, ...]


@dataclass(frozen=True)
class FitRows:
    """What experts are fitted on, in rows.

    Attributes:
        pairs: states of the pairs.
        queries: of the queries, for methods of `TAKE_QUERIES`; else None.
        as_wanted: whether the unsteered model answers a pair as it should already, (M,), for AdaSteer; else None.
    """

    pairs: PairStates
    queries: QueryStates | None = None
    as_wanted: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Form:
    """What FineSteer's experts are; rank: of the mixture's residual."""

    kind: ExpertForm
    rank: int = 0


def forms(options: FitOptions) -> tuple[Form | None, ...]:
    """What a fit may choose among, the mixture first; None stands for what another method makes. A residual or a K that is given wants the
    mixture."""
    if options.method != "finesteer":
        return (None,)
    if options.residual_rank is not None:
        return (Form("mixture", options.residual_rank),)
    mixtures = tuple(Form("mixture", rank) for rank in RESIDUAL_RANKS)
    return mixtures if options.n_experts != FitOptions.n_experts else (*mixtures, Form("ridge"), Form("mean"))


@dataclass(frozen=True)
class FittedExperts:
    """Experts, the blocks whose states they take, and FineSteer's estimator for its own."""

    experts: Experts
    reads: Layers
    mixture: MixtureOfSteeringExperts | None = None

    def vectors(self, pairs: PairStates, rows: Numbers) -> F32:
        """v of some pairs, (rows, layers × d)."""
        return self.experts.vector(pairs.read(self.reads, rows))


def fit_experts(
    states: FitRows,
    options: FitOptions,
    layers: Layers,
    form: Form | None,
    rows: Numbers,
    without: Numbers | None = None,
) -> FittedExperts:
    """The method's experts at some layers together.

    Args:
        form: of FineSteer's experts; None for the other methods.
        rows: of the pairs, to fit on.
        without: rows of pairs whose queries and their near twins are not to be among the IR queries.

    Raises:
        FitError: what the method can't be fitted on.
    """
    pairs, d = states.pairs, next(iter(states.pairs.queries.values())).shape[1]
    if form is not None and form.kind == "mixture":
        mixture = MixtureOfSteeringExperts(options.n_experts, form.rank, seed=options.seed)
        mixture.fit(pairs.read(layers[:1], rows), pairs.differences_at(layers)[rows], pairs.groups[rows])
        return FittedExperts(mixture.experts_, layers[:1], mixture)
    if options.method == "ridge" or (form is not None and form.kind == "ridge"):
        fitted = RidgeMap().fit(pairs.read(layers[:1], rows), pairs.differences_at(layers)[rows])
        return FittedExperts(fitted.experts_, layers[:1])
    if options.method == "adasteer":
        return FittedExperts(_adaptive(states, layers, rows), layers[:1])
    directions = {layer: _direction(options, pairs, layer, rows) for layer in layers}
    together = np.concatenate(list(directions.values()))
    if states.queries is None or options.method not in TAKE_QUERIES:
        return FittedExperts(constant_experts(together, d), layers[:1])
    queries = states.queries
    kept = slice(None) if without is None else queries.unlike(pairs, without)
    if options.method == "dsas":
        ir, general = queries.ir[layers[0], "last"][kept], queries.general[layers[0], "last"]
        groups = queries.ir_groups[kept], queries.general_groups
        return FittedExperts(
            LogisticStrength(seed=options.seed).fit(ir, general, together, *groups).experts_, layers[:1]
        )
    maps = NullSpaceMaps().fit(
        {layer: queries.ir[layer, "last"][kept] for layer in layers},
        {layer: queries.general[layer, "last"] for layer in layers},
        # all blocks add up: so a strength means as much as at one block
        {layer: direction / np.float32(len(layers)) for layer, direction in directions.items()},
    )
    return FittedExperts(maps.experts_, layers)


def _direction(options: FitOptions, pairs: PairStates, layer: int, rows: Numbers) -> F32:
    """One vector for every query, (d,)."""
    method = DIRECTIONS[options.method](options.seed + layer)
    vector: F32 = method.fit(pairs.differences[layer][rows]).experts_.prototypes[0]
    return vector


def _adaptive(states: FitRows, layers: Layers, rows: Numbers) -> Experts:
    """AdaSteer's: the laws at the first block set the strengths of each block's directions."""
    assert states.queries is not None
    wanted = None if states.as_wanted is None else states.as_wanted[rows]
    if wanted is None or wanted.all() or not wanted.any():
        n = 0 if wanted is None else int(wanted.sum())
        raise FitError(
            f"AdaSteer needs pairs that the unsteered model answers as preferred, and others; of {len(rows)}, it does so for {n}"
        )
    made = [
        AdaptiveSteering()
        .fit(
            states.pairs.read((layer,), rows[wanted]),
            states.pairs.read((layer,), rows[~wanted]),
            states.queries.general[layer, "last"],
        )
        .experts_
        for layer in layers
    ]
    return replace(
        made[0],
        prototypes=np.concatenate([e.prototypes for e in made], axis=1),
        residual=(np.concatenate([e.residual for e in made], axis=1) / len(layers)).astype(np.float32),
    )
