"""fs-local doctor: what this machine and installation can do."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from fs_local.commands.options import AsJson
from fs_local.commands.output import print_json


def doctor(
    model: Annotated[Optional[str], typer.Argument(help="A model to test the hooks on.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine and installation can do, and test the hooks.

    Example: fs-local doctor smollm2
    """
    from fs_local.doctor import diagnose
    from fs_local.terminal import diagnosis_table, out

    found = diagnose(model)
    if as_json:
        print_json(found.as_dict())
    else:
        out.print(diagnosis_table(found))
    if not found.ok:
        raise typer.Exit(1)
