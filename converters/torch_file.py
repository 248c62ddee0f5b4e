"""PyTorch's zip, as `torch.save` writes it: read by PyTorch alone, by `torch.load(weights_only=True)`, which runs no code of a file.

Without PyTorch, the message says how to convert the file where it is. A plain pickle is never read.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from fs_local.arrays import F32
from fs_local.errors import DataError
from fs_local.tensor_file import MAX_TENSORS, ZIP_ERRORS, Tensor, TensorFile, check_directory, stored_entries

_MAX_PICKLE = 4 << 20
_DEPTH = 4
ELSEWHERE = "load it with torch.load(weights_only=True) where PyTorch is installed, and save its tensors with safetensors.torch.save_file"


class SteeringVectorState:
    """Stands in for `steering_vectors.SteeringVector`, whose code is not wanted: an object with its attributes and nothing else."""


def open_torch(path: Path) -> TensorFile:
    """The tensors of a PyTorch file. Names of nested tensors are joined by dots; a lone tensor's name is empty.

    Raises:
        DataError: PyTorch is not installed, or the file is damaged, or wants code to be run.
    """
    check_directory(path)
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [e for e in stored_entries(path, archive) if e.filename.endswith(".pkl")]
        if any(entry.file_size > _MAX_PICKLE for entry in pickles):
            raise ValueError("it has too much beside its tensors")
    except ZIP_ERRORS as error:
        raise DataError(f"{path} can't be used: {str(error)[:300]}") from error
    try:
        import torch
    except ImportError as error:
        raise DataError(
            f"{path} is a PyTorch file, and PyTorch is not installed: pip install torch; or {ELSEWHERE}"
        ) from error
    try:
        with torch.serialization.safe_globals(
            [(SteeringVectorState, "steering_vectors.steering_vector.SteeringVector")]
        ):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # PyTorch fails in many ways, all of them a file that is not what it should be
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path} can't be read without running code from it, or is damaged ({reason}); {ELSEWHERE}"
        ) from error
    found = TensorFile(path, {})
    _collect(found, "", content, path.stat().st_size, _DEPTH)
    return found


def _collect(found: TensorFile, name: str, value: Any, room: int, depth: int) -> None:
    import torch

    if isinstance(value, SteeringVectorState):
        value = vars(value)
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise DataError(
                f"{found.path} has a tensor {name[:60]!r} that is sparse, quantized or without values; save it as float32"
            )
        if value.numel() == 0 or value.numel() * value.element_size() > room or len(found.tensors) == MAX_TENSORS:
            raise DataError(f"{found.path} has too many tensors, or {name[:60]!r} has no values, or more than the file")
        dtype = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}.get(value.dtype, str(value.dtype))
        found.tensors[name] = Tensor(found.path, name, tuple(value.shape), dtype, _loader(value))
    elif isinstance(value, dict) and depth:
        for key, inner in value.items():
            if isinstance(key, str | int):
                _collect(found, f"{name}.{key}" if name else str(key), inner, room, depth - 1)
    elif isinstance(value, str) and len(found.texts) < MAX_TENSORS:
        found.texts[name] = value


def _loader(tensor: Any) -> Any:
    import torch

    def load(part: int | None) -> F32:
        values = tensor if part is None else tensor[part]
        return values.detach().to(torch.float32).contiguous().numpy().copy()  # type: ignore[no-any-return]  # torch may be missing

    return load
