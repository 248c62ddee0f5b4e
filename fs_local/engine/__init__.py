"""One engine: requests in, streams out; whoever generates or decides does it here.

    with Engine(model, [pack]) as engine:
        for piece in engine.submit(Request(engine.prompt([{"role": "user", "content": "Hi"}]))):
            print(piece.text, end="")

Importing this loads no llama.cpp; opening a model does.
"""

from fs_local.engine.decision import Decision, added_by_layer
from fs_local.engine.engine import Engine, Stats
from fs_local.engine.requests import FinishReason, Piece, Request, Steer, TokenLogprob, TokenMask
from fs_local.engine.stream import Stream
from fs_local.errors import EngineClosed, EngineFull
from fs_local.method.readings import Span
from fs_local.runtime.prompt import Prompt
from fs_local.runtime.sampling import Sampling

__all__ = [
    "Decision",
    "Engine",
    "EngineClosed",
    "EngineFull",
    "FinishReason",
    "Piece",
    "Prompt",
    "Request",
    "Sampling",
    "Span",
    "Stats",
    "Steer",
    "Stream",
    "TokenLogprob",
    "TokenMask",
    "added_by_layer",
]
