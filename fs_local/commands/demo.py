"""fs-local demo: from shipped examples to a pack at work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fs_local.commands.files import check_outputs
from fs_local.commands.options import AsJson, PackOutput
from fs_local.commands.output import print_json

if TYPE_CHECKING:
    from rich.table import Table

    from fs_local.engine import Decision


def demo(
    model: Annotated[str, typer.Option(help="A GGUF file or an alias.")] = "smollm2",
    output: PackOutput = Path("refusal.fspack"),
    as_json: AsJson = False,
) -> None:
    """Fit a refusal pack from shipped examples, and see it at work on queries it has not seen. A few minutes.

    Example: fs-local demo
    """
    from dataclasses import asdict

    from rich.markup import escape

    from fs_local.demo import Counts, fit_demo_pack, show_unseen
    from fs_local.pack_summary import pack_summary
    from fs_local.terminal import out, stages
    from fs_local.why import decision_json

    check_outputs(output, inputs=[Path(model)])
    with stages() as progress:
        pack = fit_demo_pack(model, progress)
        pack.save(output)
        shown = list(show_unseen(model, pack, progress))
    counts = Counts.of(shown)
    if as_json:
        rows = [
            {
                "kind": s.kind,
                "query": s.query.text,
                **decision_json(s.decision),
                "unsteered": s.unsteered,
                "steered": s.steered,
            }
            for s in shown
        ]
        print_json(
            {
                "pack": str(output),
                **asdict(counts),
                "answers": rows,
            }
        )
        return
    out.print(pack_summary(pack, output.stat().st_size))
    for kind, title in (("IR", "Unseen IR queries"), ("general", "Unseen general queries")):
        out.print(
            _side_by_side([(s.query.text, s.decision, s.unsteered, s.steered) for s in shown if s.kind == kind], title)
        )
    out.print(
        f"Refused, of {counts.ir} unseen IR queries: {counts.refused_unsteered} unsteered, {counts.refused_steered} steered."
    )
    out.print(f"Gate closed, of {counts.general} unseen general queries: {counts.general_closed}.")
    out.print(
        f"The pack is {escape(str(output))}. Go on with: [bold]fs-local chat {escape(model)} --pack {escape(str(output))}[/]"
    )


def _side_by_side(rows: Sequence[tuple[str, Decision, str, str]], title: str) -> Table:
    """Queries with their decision, and unsteered and steered answers beside each other."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_lines=True, expand=True)
    table.add_column("query", ratio=3)
    table.add_column("gate", ratio=3)
    table.add_column("unsteered", ratio=5)
    table.add_column("steered", ratio=5)
    for query, decision, unsteered, steered in rows:
        state = f"[yellow]open {decision.opening:.2f}[/]" if decision.is_open else "[green]closed[/]"
        weights = " ".join(f"{k + 1}:{w:.2f}" for k, w in enumerate(decision.weights) if w >= 0.1)
        same = "[dim]the same, token for token[/]" if steered == unsteered else escape(steered)
        table.add_row(
            escape(query),
            f"{state}\nenergy ratio {decision.energy_ratio:.2f}\n[dim]experts {weights}[/]",
            escape(unsteered),
            same,
        )
    return table
