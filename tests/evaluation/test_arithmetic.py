"""Kept results are found again by `SCHEMA`: it must be raised whenever the arithmetic behind them changes.

A small fixed computation on a model of random weights has known results for each number. Where they come out otherwise, raise `SCHEMA` in
fs_local/store.py, and record the new ones: python -m tests.evaluation.test_arithmetic
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from fs_local.capture import Request
from fs_local.choices import Scope
from fs_local.evaluation.runner import KeptDecision, Runner
from fs_local.runtime.model import Model
from fs_local.store import SCHEMA
from tests.arithmetic_model import N_VOCAB, WIDTH, write_arithmetic_model

RECORDED = Path(__file__).with_name("arithmetic.json")
SCOPES: tuple[Scope, ...] = ("all", "generation")
TOLERANCE = 2e-3
"""Nats: machines sum in different orders, and keep keys and values in 16 bits."""


def computed() -> dict[str, Any]:
    """What a runner keeps of five prompts, some of them steered, in both scopes."""
    rng = np.random.default_rng(1)

    def tokens(n: int) -> list[int]:
        return [int(t) for t in rng.integers(3, N_VOCAB, n)]

    requests = [Request([1, *tokens(n)], (tokens(4), tokens(2))) for n in (3, 9, 5, 12, 7)]
    vectors = (2.0 * rng.standard_normal((5, 2, WIDTH))).astype(np.float32)
    decided = [KeptDecision(1.0, {1: v[0], 2: v[1]} if i % 2 else {}) for i, v in enumerate(vectors)]
    found: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "random.gguf"
        write_arithmetic_model(path)
        with Model.load(path, extra_kernels=False) as model:
            runner = Runner(model)
            for scope in SCOPES:
                answers = runner.answers(requests, decided, 6, scope)
                found[f"answers, {scope}"] = [[a.text, list(a.tokens)] for a in answers]
                found[f"log-probabilities, {scope}"] = [a.log_probability for a in answers]
                found[f"scores, {scope}"] = runner.scores(requests, decided, scope)
                found[f"drift, {scope}"] = [list(d) for d in runner.drift(requests, decided, scope)]
    return found


def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDED.read_text())
    return found


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Names of what is not the same: texts and tokens exactly, numbers within the tolerance."""

    def alike(a: Any, b: Any) -> bool:
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(alike, a, b))
        if isinstance(a, float) or isinstance(b, float):
            return bool(abs(a - b) <= TOLERANCE)
        return bool(a == b)

    return [
        name
        for name in {**ours, **theirs}
        if name not in ours or name not in theirs or not alike(ours[name], theirs[name])
    ]


def test_the_arithmetic_is_that_of_its_number() -> None:
    changed = differences(computed(), recorded().get(str(SCHEMA), {}))
    assert not changed, f"{changed} changed: raise SCHEMA in fs_local/store.py, and record it as this module says"


def test_numbers_only_grow() -> None:
    assert max(map(int, recorded())) == SCHEMA


@pytest.mark.parametrize("change", ["strength", "scope"])
def test_a_change_of_the_arithmetic_is_noticed(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, scores, drift = Runner.answers, Runner.scores, Runner.drift

    def changed(what: Any) -> Any:
        def run(self: Runner, requests: Any, decided: Any, *rest: Any) -> Any:
            if change == "strength":
                decided = [
                    KeptDecision(d.opening, {k: np.float32(1.05) * v for k, v in d.additions.items()}) for d in decided
                ]
            else:
                rest = (*rest[:-1], "all")
            return what(self, requests, decided, *rest)

        return run

    for name, what in (("answers", answers), ("scores", scores), ("drift", drift)):
        monkeypatch.setattr(Runner, name, changed(what))
    found = differences(computed(), recorded()[str(SCHEMA)])
    assert {"drift, generation", "scores, generation"} <= set(found)


def record() -> None:
    """Adds the results of a new number; those of a number that is there already are not overwritten."""
    known = recorded() if RECORDED.exists() else {}
    if str(SCHEMA) in known:
        raise SystemExit(f"there are results for {SCHEMA}: raise SCHEMA in fs_local/store.py first")
    RECORDED.write_text(json.dumps({**known, str(SCHEMA): computed()}, indent=1) + "\n")


if __name__ == "__main__":
    record()
