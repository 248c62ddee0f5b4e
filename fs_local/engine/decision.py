"""What one query got from a pack, and what that adds where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fs_local.arrays import F32
from fs_local.choices import Scope
from fs_local.method.readings import Reading
from fs_local.runtime.prompt import Prompt


@dataclass(frozen=True)
class Decision:
    """What one query got from one pack.

    Attributes:
        pack: the pack's name.
        opening: g, in [0, 1]; 0 leaves the model as it is.
        energy_ratio: s, in [0, 1].
        weights: routing weights α, float32, (K,).
        vector: steering vector v, float32, (layers, d), before opening and strength.
        strength: λ.
        layers: the blocks it is added after.
        scope: the positions it is added at.
        score: what the opening comes from (`method.folded.Gate.score`); NaN where it is not known.
        margin: how far the query is beyond the point where the gate begins to open (`method.folded.Gate.margin`); negative where it is
            closed, NaN where it is not known.
        carried: what each reading at each block carried of a linear gate's margin, (block, reading, part); they add up to it.
    """

    pack: str
    opening: float
    energy_ratio: float
    weights: F32
    vector: F32
    strength: float
    layers: tuple[int, ...]
    scope: Scope = "all"
    score: float = math.nan
    margin: float = math.nan
    carried: tuple[tuple[int, Reading, float], ...] = ()

    @property
    def is_open(self) -> bool:
        return self.opening > 0 and self.strength != 0

    @property
    def addition(self) -> F32:
        """λ · g · v, float32, (layers, d): what is added to every state at each layer."""
        return np.float32(self.strength * self.opening) * self.vector

    @classmethod
    def of_vectors(cls, additions: Mapping[int, F32], scope: Scope = "all", pack: str = "given") -> Decision:
        """An open gate that adds these vectors, layer -> float32 (d,), as they are; closed where there are none."""
        layers = tuple(sorted(additions))
        vector = np.stack([additions[layer] for layer in layers]) if layers else np.empty((0, 0), dtype=np.float32)
        return cls(pack, float(bool(layers)), 0.0, np.ones(1, dtype=np.float32), vector, 1.0, layers, scope)


def added_by_layer(decisions: Sequence[Decision]) -> dict[int, F32]:
    """Sum of the additions of all open decisions, by layer: float32, (d,)."""
    additions: dict[int, F32] = {}
    for d in decisions:
        if d.is_open:
            for layer, addition in zip(d.layers, d.addition, strict=True):
                additions[layer] = additions[layer] + addition if layer in additions else addition
    return additions


def steered_from(decisions: Sequence[Decision], prompt: Prompt) -> int | None:
    """The first position that open decisions steer; None where all are closed."""
    scope = next((d.scope for d in decisions if d.is_open), None)
    return None if scope is None else first_steered(scope, prompt)


def first_steered(scope: Scope, prompt: Prompt) -> int:
    """Where a scope begins: with the prompt, with its current turn, or with its last token, which predicts the first generated one."""
    return {"all": 0, "turn": prompt.turn_start, "prompt": 0, "generation": len(prompt.tokens) - 1}[scope]


def steers_prompt_alone(decisions: Sequence[Decision]) -> bool:
    """Whether what is generated stays unsteered."""
    return any(d.is_open and d.scope == "prompt" for d in decisions)
