"""What a fit is given: examples, and what it may be told of its choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fs_local.choices import FitGate, FitMethod, Scope
from fs_local.errors import DataError, FitError
from fs_local.examples import FileDigest, Pair, Query
from fs_local.fitting.held_out import pair_parts
from fs_local.method.experts import VALIDATION
from fs_local.method.gates import MIN_QUERIES
from fs_local.method.group_splits import alone, split
from fs_local.method.threshold import check_budget
from fs_local.pack.manifest import MAX_STRENGTH, ModelIdentity
from fs_local.runtime.model import Model

Shape = Model | ModelIdentity
"""What a model is, loaded or not."""
WITH_GATES: tuple[FitMethod, ...] = ("finesteer", "ridge", "caa", "repe", "random")
"""Methods that may have one of FineSteer's gates; the rest have ways of their own of choosing queries."""
MIN_PAIRS = 8
_FEWEST_PAIRS = 48


@dataclass(frozen=True)
class Examples:
    """What a pack is fitted on. Without IR queries of their own, the pairs' queries serve.

    Attributes:
        general: general queries by kind: a file each.
        refusing: whether the IR queries are to be refused; some go into wraps then, as those of people who are refused will.
        notes: what a person should know of the files.
    """

    pairs: Sequence[Pair]
    ir: Sequence[Query] = ()
    general: Mapping[str, Sequence[Query]] = field(default_factory=dict)
    refusing: bool = False
    files: dict[str, FileDigest] | None = None
    notes: Sequence[str] = ()

    @property
    def ir_queries(self) -> list[Query]:
        return list(self.ir) or [p.query for p in self.pairs]

    @property
    def n_general(self) -> int:
        return sum(map(len, self.general.values()))

    def drawn(self, options: FitOptions) -> Examples:
        """With some of the pairs, at random, where time is short; their queries serve as before."""
        n = max(round(options.share * len(self.pairs)), min(_FEWEST_PAIRS, len(self.pairs)))
        some = np.sort(np.random.default_rng(options.seed).permutation(len(self.pairs))[:n])
        return replace(self, pairs=[self.pairs[i] for i in some], ir=self.ir_queries)


@dataclass(frozen=True)
class FitOptions:
    """What a fit may be told; None means that it chooses.

    Attributes:
        name: of the pack.
        method: FineSteer, or one of the methods it is measured against (`fs_local.method.rivals`); `ridge` is FineSteer with a ridge map in
            place of the mixture.
        layers: steered blocks, ascending. gate_layer: block whose states the gate takes.
        gate: kind of gate; by default logistic where there are general queries, else quantile (one-class). `open` steers every query,
            which is the default of rivals that have no gate.
        strength: λ.
        scope: what an open gate steers (`fs_local.pack.manifest.Scope`).
        n_experts: least and most K.
        residual_rank: directions of the residual; 0 for none.
        tail: ε. budget: share of each kind of general query that may open a supervised gate.
        background: whether the general queries that come with the product join the user's.
        open_wraps: whether the gate is to open for IR queries in wraps even where harmless ones in wraps then open it too.
        share: of the queries, pairs and settings that are usually drawn and tried, where time is short (`fs_local.fitting.expected_time`).
    """

    name: str = "pack"
    method: FitMethod = "finesteer"
    layers: tuple[int, ...] | None = None
    gate_layer: int | None = None
    gate: FitGate | None = None
    strength: float | None = None
    scope: Scope = "all"
    n_experts: tuple[int, int] = (2, 10)
    residual_rank: int | None = None
    tail: float = 0.05
    budget: float = 0.02
    background: bool = True
    open_wraps: bool = False
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= 200:
            raise FitError("a pack's name must have 1 to 200 characters")
        if not 0 <= self.seed < 1 << 32:
            raise FitError("the seed must be from 0 to 4294967295")
        if self.strength is not None and not abs(self.strength) <= MAX_STRENGTH:
            raise FitError(f"the strength must be a number from -{MAX_STRENGTH} to {MAX_STRENGTH}")
        if not 0 < self.share <= 1:
            raise FitError("the share of what is usually drawn must be above 0, and 1 at most")
        if not 0 < self.budget < 1:
            raise FitError("the general budget must be above 0 and below 1, such as 0.02")
        if not 1 <= self.n_experts[0] <= self.n_experts[1]:
            raise FitError("the number of experts must be 1 or more")
        if self.residual_rank is not None and self.residual_rank < 0:
            raise FitError("the residual's rank must be 0 or more")
        if not self.name.isprintable():
            raise FitError("a pack's name must be of characters that can be shown; give another --name")
        if self.method not in WITH_GATES and self.gate is not None:
            raise FitError(f"{self.method} has its own way of choosing queries; leave out --gate")
        if self.method != "finesteer" and (self.n_experts != FitOptions.n_experts or self.residual_rank is not None):
            raise FitError(f"{self.method} has no experts and no residual; leave out --experts and --residual")
        if self.layers is not None:
            if list(self.layers) != sorted(set(self.layers)) or not self.layers:
                raise FitError("steered layers must ascend, such as 14,18")
            if self.layers[0] == 0:
                raise FitError("block 0 can't have a control vector in llama.cpp; choose a layer from 1 on")


def check(model: Shape, options: FitOptions, *, pairs: int, ir: int, general: int) -> None:
    """Refuses what can't be fitted before anything long begins.

    Args:
        pairs, ir, general: how many there are of each; 0 IR queries where the pairs' serve.

    Raises:
        DataError: too few examples.
        FitError: options that are out of range, or want examples that are not there.
    """
    if 0 < ir < MIN_QUERIES:
        raise DataError(f"{ir} IR queries are too few; give at least {MIN_QUERIES}, better 60 or more")
    if pairs < MIN_PAIRS:
        raise DataError(f"{pairs} pairs are too few; give at least {MIN_PAIRS}, better 60 or more")
    least, left = options.n_experts[0], pair_parts(alone(pairs), options.seed).train
    trained = len(split(alone(len(left)), options.seed, VALIDATION)[0])
    if options.method == "finesteer" and least > trained // 2:
        raise FitError(
            f"{least} experts need at least {2 * least} pairs to train on; of {pairs}, {trained} are left for that"
        )
    for layer in options.layers or ():
        _check_layer(model, "--layer", layer)
    check_queries(model, options, ir=ir, general=general)
    if options.layers is not None and options.layers[-1] == model.n_layer - 1:
        raise FitError(f"nothing comes after block {options.layers[-1]}, the last; choose a layer before it")
    if options.method not in WITH_GATES and not (general or options.background):
        raise FitError(f"{options.method} needs general queries too; give --general")


def check_queries(model: Shape, options: FitOptions, *, ir: int, general: int) -> None:
    """Refuses what no gate can be fitted on. As `check`."""
    for name, n in (("IR", ir), ("general", general)):
        if 0 < n < MIN_QUERIES:
            raise DataError(f"{n} {name} queries are too few; give at least {MIN_QUERIES}, better 60 or more")
    if options.gate_layer is not None:
        _check_layer(model, "--gate-layer", options.gate_layer)
    if options.gate == "logistic" and not (general or options.background):
        raise FitError("a logistic gate needs general queries too; give --general, or leave out --no-background")
    if (
        general
        and not options.background
        and options.method in ("finesteer", "ridge")
        and options.gate in (None, "logistic")
    ):
        check_budget(general, options.budget)


def _check_layer(model: Shape, option: str, layer: int) -> None:
    if not 0 <= layer < model.n_layer:
        raise FitError(f"{option} {layer} is out of range: {model.name} has layers 0 to {model.n_layer - 1}")
