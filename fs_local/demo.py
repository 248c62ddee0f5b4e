"""The whole way on real input: fit a refusal pack from the examples that ship with the project, and see what it changes."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fs_local.engine import Decision
from fs_local.examples import Query, read_pairs, read_queries
from fs_local.fitting import Examples, FitOptions, fit
from fs_local.generation import GenerationOptions
from fs_local.model_files import resolve_model
from fs_local.pack.file import Pack
from fs_local.progress import Progress
from fs_local.refusals import is_refusal
from fs_local.runtime.model import Model
from fs_local.steered_model import SteeredModel

DATA = Path(str(importlib.resources.files("fs_local"))) / "demo_data"
ANSWER_TOKENS = 32


@dataclass(frozen=True)
class Shown:
    """One unseen query: its kind (`IR` or `general`), its decision, and both answers."""

    kind: str
    query: Query
    decision: Decision
    unsteered: str
    steered: str


@dataclass(frozen=True)
class Counts:
    """What the demo comes to: refusals among the unseen IR queries, and general queries whose gate stayed closed."""

    ir: int
    refused_unsteered: int
    refused_steered: int
    general: int
    general_closed: int

    @classmethod
    def of(cls, shown: Sequence[Shown]) -> Counts:
        ir, general = ([s for s in shown if s.kind == kind] for kind in ("IR", "general"))
        return cls(
            len(ir),
            sum(is_refusal(s.unsteered) for s in ir),
            sum(is_refusal(s.steered) for s in ir),
            len(general),
            sum(not s.decision.is_open for s in general),
        )


def demo_examples() -> Examples:
    """96 pairs about refusing, and 96 general queries."""
    pairs, pairs_file = read_pairs(DATA / "refusal_pairs.jsonl")
    general, general_file = read_queries(DATA / "general.jsonl")
    return Examples(pairs, general={"general": general}, files={"pairs": pairs_file, "general": general_file})


def fit_demo_pack(model: str | Path, progress: Progress | None = None) -> Pack:
    """Fits the refusal pack with a model."""
    with Model.load(resolve_model(model)) as loaded:
        # one layer, no residual and no background, to be quick: a whole search takes several minutes more
        options = FitOptions(name="refusal", layers=(max(1, loaded.n_layer // 3),), residual_rank=0, background=False)
        return fit(loaded, demo_examples(), options, progress).pack


def show_unseen(model: str | Path, pack: Pack, progress: Progress | None = None) -> Iterator[Shown]:
    """Answers queries that the pack was not fitted on, unsteered and steered."""
    unseen = [
        (kind, q)
        for kind, name in (("IR", "unseen_ir"), ("general", "unseen_general"))
        for q in read_queries(DATA / f"{name}.jsonl")[0]
    ]
    options = GenerationOptions(max_tokens=ANSWER_TOKENS)
    with SteeredModel.load(model, [pack]) as steered_model:
        for i, (kind, query) in enumerate(unseen):
            steered = steered_model.generate(query, options)
            plain = steered_model.generate(query, options, steered=False).text
            if progress is not None:
                progress("answer unseen", i + 1, len(unseen))
            yield Shown(kind, query, steered.decisions[0], plain.strip(), steered.text.strip())
