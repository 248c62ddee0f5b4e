"""Vectors of the package steering-vectors, and `--layers`, which all vectors take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.conversion import convert
from converters.layers import parse_layers, ranges
from fs_local.errors import DataError
from fs_local.pack.file import Pack
from tests.converters.files import (
    bfloat16,
    directions,
    write_control_vector,
    write_model,
    write_npz,
    write_svec,
    write_tensors,
)


@pytest.mark.parametrize("prefix", ["layer_activations.", ""])
@pytest.mark.parametrize("container", ["safetensors", "npz"])
def test_layer_n_is_the_output_of_block_n(container: str, prefix: str, tmp_path: Path) -> None:
    theirs = directions([0, 3, 11])
    named = {f"{prefix}{n}": vector for n, vector in theirs.items()}
    source = tmp_path / "v.x"
    (write_tensors if container == "safetensors" else write_npz)(source, named)
    done = convert(source, tmp_path / "v.fspack", model=str(write_model(tmp_path / "model.gguf")))
    assert done.source == "steering-vectors"
    assert len(done.lost) == 1
    assert "decoder_block, the package's default" in done.lost[0]
    pack = Pack.load(tmp_path / "v.fspack")
    assert pack.manifest.steer.layers == [0, 3, 11]
    assert pack.experts.prototypes.tobytes() == np.concatenate(list(theirs.values())).tobytes()


def test_types_are_said_and_values_kept(tmp_path: Path) -> None:
    theirs = {n: bfloat16(vector) for n, vector in directions([3, 4]).items()}
    source = write_tensors(tmp_path / "v", {str(n): v[None] for n, v in theirs.items()}, "BF16")
    done = convert(source, tmp_path / "v.npz")
    assert "bfloat16 became float32" in done.lost[1]
    with np.load(tmp_path / "v.npz") as arrays:
        assert arrays["direction.4"].tobytes() == theirs[4].tobytes()


def test_tensors_that_are_no_directions(tmp_path: Path) -> None:
    good = directions([1])[1]
    for tensors, message in (
        ({"1": good.reshape(8, 8)}, "which is no vector"),
        ({"layer_activations.-1": good}, "names no layer"),
        ({"layer_activations.1": good, "other": good}, "names no layer"),
        ({"layer_activations.1": good, "1": good}, "layer 1 twice"),
        ({"1": good, "2": good[:5]}, "not vectors of one width"),
        ({"4000": good}, "beyond 0 to 1023"),
    ):
        with pytest.raises(DataError, match=message):
            convert(write_npz(tmp_path / "v", tensors), tmp_path / "out.gguf")


def test_layers_are_written_as_numbers_and_ranges() -> None:
    assert parse_layers("10-12, 15,3") == {3, 10, 11, 12, 15}
    assert ranges({3, 10, 11, 12, 15}) == "3, 10-12, 15"
    for text in ("", "a", "3-", "-3", "5-4", "1,,2", "99999", "1024", "1.5", "١"):
        with pytest.raises(DataError, match="--layers takes numbers and ranges"):
            parse_layers(text)


def test_layers_are_those_of_the_source(tmp_path: Path) -> None:
    """activation-steering's layer n acts after block n−1, repeng's after block n."""
    theirs = directions(range(1, 9))
    model = str(write_model(tmp_path / "model.gguf"))
    svec = write_svec(tmp_path / "v.svec", theirs)
    gguf = write_control_vector(tmp_path / "v.gguf", theirs)
    for source, blocks in ((svec, [2, 3, 6]), (gguf, [3, 4, 7])):
        done = convert(source, tmp_path / "v.fspack", model=model, layers="3-4,7", force=True)
        pack = Pack.load(tmp_path / "v.fspack")
        assert pack.manifest.steer.layers == blocks
        assert pack.experts.prototypes.tobytes() == np.concatenate([theirs[n] for n in (3, 4, 7)]).tobytes()
        assert "directions for layers 1-2, 5-6, 8 of the file, which --layers leaves out" in done.lost
    assert not [s for s in convert(gguf, tmp_path / "all.npz", layers="1-8").lost if "--layers" in s]
    convert(gguf, tmp_path / "some.gguf", layers="3")
    with pytest.raises(DataError, match="nothing to use for layer 9-10; its layers are 1-8"):
        convert(svec, tmp_path / "w.fspack", model=model, layers="8-10")
    with pytest.raises(DataError, match="converted whole"):
        convert(tmp_path / "v.fspack", tmp_path / "w.gguf", layers="3")
