"""States that vLLM read: the files of its connector `ExampleHiddenStatesConnector`, and an index of them.

vLLM writes one safetensors a request: `hidden_states` (tokens, layers, d). Which request it was, it does not say; that is in an index,
a JSON file beside them, which `fit --states` takes in place of a states file:

    {"layers": [9, 13],                                       as in vLLM's eagle_aux_hidden_state_layer_ids
     "pairs": ["q0.safetensors", "q1.safetensors"],           the prompts of the pairs' queries, generation prompt included
     "preferred": ["p0.safetensors", "p1.safetensors"],       the same prompts, each with its preferred answer after it
     "undesired": ["u0.safetensors", "u1.safetensors"],
     "ir": [], "general": ["g0.safetensors"], "contrast": []} prompts of further queries; may be missing

vLLM's layer i is the state before block i, so after block i − 1 as counted here. Written after vLLM's documentation (0.20 to 0.24): what
it writes was not at hand. Run vLLM with chunked prefill and prefix caching off: else parts of a prompt are missing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from fs_local.arrays import F32
from fs_local.errors import DataError
from fs_local.files import file_digest
from fs_local.tensor_file import open_safetensors

_NAME = "hidden_states"
_MOST_BYTES = 1 << 24
_PROMPTS, _ANSWERS = ("pairs", "ir", "general", "contrast"), ("preferred", "undesired")
_SAME = 0.98
"""Least cosine of a prompt's last state with and without an answer after it: the same but for rounding, if it is the same prompt."""


def read_index(path: Path) -> tuple[dict[str, dict[int, F32]], str]:
    """States by kind and block, as a states file has them: rows, float32, (n, d); and a SHA-256 of all files.

    Raises:
        DataError: no such index, a file that it names is missing or damaged, or an answer that follows another prompt.
    """
    index = _index(path)
    layers = [i - 1 for i in index.pop("layers")]
    found: dict[str, dict[int, F32]] = {kind: {} for kind in (*_PROMPTS, *_ANSWERS)}
    prompts: list[F32] = []
    digest = hashlib.sha256(file_digest(path).encode())
    for kind in (*_PROMPTS, *_ANSWERS):
        files = [path.parent / name for name in index.get(kind, [])]
        if kind in _ANSWERS and len(files) != len(prompts):
            raise DataError(f"{path} must name as many files in {kind} as in pairs")
        rows = []
        for i, file in enumerate(files):
            states = _states(file, len(layers))
            digest.update(file_digest(file).encode())
            if kind == "pairs":
                prompts.append(states)
            rows.append(_answer(file, states, prompts[i]) if kind in _ANSWERS else states[-1])
        if rows:
            if len({row.shape for row in rows}) > 1:
                raise DataError(f"{path} names files of different widths in {kind}")
            matrix = np.stack(rows)
            found[kind] = {layer: np.ascontiguousarray(matrix[:, at]) for at, layer in enumerate(layers)}
    return found, digest.hexdigest()


def _index(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes() if path.stat().st_size <= _MOST_BYTES else b""
        index = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} can't be read as an index of vLLM's files: {error}") from error
    if not isinstance(index, dict):
        raise DataError(
            f"{path} is no index of vLLM's files: it must be an object with layers, pairs, preferred and undesired"
        )
    layers = index.get("layers")
    if (
        not isinstance(layers, list)
        or not layers
        or len(layers) > 256
        or not all(type(i) is int and 0 < i < 1025 for i in layers)
    ):
        raise DataError(f"{path} must say layers, as in vLLM's eagle_aux_hidden_state_layer_ids: numbers from 1 on")
    if len(set(layers)) < len(layers):
        raise DataError(f"{path} names a layer twice")
    for kind, files in index.items():
        if kind == "layers":
            continue
        if kind not in (*_PROMPTS, *_ANSWERS):
            raise DataError(f"{path} has {kind[:40]!r}, which is none of {', '.join((*_PROMPTS, *_ANSWERS))}")
        if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
            raise DataError(f"{path} must have names of files in {kind}")
    return index


def _states(file: Path, n_layers: int) -> F32:
    """What vLLM wrote of one request, float32, (tokens, layers, d)."""
    tensors = open_safetensors(file).tensors
    if _NAME not in tensors or len(tensors[_NAME].shape) != 3 or tensors[_NAME].shape[1] != n_layers:
        raise DataError(
            f"{file} has no {_NAME} of shape (tokens, {n_layers}, width), as vLLM writes it for {n_layers} layers"
        )
    return tensors[_NAME].read()


def _answer(file: Path, states: F32, prompt: F32) -> F32:
    """The mean state over an answer's tokens, (layers, d)."""
    n = len(prompt)
    if len(states) <= n or states.shape[1:] != prompt.shape[1:] or not _alike(states[n - 1], prompt[-1]):
        raise DataError(
            f"{file} does not go on where its query's prompt ends: preferred and undesired are that prompt, then the answer"
        )
    mean: F32 = states[n:].mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def _alike(a: F32, b: F32) -> bool:
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return bool(((a * b).sum(axis=-1) >= _SAME * lengths).all())


def is_index(head: bytes) -> bool:
    """Whether a file that starts like this can be one."""
    return head.lstrip()[:1] == b"{"
