"""fs-local gate: a gate before a vector or pack that exists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from fs_local.commands.answering import with_options
from fs_local.commands.files import check_outputs
from fs_local.commands.options import (
    AsJson,
    GateLayer,
    General,
    GeneralBudget,
    NoBackground,
    OpenWraps,
    PackOutput,
    Seed,
)
from fs_local.commands.output import print_json
from fs_local.commands.placing import Placing
from fs_local.commands.sharing import Sharing
from fs_local.commands.values import number_or_auto


@with_options
def gate(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A control vector or a pack, of any format convert reads.")
    ],
    model: Annotated[str, typer.Option(help="The model that SRC is for: a GGUF file or an alias.")],
    ir: Annotated[
        list[Path], typer.Option(help="JSONL or CSV of the queries {query} to steer. May be given several times.")
    ],
    general: General = None,
    output: PackOutput = Path("gated.fspack"),
    kind: Annotated[
        Literal["quantile", "logistic", "soft", "auto"],
        typer.Option("--gate", help="quantile (one-class), logistic, soft, or auto."),
    ] = "auto",
    gate_layer: GateLayer = "auto",
    general_budget: GeneralBudget = 0.02,
    no_background: NoBackground = False,
    open_wraps: OpenWraps = False,
    strength: Annotated[Optional[float], typer.Option(help="λ; by default SRC's own, 1 for vectors.")] = None,
    seed: Seed = 0,
    *,
    placing: Placing,
    sharing: Sharing,
    as_json: AsJson = False,
) -> None:
    """Put a gate before a control vector, or before a pack in place of its own: it then steers only queries like those of --ir.

    Example: fs-local gate happy.gguf --model model.gguf --ir sad.jsonl --general general.jsonl -o happy.fspack
    """
    from converters.conversion import read_pack
    from fs_local.fitting import FitOptions, gated
    from fs_local.fitting.files import read_gate_examples
    from fs_local.model_files import resolve_model
    from fs_local.pack_summary import pack_summary
    from fs_local.runtime.model import Model
    from fs_local.steering import check_model
    from fs_local.store import Store
    from fs_local.terminal import err, loading, out, stages

    options = FitOptions(
        name=output.stem,
        gate_layer=number_or_auto("--gate-layer", gate_layer, int),
        gate=None if kind == "auto" else kind,
        budget=general_budget,
        background=not no_background,
        open_wraps=open_wraps,
        strength=strength,
        seed=seed,
    )
    path = resolve_model(model)
    check_outputs(output, inputs=[path, source, *ir, *(general or [])])
    pack, examples = read_pack(source, path), read_gate_examples(ir, general or [])
    with loading() as progress:
        loaded = Model.load(path, placement=placing.placement, progress=progress)
    with loaded, stages() as told, sharing.between(loaded):
        note = check_model(pack, loaded)
        pack, notes = gated(loaded, pack, examples, options, told, Store.for_model(loaded.build))
    for said in (*([note] if note else []), *notes):
        err.print(f"note: {said}", style="yellow", markup=False)
    pack.save(output)
    size = output.stat().st_size
    if as_json:
        print_json({"pack": str(output), "bytes": size, **pack.manifest.model_dump()})
    else:
        out.print(pack_summary(pack, size))
