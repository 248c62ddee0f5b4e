"""The command line: its commands, each from its file in fs_local/commands, and how it ends."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from fs_local.commands import lesson
from fs_local.commands.bench import bench
from fs_local.commands.chat import chat
from fs_local.commands.convert import convert
from fs_local.commands.decide import decide
from fs_local.commands.demo import demo
from fs_local.commands.doctor import doctor
from fs_local.commands.evaluate import evaluate
from fs_local.commands.fit import fit
from fs_local.commands.gate import gate
from fs_local.commands.generate import generate
from fs_local.commands.inspect import inspect
from fs_local.commands.models import models
from fs_local.commands.serve import serve
from fs_local.commands.worker import worker
from fs_local.version import __version__

app = typer.Typer(
    name="fs-local",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (
    demo,
    fit,
    gate,
    evaluate,
    generate,
    decide,
    chat,
    inspect,
    convert,
    models,
    serve,
    worker,
    doctor,
    bench,
):
    app.command()(command)
app.add_typer(lesson.app, name="lesson")
GOES_ON = ("fit", "gate", "evaluate")
"""Commands that keep what they have done when they are stopped."""


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"fs-local {__version__}")
        raise typer.Exit


@app.callback()
def begin(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Make a quantized GGUF model behave as your examples show, only on the queries that need it.

    Begin with: fs-local demo
    """


def main() -> None:
    """Runs a command; what a person can mend is one sentence and exit code 1, Ctrl-C is 130."""
    import warnings

    from fs_local.errors import FsLocalError, ResumeWarning
    from fs_local.printable import printable

    def show(message: Warning | str, category: type[Warning], *_where: Any, **_more: Any) -> None:
        if issubclass(category, ResumeWarning):  # what others warn of is not the user's to mend
            print(f"note: {message}", file=sys.stderr)

    warnings.showwarning = show
    try:
        app()
    except FsLocalError as error:
        print(f"fs-local: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:  # such as a name that is too long, or a folder that may not be searched
        print(f"fs-local: {error.filename or 'a file'} can't be used: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _say_stopped()
        raise SystemExit(130) from None
    except SystemExit as end:
        if end.code == 130:  # typer's own end of a Ctrl-C, which says nothing
            _say_stopped()
        raise


def _say_stopped() -> None:
    goes_on = len(sys.argv) > 1 and sys.argv[1] in GOES_ON
    print(f"fs-local: stopped{'; the same command goes on where it was' if goes_on else ''}", file=sys.stderr)


if __name__ == "__main__":
    main()
