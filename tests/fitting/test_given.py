"""States from elsewhere: what a file may hold, and the packs that are fitted on it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from converters.vectors import model_identity
from fs_local.capture import capture, query_request
from fs_local.errors import DataError, FitError, FsLocalError
from fs_local.fitting import Examples, FitOptions, fit, fit_untried
from fs_local.fitting.given import read_states
from fs_local.model_files import resolve_model
from fs_local.pack.manifest import ModelIdentity
from fs_local.runtime.model import Model
from tests.converters.files import write_model, write_npz
from tests.packs import some_identity

WIDTH, N_PAIRS, N_IR, N_GENERAL = 16, 20, 30, 40
BLOCKS = (3, 5)
COMMON: dict[str, Any] = {"suppress_health_check": [HealthCheck.function_scoped_fixture], "deadline": None}


def arrays(
    blocks: tuple[int, ...] = BLOCKS, kinds: str = "pairs preferred undesired ir general"
) -> dict[str, np.ndarray]:
    """States where IR queries, and preferred answers, stand apart along one axis each."""
    rng = np.random.default_rng(0)
    rows = {
        "pairs": N_PAIRS,
        "preferred": N_PAIRS,
        "undesired": N_PAIRS,
        "ir": N_IR,
        "general": N_GENERAL,
        "contrast": 9,
    }
    made = {}
    for kind in kinds.split():
        for il in blocks:
            x = rng.standard_normal((rows[kind], WIDTH))
            x[:, 0] += 8 * (kind in ("ir", "pairs"))
            x[:, 1] += 5 * (kind == "preferred")
            made[f"{kind}.{il}"] = x.astype(np.float32)
    return made


def written(folder: Path, made: dict[str, np.ndarray], name: str = "states.npz") -> Path:
    path = folder / name
    if path.suffix == ".npz":
        write_npz(path, made)
    else:
        save_file(made, path)
    return path


def shape() -> ModelIdentity:
    return some_identity(WIDTH, n_layer=8)


@pytest.mark.parametrize("name", ["states.npz", "states.safetensors"])
def test_a_pack_is_fitted_without_a_model(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, arrays(kinds="pairs preferred undesired ir general contrast"), name)
    fitted = fit_untried(shape(), read_states(path), FitOptions(background=False, layers=(5,)))
    m = fitted.pack.manifest
    assert (m.steer.layers, m.steer.strength, m.model) == ([5], 1.0, shape())
    assert "nothing was tried on the model: the strength is 1" in fitted.notes[0]
    assert {name: d.rows for name, d in m.data.items()} == {
        "pairs' states": N_PAIRS, "IR states": N_IR, "general states": N_GENERAL, "contrast states": 9
    }  # fmt: skip
    assert m.figures.open_ir is not None
    assert m.figures.open_ir > 0.9
    assert m.figures.trials == []
    probe = np.zeros((1, WIDTH), dtype=np.float32)
    assert fitted.pack.experts.vector(probe)[0, 1] == pytest.approx(5, abs=1)
    assert fitted.record["chosen"]["layers"] == [5]
    assert sum(e.pairs for e in m.experts) == 14  # of 20, 3 report and 3 stop the training


def test_what_is_given_is_taken(tmp_path: Path) -> None:
    states = read_states(written(tmp_path, arrays((3,), "pairs preferred undesired")))
    fitted = fit_untried(shape(), states, FitOptions(background=False, strength=2.5, residual_rank=0))
    m = fitted.pack.manifest
    assert (m.steer.layers, m.steer.strength, m.gate.layers, m.gate.kind) == ([3], 2.5, [3], "quantile")
    assert fitted.notes == ()
    assert len(fitted.pack.experts.residual) == 0
    states = read_states(written(tmp_path, arrays()))
    for method in ("caa", "repe", "cast", "alphasteer"):
        pack = fit_untried(shape(), states, FitOptions(background=False, layers=(5,), method=method)).pack
        assert (pack.manifest.method, pack.manifest.steer.layers) == (method, [5])
    pack = fit_untried(shape(), states, FitOptions(background=False, layers=(5,), gate_layer=3, gate="quantile")).pack
    assert (pack.gate.kind, pack.manifest.gate.layers) == ("quantile", [3])


@pytest.mark.parametrize(("blocks", "taken"), [((1, 3, 5, 6), [3, 5]), ((1, 2), [1, 2])])
def test_a_gate_takes_the_depths_of_our_own_captures_where_the_file_has_them(
    tmp_path: Path, blocks: tuple[int, ...], taken: list[int]
) -> None:
    states = read_states(written(tmp_path, arrays(blocks)))
    pack = fit_untried(shape(), states, FitOptions(background=False, layers=(blocks[1],))).pack
    assert (pack.gate.kind, pack.manifest.gate.layers) == ("logistic", taken)


def test_our_own_states_from_a_file_give_the_same_pack(tiny: Model, few_examples: Examples, tmp_path: Path) -> None:
    """The trials too: the model answers with the vectors that were fitted on the file."""
    pairs, general = few_examples.pairs[:12], few_examples.general["general"][:12]
    examples, layer = Examples(pairs, general={"general": general}), 3
    # a file of states has the last token alone, as a one-class gate takes it
    options = FitOptions(background=False, layers=(layer,), gate="quantile", gate_layer=layer, strength=1.0)
    requests = [query_request(tiny, p.query, p.preferred + p.undesired) for p in pairs]
    found = capture(tiny, requests, [layer])
    queries = capture(tiny, [query_request(tiny, q) for q in [*examples.ir_queries, *general]], [layer]).at(layer)
    sides = [(a[: len(p.preferred), 0].mean(axis=0), a[len(p.preferred) :, 0].mean(axis=0)) for a, p in zip(found.answers, pairs, strict=True)]  # fmt: skip
    made = {
        "pairs": found.at(layer), "preferred": np.stack([a for a, _ in sides]), "undesired": np.stack([b for _, b in sides]),
        "ir": queries[:12], "general": queries[12:],
    }  # fmt: skip
    states = read_states(written(tmp_path, {f"{kind}.{layer}": x for kind, x in made.items()}))
    ours = fit(tiny, examples, options).pack
    theirs = fit(tiny, Examples(pairs), options, given=states).pack
    np.testing.assert_array_equal(ours.gate.coef, theirs.gate.coef)
    np.testing.assert_array_equal(ours.experts.prototypes, theirs.experts.prototypes)
    assert ours.manifest.figures == theirs.manifest.figures
    assert ours.manifest.experts == theirs.manifest.experts
    with pytest.raises(DataError, match="states of 12 pairs, and there are 11 pairs"):
        fit(tiny, Examples(pairs[:11]), options, given=states)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "states of blocks 3, 5, and no texts to try them on; choose one with --layer"),
        ({"layers": (4,)}, "no pairs' states of block 4; it has those of 3, 5"),
        ({"layers": (3,), "gate_layer": 6}, "no queries' states of block 6"),
        ({"layers": (9,)}, "--layer 9 is out of range"),
    ],
)
def test_a_layer_must_be_among_the_states(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError, match=message):
        fit_untried(shape(), read_states(written(tmp_path, arrays())), FitOptions(background=False, **options))


@pytest.mark.parametrize(
    ("model", "blocks", "message"),
    [
        (some_identity(32, 8), BLOCKS, "states of width 16, and some model has width 32"),
        (some_identity(WIDTH, 5), BLOCKS, "states of block 5, and some model has blocks 0 to 4"),
        (some_identity(WIDTH, 6), BLOCKS, "block 5, the last of some model.*transformers gives it normalized"),
        (some_identity(WIDTH, 6), (0,), "block 0 alone"),
    ],
)
def test_states_of_another_model_are_refused(
    tmp_path: Path, model: ModelIdentity, blocks: tuple[int, ...], message: str
) -> None:
    states = read_states(written(tmp_path, arrays(blocks)))
    with pytest.raises(FsLocalError, match=message):
        fit_untried(model, states, FitOptions(background=False))


def changed(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    made = {**arrays(), **{name.replace("_", "."): array for name, array in changes.items()}}
    return {name: array for name, array in made.items() if array is not None}


def rows(n: int, width: int = WIDTH, dtype: type = np.float32) -> np.ndarray:
    return np.ones((n, width), dtype=dtype)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (changed(preferred_3=None), "as many states in preferred as in pairs, at the same blocks"),
        (changed(preferred_3=rows(3), preferred_5=rows(3)), "as many states in preferred"),
        (changed(general_3=None), "general states at the same blocks as IR queries"),
        (changed(ir_3=rows(N_IR, 3)), "of one width"),
        (changed(ir_3=rows(2)), "as many of a kind at every block"),
        (changed(ir_3=np.full((N_IR, WIDTH), np.nan, dtype=np.float32)), "not finite"),
        (changed(ir_3=rows(N_IR, dtype=np.float64)), "float32"),
        (changed(ir_03=rows(N_IR)), "an array 'ir.03'"),
        (changed(other_3=rows(N_IR)), "an array 'other.3'"),
        (arrays(kinds="ir general"), "no pairs' states"),
        (arrays(kinds="pairs preferred undesired contrast"), "contrast states without general ones"),
    ],
)
def test_what_is_no_states_file_says_so(tmp_path: Path, made: dict[str, np.ndarray], message: str) -> None:
    for name in ("s.npz", "s.safetensors"):
        with pytest.raises(DataError, match=message):
            read_states(written(tmp_path, made, name))


def test_files_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    with pytest.raises(DataError, match="can't be read"):
        read_states(path)
    path.write_text("nothing of the kind")
    with pytest.raises(DataError, match="neither an npz nor safetensors"):
        read_states(path)
    write_npz(path, arrays(), compressed=True)
    with pytest.raises(DataError, match=r"write it with numpy\.savez"):
        read_states(path)
    write_npz(path, {"ir.3": np.array([{}], dtype=object)})
    with pytest.raises(DataError, match="can't be used"):
        read_states(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 23, 1 << 23)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ir.3.npy", header.getvalue())
    with pytest.raises(DataError, match="is not of its stated shape"):
        read_states(path)


@settings(max_examples=200, **COMMON)
@given(st.data())
def test_a_damaged_file_is_an_error_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["s.npz", "s.safetensors"]))
    path = written(tmp_path, arrays((3,)), name)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = read_states(path)
    except DataError:
        return
    assert all(x.all_finite() for x in found.pairs.differences.values())
    assert all(x.all_finite() for x in found.queries.ir.values())


def test_only_the_models_header_is_read(tmp_path: Path) -> None:
    """The command, with a file that has no weights to load."""
    from typer.testing import CliRunner

    import cli

    model = write_model(tmp_path / "model.gguf", width=WIDTH, blocks=8)
    states = written(tmp_path, arrays((3,)))
    pack = tmp_path / "p.fspack"
    done = CliRunner().invoke(cli.app, ["fit", str(model), "--states", str(states), "-o", str(pack)])
    assert done.exit_code == 0, done.output
    assert "note: nothing was tried on the model: the strength is 1" in " ".join(done.stderr.split())
    assert "20 pairs' states, 30 IR states, 40 general states" in " ".join(done.stdout.split())
    assert model_identity(resolve_model(model)).fingerprint in done.stdout
    done = CliRunner().invoke(cli.app, ["fit", str(model), "--states", str(states), "--ir", str(states)])
    assert isinstance(done.exception, DataError)
    assert "leave out states.npz" in str(done.exception)
