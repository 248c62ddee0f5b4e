"""fs-local serve: a steered model over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Optional

import typer

from fs_local.commands.answering import with_options
from fs_local.commands.options import Ctx, ModelArgument, Packs, Threads
from fs_local.commands.placing import Placing


@with_options
def serve(
    model: ModelArgument,
    pack: Packs = None,
    host: Annotated[str, typer.Option(help="Address; another than this machine's own needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")] = 8080,
    api_key: Annotated[
        Optional[str],
        typer.Option(
            envvar="FS_LOCAL_API_KEY",
            help="Asked of all clients. Others on this machine can read options: set the variable instead.",
        ),
    ] = None,
    admin_key: Annotated[
        Optional[str],
        typer.Option(envvar="FS_LOCAL_ADMIN_KEY", help="Asked of those who change packs; set the variable instead."),
    ] = None,
    allow_host: Annotated[
        Optional[list[str]], typer.Option(help="A name that the server may be called by. May be given several times.")
    ] = None,
    allow_origin: Annotated[
        Optional[list[str]],
        typer.Option(help="A web page that may call, as https://example.org. May be given several times."),
    ] = None,
    idle: Annotated[
        Optional[float], typer.Option(min=1, help="Seconds without a request after which the model is unloaded.")
    ] = None,
    ctx: Ctx = 0,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Answers that are generated side by side.")] = 8,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more get a 503.")] = 64,
    *,
    placing: Placing,
    threads: Threads = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Show the page in the browser when the model is loaded.")
    ] = False,
) -> None:
    """Serve a steered model over HTTP, as OpenAI's and Ollama's clients speak it, with a page for people at its address.

    Example: fs-local serve smollm2 --pack refusal.fspack
    """
    import webbrowser

    from fs_local.model_files import resolve_model, served_name
    from fs_local.server.run import open_backend, serve_forever
    from fs_local.server.settings import ServerSettings
    from fs_local.terminal import err

    settings = ServerSettings(
        host, port, api_key or None, admin_key or None, tuple(allow_host or ()), tuple(allow_origin or ())
    )
    backend = open_backend(
        served_name(model),
        resolve_model(model),
        pack or [],
        idle=idle,
        placement=placing.placement,
        n_ctx=ctx,
        n_seq=parallel,
        n_threads=threads,
        max_waiting=queue,
    )

    def ready(address: str) -> None:
        err.print(_serving_lines(address, backend.names()), highlight=False, soft_wrap=True)
        if open_page:
            webbrowser.open(address)

    serve_forever(backend, settings, ready)


def _serving_lines(address: str, names: Sequence[str]) -> str:
    """Where a server is, and the line to paste, in rich markup."""
    from rich.markup import escape

    return (
        f"[bold]{escape(names[0])}[/] is served at [bold]{address}[/] (Ctrl-C stops it); also as {escape(', '.join(names[1:]))}\n"
        f'curl {address}/v1/chat/completions -d \'{{"messages": \\[{{"role": "user", "content": "Hello!"}}]}}\''
    )
