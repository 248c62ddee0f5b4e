"""The manifest: what a pack says of itself, as strict schemas."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT_VERSION: Literal[1] = 1
MAX_STRENGTH = 100

Layer = Annotated[int, Field(ge=0, lt=1024)]
Share = Annotated[float, Field(ge=0, le=1)]
Scope = Literal["all", "generation"]
"""`all`: every position, prompt and generation. `generation`: from the last prompt token on, which predicts the first generated one."""


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
    """The scalars of `fs_local.method.folded.Gate`, and the layer whose states it takes."""

    kind: Literal["quantile", "logistic", "soft"]
    layer: Layer
    edge: Annotated[float, Field(gt=0, le=1)]
    decay: Annotated[float, Field(gt=0, le=100)]
    intercept: float


class SteerSettings(_Strict):
    """Where and how strongly a pack steers: after `layer`, by `strength` (λ) × opening × v."""

    layer: Layer
    strength: Annotated[float, Field(ge=-MAX_STRENGTH, le=MAX_STRENGTH)]
    scope: Scope


class DataDigest(_Strict):
    """Rows and SHA-256 of a file that a pack was fitted on."""

    rows: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ExpertAbout(_Strict):
    """What an expert is about: how many training pairs are its own, and the queries nearest to it."""

    pairs: Annotated[int, Field(ge=0)]
    queries: list[str]


class StrengthTrial(_Strict):
    """One layer and strength that the fit tried, on queries it was not fitted on.

    Attributes:
        layer: steered block. strength: λ.
        margin: mean log-probability per token of preferred less undesired answers (nats).
        repeated: share of repeated words in generated answers.
        perplexity_ratio: perplexity of generated answers under the unsteered model, over that of unsteered answers.
    """

    layer: Layer
    strength: float
    margin: float
    repeated: float
    perplexity_ratio: float
    within_budget: bool


class Figures(_Strict):
    """Figures from the fit.

    Attributes:
        open_ir, open_general, auroc: of the gate, by cross-fitted scores: each query scored by a gate that was fitted without it. The
            gate's threshold was placed on these same scores.
        validation_error: `mean ‖v(h) − δ‖²` of the experts on held-out pairs, which also stopped their training;
            constant_error: the same of the constant mean vector.
        unsteered_margin: the margin of `trials` without steering.
    """

    open_ir: Share
    open_general: Share | None
    auroc: Share | None
    validation_error: Annotated[float, Field(ge=0)]
    constant_error: Annotated[float, Field(ge=0)]
    unsteered_margin: float
    trials: list[StrengthTrial]


class Manifest(_Strict):
    """`manifest.json` of a pack."""

    format: Literal["fspack"] = "fspack"
    version: Literal[1] = FORMAT_VERSION
    method: Literal["finesteer"] = "finesteer"
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
