"""fs-local doctor: what this machine and installation can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fs_local.commands.options import AsJson
from fs_local.commands.output import print_json

if TYPE_CHECKING:
    from rich.table import Table

    from fs_local.doctor import Diagnosis


def doctor(
    model: Annotated[Optional[str], typer.Argument(help="A model to test the hooks on.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine and installation can do, and test the hooks.

    Example: fs-local doctor smollm2
    """
    from fs_local.doctor import diagnose
    from fs_local.terminal import out

    found = diagnose(model)
    if as_json:
        print_json(found.as_dict())
    else:
        out.print(_diagnosis_table(found))
    if not found.ok:
        raise typer.Exit(1)


def _diagnosis_table(d: Diagnosis) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from fs_local.printable import printable

    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(style="bold")
    rows = [
        ("versions", ", ".join(f"{k} {v}" for k, v in d.versions.items())),
        (
            "machine",
            f"{d.machine}, {d.threads} threads used, {d.memory_available / 2**30:.1f} of {d.memory_total / 2**30:.1f} GiB memory free",
        ),
        (
            "GPU",
            "llama.cpp can offload (--gpu-layers)" if d.gpu_offload else "this llama-cpp-python has no GPU backend",
        ),
        (
            "callback",
            "graph nodes are filtered by the C extension"
            if d.native_filter
            else "graph nodes are filtered in Python, which costs some speed in decoding; reinstall with a C compiler at hand",
        ),
        ("ONNX Runtime", ", ".join(d.onnx_providers)),
        ("kernels", d.kernels.explain()),
    ]
    for h in d.hooks:
        if h.ok and h.native:
            verdict = "reading changes nothing; a write and a control vector give the same bits"
        elif h.ok:
            verdict = "its graph ignores control vectors; steering writes from the callback, which costs some speed"
        else:
            verdict = f"NOT as it should be: {h}"
        rows.append((f"hooks on {h.model}", verdict))
    rows += [(f"alias {alias}", where) for alias, where in d.aliases.items()]
    for name, value in rows:
        table.add_row(name, escape(printable(value)))
    return table
