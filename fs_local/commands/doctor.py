"""fs-local doctor: what this machine and installation can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fs_local.commands.options import AsJson
from fs_local.commands.output import print_json
from fs_local.commands.placing import Rpc

if TYPE_CHECKING:
    from rich.table import Table

    from fs_local.doctor import Diagnosis


def doctor(
    model: Annotated[Optional[str], typer.Argument(help="A model to test the hooks on.")] = None,
    rpc: Rpc = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine and installation can do, and test the hooks on every device that it has.

    Example: fs-local doctor smollm2
    """
    from fs_local.doctor import diagnose
    from fs_local.runtime.rpc_client import endpoints
    from fs_local.terminal import out

    found = diagnose(model, endpoints(rpc) if rpc else ())
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
    from fs_local.runtime.backends import rpc_install_line

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
        ("devices", ", ".join(d.devices)),
        (
            "RPC",
            "this llama.cpp has it (fs-local worker, --rpc)"
            if d.rpc
            else f"this llama.cpp has none; {rpc_install_line()}",
        ),
        ("ONNX Runtime", ", ".join(d.onnx_providers)),
        ("kernels", d.kernels.explain()),
    ]
    for h in d.hooks:
        if h.ok and h.native and not (h.read_changes or h.write_differs):
            verdict = "reading changes nothing; a write and a control vector give the same bits"
        elif h.ok and h.native:
            verdict = (
                f"of what an addition changes, reading changes {h.read_changes / h.effect:.1e}, and a write and a control vector differ by "
                f"{h.write_differs / h.effect:.1e}"
            )
        elif h.ok:
            verdict = "its graph ignores control vectors; steering writes from the callback, which costs some speed"
        else:
            verdict = f"NOT as it should be: {h}"
        rows.append((f"hooks on {h.model}{f', {h.where}' if h.where else ''}", verdict))
    rows += [(f"alias {alias}", where) for alias, where in d.aliases.items()]
    for name, value in rows:
        table.add_row(name, escape(printable(value)))
    return table
