"""States of pairs, and of the queries that tell a gate when to steer: captured once for whatever a fit may try on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fs_local.arrays import F32
from fs_local.capture import Captured, capture, query_request
from fs_local.examples import Pair
from fs_local.fitting.gate_queries import WRAPPED, GateQueries, Part, labels
from fs_local.fitting.near_twins import groups_of
from fs_local.fitting.options import FitOptions, Shape
from fs_local.method.crossfit import Labelled
from fs_local.method.readings import Reading
from fs_local.method.rows import Index, Rows, release
from fs_local.progress import Progress
from fs_local.runtime.model import Model

STEER_DEPTHS = (0.47, 0.4, 0.53, 0.33, 0.6)
"""Shares of the model's depth that are tried for the steered layer; where time is short, the first alone. Blocks next to each other differ
much in what they do; two or three together broke SmolLM2's answers before they refused more than one."""
ONE_CLASS_DEPTH, ONE_CLASS_LEAST_DEPTH = 0.4, 0.27
"""Where a gate of IR queries alone reads that is given to a vector steering earlier than the least depth."""
GATE_DEPTHS = (0.4, 0.47, 0.53, 0.6)
"""Shares of the depth whose blocks a supervised gate takes, all together, behind the steered block or not. On SmolLM2, earlier blocks do as
well on kinds that were fitted on, and open three times as often for instructions that were not; later ones cost more."""
READINGS: tuple[Reading, ...] = ("last", "user_last", "user_mean")
Place = tuple[int, Reading]
"""A block, and a reading of the states after it."""


def steer_layers(model: Shape, options: FitOptions) -> list[tuple[int, ...]]:
    """Layers that may be steered, each time together."""
    if options.layers is not None:
        return [options.layers]
    share = max(1, round(options.share * len(STEER_DEPTHS)))
    if options.method in ("alphasteer", "adasteer"):
        return _rows_of_blocks(model.n_layer)[-share:]
    return sorted({_blocks(model.n_layer, (depth,)) for depth in STEER_DEPTHS[:share]})


def blocks_beside(layers: tuple[int, ...], n_layer: int) -> list[tuple[int, ...]]:
    """The same number of layers, one block earlier and one later, where these can be steered: neither the first nor the last block."""
    moved = [tuple(layer + by for layer in layers) for by in (-1, 1)]
    return [at for at in moved if at[0] >= 1 and at[-1] < n_layer - 1]


def searched_blocks(model: Shape, options: FitOptions) -> list[int]:
    """All blocks that a search may steer: of `steer_layers`, and beside these where there is a choice."""
    at = steer_layers(model, options)
    beside = [moved for layers in at for moved in blocks_beside(layers, model.n_layer)] if len(at) > 1 else []
    return sorted({layer for layers in (*at, *beside) for layer in layers})


def _rows_of_blocks(n_layer: int) -> list[tuple[int, ...]]:
    """As many candidates as for the others, for methods whose own code steers many neighbouring blocks: AlphaSteer's 11 to 15, from a sixth
    to two thirds of the depth."""
    spans = [_blocks(n_layer, (low, high)) for low, high in ((1 / 6, 2 / 3), (0.25, 0.5), (0.33, 0.6), (0.33, 0.47))]
    rows = {tuple(range(span[0], span[-1] + 1)) for span in spans}
    return sorted(rows | {_blocks(n_layer, (0.4,))}, key=lambda layers: (len(layers), layers))


def gate_layers(n_layer: int, options: FitOptions, steered: int, supervised: bool) -> tuple[int, ...]:
    """Blocks that a gate may take.

    Args:
        supervised: whether there are general queries; without them there is nothing to choose by, and it takes the first steered block.
    """
    if options.gate_layer is not None:
        return (options.gate_layer,)
    if not supervised:
        return (steered,)
    return _blocks(n_layer, GATE_DEPTHS)


def _blocks(n_layer: int, depths: Sequence[float]) -> tuple[int, ...]:
    return tuple(sorted({min(max(1, round(n_layer * share)), max(1, n_layer - 2)) for share in depths}))


@dataclass(frozen=True)
class PairStates:
    """States of M pairs by layer: of the queries, (M, d) each, and the differences δ = h₊ − h₋ of the answers' mean states.

    Attributes:
        groups: of pairs whose queries are near twins, a number for each pair, (M,). keys: what tells their queries apart, one a pair, as
            `QueryStates.ir_keys`.
    """

    queries: dict[int, F32]
    differences: dict[int, Rows]
    groups: NDArray[np.intp]
    keys: Sequence[object]

    def read(self, layers: Sequence[int], rows: NDArray[np.intp]) -> F32:
        """States of some pairs' queries at several layers side by side, (rows, layers × d)."""
        return np.concatenate([self.queries[layer][rows] for layer in layers], axis=1)

    def differences_at(self, layers: Sequence[int]) -> Rows:
        """δ at several layers side by side, (M, layers × d)."""
        return Rows.of(*(self.differences[layer] for layer in layers))


@dataclass(frozen=True)
class QueryStates:
    """States of the queries that a gate is chosen from, by place, one row a query.

    Attributes:
        ir, general: (n, d) and (m, d) each. unseen_ir, unseen_general: of both kinds in wraps that no gate is fitted with; empty where
            there are none.
        ir_parts, kinds: the part of each IR query, and the kind of each general one, as numbers; kind_names: of these.
        ir_groups, general_groups: of near twins.
        ir_keys: what tells IR queries apart, one a row.
    """

    ir: Mapping[Place, Rows]
    general: Mapping[Place, Rows]
    ir_parts: NDArray[np.intp]
    kinds: NDArray[np.intp]
    kind_names: tuple[str, ...]
    ir_groups: NDArray[np.intp]
    general_groups: NDArray[np.intp]
    ir_keys: Sequence[object]
    unseen_ir: Mapping[Place, Rows] = field(default_factory=dict)
    unseen_general: Mapping[Place, Rows] = field(default_factory=dict)

    @property
    def n_ir(self) -> int:
        return len(self.ir_parts)

    @property
    def n_general(self) -> int:
        return len(self.kinds)

    @property
    def layers(self) -> list[int]:
        return sorted({layer for layer, _ in self.ir})

    @property
    def plain(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which IR queries and which general ones are in no wraps, (n,) and (m,)."""
        wrapped_kinds = [i for i, name in enumerate(self.kind_names) if name == WRAPPED]
        return self.ir_parts == 0, ~np.isin(self.kinds, wrapped_kinds)

    def readings_at(self, layers: Sequence[int]) -> tuple[Reading, ...]:
        """Which of the readings that gates take are there at all of these layers."""
        return tuple(r for r in READINGS if all((layer, r) in self.ir for layer in layers))

    def unlike(self, pairs: PairStates, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Row numbers of IR queries that are neither the queries of some pairs nor their near twins; all where there would be none."""
        named = {pairs.keys[i] for i in rows}
        found = np.isin(self.ir_groups, self.ir_groups[np.array([key in named for key in self.ir_keys], dtype=bool)])
        return np.flatnonzero(found) if found.all() else np.flatnonzero(~found)

    def labelled(self, places: Sequence[Place]) -> tuple[Labelled, Labelled]:
        """IR and general queries, as gates are fitted on them."""
        ir, general = ([side[place] for place in places] for side in (self.ir, self.general))
        return Labelled(ir, self.ir_parts, self.ir_groups), Labelled(general, self.kinds, self.general_groups)

    def unseen(self, places: Sequence[Place]) -> tuple[Rows | None, Rows | None]:
        """IR and general queries in unseen wraps, as a gate takes them, (n, places × d) each."""
        ir, general = (
            Rows.of(*(side[place] for place in places)) if side else None
            for side in (self.unseen_ir, self.unseen_general)
        )
        return ir, general


def pair_states(
    model: Model, pairs: Sequence[Pair], layers: Sequence[int], report: Progress, captures: Path | None
) -> PairStates:
    """Captures the pairs. Several answers on one side are averaged."""
    requests = [query_request(model, p.query, p.preferred + p.undesired) for p in pairs]
    found = capture(model, requests, layers, lambda done, total: report("capture pairs", done, total), captures)

    def at(layer: int) -> Rows:
        i = found.layers.index(layer)

        def read(numbers: Index) -> F32:
            rows = np.empty((len(numbers), model.width), dtype=np.float32)
            for row, number in zip(rows, numbers, strict=True):
                states, n = found.answers[number][:, i], len(pairs[number].preferred)
                row[:] = states[:n].mean(axis=0) - states[n:].mean(axis=0)
            release(found.queries)
            return rows

        return Rows(read, np.arange(len(pairs)), model.width)

    return PairStates(
        {layer: found.at(layer) for layer in layers},
        {layer: at(layer) for layer in layers},
        groups_of([p.query.text for p in pairs]),
        [repr(p.query) for p in pairs],
    )


def query_places(
    model: Shape, queries: GateQueries, options: FitOptions, steered: int
) -> tuple[list[int], tuple[Reading, ...]]:
    """Blocks and readings at which queries are captured: the same for every method, and wherever it steers, so that a capture on disk
    serves them all. The mean over the whole prompt is CAST's."""
    supervised = bool(queries.general)
    layers = set(gate_layers(model.n_layer, options, steered, supervised))
    if supervised:
        layers.update(searched_blocks(model, options))
    return sorted(layers), (*READINGS, "mean")


def query_states(
    model: Model,
    queries: GateQueries,
    options: FitOptions,
    steered: int,
    report: Progress,
    captures: Path | None,
) -> QueryStates:
    """Captures what a gate may be chosen from, and what AlphaSteer maps."""
    layers, readings = query_places(model, queries, options, steered)
    total = sum(len(pool.queries) for pool in queries.pools)
    found: dict[int, Captured] = {}
    for pool in queries.pools:
        before = sum(len(c.queries) for c in found.values())
        found[id(pool)] = capture(
            model,
            [query_request(model, q) for q in pool.queries],
            layers,
            lambda done, _, before=before: report("capture queries", before + done, total),  # type: ignore[misc]
            captures,
            readings,
        )

    def at(parts: Sequence[Part]) -> dict[Place, Rows]:
        places = [(layer, reading) for layer in layers for reading in readings] if parts else []
        return {
            place: Rows.stacked(*(Rows.of(found[id(p.pool)].at(*place))[p.rows] for p in parts)) for place in places
        }

    (ir_parts, ir_groups), (kinds, general_groups) = labels(queries.ir), labels(queries.general)
    return QueryStates(
        at(queries.ir),
        at(queries.general),
        ir_parts,
        kinds,
        tuple(k.name for k in queries.general),
        ir_groups,
        general_groups,
        [repr(q) for part in queries.ir for q in part.queries],
        at(queries.unseen_ir),
        at(queries.unseen_general),
    )
