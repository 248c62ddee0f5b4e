"""States that vLLM wrote, by files of the form that its documentation gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fs_local.errors import DataError
from fs_local.fitting import FitOptions, fit_untried
from fs_local.fitting.given import read_states
from tests.packs import some_identity

WIDTH, LAYERS = 16, [4, 6]


def written(folder: Path, n: int = 12, n_general: int = 30) -> dict[str, Any]:
    """An index, and its files: `hidden_states` (tokens, layers, d) and `token_ids`, of prompts, and of prompts with answers."""
    rng = np.random.default_rng(0)
    index: dict[str, Any] = {"layers": LAYERS, "pairs": [], "preferred": [], "undesired": [], "general": []}

    def save(name: str, states: np.ndarray) -> str:
        file = f"{name}.safetensors"
        save_file({"hidden_states": states, "token_ids": np.arange(len(states))}, folder / file)
        return file

    for i in range(n):
        prompt = rng.standard_normal((5 + i, len(LAYERS), WIDTH)).astype(np.float32)
        prompt[:, :, 0] += 4
        index["pairs"].append(save(f"q{i}", prompt))
        for kind, sign in (("preferred", 5), ("undesired", -5)):
            answer = rng.standard_normal((3 + i, len(LAYERS), WIDTH)).astype(np.float32)
            answer[:, :, 1] += sign
            index[kind].append(save(f"{kind}{i}", np.concatenate([prompt, answer])))
    for i in range(n_general):
        index["general"].append(save(f"g{i}", rng.standard_normal((4, len(LAYERS), WIDTH)).astype(np.float32)))
    return index


def read(folder: Path, index: Any) -> Any:
    path = folder / "index.json"
    path.write_text(index if isinstance(index, str) else json.dumps(index))
    return read_states(path)


def test_they_become_the_states_that_a_fit_takes(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    index = written(tmp_path)
    found = read(tmp_path, index)
    assert (found.width, found.n_pairs, found.n_general) == (WIDTH, 12, 30)
    assert sorted(found.pairs.queries) == [3, 5]  # vLLM's layers 4 and 6 are the states before those blocks
    prompt, answer = (load_file(tmp_path / f"{name}.safetensors")["hidden_states"] for name in ("q2", "preferred2"))
    np.testing.assert_array_equal(found.pairs.queries[5][2], prompt[-1, 1])
    other = load_file(tmp_path / "undesired2.safetensors")["hidden_states"]
    difference = answer[7:, 1].mean(axis=0) - other[7:, 1].mean(axis=0)
    np.testing.assert_allclose(found.pairs.differences[5].read(np.arange(12))[2], difference, atol=1e-5)
    options = FitOptions(background=False, layers=(5,), gate_layer=5, gate="logistic", budget=0.2, strength=1.0, n_experts=(1, 1), residual_rank=0)  # fmt: skip
    pack = fit_untried(some_identity(WIDTH, 12), found, options).pack
    assert pack.experts.prototypes[0, 1] > 5


def test_a_change_in_any_file_is_another_digest(tmp_path: Path) -> None:
    index = written(tmp_path)
    before = read(tmp_path, index).files
    save_file({"hidden_states": np.ones((3, 2, WIDTH), np.float32)}, tmp_path / "g0.safetensors")
    assert read(tmp_path, index).files != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": []}, "must say layers"),
        ({"layers": [0, 6]}, "must say layers"),
        ({"layers": [6, 6]}, "names a layer twice"),
        ({"layers": [4]}, r"no hidden_states of shape \(tokens, 1, width\)"),
        ({"pairs": ["q0.safetensors"]}, "as many files in preferred as in pairs"),
        ({"preferred": [f"preferred{i}.safetensors" for i in range(11, -1, -1)]}, "does not go on where its query's prompt ends"),
        ({"preferred": [f"q{i}.safetensors" for i in range(12)]}, "does not go on"),
        ({"general": ["missing.safetensors"]}, "can't be read"),
        ({"general": "g0.safetensors"}, "must have names of files"),
        ({"general": [3]}, "must have names of files"),
        ({"others": []}, "'others', which is none of"),
    ],
)  # fmt: skip
def test_an_index_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, {**written(tmp_path), **change})


@pytest.mark.parametrize("text", ["{", "{}", '{"layers": 3}', "{" * 5000])
def test_what_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError):
        read(tmp_path, text)
