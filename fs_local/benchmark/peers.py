"""The same work by other tools, on the same weights and the same cores: repeng on PyTorch, and plain llama-cpp-python.

The work: from pairs of texts, the first principal direction of the differences of states after every block but the first (RepE's
vector, which plain llama-cpp-python can't make); then a greedy answer, steered after one block where the tool can steer. Each tool
is a process of its own, so that its memory is its own; they take turns.

Run as `python -m fs_local.benchmark.peers NAME`, with the work on standard input, this module is such a process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from fs_local.benchmark import repeng_side
from fs_local.benchmark.packs import vector_pack
from fs_local.capture import Request, capture
from fs_local.demo import demo_examples
from fs_local.errors import FsLocalError
from fs_local.examples import Query
from fs_local.generation import GenerationOptions
from fs_local.method.rivals import PrincipalDirection
from fs_local.model_files import resolve_model
from fs_local.progress import Progress, untold
from fs_local.runtime.kernel_probe import probe_kernels
from fs_local.runtime.library import llama
from fs_local.runtime.model import Model
from fs_local.runtime.threads import default_threads
from fs_local.steered_model import SteeredModel

N_PAIRS, TOKENS, TURNS = 16, 48, 2
QUESTION = "Tell me about the sea and its tides."
Work = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Peer:
    """One tool's figures, medians over turns.

    Attributes:
        load_seconds: until the model is there.
        extract_seconds: for a vector a block, from `N_PAIRS` pairs; None where the tool makes none.
        tokens_per_second: of a greedy answer, the prompt's evaluation included.
        megabytes: resident at the end (10⁶ bytes).
    """

    name: str
    load_seconds: float
    extract_seconds: float | None
    tokens_per_second: float
    megabytes: float
    versions: str


def bench_peers(model: str, repeng_python: Path, progress: Progress | None = None) -> list[Peer]:
    """Measures fs-local first, then the others.

    Args:
        repeng_python: the Python of an environment that has repeng, accelerate and psutil.

    Raises:
        ModelError: as `Model.load`.
        FsLocalError: a tool that can't do the work, with its own last words.
    """
    report = progress or untold
    work = json.dumps(_work(resolve_model(model)))
    ours = [sys.executable, "-m", "fs_local.benchmark.peers"]
    runs = {
        "fs-local": [*ours, "fs-local"],
        "llama-cpp-python": [*ours, "llama-cpp-python"],
        "repeng": [str(repeng_python), "-I", repeng_side.__file__],  # -I: the script's folder stays off its path
    }
    found: dict[str, list[Work]] = {name: [] for name in runs}
    total = TURNS * len(runs)
    for turn in range(TURNS):
        for i, (name, command) in enumerate(runs.items()):
            report("peers", turn * len(runs) + i, total)
            found[name].append(_child(name, command, work))
    report("peers", total, total)
    return [_median(name, turns) for name, turns in found.items()]


def _work(path: Path) -> Work:
    """What every tool is told. Prompts are rendered and texts joined here, so that all evaluate the same."""
    pairs = demo_examples().pairs[:N_PAIRS]
    with Model.load(path) as model:
        prompts = [model.template.render(list(p.query.messages)) for p in pairs]
        asked = model.prompt_tokens(list(Query.of(QUESTION).messages))
        n_layer = model.n_layer
    return {
        "model": str(path.resolve()),
        "pairs": [[q + p.preferred[0], q + p.undesired[0]] for q, p in zip(prompts, pairs, strict=True)],
        "prompt": asked,
        "tokens": TOKENS,
        "layer": max(1, n_layer // 3),
        "n_layer": n_layer,
        "threads": default_threads(),
        "extra_kernels": probe_kernels().usable,
    }


def _child(name: str, command: Sequence[str], work: str) -> Work:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "HF_HUB_OFFLINE": "1"}
    try:
        child = subprocess.run(command, input=work, capture_output=True, text=True, env=environment)
    except OSError as error:
        raise FsLocalError(f"{command[0]} can't be run: {error.strerror}; give the Python that has repeng") from error
    if child.returncode != 0:
        said = child.stderr.strip().splitlines() or [f"it ended with {child.returncode}"]
        raise FsLocalError(f"{name} can't do the work: {said[-1][:300]}")
    found: Work = json.loads(child.stdout.splitlines()[-1])
    return found


def _median(name: str, turns: Sequence[Work]) -> Peer:
    def of(key: str) -> float:
        return float(statistics.median(t[key] for t in turns))

    extract = None if turns[0]["extract"] is None else of("extract")
    return Peer(name, of("load"), extract, of("rate"), of("rss") / 1e6, turns[0]["versions"])


def _ours(work: Work) -> Work:
    began = time.perf_counter()
    with Model.load(Path(work["model"])) as model:
        load = time.perf_counter() - began
        began = time.perf_counter()
        requests = [Request(model.tokenize_prompt(text)) for pair in work["pairs"] for text in pair]
        states = capture(model, requests, range(1, work["n_layer"]))
        vectors = {
            il: PrincipalDirection().fit(states.at(il)[::2] - states.at(il)[1::2]).experts_.prototypes[0]
            for il in states.layers
        }
        extract = time.perf_counter() - began
        pack = vector_pack(model, work["layer"], vectors[work["layer"]])
    with SteeredModel.load(work["model"], [pack], n_ctx=512, n_threads=work["threads"]) as steered:
        for _ in range(2):  # the first is to warm up
            done = steered.generate(QUESTION, GenerationOptions(max_tokens=work["tokens"]))
        rate = done.generated_tokens / (done.prompt_seconds + done.seconds)
        return _figures(load, extract, rate, f"llama.cpp {llama().llama_version().decode()}")


def _llama_cpp_python(work: Work) -> Work:
    import llama_cpp
    from llama_cpp import llama_cpp as api

    defaults = api.llama_model_default_params

    def without_faulting_kernels() -> Any:
        params = defaults()
        params.use_extra_bufts = work["extra_kernels"]  # Llama has no argument for it
        return params

    api.llama_model_default_params = without_faulting_kernels
    began = time.perf_counter()
    threads = work["threads"]
    model: Any = llama_cpp.Llama(work["model"], n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)
    load = time.perf_counter() - began
    for _ in range(2):
        model.reset()  # or it would keep the prompt
        began = time.perf_counter()
        done = model.create_completion(work["prompt"], max_tokens=work["tokens"], temperature=0)
        rate = done["usage"]["completion_tokens"] / (time.perf_counter() - began)
    return _figures(load, None, rate, f"llama-cpp-python {llama_cpp.__version__}")


def _figures(load: float, extract: float | None, rate: float, versions: str) -> Work:
    rss = psutil.Process().memory_info().rss
    return {"load": load, "extract": extract, "rate": rate, "rss": rss, "versions": versions}


if __name__ == "__main__":
    print(json.dumps({"fs-local": _ours, "llama-cpp-python": _llama_cpp_python}[sys.argv[1]](json.load(sys.stdin))))
