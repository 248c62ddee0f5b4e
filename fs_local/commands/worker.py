"""fs-local worker: this machine computes blocks of a model that runs elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from fs_local.commands.options import Threads


def worker(
    host: Annotated[
        str, typer.Option(help="Address to serve at. Whoever reaches it may use it: leave it, and make a tunnel.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")] = 50052,
    cache: Annotated[
        Optional[Path], typer.Option(help="Folder that keeps the weights, so that they are sent once.")
    ] = None,
    threads: Threads = None,
) -> None:
    """Serve this machine's processor or GPUs to fs-local elsewhere, which names it with --rpc. Needs llama.cpp's RPC; doctor says so.

    Example: fs-local worker, and where the model is: fs-local chat model.gguf --rpc 127.0.0.1:50052

    Example, over ssh: ssh -L 50052:127.0.0.1:50052 other-machine fs-local worker
    """
    import ipaddress
    import os
    import sys

    from fs_local.runtime.backends import Device
    from fs_local.runtime.rpc_server import serve
    from fs_local.terminal import err

    answers = os.fdopen(os.dup(1), "w")  # as standard output is before ggml's own lines are sent elsewhere

    def ready(address: str, devices: list[Device]) -> None:
        what = ", ".join(f"{d.name} ({d.description})" for d in devices)
        print(f"worker at {address}: {what}; one client at a time; Ctrl-C ends it", file=answers, flush=True)

    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        err.print(
            f"note: llama.cpp's RPC asks for no password: whoever reaches {host} can use this worker",
            style="yellow",
            markup=False,
        )
    try:
        serve(host, port, cache=cache, n_threads=threads, ready=ready)
    except KeyboardInterrupt:
        print("fs-local: stopped", file=sys.stderr, flush=True)
        os._exit(130)  # the serving thread can't be asked to end
