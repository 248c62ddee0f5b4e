"""What each method makes of the same rows: experts that a pack can hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fs_local.fitting.options import FitOptions
from fs_local.fitting.states import PairStates, Place, QueryStates
from fs_local.method.experts import MixtureOfSteeringExperts
from fs_local.method.folded import F32, Experts, constant_experts
from fs_local.method.rivals import MeanDifference, NullSpaceMap, PrincipalDirection
from fs_local.method.splits import Numbers


def fit_experts(
    states: PairStates,
    maps: QueryStates | None,
    options: FitOptions,
    layers: Sequence[int],
    rank: int,
    rows: Numbers,
    ir_rows: Numbers | slice = slice(None),
) -> tuple[Experts, MixtureOfSteeringExperts | None]:
    """The method's experts at some layers together, and FineSteer's estimator.

    Args:
        rows: of the pairs, to fit on.
        maps: what AlphaSteer is fitted on, of its IR queries `ir_rows`; its one map takes the first layer's states.
    """
    if options.method == "finesteer":
        mixture = MixtureOfSteeringExperts(options.n_experts, rank, seed=options.seed)
        mixture.fit(states.queries[layers[0]][rows], states.differences_at(layers)[rows], states.groups[rows])
        return mixture.experts_, mixture
    direction = _direction(options, states, layers, rows)
    if options.method == "alphasteer" and maps is not None:
        place: Place = (layers[0], "last")
        ir, general = maps.ir[place][ir_rows], maps.general[place]
        return NullSpaceMap().fit(ir, general, direction).experts_, None
    return constant_experts(direction, states.queries[layers[0]].shape[1]), None


def _direction(options: FitOptions, states: PairStates, layers: Sequence[int], rows: Numbers) -> F32:
    """One vector for every query, (layers × d,). CAST's behaviour vector is RepE's."""
    method = MeanDifference if options.method in ("caa", "alphasteer") else PrincipalDirection
    return np.concatenate([method().fit(states.differences[layer][rows]).experts_.prototypes[0] for layer in layers])
