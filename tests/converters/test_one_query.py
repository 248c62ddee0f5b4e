"""The vector of one query: applied by llama.cpp alone, it gives what the pack gives for that query, bit for bit."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from converters.conversion import convert
from fs_local.errors import DataError, PackError
from fs_local.examples import Query
from fs_local.pack.file import Pack
from fs_local.runtime.context import MICRO_BATCH
from fs_local.runtime.model import Model
from tests.converters.files import directions, write_control_vector, write_npz
from tests.engine.driven import Driven, stock_logits
from tests.packs import synthetic_pack

SHORT = "How do I bake bread?"
LONG = "count these words " * 30


def saved(pack: Pack, folder: Path) -> Path:
    path = folder / "p.fspack"
    pack.save(path)
    return path


def as_llama_cpp_loads_it(path: Path, n_layer: int, width: int) -> np.ndarray:
    """The buffer that llama.cpp's own loader makes of a control vector: direction.n at row n - 1."""
    buffer = np.zeros((n_layer - 1, width), dtype=np.float32)
    for tensor in gguf.GGUFReader(path).tensors:
        buffer[int(tensor.name.removeprefix("direction.")) - 1] = tensor.data
    return buffer


@pytest.mark.parametrize(
    ("query", "layer", "gate_layer", "gate"),
    [(SHORT, 3, 3, "open"), (SHORT, [1, 2, 4], 3, "half"), (LONG, 3, 1, "open")],
)
def test_llama_cpp_alone_gives_the_packs_logits_bit_for_bit(
    tiny: Model, tmp_path: Path, query: str, layer: int | list[int], gate_layer: int, gate: str
) -> None:
    pack = synthetic_pack(tiny, gate, layer=layer, gate_layer=gate_layer)
    done = convert(saved(pack, tmp_path), tmp_path / "v.gguf", model=str(tiny.path), query=query)
    assert (done.source, done.target) == ("fspack", "gguf")
    vector = as_llama_cpp_loads_it(done.path, tiny.n_layer, tiny.width)
    tokens = tiny.prompt_tokens(list(Query.of(query).messages))
    assert (len(tokens) > MICRO_BATCH) == (query == LONG)
    with Driven(tiny, [pack], n_ubatch=MICRO_BATCH) as driven:
        ours = driven.logits(tokens, 3)
    alone = stock_logits(tiny, tokens, 3, MICRO_BATCH, control_vector=vector)
    np.testing.assert_array_equal(ours, alone)
    assert not np.array_equal(ours, stock_logits(tiny, tokens, 3, MICRO_BATCH))


def test_a_closed_gate_writes_nothing(tiny: Model, tmp_path: Path) -> None:
    source = saved(synthetic_pack(tiny, "closed", layer=3, gate_layer=1), tmp_path)
    with pytest.raises(PackError, match=r"its gate is closed for it .*nothing was written.*leave out --for"):
        convert(source, tmp_path / "v.gguf", model=str(tiny.path), query=SHORT)
    assert [p.name for p in tmp_path.iterdir()] == ["p.fspack"]


def test_strength_0_writes_nothing(tiny: Model, tmp_path: Path) -> None:
    source = saved(synthetic_pack(tiny, "open", layer=3, gate_layer=1).with_strength(0), tmp_path)
    with pytest.raises(PackError, match="its strength is 0"):
        convert(source, tmp_path / "v.npz", model=str(tiny.path), query=SHORT)


def test_it_is_a_pack_too_that_steers_every_query_so(tiny: Model, tmp_path: Path) -> None:
    pack = synthetic_pack(tiny, "open", layer=3, gate_layer=1, scope="generation")
    done = convert(saved(pack, tmp_path), tmp_path / "one.fspack", model=str(tiny.path), query=SHORT)
    made = Pack.load(done.path)
    assert (made.gate.kind, made.manifest.steer.layers, len(made.experts.prototypes)) == ("open", [3], 1)
    assert [s.split(":")[0].split(",")[0] for s in done.lost] == ["all other queries", "the scope (generation alone)"]


def test_what_has_no_vector_of_one_query_says_so(tiny: Model, tmp_path: Path) -> None:
    vector = write_control_vector(tmp_path / "v.gguf", directions([3], width=tiny.width))
    pack = saved(synthetic_pack(tiny, "open", layer=3, gate_layer=1), tmp_path)
    model = str(tiny.path)
    for source, model_file, query, message in (
        (vector, model, SHORT, "the same for every query; leave out --for"),
        (pack, None, SHORT, "give its file with --model"),
        (pack, model, "  ", "the query of --for is empty"),
    ):
        with pytest.raises(DataError, match=message):
            convert(source, tmp_path / "o.npz", model=model_file, query=query)
    assert not (tmp_path / "o.npz").exists()


def test_the_mean_vectors_loss_is_the_measured_one(tiny: Model, tmp_path: Path) -> None:
    """The manifest's errors are of exactly the two vectors that the sentence compares."""
    from fs_local.fitting import FitOptions
    from fs_local.fitting.expert_search import experts_untried
    from fs_local.fitting.given import read_states
    from fs_local.fitting.held_out import pair_parts

    rng = np.random.default_rng(0)
    states = rng.standard_normal((60, 16)).astype(np.float32)
    deltas = (states @ rng.standard_normal((16, 16)) + 2).astype(np.float32)
    made = {"pairs.5": states, "preferred.5": deltas, "undesired.5": np.zeros_like(deltas)}
    write_npz(tmp_path / "states.npz", made)
    given = read_states(tmp_path / "states.npz")
    how = experts_untried(given, FitOptions(n_experts=(3, 3), residual_rank=4), (5,))
    assert how.mixture is not None
    pairs = np.bincount(how.mixture.labels_)
    mean = pairs @ how.experts.prototypes / pairs.sum()
    held_out = pair_parts(given.pairs.groups, 0).report
    assert not {*held_out} & {*how.train}
    off = np.square(deltas[held_out] - mean).sum(axis=1).mean()
    assert off == pytest.approx(how.constant_error, rel=1e-4)
    own = np.square(deltas[held_out] - how.experts.vector(states[held_out])).sum(axis=1).mean()
    assert own == pytest.approx(how.error, rel=1e-3)

    pack = synthetic_pack(tiny, "open", layer=3, gate_layer=1)
    figures = pack.manifest.figures.model_copy(update={"constant_error": 3.0, "validation_error": 2.0})
    pack = Pack.of(pack.manifest.model_copy(update={"figures": figures}), pack.gate, pack.experts)
    lost = convert(saved(pack, tmp_path), tmp_path / "v.gguf").lost
    assert any("1.50 times that of the pack's own vectors (3 against 2" in sentence for sentence in lost)
