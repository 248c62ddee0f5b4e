"""The exact vector of one query: what a pack adds for it, as a control vector that any tool can set.

λ · g · v of that query's own decision, the very float32 values that the runtime adds. Set as llama.cpp's control vector from the
first token on, with the same model file, they give the logits that the pack gives for this query, bit for bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from converters.vectors import Vectors
from fs_local.errors import DataError, PackError
from fs_local.pack.file import Pack
from fs_local.pack.manifest import SCOPES
from fs_local.steered_model import SteeredModel


def vectors_for(pack: Pack, model: Path, query: str) -> Vectors:
    """Decides a query with the model itself.

    Raises:
        DataError: an empty query.
        PackError: the pack is for another model, or adds nothing for this query.
        ContextFullError: a query longer than the context.
    """
    if not query.strip():
        raise DataError("the query of --for is empty; give the text that the vector is for")
    with SteeredModel.load(model, [pack]) as steered:
        (decision,) = steered.decide(query)
    m = pack.manifest
    if not decision.is_open:
        why = (
            f"its gate is closed for it (energy ratio {decision.energy_ratio:.2f})"
            if decision.opening == 0
            else "its strength is 0"
        )
        raise PackError(
            f"pack {m.name} adds nothing for this query: {why}, so there is no vector, and nothing was written; choose a query "
            "that it steers, or leave out --for to get the pack's mean vector"
        )
    addition = decision.addition
    if not np.isfinite(addition).all() or not addition.any():
        raise PackError(f"pack {m.name} gives no usable vector for this query at strength {decision.strength:g}")
    lost = ["all other queries: set as a control vector, it steers each of them as it does this one"]
    if m.steer.scope != "all":
        lost.append(
            f"the scope ({SCOPES[m.steer.scope]}), and with it exactness: the vector steers all positions, unless the other tool says otherwise"
        )
    directions = dict(zip(decision.layers, addition, strict=True))
    return Vectors(directions, m.model.architecture, f"fs-local {m.method}, for one query", tuple(lost))
