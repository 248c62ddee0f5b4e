"""The steering of one request: from its model's name, its header and its field to what the engine takes, and back to what is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest

from fs_local.engine import Steer
from fs_local.server.backend import UNSTEERED, Backend
from fs_local.server.errors import ApiError
from fs_local.server.schemas_steering import Explain, Steering
from fs_local.server.shape import Decision

_DEFAULT = Steering()


@dataclass(frozen=True)
class Asked:
    """What a request asked for. `model` is the name it gave."""

    model: str
    steer: Steer
    explain: Explain


def asked_steering(backend: Backend, http: HttpRequest, model: str | None, field: Steering | None) -> Asked:
    """What the three places say together: any of them may turn steering off, and the field says the rest.

    Raises:
        ApiError: 404 for an unknown model; 400 for an unknown pack, a disabled one that is asked for, or an unknown header.
    """
    model = backend.name if model is None else model
    suffix = backend.asked_for(model)
    field = field or _DEFAULT
    header = http.headers.get("x-steering", "auto").strip().lower()
    if header not in ("auto", "off"):
        raise ApiError(400, "the header X-Steering says off or auto", param="X-Steering", code="invalid_value")
    for name, use in field.packs.items():
        if name not in backend.packs:
            raise ApiError(400, f"there is no pack {name!r:.80} here", param="steering.packs", code="pack_not_found")
        if use.enabled and not backend.packs[name].enabled:
            raise ApiError(400, f"the pack {name!r:.80} is disabled on this server", param="steering.packs")
    off = {name for name, use in field.packs.items() if use.enabled is False}
    if suffix not in (None, UNSTEERED):
        off |= {
            name for name in backend.packs if name != suffix and not getattr(field.packs.get(name), "enabled", None)
        }
    strengths = {name: use.strength for name, use in field.packs.items() if use.strength is not None}
    enabled = field.mode == "auto" and header == "auto" and suffix != UNSTEERED
    return Asked(model, Steer(enabled, strengths, frozenset(off), field.exact), field.explain)


def shown_decisions(backend: Backend, decisions: Iterable[Decision], explain: Explain) -> list[dict[str, Any]]:
    """Decisions as JSON. Vectors never leave."""
    shown = []
    for decision in decisions:
        pack = backend.packs.get(decision.pack)
        entry: dict[str, Any] = {
            "pack": decision.pack,
            "digest": pack.digest if pack else "",
            "open": bool(decision.is_open),
            "opening": float(decision.opening),
            "energy_ratio": float(decision.energy_ratio),
            "strength": float(decision.strength),
            "layers": [int(x) for x in decision.layers],
        }
        if math.isfinite(decision.margin):
            entry["margin"] = float(decision.margin)
        if explain == "full":
            entry["carried"] = [
                {"layer": layer, "reading": reading, "part": part} for layer, reading, part in decision.carried
            ]
            entry["weights"] = [float(x) for x in decision.weights]
        shown.append(entry)
    return shown


def shown_steering(backend: Backend, decisions: Iterable[Decision], explain: Explain) -> dict[str, Any]:
    """The `steering` object of a response, to be merged into its root: empty where it was not asked for."""
    if explain == "none":
        return {}
    shown = shown_decisions(backend, decisions, explain)
    return {"steering": {"applied": any(d["open"] for d in shown), "decisions": shown}}
