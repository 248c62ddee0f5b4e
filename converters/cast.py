"""Conditional activation steering (CAST): a behaviour `.svec` that is added where a condition `.svec` is met.

Settled from github.com/IBM/activation-steering, leash_layer.py and malleable_model.py at d5f4412:

- `_process_single_condition` checks a condition on the *input* of layer N (`condition_layer_ids`), which is after block N−1 here, with
  `directions[N]`: `sim = cos(h, tanh((c cᵀ / c·c) h))`, once, in the first pass over the prompt; `h` is the mean over the prompt's
  positions (`condition_threshold_comparison_mode="mean"`, the default) or its last one (`"last"`).
- `condition_comparator_threshold_is` says what the *threshold* is: "smaller" is met where `sim > θ`, "larger" where `sim < θ`. (Its
  docstring reads the other way round; the code and the tutorial's "steer when the threshold is {larger} than the similarity" agree.)
- Once met, the behaviour is added at each of its layers, prompt and generation. Layers before N have by then passed the prompt, so
  they act from the first generated token on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from converters.layers import ranges
from converters.pack_of_parts import PackParts, vector_parts
from converters.vectors import Vectors
from fs_local.errors import DataError
from fs_local.method.folded import Gate

Comparator = Literal["larger", "smaller"]
Comparison = Literal["mean", "last"]


@dataclass(frozen=True)
class Condition:
    """A condition vector's file, and the condition point that activation-steering is given at run time.

    Attributes:
        layer: N, as activation-steering counts. threshold: θ. comparator: what θ is, in the similarity's stead.
        comparison: what is compared, the mean over the prompt's positions or its last one.
    """

    path: Path
    layer: int
    threshold: float
    comparator: Comparator
    comparison: Comparison = "mean"


def conditional(behaviour: Vectors, path: Path, directions: Vectors, condition: Condition) -> PackParts:
    """A behaviour vector, and the gate that its condition makes.

    Args:
        path: the behaviour's file.
        directions: of the condition's file.

    Raises:
        DataError: no direction for the condition's layer, vectors of two widths, or a threshold that no similarity can have.
    """
    if not -1 <= condition.threshold <= 1:
        raise DataError(f"--threshold is compared with a cosine, so it is from -1 to 1; got {condition.threshold:g}")
    if condition.layer < 1:
        raise DataError(
            "activation-steering's layer 0 is checked on the embeddings, before any block, which a pack can't do"
        )
    (block, c), *_ = directions.only(condition.path, frozenset([condition.layer])).directions.items()
    if len(c) != behaviour.width:
        raise DataError(
            f"{condition.path} has width {len(c)}, and the behaviour vector {behaviour.width}; both must be of one model"
        )
    if not c.any():
        raise DataError(f"{condition.path} has only zeros for layer {condition.layer}, which nothing is similar to")
    above = condition.comparator == "smaller"
    plain = vector_parts(behaviour, path)
    gate = Gate(
        kind="cosine_above" if above else "cosine_below",
        mean=np.zeros_like(c),
        basis=np.empty((0, len(c)), dtype=np.float32),
        knots=np.empty(0, dtype=np.float32),
        coef=c,
        intercept=0.0,
        edge=condition.threshold if above else -condition.threshold,
        decay=1.0,
    )
    lost = []
    early = [n for n in (block + behaviour.block_0 for block in behaviour.directions) if n < condition.layer]
    if early:
        lost.append(
            f"that layers {ranges(early)} leave the prompt alone, being before the condition's: the pack steers the prompt there too"
        )
    return PackParts(
        method="cast",
        gate=gate,
        gate_layers=[block],
        gate_readings=[condition.comparison],
        experts=plain.experts,
        layers=plain.layers,
        files={**plain.files, "condition": (1, condition.path)},
        said=plain.said,
        model_hint=plain.model_hint,
        lost=(*behaviour.lost, *lost),
    )
