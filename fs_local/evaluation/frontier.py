"""The frontier: each pack's effect against its drift as the strength grows, what it does within drift budgets, and the floor of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fs_local.evaluation.budgets import BUDGETS, Draws, Point, at_budget, redrawn
from fs_local.evaluation.contenders import Contender, SystemPrompt, name_of
from fs_local.evaluation.figures import figure, gain
from fs_local.evaluation.files import File
from fs_local.evaluation.fluency import FLUENCY, is_fluent
from fs_local.evaluation.intervals import middle
from fs_local.evaluation.runner import Runner
from fs_local.evaluation.suites import SUITES, SuiteRow, figure_kind, figure_of
from fs_local.method.folded import constant_experts, open_gate
from fs_local.pack.file import Pack
from fs_local.pack.manifest import MAX_STRENGTH, ExpertAbout, GateSettings

EFFECTS = {"refusal": "refused", "truthfulqa": "mc2", "open-answers": "agrees", "preference": "preferred"}
"""The figure that says what a task wants; drift is the price."""
STRENGTH_FACTORS = (0.5, 1.0, 1.5)
WEAKER_FACTORS = (0.25, 0.125, 0.0625, 0.03125)
"""Of packs that drift more than the least budget even so."""
STRONGER_FACTORS = (3.0, 6.0, 12.0)
"""Of packs that drift less than the largest budget even so; of those that drift not at all, as long as the effect grows."""
_ALMOST_NOTHING = 1e-4
"""Length of the vector that measures the floor: far below a state's, whose numbers are about 1."""


@dataclass(frozen=True)
class Frontier:
    """All of it as plain lists and numbers.

    Attributes:
        points: the curves. budgets: what each pack does within each budget, and FineSteer's first pack less it, row by row; intervals reach
            as far as either rows alone or rows and general rows drawn anew (`redrawn`) make them.
        floor: drift and change of effect under a vector of almost nothing, which are no more than the noise of another batch.
    """

    points: list[dict[str, Any]] = field(default_factory=list)
    budgets: list[dict[str, Any]] = field(default_factory=list)
    floor: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"frontier": self.points, "budgets": self.budgets, "floor": self.floor}

    @classmethod
    def measure(
        cls,
        runner: Runner,
        contenders: Sequence[Contender],
        files: Sequence[File],
        allowed: Sequence[float] = BUDGETS,
    ) -> Frontier:
        """Measures contenders on the files of a task (`EFFECTS`) and those of `drift`; nothing where either is missing.

        Args:
            allowed: the drift budgets, ascending.
        """
        packs = [c for c in contenders if isinstance(c, Pack)]
        tasks = [f for f in files if f.suite in EFFECTS]
        general = [row for f in files if f.suite == "drift" for row in f.rows]
        if not tasks or not general or not packs:
            return cls()
        points: list[dict[str, Any]] = []
        budgets: list[dict[str, Any]] = []
        nothing = _almost_nothing(packs[0])
        floor: dict[str, Any] = {"drift": figure(_drift(runner, general, nothing)).as_dict(), "tasks": []}
        for task in tasks:
            name, kind = f"{task.suite} on {task.name}", figure_kind(EFFECTS[task.suite])
            none = _effect(runner, task, None)
            floor["tasks"].append({"task": name, "change": gain(_effect(runner, task, nothing), none, kind).as_dict()})
            lines = {name_of(c): _line(runner, task, general, c, allowed) for c in contenders}
            points += [
                {
                    "task": name,
                    "pack": pack,
                    "strength": p.strength,
                    "effect": figure_of(EFFECTS[task.suite], p.effect).as_dict(),
                    "drift": figure(p.drift).as_dict(),
                    "fluent": p.is_fluent,
                }
                for pack, line in lines.items()
                for p in line
            ]
            budgets += [{"task": name, **row} for row in _within_budgets(task, lines, none, _ours(packs), allowed)]
        return cls(points, budgets, floor)


def _within_budgets(
    task: File, lines: dict[str, list[Point]], none: list[float], ours: str | None, allowed: Sequence[float]
) -> list[dict[str, Any]]:
    found = []
    kind = figure_kind(EFFECTS[task.suite])
    draws = Draws.of(len(none), len(next(iter(lines.values()))[0].drift))
    for budget in allowed:
        at = {pack: at_budget(line, none, budget) for pack, line in lines.items()}
        again = {pack: redrawn(line, none, budget, draws) for pack, line in lines.items()}
        for pack, here in at.items():
            # between two strengths, a row is no longer yes or no
            effect = figure(here.effect, kind if {*here.effect} <= {0.0, 1.0} else "bounded")
            lead = None
            if ours is not None and pack != ours:
                of_rows = gain(at[ours].effect, here.effect, kind)
                lead = of_rows.reaching(*middle(again[ours] - again[pack])).as_dict()
            found.append(
                {
                    "budget": budget,
                    "pack": pack,
                    "strength": here.strength,
                    "drift": here.drift,
                    "effect": effect.reaching(*middle(again[pack])).as_dict(),
                    "lead": lead,
                }
            )
    return found


def _ours(packs: Sequence[Pack]) -> str | None:
    """Name of FineSteer's first pack, if there is one."""
    return next((p.manifest.name for p in packs if p.manifest.method == "finesteer"), None)


def _line(
    runner: Runner, task: File, general: Sequence[SuiteRow], contender: Contender, allowed: Sequence[float]
) -> list[Point]:
    """The contender's curve, from below the least budget to above the largest, as far as its factors reach; ascending. A system prompt has
    one point."""
    if isinstance(contender, SystemPrompt):
        return [_point(runner, task, general, contender, 1.0)]
    line = [_at(runner, task, general, contender, factor) for factor in STRENGTH_FACTORS]
    for factor in WEAKER_FACTORS:
        if min(p.mean_drift for p in line) <= allowed[0]:
            break
        line.append(_at(runner, task, general, contender, factor))
    for factor in STRONGER_FACTORS:
        strongest = max(line, key=lambda p: abs(p.strength))
        is_past = not any(strongest.drift) and np.mean(strongest.effect) < max(np.mean(p.effect) for p in line)
        if is_past or max(p.mean_drift for p in line) >= allowed[-1]:
            break
        line.append(_at(runner, task, general, contender, factor))
    by_strength = {p.strength: p for p in line}  # at the largest strength there is, several factors may be one
    return sorted(by_strength.values(), key=lambda p: abs(p.strength))


def _at(runner: Runner, task: File, general: Sequence[SuiteRow], pack: Pack, factor: float) -> Point:
    strength = float(np.clip(pack.manifest.steer.strength * factor, -MAX_STRENGTH, MAX_STRENGTH))
    return _point(runner, task, general, pack.with_strength(strength), strength)


def _point(runner: Runner, task: File, general: Sequence[SuiteRow], contender: Contender, strength: float) -> Point:
    values = SUITES[task.suite](runner, task.rows, contender).values
    return Point(
        strength,
        values[EFFECTS[task.suite]],
        _drift(runner, general, contender),
        is_step=isinstance(contender, SystemPrompt),
        is_fluent=is_fluent(values) if values.keys() >= {*FLUENCY} else True,
    )


def _effect(runner: Runner, task: File, contender: Contender | None) -> list[float]:
    return SUITES[task.suite](runner, task.rows, contender).values[EFFECTS[task.suite]]


def _drift(runner: Runner, general: Sequence[SuiteRow], contender: Contender) -> list[float]:
    return SUITES["drift"](runner, general, contender).values["kl"]


def _almost_nothing(pack: Pack) -> Pack:
    """Steers every query after the pack's first block, by a vector of almost nothing."""
    m, layers = pack.manifest, pack.manifest.steer.layers[:1]
    vector = np.full(m.model.width, _ALMOST_NOTHING / np.sqrt(m.model.width), dtype=np.float32)
    manifest = m.model_copy(
        update={
            "name": "almost nothing",
            "method": "vector",
            "gate": GateSettings(kind="open", layers=layers, edge=1.0, decay=1.0, intercept=0.0),
            "steer": m.steer.model_copy(update={"layers": layers, "strength": 1.0}),
            "experts": [ExpertAbout(pairs=0, queries=[])],
        }
    )
    return Pack.of(manifest, open_gate(m.model.width), constant_experts(vector, m.model.width))
