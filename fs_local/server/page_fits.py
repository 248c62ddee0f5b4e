"""`/v1/page/fits`: a pack from a lesson, while chats go on; and `/v1/page/packs`: what packs are about."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from fs_local.demo_lesson import demo_rows
from fs_local.errors import FsLocalError
from fs_local.lessons import Lessons, can_fit, missing
from fs_local.server.backend import ServedPack
from fs_local.server.errors import ApiError
from fs_local.server.fits import Fits, How
from fs_local.server.requests import StrictRoute, backend_of
from fs_local.server.schemas_steering import Empty, Name, Strict

router = APIRouter(route_class=StrictRoute)
_REPORT_SECURITY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; sandbox"
DEMO = "refusal"


class NewFit(Strict):
    """The lesson, and how it is fitted (`Fit.how`)."""

    lesson: Name
    how: How = "usual"


class Kept(Strict):
    """A pack that is kept here."""

    pack: Name


def _fits(http: HttpRequest) -> Fits:
    fits: Fits = http.app.state.fits
    return fits


@router.get("/v1/page/fits")
async def state(http: HttpRequest) -> JSONResponse:
    """The fit under way, or the last one."""
    now = _fits(http).now
    return JSONResponse({"fit": None if now is None else asdict(now)})


@router.post("/v1/page/fits", status_code=202)
async def start(body: NewFit, http: HttpRequest) -> JSONResponse:
    """Begins one."""
    rows = await run_in_threadpool(Lessons(http.app.state.database).rows, body.lesson)
    if not can_fit(rows):
        raise ApiError(400, " ".join(missing(rows)), code="too_few_examples")
    return JSONResponse({"fit": asdict(_fits(http).start(body.lesson, rows, body.how))}, 202)


@router.delete("/v1/page/fits")
async def cancel(http: HttpRequest) -> JSONResponse:
    """Ends the one under way."""
    await _fits(http).cancel()
    return await state(http)


@router.post("/v1/page/fits/restore")
async def restore(body: Kept, http: HttpRequest) -> JSONResponse:
    """Puts a pack's former one back into service, and keeps this one as the former."""
    try:
        await _fits(http).restore(body.pack)
    except FsLocalError as error:
        raise ApiError(409, f"the former {body.pack!r:.80} can't be had back: {error}") from error
    return await packs(http)


@router.post("/v1/page/fits/load")
async def load(body: Kept, http: HttpRequest) -> JSONResponse:
    """Puts a pack that an earlier server fitted into service."""
    try:
        await backend_of(http).put_pack(ServedPack.load(_fits(http).place(body.pack)))
    except FsLocalError as error:
        raise ApiError(409, f"{body.pack!r:.80} can't be loaded: {error}") from error
    return await packs(http)


@router.get("/v1/page/fits/report")
async def report(pack: str, http: HttpRequest) -> Response:
    """The page that a fit wrote about a pack."""
    path = _fits(http).place(pack, "report")
    if not path.exists():
        raise ApiError(404, f"there is no report of {pack!r:.80}")
    return Response(path.read_bytes(), media_type="text/html", headers={"Content-Security-Policy": _REPORT_SECURITY})


@router.post("/v1/page/demo", status_code=201)
def demo(body: Empty, http: HttpRequest) -> JSONResponse:
    """The lesson that comes with the product, ready to be fitted."""
    lessons = Lessons(http.app.state.database)
    if DEMO not in [s.name for s in lessons.all()]:
        lessons.create(DEMO)
        lessons.add(DEMO, demo_rows())
    return JSONResponse({"name": DEMO}, 201)


@router.get("/v1/page/packs")
async def packs(http: HttpRequest) -> JSONResponse:
    """The packs in service, and for the owner what their experts are about, and those that earlier servers fitted for this model."""
    backend, fits, is_owner = backend_of(http), _fits(http), bool(http.state.is_owner)
    engine = backend.loaded_engine
    shown = [_shown(p, fits, is_owner) for p in backend.packs.values()]
    fingerprint = engine.model.fingerprint if engine is not None else None
    kept = await run_in_threadpool(_kept, fits, set(backend.packs), fingerprint) if is_owner else []
    return JSONResponse({"model": backend.name, "is_owner": is_owner, "packs": shown, "kept": kept})


def _shown(pack: ServedPack, fits: Fits, is_owner: bool) -> dict[str, Any]:
    manifest, gate = pack.pack.manifest, pack.pack.gate
    return {
        "name": pack.name,
        "enabled": pack.enabled,
        "strength": manifest.steer.strength if pack.strength is None else pack.strength,
        "fitted_strength": manifest.steer.strength,
        "gate": {"kind": gate.kind, "edge": gate.edge, "ratio_threshold": gate.ratio_threshold},
        "gate_layers": list(manifest.gate.layers),
        "readings": list(manifest.gate.readings),
        "layers": list(manifest.steer.layers),
        "experts": [{"pairs": e.pairs, "queries": e.queries if is_owner else []} for e in manifest.experts],
        "figures": manifest.figures.model_dump(include={"auroc", "open_ir", "open_general"}),
        "has_former": fits.place(pack.name, "former").exists(),
        "has_report": fits.place(pack.name, "report").exists(),
    }


def _kept(fits: Fits, served: set[str], fingerprint: str | None) -> list[str]:
    names = []
    for path in sorted(fits.folder.glob("*.fspack")):
        if path.name.endswith(".former.fspack"):
            continue
        try:
            manifest = ServedPack.load(path).pack.manifest
        except (FsLocalError, OSError):
            continue
        if manifest.name not in served and manifest.model.fingerprint == fingerprint:
            names.append(manifest.name)
    return names
