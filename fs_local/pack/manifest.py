"""The manifest: what a pack says of itself, as strict schemas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from fs_local.choices import ExpertForm, FitMethod, Scope
from fs_local.method.folded import Gate, GateKind
from fs_local.method.readings import Reading

FORMAT_VERSION: Literal[5] = 5
READ_VERSIONS = (3, 4, 5)
"""Version 3 had no readings: its gates take the last token's state. The experts of version 4 take it after the first steered block."""
MAX_STRENGTH = 100

Layer = Annotated[int, Field(ge=0, lt=1024)]
Layers = Annotated[list[Layer], Field(min_length=1, max_length=1024)]
"""Ascending."""
Share = Annotated[float, Field(ge=0, le=1)]
Method = Literal[FitMethod, "vector"]
"""`vector`: a control vector that another tool made."""
METHODS: tuple[FitMethod, ...] = get_args(FitMethod)
EffectKind = Literal["refusal", "mc2", "preference"]
EFFECTS: dict[EffectKind | None, str] = {
    "refusal": "refuses",
    "mc2": "probability of the preferred answers",
    "preference": "probability of the preferred answers, a token",
    None: "",
}
"""In words."""
SCOPES: dict[Scope, str] = {
    "all": "prompt and generation",
    "turn": "the current turn and generation",
    "prompt": "the prompt alone",
    "generation": "generation alone",
}
"""In words."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelIdentity(_Strict):
    """The model a pack was fitted with. `fingerprint` is the same over its quantizations."""

    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    name: str
    architecture: str
    n_layer: Annotated[int, Field(ge=1, le=1024)]
    width: Annotated[int, Field(ge=1, le=1 << 20)]
    quantization: str


class GateSettings(_Strict):
    """The scalars of `fs_local.method.folded.Gate`, and what it takes: the readings at the first layer, then those at the next."""

    kind: GateKind
    layers: Layers
    readings: Annotated[list[Reading], Field(min_length=1, max_length=4)] = ["last"]
    edge: Annotated[float, Field(ge=-1, le=1)]
    decay: Annotated[float, Field(gt=0, le=100)]
    intercept: float

    @classmethod
    def of(cls, gate: Gate, layers: Sequence[int], readings: Sequence[Reading] = ("last",)) -> GateSettings:
        """Those of a gate that takes these readings after these blocks."""
        scalars = {name: getattr(gate, name) for name in ("kind", "edge", "decay", "intercept")}
        return cls(layers=list(layers), readings=list(readings), **scalars)


class SteerSettings(_Strict):
    """Where and how strongly a pack steers: after each of `layers`, by `strength` (λ) × opening × v.

    v comes from the query's readings after each of `reads`; None: after the first of `layers`.
    """

    layers: Layers
    reads: Layers | None = None
    readings: Annotated[list[Reading], Field(min_length=1, max_length=4)] = ["last"]
    strength: Annotated[float, Field(ge=-MAX_STRENGTH, le=MAX_STRENGTH)]
    scope: Scope

    @property
    def read_layers(self) -> list[int]:
        """The blocks whose states the experts take."""
        return self.layers[:1] if self.reads is None else self.reads


class DataDigest(_Strict):
    """Rows and SHA-256 of a file that a pack was fitted on."""

    rows: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ExpertAbout(_Strict):
    """What an expert is about: how many training pairs are its own, and the queries nearest to it."""

    pairs: Annotated[int, Field(ge=0)]
    queries: list[str]


class Trial(_Strict):
    """One setting that the fit tried, on pairs it was not fitted on, their gates taken as open.

    Attributes:
        pairs: how many.
        layers: steered blocks. strength: λ. experts: K. residual: rank of the residual, or of a map.
        form: what FineSteer's experts were; None for the other methods.
        effect: share of the effect, as `Figures.effect_kind` says.
        repeated: share of repeated words in generated answers. distinct_bigrams: share of their pairs of neighbouring words that are
            distinct; None in older packs.
        perplexity_ratio: perplexity of generated answers under the unsteered model, over that of unsteered answers.
    """

    pairs: Annotated[int, Field(ge=1)]
    layers: Layers
    strength: float
    experts: Annotated[int, Field(ge=1)]
    residual: Annotated[int, Field(ge=0)]
    form: ExpertForm | None = None
    effect: Share
    repeated: float
    distinct_bigrams: float | None = None
    perplexity_ratio: float
    within_budget: bool


class GateTrial(_Strict):
    """One gate that the fit tried, by cross-fitted scores: AUROC, and shares of queries it opens for at its operating point."""

    kind: str
    layers: Layers
    rank: Annotated[int, Field(ge=0)]
    auroc: Share
    open_ir: Share
    open_general: Share


class Roc(_Strict):
    """The gate's ROC on cross-fitted scores: share of general queries and of IR queries above each threshold."""

    general: list[Share]
    ir: list[Share]


class Recall(_Strict):
    """Share of IR queries that open the gate where its threshold lets `general` of the general queries open it."""

    general: Share
    ir: Share


class KindFigures(_Strict):
    """How a kind of general query fares.

    Attributes:
        opened: share that opens a gate for which the whole kind was left out, of its fit and of its threshold; low, high: Wilson's
            95 % interval of that.
        opened_seen: share that opens the gate when other rows of the kind were fitted on; the threshold was placed on these scores.
        held: whether the threshold keeps the kind within the budget.
    """

    name: Annotated[str, Field(max_length=200)]
    rows: Annotated[int, Field(ge=1)]
    opened: Share
    low: Share
    high: Share
    opened_seen: Share
    held: bool


class Figures(_Strict):
    """Figures from the fit; None where a method or a conversion has none.

    Attributes:
        open_ir, open_general, auroc, roc, recall: of the gate, by cross-fitted scores. An IR query is scored by a gate that was fitted
            without it and its near twins, a general query by one that saw nothing of its kind. kinds: kind by kind.
        open_ir_in_wraps, open_general_in_wraps: share of queries, put into wraps that the gate was not fitted with, that open it.
        validation_error: `mean ‖v(h) − δ‖²` of the experts on pairs that had no part in the fit; constant_error: the same of the
            constant mean vector.
        effect_kind: what the trials measure. `refusal`: share of refusals among greedy answers. `mc2`: probability of the preferred
            among the given answers (TruthfulQA's MC2). `preference`: the same of each answer's mean token, so that a long one counts no less.
        unsteered_effect: without steering, on the pairs of the last trials. The best of many trials is a lucky one in part, so
            that neither is a figure to report.
        held_out: the chosen setting on pairs that neither fitted nor chose anything; unsteered_held_out: no steering on these.
    """

    open_ir: Share | None = None
    open_general: Share | None = None
    auroc: Share | None = None
    roc: Roc | None = None
    recall: list[Recall] = []
    kinds: list[KindFigures] = []
    open_ir_in_wraps: Share | None = None
    open_general_in_wraps: Share | None = None
    validation_error: Annotated[float, Field(ge=0)] | None = None
    constant_error: Annotated[float, Field(ge=0)] | None = None
    effect_kind: EffectKind | None = None
    unsteered_effect: Share | None = None
    trials: list[Trial] = []
    held_out: Trial | None = None
    unsteered_held_out: Share | None = None
    gate_trials: list[GateTrial] = []


class Manifest(_Strict):
    """`manifest.json` of a pack."""

    format: Literal["fspack"] = "fspack"
    version: Literal[3, 4, 5] = FORMAT_VERSION
    method: Method = "finesteer"
    name: Annotated[str, Field(min_length=1, max_length=200)]
    fitted_by: str
    model: ModelIdentity
    gate: GateSettings
    steer: SteerSettings
    experts: list[ExpertAbout]
    data: dict[str, DataDigest]
    figures: Figures
    seed: int
    digests: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
