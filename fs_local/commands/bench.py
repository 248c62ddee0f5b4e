"""fs-local bench: what steering costs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from fs_local.commands.answering import with_options
from fs_local.commands.files import check_outputs
from fs_local.commands.options import AsJson, ModelArgument
from fs_local.commands.output import print_json
from fs_local.commands.placing import Placing


@with_options
def bench(
    model: ModelArgument,
    pack: Annotated[
        Optional[Path], typer.Option("--pack", "-p", help="A steering pack; by default a synthetic one.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="For each comparison; more narrow the spread.")] = 5.0,
    pairs: Annotated[int, typer.Option(min=2, help="For each comparison at least, however long that takes.")] = 2,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Instead, how time and memory of capture and fit grow with the data.")
    ] = False,
    report: Annotated[Optional[Path], typer.Option(help="With --scaling: where an HTML page of it goes.")] = None,
    peers: Annotated[
        Optional[Path],
        typer.Option(
            metavar="PYTHON",
            help="Compare with other tools instead: plain llama-cpp-python, and repeng as installed for this Python.",
        ),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Instead, what steered answers cost over HTTP, by fs-local serve.")
    ] = False,
    against: Annotated[
        Optional[str],
        typer.Option(metavar="URL", help="With --serve: another server of this model, as llama-server, that runs."),
    ] = None,
    *,
    placing: Placing,
    as_json: AsJson = False,
) -> None:
    """Measure what steering costs on this machine, against llama.cpp alone. Some three minutes with a small model.

    Example: fs-local bench smollm2

    Example, for figures to quote: fs-local bench smollm2 --pairs 15 --seconds 30

    Example: fs-local bench smollm2 --scaling --report scaling.html

    Example with repeng (pip install repeng accelerate psutil): fs-local bench smollm2 --peers ~/repeng/bin/python

    Example beside llama-server: fs-local bench smollm2 --serve --against http://127.0.0.1:8081

    Example with workers, steered against unsteered there: fs-local bench smollm2 --rpc 127.0.0.1:50052,127.0.0.1:50053
    """
    if placing != Placing():
        if serve or against is not None or pack is not None or scaling or report is not None or peers is not None:
            raise typer.BadParameter(
                "--rpc, --device, --gpu-layers and --split have a table of their own; leave out the other options"
            )
        _bench_placed(model, placing, seconds, pairs, as_json)
        return
    if serve or against is not None:
        if not serve or pack is not None or scaling or report is not None or peers is not None:
            raise typer.BadParameter(
                "--serve takes no --pack, --scaling, --report or --peers, and --against goes with it"
            )
        _bench_serving(model, against, seconds, pairs, as_json)
        return
    if peers is not None:
        if pack is not None or scaling or report is not None:
            raise typer.BadParameter("--peers takes no --pack, --scaling or --report")
        _bench_peers(model, peers, as_json)
        return
    from fs_local.benchmark import bench as measure
    from fs_local.benchmark import measure_scaling
    from fs_local.benchmark.tables import bench_table, scaling_tables
    from fs_local.benchmark.turns import Budget
    from fs_local.errors import FsLocalError
    from fs_local.report import write_report
    from fs_local.terminal import print_table, stages

    if scaling:
        if pack is not None:
            raise FsLocalError("--scaling measures capture and fit, which take no pack; leave out --pack")
        check_outputs(report, inputs=[Path(model)])
        with stages() as progress:
            grown = measure_scaling(model, progress)
        if report is not None:
            write_report(report, scaling=grown.as_dict())
        if as_json:
            print_json(grown.as_dict())
        else:
            for table in scaling_tables(grown):
                print_table(table)
        return
    if report is not None:
        raise FsLocalError("--report is a page of --scaling; give both, or use --json")
    with stages() as progress:
        found = measure(model, pack, Budget(seconds, pairs), progress)
    if as_json:
        print_json(found.as_dict())
    else:
        print_table(bench_table(found))


def _bench_serving(model: str, against: str | None, seconds: float, pairs: int, as_json: bool) -> None:
    from fs_local.benchmark.serving import bench_serving
    from fs_local.benchmark.tables import bench_table
    from fs_local.benchmark.turns import Budget
    from fs_local.terminal import print_table, stages

    with stages() as progress:
        found = bench_serving(model, against, Budget(seconds, pairs), progress)
    if as_json:
        print_json(found.as_dict())
    else:
        print_table(bench_table(found))


def _bench_placed(model: str, placing: Placing, seconds: float, pairs: int, as_json: bool) -> None:
    from fs_local.benchmark.placed import bench_placed
    from fs_local.benchmark.tables import bench_table
    from fs_local.benchmark.turns import Budget
    from fs_local.terminal import print_table, stages

    with stages() as progress:
        found = bench_placed(model, placing.placement, Budget(seconds, pairs), progress)
    if as_json:
        print_json(found.as_dict())
    else:
        print_table(bench_table(found))


def _bench_peers(model: str, repeng_python: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from fs_local.benchmark.peers import bench_peers
    from fs_local.benchmark.tables import peers_table
    from fs_local.terminal import print_table, stages

    with stages() as progress:
        found = bench_peers(model, repeng_python, progress)
    if as_json:
        print_json({"peers": [asdict(p) for p in found]})
    else:
        print_table(peers_table(found))
