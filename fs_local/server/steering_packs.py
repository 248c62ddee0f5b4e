"""`/v1/steering/packs`: what is loaded, and, for the admin, what of it all requests get."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from fs_local.server.backend import ServedPack
from fs_local.server.requests import StrictRoute, backend_of
from fs_local.server.schemas_steering import Empty, PackChange, PackList, PackShown

router = APIRouter(route_class=StrictRoute)


@router.get("/v1/steering/packs")
async def packs(http: HttpRequest) -> PackList:
    """All packs, in their order."""
    backend = backend_of(http)
    return PackList(model=backend.name, data=[_shown(p) for p in backend.packs.values()])


@router.patch("/v1/steering/packs/{name}")
async def change(name: str, body: PackChange, http: HttpRequest) -> PackShown:
    """Sets a pack's strength, or enables or disables it, for all requests from now on that don't say otherwise."""
    return _shown(await backend_of(http).change_pack(name, strength=body.strength, enabled=body.enabled))


@router.post("/v1/steering/packs/{name}/reload")
async def reload(name: str, body: Empty, http: HttpRequest) -> PackShown:
    """Reads a pack's file again. Requests under way end with the old one; a file that can't be used changes nothing."""
    return _shown(await backend_of(http).reload_pack(name))


def _shown(pack: ServedPack) -> PackShown:
    manifest = pack.pack.manifest
    return PackShown(
        name=pack.name,
        digest=pack.digest,
        method=manifest.method,
        enabled=pack.enabled,
        strength=manifest.steer.strength if pack.strength is None else pack.strength,
        fitted_strength=manifest.steer.strength,
        layers=list(manifest.steer.layers),
        gate=manifest.gate.kind,
        gate_layers=list(manifest.gate.layers),
        scope=manifest.steer.scope,
        experts=len(manifest.experts),
        fitted_for=manifest.model.name,
    )
