"""fs-local models: the models on this machine."""

from __future__ import annotations

from fs_local.commands.options import AsJson
from fs_local.commands.output import print_json


def models(as_json: AsJson = False) -> None:
    """List the models on this machine that Ollama, LM Studio, Hugging Face, GPT4All or llama.cpp downloaded. Each name is a MODEL.

    Example: fs-local models
    """
    from dataclasses import asdict

    from fs_local.model_files import list_models
    from fs_local.terminal import models_table, out

    found = list_models()
    if as_json:
        print_json({"models": [{**asdict(m), "path": str(m.path)} for m in found]})
    else:
        out.print(models_table(found))
