"""A model's file that is cut short: an error for this model, and nothing for the process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fs_local.errors import ModelError
from fs_local.runtime.context import Context
from fs_local.runtime.model import Model


def test_a_file_that_is_cut_short_is_an_error(tiny: Model, tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    shutil.copy(tiny_path, path)
    tokens = [5, 6, 7, 8]
    with Model.load(path) as model, Context(model, n_ctx=256) as context, Context(tiny, n_ctx=256) as other:
        context.decode(tokens, start=0)
        whole = context.logits()
        os.truncate(path, path.stat().st_size // 2)
        for _ in range(2):
            with pytest.raises(ModelError, match="cut short"):
                context.decode(tokens, start=context.n_past(0))
        other.decode(tokens, start=0)
        np.testing.assert_array_equal(other.logits(), whole)
    shutil.copy(tiny_path, path)
    with Model.load(path) as model, Context(model, n_ctx=256) as context:
        context.decode(tokens, start=0)
        np.testing.assert_array_equal(context.logits(), whole)


def test_other_bus_errors_end_the_process_as_before(tiny_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from fs_local.runtime.model import Model\n"
        "model = Model.load(Path(sys.argv[1]))\nos.kill(os.getpid(), signal.SIGBUS)\nos.kill(os.getpid(), signal.SIGBUS)"
    )
    found = subprocess.run([sys.executable, "-c", code, str(tiny_path)], capture_output=True, timeout=60)
    assert found.returncode == -signal.SIGBUS
