"""Answers by a JSON schema, or by a grammar with schemas in it: llguidance says before each token which ones may come."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
from anyio.to_thread import run_sync

from fs_local.engine import TokenMask
from fs_local.errors import FsLocalError
from fs_local.server.backend import Backend
from fs_local.server.errors import ApiError
from fs_local.server.limits import MAX_SCHEMA_CHARACTERS, MAX_SCHEMA_DEPTH, SCHEMA_SECONDS
from fs_local.server.schema_trial import compile_grammar, lark_grammar, schema_grammar
from fs_local.server.shape import EngineLike

ANY_OBJECT: dict[str, Any] = {"type": "object"}
_HOME = Path(__file__).parents[2]
_KEPT = 256
_tried: OrderedDict[bytes, str | None] = OrderedDict()
"""digest of a grammar -> what is wrong with it"""
_one_trial = anyio.CapacityLimiter(2)


async def mask_for(backend: Backend, engine: EngineLike, schema: Any, param: str) -> TokenMask:
    """The masks of an answer that follows a schema.

    Raises:
        ApiError: 400, a schema that is too large, unusable, or takes too long.
    """
    _check(schema, param)
    try:
        grammar = schema_grammar(schema)
    except ValueError as error:
        raise _unusable("it is no object", param) from error
    return await _compiled(backend, engine, grammar, param)


async def mask_of_lark(
    backend: Backend, engine: EngineLike, lark: str, schemas: Sequence[Any], param: str
) -> TokenMask:
    """The masks of an answer that follows a grammar of ours, with these schemas of a stranger's in it. Raises as `mask_for`."""
    for schema in schemas:
        _check(schema, param)
    return await _compiled(backend, engine, lark_grammar(lark), param)


def _check(schema: Any, param: str) -> None:
    if len(json.dumps(schema)) > MAX_SCHEMA_CHARACTERS:
        raise _unusable(f"it has more than {MAX_SCHEMA_CHARACTERS:,} characters", param)
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        raise _unusable(f"it is nested more than {MAX_SCHEMA_DEPTH} levels deep", param)


async def _compiled(backend: Backend, engine: EngineLike, grammar: str, param: str) -> TokenMask:
    problem = await _try(grammar)
    if problem is not None:
        raise _unusable(problem, param)
    tokenizer = await backend.once(_tokenizer, engine)
    try:
        return await run_sync(_Mask, tokenizer, grammar)
    except ValueError as error:
        raise _unusable(str(error), param) from error


class _Mask:
    """Called with the tokens of the answer so far; gives the next one's mask, a bit a token, the lowest bit first."""

    def __init__(self, tokenizer: Any, grammar: str) -> None:
        self._matcher = compile_grammar(tokenizer, grammar)
        self._consumed = 0

    def __call__(self, tokens: Sequence[int]) -> bytes:
        if len(tokens) < self._consumed:
            self._matcher.reset()
            self._consumed = 0
        new = list(tokens[self._consumed :])
        self._consumed = len(tokens)
        if new and not self._matcher.is_stopped():
            self._matcher.consume_tokens(new)
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise FsLocalError("the answer can't go on by this schema: it became too complex")
        return mask


class _Vocabulary:
    """The model's tokens as llguidance has them: control tokens begin with a byte that no text has."""

    bos_token_id = None

    def __init__(self, model: Any) -> None:
        self._tokenize = model.tokenize
        self.eos_token_id = model.end_tokens[0]
        self.tokens = [model.piece(i) or b"\xff<|%d|>" % i for i in range(model.n_vocab)]
        self.special_token_ids = [i for i, text in enumerate(self.tokens) if text.startswith(b"\xff<|")]

    def __call__(self, text: bytes) -> list[int]:
        return list(self._tokenize(text.decode("utf-8", "replace"), special=False))


def _tokenizer(engine: EngineLike) -> Any:
    import llguidance

    model = engine.model
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Vocabulary(model)), eos_token=list(model.end_tokens))


async def _try(grammar: str) -> str | None:
    """What is wrong with a grammar, found in a process of its own; what was found is kept."""
    digest = hashlib.sha256(grammar.encode()).digest()
    if digest in _tried:
        _tried.move_to_end(digest)
        return _tried[digest]
    problem = await run_sync(_run_trial, grammar, limiter=_one_trial)
    _tried[digest] = problem
    if len(_tried) > _KEPT:
        _tried.popitem(last=False)
    return problem


def _run_trial(grammar: str) -> str | None:
    try:
        found = subprocess.run(
            [sys.executable, "-m", "fs_local.server.schema_trial"],
            input=grammar.encode(),
            capture_output=True,
            timeout=SCHEMA_SECONDS,
            check=True,
            cwd=_HOME,
        )
        problem: str | None = json.loads(found.stdout)
        return problem
    except subprocess.TimeoutExpired:
        return f"compiling it takes more than {SCHEMA_SECONDS:g} seconds"
    except (subprocess.CalledProcessError, ValueError):
        return "it can't be compiled"


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [x for v in level for x in (v.values() if isinstance(v, dict) else v if isinstance(v, list) else ())]
    return depth


def _unusable(why: str, param: str) -> ApiError:
    return ApiError(400, f"this JSON schema can't be followed: {why}", param=param, code="invalid_json_schema")
