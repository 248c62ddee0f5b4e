"""`/tokenize` and `/detokenize`, as llama.cpp's server has them."""

from __future__ import annotations

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import Field
from starlette.responses import JSONResponse

from fs_local.server.errors import ApiError
from fs_local.server.prompts import check_size
from fs_local.server.requests import StrictRoute, backend_of
from fs_local.server.schemas_steering import Strict

router = APIRouter(route_class=StrictRoute)


class TokenizeRequest(Strict):
    """A text. `add_special`: with the token that the vocabulary puts in front. `parse_special`: control tokens out of their text."""

    content: str
    add_special: bool = False
    parse_special: bool = False


class DetokenizeRequest(Strict):
    """Tokens."""

    tokens: Annotated[list[int], Field(max_length=1 << 18)]


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, http: HttpRequest) -> JSONResponse:
    """The tokens of a text."""
    async with backend_of(http).using() as engine:
        check_size(engine, [body.content], "content")
        model = engine.model
        tokens = await run_sync(
            lambda: model.tokenize(body.content, special=body.parse_special, add_bos=body.add_special)
        )
    return JSONResponse({"tokens": list(tokens)})


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, http: HttpRequest) -> JSONResponse:
    """The text of tokens; control tokens have none."""
    async with backend_of(http).using() as engine:
        if not all(0 <= t < engine.model.n_vocab for t in body.tokens):
            raise ApiError(
                400, f"tokens are from 0 to {engine.model.n_vocab - 1}", param="tokens", code="invalid_value"
            )
        return JSONResponse({"content": await run_sync(engine.model.text, body.tokens)})
