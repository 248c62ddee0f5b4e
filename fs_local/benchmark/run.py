"""The table of figures: each beside that of llama.cpp alone, both sides in turns in one process."""

from __future__ import annotations

from pathlib import Path

from fs_local.benchmark import footprint, offline, online
from fs_local.benchmark.figures import Report, Stage, measured
from fs_local.benchmark.packs import steered_layer, synthetic_pack
from fs_local.benchmark.turns import Budget
from fs_local.model_files import resolve_model
from fs_local.pack.file import Pack
from fs_local.progress import Progress, untold
from fs_local.runtime.context import MICRO_BATCH
from fs_local.runtime.model import Model
from fs_local.steering import check_model


def bench(
    model: str, pack: Path | None = None, budget: Budget | None = None, progress: Progress | None = None
) -> Report:
    """Measures everything; some three minutes with a small model.

    Args:
        budget: for each comparison, of at most 15 pairs (3,000 of single tokens) unless it asks for more.
        pack: whose experts and layer are used, behind a gate that is held open or closed; None for a synthetic one of the model's shape.

    Raises:
        ModelError, PackError: as `SteeredModel.load`.
    """
    budget = budget or Budget()
    path = resolve_model(model)
    with Model.load(path) as loaded:
        base = synthetic_pack(loaded) if pack is None else Pack.load(pack)
        check_model(base, loaded)
        stages: list[Stage] = [
            ("decoding", lambda: online.decoding(loaded, base, budget)),
            ("prefill", lambda: online.prefill(loaded, base, budget)),
            ("first token", lambda: online.first_token(loaded, base, budget)),
            ("many at once", lambda: online.many(loaded, base, budget)),
            ("decision", online.decision),
            ("conversation", lambda: online.second_turn(path, base)),
            ("capture", lambda: offline.capturing(loaded, budget)),
            ("fit", offline.fitting),
            ("scores", lambda: offline.scoring(loaded, budget)),
            ("memory", lambda: footprint.memory(path, base)),
            ("sizes", lambda: footprint.sizes(base)),
            ("start", footprint.start),
        ]
        used = "synthetic pack" if pack is None else f"pack {base.manifest.name}"
        settings = f"micro-batches of {MICRO_BATCH} tokens, {used}, steered after block {steered_layer(base)}"
        return measured(loaded, settings, stages, progress or untold)
