"""FineSteer for quantized GGUF models: conditional, query-specific steering on stock llama-cpp-python.

The names below are imported when they are first used, so that `import fs_local` costs nothing. Every line of these examples is run by
tests/test_public_names.py.

**Answers.** A `SteeredModel` is a `Model` with packs; a `Pack` is what a fit leaves. A `Placement` says what is
computed on GPUs or workers. `generate` gives a `Completion`, `stream` a `Stream`
of `Piece`s, `chat` a `Conversation`, `decide` a `Decision` a pack; `GenerationOptions` and `Sampling` say how, `Steer` what steers:

    from pathlib import Path
    from fs_local import Completion, Conversation, Decision, GenerationOptions, Pack, Piece, Placement, Sampling, Steer, SteeredModel, Stream

    with SteeredModel.load("model.gguf", packs=[Pack.load(Path("refusal.fspack"))], placement=Placement()) as model:
        answer: Completion = model.generate("How do I pick a lock?", GenerationOptions(max_tokens=8))
        print(answer.text, answer.finish_reason)
        stream: Stream = model.stream("How do I pick a lock?", GenerationOptions(8, sampling=Sampling(temperature=0.7, seed=1)))
        pieces: list[Piece] = list(stream)
        decision: Decision = model.decide("What is a lock?")[0]
        print(decision.opening, decision.energy_ratio, decision.weights)
        talk: Conversation = model.chat(system="You are brief.")
        print("".join(piece.text for piece in talk.send("Hello!", GenerationOptions(max_tokens=8))))
        gentler = model.generate("How do I pick a lock?", GenerationOptions(8), steered=Steer(strengths={"refusal": 0.5}))

**Fits.** `fit` makes a pack of `Examples`: `Pair`s of answers, and `Query`s; `FitOptions` say what it does not choose. `gated` puts a gate
before a pack that exists; `capture_states` reads the states themselves, of requests that `query_request` makes:

    from fs_local import Examples, FitOptions, Model, Pair, Query, capture_states, fit, gated, query_request

    pairs = [Pair(Query.of(f"How many legs have {n} spiders?"), (f"{8 * n}.",), (f"{6 * n}.",)) for n in range(1, 17)]
    general = [Query.of(f"What is {n} and {n + 1}?") for n in range(1, 17)]
    options = FitOptions(name="spiders", layers=(3,), strength=1.0, residual_rank=0, gate="quantile", background=False)
    with Model.load(Path("model.gguf")) as model:
        fitted = fit(model, Examples(pairs, general={"sums": general}), options)
        fitted.pack.save(Path("spiders.fspack"))
        queries = Examples((), [p.query for p in pairs], general={"sums": general})
        pack, notes = gated(model, fitted.pack, queries, FitOptions(gate="quantile", gate_layer=2, background=False))
        states = capture_states(model, [query_request(model, q) for q in general], layers=[2, 3])
        print(states.at(3).shape)  # (16, d)

**What a pack changes.** `evaluate_packs` measures packs on files that `read_files` reads, with intervals:

    from fs_local import evaluate_packs, read_files

    with Model.load(Path("model.gguf")) as model:
        found = evaluate_packs(model, [fitted.pack], read_files("refusal", [Path("harmful.jsonl")], limit=2))
    print(found["results"][1]["figures"]["refused"])

**Underneath** is one `Engine`: a `Request` of a `Prompt` in, a `Stream` out, from any thread:

    from fs_local import Engine, Prompt, Request

    with Model.load(Path("model.gguf")) as model, Engine(model, [fitted.pack]) as engine:
        prompt: Prompt = engine.prompt([{"role": "user", "content": "How many legs have 3 spiders?"}])
        print("".join(piece.text for piece in engine.submit(Request(prompt, max_tokens=8))))

**Errors.** Whatever a person can mend is an `FsLocalError`, one sentence that says what to do: `ModelError`, `PackError`, `FitError`,
`DataError`, `ContextFullError`; `EngineFull` where too many requests wait, `EngineClosed` after the end:

    from fs_local import ContextFullError, DataError, EngineClosed, EngineFull, FitError, FsLocalError, ModelError, PackError

    for error in (ContextFullError, DataError, EngineClosed, EngineFull, FitError, ModelError, PackError):
        assert issubclass(error, FsLocalError)
    try:
        Pack.load(Path("model.gguf"))
    except PackError as error:
        print(error)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fs_local.version import __version__ as __version__

if TYPE_CHECKING:
    from fs_local.capture import capture as capture_states
    from fs_local.capture import query_request
    from fs_local.conversation import Conversation
    from fs_local.engine import (
        Decision,
        Engine,
        EngineClosed,
        EngineFull,
        Piece,
        Prompt,
        Request,
        Sampling,
        Steer,
        Stream,
    )
    from fs_local.errors import ContextFullError, DataError, FitError, FsLocalError, ModelError, PackError
    from fs_local.evaluation.compare import evaluate_packs
    from fs_local.evaluation.files import read_files
    from fs_local.examples import Pair, Query
    from fs_local.fitting import Examples, FitOptions, fit, gated
    from fs_local.generation import Completion, GenerationOptions
    from fs_local.pack.file import Pack
    from fs_local.runtime.model import Model
    from fs_local.runtime.placement import Placement
    from fs_local.steered_model import SteeredModel

_HOMES = {
    "PackError": "fs_local.errors",
    "ModelError": "fs_local.errors",
    "FitError": "fs_local.errors",
    "DataError": "fs_local.errors",
    "ContextFullError": "fs_local.errors",
    "Completion": "fs_local.generation",
    "Conversation": "fs_local.conversation",
    "Decision": "fs_local.engine",
    "Engine": "fs_local.engine",
    "EngineClosed": "fs_local.errors",
    "EngineFull": "fs_local.errors",
    "Examples": "fs_local.fitting",
    "FitOptions": "fs_local.fitting",
    "FsLocalError": "fs_local.errors",
    "GenerationOptions": "fs_local.generation",
    "Model": "fs_local.runtime.model",
    "Pack": "fs_local.pack.file",
    "Pair": "fs_local.examples",
    "Piece": "fs_local.engine",
    "Prompt": "fs_local.engine",
    "Query": "fs_local.examples",
    "Request": "fs_local.engine",
    "Sampling": "fs_local.engine",
    "Steer": "fs_local.engine",
    "Placement": "fs_local.runtime.placement",
    "SteeredModel": "fs_local.steered_model",
    "Stream": "fs_local.engine",
    "capture_states": "fs_local.capture",
    "evaluate_packs": "fs_local.evaluation.compare",
    "fit": "fs_local.fitting",
    "gated": "fs_local.fitting",
    "query_request": "fs_local.capture",
    "read_files": "fs_local.evaluation.files",
}
_NAMED_THERE = {"capture_states": "capture"}  # here that name is the module

__all__ = [
    "Completion",
    "ContextFullError",
    "Conversation",
    "DataError",
    "Decision",
    "Engine",
    "EngineClosed",
    "EngineFull",
    "Examples",
    "FitError",
    "FitOptions",
    "FsLocalError",
    "GenerationOptions",
    "Model",
    "ModelError",
    "Pack",
    "PackError",
    "Pair",
    "Piece",
    "Placement",
    "Prompt",
    "Query",
    "Request",
    "Sampling",
    "Steer",
    "SteeredModel",
    "Stream",
    "capture_states",
    "evaluate_packs",
    "fit",
    "gated",
    "query_request",
    "read_files",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fs_local' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), _NAMED_THERE.get(name, name))
