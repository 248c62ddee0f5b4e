"""fs-local convert: to and from other tools' formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from fs_local.commands.options import AsJson
from fs_local.commands.output import print_json

if TYPE_CHECKING:
    from rich.table import Table

    from converters.cast import Comparator, Comparison, Condition


def convert(
    source: Annotated[Optional[Path], typer.Argument(metavar="SRC", help="Vectors or a pack, of any format.")] = None,
    target: Annotated[Optional[Path], typer.Argument(metavar="DST", help="What to write.")] = None,
    to: Annotated[Optional[str], typer.Option(help="Format of DST; by default its suffix says it.")] = None,
    model: Annotated[
        Optional[str],
        typer.Option(help="The model that vectors are for, to make a pack of them: a GGUF file or an alias."),
    ] = None,
    layers: Annotated[
        Optional[str],
        typer.Option(help="The layers to convert, as SRC counts them: 10-20, or 10,12; by default all."),
    ] = None,
    condition: Annotated[
        Optional[Path],
        typer.Option(help="A condition vector (.svec): SRC, a behaviour vector (.svec), is added where it is met."),
    ] = None,
    condition_layer: Annotated[
        Optional[int], typer.Option(help="Where it is checked, as in activation-steering's condition_layer_ids.")
    ] = None,
    threshold: Annotated[Optional[float], typer.Option(help="θ, as condition_vector_threshold.")] = None,
    comparator: Annotated[
        Optional[Literal["larger", "smaller"]],
        typer.Option(help="What θ is, as condition_comparator_threshold_is: smaller (than the similarity) or larger."),
    ] = None,
    comparison: Annotated[
        Literal["mean", "last"],
        typer.Option(
            help="What is compared, as condition_threshold_comparison_mode: the mean over the prompt, or its last position."
        ),
    ] = "mean",
    query: Annotated[
        Optional[str],
        typer.Option(
            "--for",
            metavar="QUERY",
            help="Write the exact vector that a pack adds for this query, instead of its mean; the model decides it (--model).",
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16"], typer.Option(help="Of the weights in an ONNX file: float32 or float16.")
    ] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Overwrite DST.")] = False,
    list_formats: Annotated[
        bool, typer.Option("--list", help="Show the formats, and what each direction keeps and loses.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Convert steering vectors and packs to and from other tools' formats. SRC is recognized by its content.

    Example: fs-local convert vector.gguf vector.fspack --model model.gguf

    Example, for llama-server --control-vector: fs-local convert refusal.fspack refusal.gguf

    Example, of FineSteer's own code: fs-local convert MoSE.pt truth.fspack --layers 12 --model model.gguf

    Example, of activation-steering: fs-local convert refusal.svec refusal.fspack --layers 15-23 --condition harmful.svec
    --condition-layer 7 --threshold 0.048 --comparator larger --model model.gguf

    Example, of one query: fs-local convert refusal.fspack lock.gguf --model model.gguf --for "How do I pick a lock?"
    """
    from converters.conversion import convert as convert_file
    from converters.formats import FORMATS
    from fs_local.terminal import err, out

    if list_formats:
        rows = [{"name": f.name, "is": f.title, "in": f.coming_in, "out": f.going_out} for f in FORMATS]
        if as_json:
            print_json({"formats": rows})
        else:
            out.print(_formats_table(rows))
        return
    if source is None or target is None:
        raise typer.BadParameter("give SRC and DST, or --list")
    done = convert_file(
        source,
        target,
        to=to,
        model=model,
        layers=layers,
        condition=_condition(condition, condition_layer, threshold, comparator, comparison),
        dtype=dtype,
        query=query,
        force=force,
    )
    if as_json:
        print_json(
            {
                "from": done.source,
                "to": done.target,
                "path": str(done.path),
                "bytes": done.n_bytes,
                "lost": list(done.lost),
            }
        )
        return
    out.print(f"{done.path}: {done.target}, {done.n_bytes:,} bytes, from {done.source}", markup=False)
    for sentence in done.lost:
        err.print(f"lost: {sentence}", style="yellow", markup=False)


def _condition(
    path: Path | None, layer: int | None, threshold: float | None, comparator: Comparator | None, comparison: Comparison
) -> Condition | None:
    """The condition of `convert`: all four options, or none."""
    from converters.cast import Condition

    if path is None and layer is None and threshold is None and comparator is None:
        return None
    if path is None or layer is None or threshold is None or comparator is None:
        raise typer.BadParameter("give --condition, --condition-layer, --threshold and --comparator together")
    return Condition(
        path,
        layer,
        threshold,
        comparator,
        comparison,
    )


def _formats_table(rows: list[dict[str, str]]) -> Table:
    """The formats that are converted: name, what it is, and what coming in and going out keep and lose."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("format", "is", "in", "out")
    for row in rows:
        table.add_row(*(escape(row[key]) for key in ("name", "is", "in", "out")))
    return table
