"""A control vector made elsewhere becomes a conditional one, exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.conversion import read_pack
from fs_local.errors import DataError, FitError, PackError
from fs_local.examples import FileDigest, Query
from fs_local.fitting import Examples, FitOptions, gated
from fs_local.pack.file import Pack
from fs_local.runtime.context import MICRO_BATCH, Context
from fs_local.runtime.model import Model
from fs_local.store import Store
from tests.converters.files import directions, write_control_vector
from tests.engine.driven import Driven, stock_logits
from tests.packs import random_pack, synthetic_pack

STRENGTH = 3.0
STEERED = [2, 3, 4]


@pytest.fixture(scope="module")
def queries(few_examples: Examples) -> Examples:
    """IR and general queries alone, with what a manifest says of their files."""
    ir = [p.query for p in few_examples.pairs]
    files = {name: FileDigest(48, digit * 64) for name, digit in (("IR queries", "a"), ("general queries", "b"))}
    return Examples((), ir, few_examples.general, files=files)


@pytest.fixture(scope="module")
def few(queries: Examples) -> Examples:
    """Enough to fit on, where it does not matter how well."""
    return dataclasses.replace(queries, ir=queries.ir[:12], general={"general": queries.general["general"][:12]})


def control_vector(tiny: Model, folder: Path, layers: Sequence[int]) -> Pack:
    path = write_control_vector(folder / "v.gguf", directions(list(layers), width=tiny.width))
    return read_pack(path, tiny.path)


def native_buffer(model: Model, pack: Pack) -> np.ndarray:
    buffer = np.zeros((model.n_layer - 1, model.width), dtype=np.float32)
    for layer, vector in zip(STEERED, pack.experts.prototypes[0].reshape(len(STEERED), -1), strict=True):
        buffer[layer - 1] = np.float32(STRENGTH) * vector
    return buffer


def test_it_opens_for_ir_queries_and_leaves_general_ones_bit_for_bit(
    tiny: Model, queries: Examples, tmp_path: Path
) -> None:
    vector = control_vector(tiny, tmp_path, STEERED)
    pack, _ = gated(
        tiny,
        vector,
        queries,
        FitOptions(background=False, name="new", gate="logistic", gate_layer=3, budget=0.1, strength=STRENGTH),
    )
    pack.save(tmp_path / "new.fspack")
    pack = Pack.load(tmp_path / "new.fspack")
    buffer = native_buffer(tiny, vector)
    with Driven(tiny, [pack], n_ctx=512, n_ubatch=MICRO_BATCH) as driven:
        ir, general = (
            [(t, driven.decide(t)[0]) for t in (tiny.prompt_tokens(list(q.messages)) for q in some)]
            for some in (queries.ir, queries.general["general"])
        )
        assert np.mean([d.is_open for _, d in ir]) > 0.25
        assert np.mean([d.is_open for _, d in general]) < 0.1
        tokens = next(t for t, d in general if not d.is_open)
        np.testing.assert_array_equal(driven.logits(tokens, 3), stock_logits(tiny, tokens, 3, MICRO_BATCH))
        tokens = next(t for t, d in ir if d.opening == 1)
        np.testing.assert_array_equal(
            driven.logits(tokens, 3),
            stock_logits(tiny, tokens, 3, MICRO_BATCH, control_vector=buffer),
        )


@pytest.mark.parametrize(("gate_layer", "decodes"), [(2, 1), (1, 1), (3, 2)])
def test_one_pass_is_enough_up_to_the_first_steered_block(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, gate_layer: int, decodes: int
) -> None:
    counted: list[int] = []
    decode = Context.decode

    def counting(*given: Any, **options: Any) -> None:
        counted.append(1)
        decode(*given, **options)

    monkeypatch.setattr(Context, "decode", counting)
    with Driven(tiny, [synthetic_pack(tiny, "open", layer=STEERED, gate_layer=gate_layer)], n_ctx=512) as driven:
        assert driven.answer([1, 2, 3], 1).pieces[-1].decisions[0].is_open
    assert len(counted) == decodes


def test_the_manifest_has_both_digests_and_the_gates_figures(tiny: Model, few: Examples, tmp_path: Path) -> None:
    vector = control_vector(tiny, tmp_path, STEERED)
    pack, _ = gated(tiny, vector, few, FitOptions(background=False, name="new", gate_layer=4))
    m = pack.manifest
    assert (m.name, m.method, m.steer, m.gate.layers) == ("new", "vector", vector.manifest.steer, [4])
    assert m.fitted_by.startswith("control vector of llama.cpp")
    assert "gate by fs-local" in m.fitted_by
    assert m.data["directions"] == vector.manifest.data["directions"]
    assert m.data["IR queries of the gate"].sha256 == "a" * 64
    tried = [(t.open_ir, t.open_general, t.auroc) for t in m.figures.gate_trials if t.kind == m.gate.kind]
    assert (m.figures.open_ir, m.figures.open_general, m.figures.auroc) in tried
    np.testing.assert_array_equal(pack.experts.prototypes, vector.experts.prototypes)
    again, _ = gated(tiny, pack, dataclasses.replace(few, general={}, files={"IR queries": FileDigest(12, "c" * 64)}), FitOptions(background=False))  # fmt: skip
    assert {name: d.sha256[0] for name, d in again.manifest.data.items() if "gate" in name} == {
        "IR queries of the gate": "c"
    }


def test_a_pack_keeps_its_experts_and_strength_behind_the_new_gate(tiny: Model, few: Examples) -> None:
    pack = synthetic_pack(tiny, "half", layer=3, gate_layer=[1, 2])
    found, _ = gated(tiny, pack, few, FitOptions(background=False, gate="quantile", gate_layer=5))
    assert (found.gate.kind, found.manifest.gate.layers, found.manifest.steer) == ("quantile", [5], pack.manifest.steer)
    np.testing.assert_array_equal(found.experts.routing, pack.experts.routing)
    assert found.manifest.figures.validation_error == pack.manifest.figures.validation_error


def test_without_general_queries_it_reads_no_block_that_says_little(tiny: Model, few: Examples, tmp_path: Path) -> None:
    alone = dataclasses.replace(few, general={})
    for first, expected in ((1, 2), (4, 4)):
        vector = control_vector(tiny, tmp_path, range(first, 5))
        pack, _ = gated(tiny, vector, alone, FitOptions(background=False))
        assert (pack.gate.kind, pack.manifest.gate.layers) == ("quantile", [expected])


def test_a_stopped_capture_goes_on(tiny: Model, few: Examples, tmp_path: Path) -> None:
    store, vector = Store(tmp_path / "s.jsonl"), control_vector(tiny, tmp_path, STEERED)
    packs = [gated(tiny, vector, few, FitOptions(background=False, gate_layer=2), store=store)[0] for _ in range(2)]
    assert packs[0].to_bytes() == packs[1].to_bytes()
    assert store.captures is not None
    assert len(list(store.captures.glob("*.states"))) == 1


def test_what_can_not_be_gated_says_so(tiny: Model, few: Examples, tmp_path: Path) -> None:
    vector = control_vector(tiny, tmp_path, STEERED)
    three = Examples((), few.ir[:3])
    for pack, examples, options, error, message in (
        (vector, three, FitOptions(background=False), DataError, "3 IR queries are too few"),
        (vector, few, FitOptions(background=False, gate_layer=6), FitError, "--gate-layer 6 is out of range"),
        (vector, Examples((), few.ir), FitOptions(background=False, gate="logistic"), FitError, "give --general"),
        (random_pack(), few, FitOptions(background=False), PackError, "fit a pack for this model"),
    ):
        with pytest.raises(error, match=message):
            gated(tiny, pack, examples, options)


def test_vectors_of_another_width_are_refused(tiny: Model, tmp_path: Path) -> None:
    path = write_control_vector(tmp_path / "v.gguf", directions([3], width=32))
    with pytest.raises(DataError, match="width 32"):
        read_pack(path, tiny.path)


def test_queries_read_by_any_hand(tmp_path: Path) -> None:
    from fs_local.fitting.files import read_gate_examples

    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "q"}\n')
    found = read_gate_examples([path, path], [])
    assert found.ir_queries == [Query.of("q")] * 2
    with pytest.raises(DataError, match="give --ir"):
        read_gate_examples([], [path])
