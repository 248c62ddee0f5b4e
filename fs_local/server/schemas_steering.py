"""The steering object of a request and of a response: strict, names only, never a vector."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fs_local.server.limits import MAX_STRENGTH

Name = Annotated[str, Field(min_length=1, max_length=200)]
Strength = Annotated[float, Field(ge=-MAX_STRENGTH, le=MAX_STRENGTH)]
Explain = Literal["none", "summary", "full"]


class Strict(BaseModel):
    """What a client sends: nothing unknown, nothing converted, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PackUse(Strict):
    """How one pack is used for one request. Without a strength, the pack's own."""

    strength: Strength | None = None
    enabled: bool | None = None


class Steering(Strict):
    """The `steering` field of a request.

    Attributes:
        mode: `off` answers as the model is.
        packs: by name, what differs from the server's settings.
        explain: what the response says of the decisions: nothing, what was decided, or also how the experts were weighted.
        exact: decode this request alone: bit for bit what the library gives.
    """

    mode: Literal["auto", "off"] = "auto"
    packs: dict[Name, PackUse] = Field(default={}, max_length=64)
    explain: Explain = "summary"
    exact: bool = False


class Carried(BaseModel):
    """What one reading at one block carried of a linear gate's margin."""

    layer: int
    reading: str
    part: float


class DecisionShown(BaseModel):
    """What one query got from one pack. `carried`, whose parts add up to the margin, and `weights`, of the experts, only where asked for."""

    pack: str
    digest: str
    open: bool
    opening: float
    energy_ratio: float
    margin: float | None = None
    strength: float
    layers: list[int]
    carried: list[Carried] | None = None
    weights: list[float] | None = None


class SteeringShown(BaseModel):
    """The `steering` object of a response. `applied`: whether any gate opened."""

    applied: bool
    decisions: list[DecisionShown]


class PackShown(BaseModel):
    """A pack that is loaded."""

    name: str
    digest: str
    method: str
    enabled: bool
    strength: float
    fitted_strength: float
    layers: list[int]
    gate: str
    gate_layers: list[int]
    scope: str
    experts: int
    fitted_for: str


class PackList(BaseModel):
    """`GET /v1/steering/packs`"""

    object: Literal["list"] = "list"
    model: str
    data: list[PackShown]


class PackChange(Strict):
    """`PATCH /v1/steering/packs/{name}`: what is to be different for all requests from now on."""

    strength: Strength | None = None
    enabled: bool | None = None


class Empty(Strict):
    """A body with nothing in it."""
