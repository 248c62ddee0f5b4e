"""fs-local inspect: what a pack or another tool's file is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fs_local.commands.options import AsJson
from fs_local.commands.output import print_json


def inspect(
    path: Annotated[Path, typer.Argument(help="A steering pack, or vectors of any format that convert reads.")],
    as_json: AsJson = False,
) -> None:
    """Show what a pack is, what it was fitted on, and how it did there; or what vectors of another tool are.

    Example: fs-local inspect refusal.fspack
    """
    from dataclasses import asdict

    from converters.inspection import About
    from converters.inspection import inspect as inspect_file
    from fs_local.pack_summary import pack_summary
    from fs_local.terminal import facts, out

    found = inspect_file(path)
    if isinstance(found, About):
        if as_json:
            print_json(asdict(found))
        else:
            out.print(facts(path.name, found.rows()))
        return
    found.evaluator("onnx")  # its graph is checked too
    if as_json:
        print_json({"bytes": path.stat().st_size, **found.manifest.model_dump()})
    else:
        out.print(pack_summary(found, path.stat().st_size))
