"""`.svec`, JSON of IBM's activation-steering: {model_type, directions: {n: [d numbers]}, explained_variances: {n: share}}.

Which block n means, from its code: `LeashLayer.forward` (activation_steering/leash_layer.py) adds `directions[n]` to the *input* of
layer n, which is the output of block n−1; so key n is block n−1 here. Key 0 is added to the embeddings, before any block: neither
a control vector nor a pack can do that, and it is left out. (It *measures* `directions[n]` after block n, `hidden_states[n+1]` in
activation_steering/steering_vector.py; what counts here is what a file does when it is used.)

The tool is told at run time at which layers a file acts; a file has all of them, and all of them are converted, or those that
`--layers` names in the file's own counting.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.layers import MAX_LAYERS
from converters.vectors import Vectors, checked_vectors, read_bytes
from fs_local.arrays import F32
from fs_local.errors import DataError

_MAX_BRACKETS = 4 * MAX_LAYERS
_MAX_QUOTES = 8 * MAX_LAYERS
_MAX_SKELETON = 256 * MAX_LAYERS
_LIST_OF_NUMBERS = re.compile(rb"\[([-+0-9.eE,\s]*)\]")


def matches(head: bytes) -> bool:
    """Whether a file that starts like this is JSON."""
    return head.lstrip()[:1] == b"{"


def read(path: Path) -> Vectors:
    """Reads a behaviour vector; a condition vector has the same form.

    Raises:
        DataError: not such JSON, or with directions that are not of one model.
    """
    raw, lists = _json(path)
    directions: dict[int, F32] = {}
    rounding, left_out = 0.0, False
    for key, value in raw["directions"].items():
        if not key.isdecimal() or not key.isascii() or str(int(key[:9])) != key:
            raise DataError(f"{path} has directions for {key[:40]!r}, which is no layer")
        if not isinstance(value, list) or len(value) != 1 or type(value[0]) is not int:
            raise DataError(f"{path} has directions for layer {key} that are not a list of finite numbers")
        exact = _numbers(path, lists[value[0]])
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
            rounded = exact.astype(np.float32)
            exact -= rounded
        if key == "0":
            left_out = True
            continue
        directions[int(key) - 1] = rounded
        rounding = max(rounding, float(np.abs(exact, out=exact).max(initial=0)))
    lost = []
    if left_out:
        lost.append(
            f"the direction for the input of layer 0 (the embeddings), 1 of {len(raw['directions'])}: no block is before it"
        )
    if rounding:
        lost.append(f"digits beyond float32, {rounding:.1g} at most")
    if raw.get("explained_variances"):
        lost.append("explained variances")
    if left_out and not directions:
        raise DataError(f"{path} acts on the input of layer 0 alone, which neither a pack nor a control vector can do")
    hint = str(raw.get("model_type", ""))
    return checked_vectors(path, directions, model_hint=hint, lost=tuple(lost), block_0=1)


def write(vectors: Vectors) -> tuple[bytes, tuple[str, ...]]:
    """The file's bytes, and what it can't hold."""
    document = {
        "model_type": vectors.model_hint or "unknown",
        "directions": {str(layer + 1): direction.tolist() for layer, direction in vectors.directions.items()},
        "explained_variances": {},
    }
    lost = ["which layers are steered: activation-steering is told that at run time, so name the same ones there"]
    if vectors.method:
        lost.append("how the vectors were made")
    return json.dumps(document, allow_nan=False).encode(), tuple(lost)


def _json(path: Path) -> tuple[dict[str, Any], list[bytes]]:
    """The document with `[i]` in place of each list of numbers, and these lists: as Python's, they would take 15 times the file.

    Other lists and texts are counted first, for the same reason.
    """
    data = read_bytes(path)
    if data.count(b"[") + data.count(b"{") > _MAX_BRACKETS or data.count(b'"') > _MAX_QUOTES:
        raise DataError(f"{path} is no .svec file: it has too many lists or texts")
    lists: list[bytes] = []

    def number(found: re.Match[bytes]) -> bytes:
        lists.append(found[1])
        return b"[%d]" % (len(lists) - 1)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise DataError(f"{path} has a key twice")
        return dict(pairs)

    skeleton = _LIST_OF_NUMBERS.sub(number, data)
    if len(skeleton) > _MAX_SKELETON:
        raise DataError(f"{path} is no .svec file: it has too much beside its directions")
    try:
        raw = json.loads(skeleton, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON that can be read") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("directions"), dict):
        raise DataError(f"{path} is JSON, but no .svec file: it has no directions")
    return raw, lists


def _numbers(path: Path, text: bytes) -> NDArray[np.float64]:
    """Numbers with commas between them, float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy only warns where it stops before the end
        try:
            values = np.fromstring(text.decode("ascii"), dtype=np.float64, sep=",")
        except (DeprecationWarning, ValueError) as error:
            raise DataError(f"{path} is not JSON that can be read: it has a list that is not of numbers") from error
    if len(values) != text.count(b",") + 1:
        raise DataError(f"{path} is not JSON that can be read: it has a list without numbers")
    return values
