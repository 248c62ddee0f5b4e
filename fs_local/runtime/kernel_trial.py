"""The kernel probe's child: decodes with AMX and repacking kernels on, and dies where they fault.

Run as `python -m fs_local.runtime.kernel_trial MODEL.gguf`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fs_local.runtime.context import Context
from fs_local.runtime.model import Model


def decode_with_all_kernels(path: Path) -> None:
    with Model.load(path, extra_kernels=True) as model, Context(model, n_ctx=64) as context:
        for n in (32, 1):  # AMX tiles serve whole batches, other kernels single tokens
            context.decode(list(range(n)), start=context.n_past(0))


if __name__ == "__main__":
    decode_with_all_kernels(Path(sys.argv[1]))
