"""What Ollama's clients ask about models: `/api/version`, `/api/tags`, `/api/show`, `/api/ps`."""

from __future__ import annotations

import datetime
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse

from fs_local.server.backend import Backend, metadata
from fs_local.server.errors import ApiError
from fs_local.server.requests import StrictRoute, backend_of
from fs_local.server.schemas_ollama import ShowRequest
from fs_local.server.shape import EngineLike

router = APIRouter(route_class=StrictRoute)
_FOLLOWED = "0.12.0"  # the release of Ollama whose API this is: clients refuse older ones


@router.get("/api/version")
async def version() -> JSONResponse:
    """The version of Ollama's API that this is."""
    return JSONResponse({"version": _FOLLOWED})


@router.get("/api/tags")
async def tags(http: HttpRequest) -> JSONResponse:
    """The model, by each of its names."""
    backend = backend_of(http)
    async with backend.using() as engine:
        return JSONResponse({"models": [_entry(backend, engine, name) for name in backend.names()]})


@router.get("/api/ps")
async def loaded(http: HttpRequest) -> JSONResponse:
    """The model, if it is in memory."""
    backend = backend_of(http)
    engine = backend.loaded_engine
    if engine is None:
        return JSONResponse({"models": []})
    never = "9999-12-31T23:59:59Z"
    entry = {
        **_entry(backend, engine, backend.name),
        "expires_at": never,
        "size_vram": 0,
        "context_length": engine.n_ctx,
    }
    return JSONResponse({"models": [entry]})


@router.post("/api/show")
async def show(body: ShowRequest, http: HttpRequest) -> JSONResponse:
    """What there is to know of the model."""
    backend = backend_of(http)
    name = body.model or body.name
    if name is None:
        raise ApiError(400, "the field 'model' is missing", param="model", code="missing_required_parameter")
    backend.asked_for(name)
    async with backend.using() as engine:
        about = metadata(engine)
        architecture = str(about["architecture"])
        return JSONResponse(
            {
                "modelfile": "",
                "parameters": "",
                "template": engine.model.template.source or "",
                "details": _details(engine),
                "model_info": {
                    "general.architecture": architecture,
                    "general.basename": engine.model.name,
                    f"{architecture}.block_count": about["n_layer"],
                    f"{architecture}.context_length": about["n_ctx_train"],
                    f"{architecture}.embedding_length": about["width"],
                    f"{architecture}.vocab_size": about["n_vocab"],
                },
                "capabilities": ["completion"],
                "modified_at": _modified(backend),
            }
        )


def _entry(backend: Backend, engine: EngineLike, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": _modified(backend),
        "size": backend.size,
        "digest": str(engine.model.fingerprint).ljust(64, "0"),
        "details": _details(engine),
    }


def _details(engine: EngineLike) -> dict[str, Any]:
    model = engine.model
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.architecture,
        "families": [model.architecture],
        "parameter_size": "",
        "quantization_level": model.quantization,
    }


def _modified(backend: Backend) -> str:
    return datetime.datetime.fromtimestamp(backend.created, datetime.UTC).isoformat().replace("+00:00", "Z")
