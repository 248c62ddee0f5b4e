"""The packs of an engine, which of them a request asks, the readings they want, and their decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from fs_local.choices import EvaluatorName, Scope
from fs_local.engine.decision import Decision
from fs_local.engine.requests import Steer
from fs_local.errors import PackError
from fs_local.method.readings import QueryReader, Reading
from fs_local.pack.evaluator import Evaluator
from fs_local.pack.file import Pack
from fs_local.pack.manifest import MAX_STRENGTH
from fs_local.runtime.prompt import Prompt
from fs_local.steering import check_model, check_names

if TYPE_CHECKING:
    from fs_local.runtime.model import Model


@dataclass(frozen=True)
class LoadedPack:
    """A pack with what evaluates its decisions, and whether requests get it."""

    pack: Pack
    evaluate: Evaluator
    enabled: bool = True

    @property
    def name(self) -> str:
        return self.pack.manifest.name


@dataclass(frozen=True)
class Packs:
    """The packs of an engine; never changed, but replaced by others as a whole."""

    loaded: tuple[LoadedPack, ...] = ()

    @classmethod
    def load(
        cls, model: Model, packs: Sequence[Pack], evaluator: EvaluatorName = "numpy", providers: list[str] | None = None
    ) -> Packs:
        """Packs for a model.

        Raises:
            PackError: a pack for another model, packs of differing scope, or two of one name.
        """
        for pack in packs:
            check_model(pack, model)
        if len({p.manifest.steer.scope for p in packs}) > 1:
            raise PackError(
                "these packs have different scopes (what of a conversation they steer); use them one at a time"
            )
        check_names(packs)
        return cls(tuple(LoadedPack(p, p.evaluator(evaluator, providers)) for p in packs))

    def changed(self, name: str, *, strength: float | None = None, enabled: bool | None = None) -> Packs:
        """The same, but for one pack.

        Raises:
            PackError: no pack of that name, or a strength that is no number or beyond all reason.
        """
        one = self.named(name)
        if strength is not None:
            one = replace(one, pack=one.pack.with_strength(strength))
        if enabled is not None:
            one = replace(one, enabled=enabled)
        return Packs(tuple(one if p.name == name else p for p in self.loaded))

    def named(self, name: str) -> LoadedPack:
        """The pack of that name.

        Raises:
            PackError: there is none.
        """
        for p in self.loaded:
            if p.name == name:
                return p
        raise PackError(f"no pack {name!r}; there is {', '.join(p.name for p in self.loaded) or 'none'}")

    def chosen(self, steer: Steer) -> Chosen:
        """The packs that a request asks.

        Raises:
            PackError: a name that no pack has, or a strength beyond all reason.
        """
        for name in (*steer.strengths, *steer.disabled):
            self.named(name)
        for name, strength in steer.strengths.items():
            if not abs(strength) <= MAX_STRENGTH:
                raise PackError(f"the strength of {name} must be a number from -{MAX_STRENGTH} to {MAX_STRENGTH}")
        if not steer.enabled or steer.given is not None:
            return Chosen(())
        return Chosen(
            tuple(
                (p, steer.strengths.get(p.name, p.pack.manifest.steer.strength))
                for p in self.loaded
                if p.enabled and p.name not in steer.disabled
            )
        )


@dataclass(frozen=True)
class Chosen:
    """The packs that decide one query, each with its λ, and what they read on the way."""

    packs: tuple[tuple[LoadedPack, float], ...]

    @cached_property
    def wanted(self) -> dict[int, set[Reading]]:
        """The readings that are taken after each block."""
        wanted: dict[int, set[Reading]] = {}
        for p, _ in self.packs:
            gate, steer = p.pack.manifest.gate, p.pack.manifest.steer
            for layer in gate.layers:
                wanted.setdefault(layer, set()).update(gate.readings)
            for layer in steer.read_layers:
                wanted.setdefault(layer, set()).update(steer.readings)
        return wanted

    @cached_property
    def decides_at(self) -> int:
        """The block after which everything is known; -1 without packs."""
        return max(self.wanted, default=-1)

    @property
    def scope(self) -> Scope:
        return self.packs[0][0].pack.manifest.steer.scope if self.packs else "all"

    def reads_from(self, prompt: Prompt) -> int:
        """The first token whose state is read."""
        readings = set().union(*self.wanted.values())
        if "mean" in readings:
            return 0
        starts = {"user_mean": prompt.user.start, "user_last": prompt.user.stop - 1}
        return min([len(prompt.tokens) - 1, *(starts[r] for r in readings if r in starts)])

    def decide(self, reader: QueryReader) -> list[Decision]:
        """Every pack's decision on what was read."""
        decisions = []
        for p, strength in self.packs:
            gate, steer = p.pack.manifest.gate, p.pack.manifest.steer
            at_gate = reader.gate_state(gate.layers, gate.readings)
            found = p.evaluate(at_gate, reader.gate_state(steer.read_layers, steer.readings))
            places = [(layer, reading) for layer in gate.layers for reading in gate.readings]
            parts = p.pack.gate.parts(at_gate, len(places)) if p.pack.gate.kind == "logistic" else ()
            decisions.append(
                Decision(
                    p.name,
                    found.opening,
                    found.energy_ratio,
                    found.weights,
                    found.vector.reshape(len(steer.layers), -1),
                    strength,
                    tuple(steer.layers),
                    steer.scope,
                    found.score,
                    p.pack.gate.margin(at_gate),
                    tuple((*place, float(part)) for place, part in zip(places, parts, strict=False)),
                )
            )
        return decisions
