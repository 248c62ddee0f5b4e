"""PyTorch's files: never unpickled here, and read by PyTorch where it is installed."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.conversion import convert
from converters.torch_file import open_torch
from fs_local.errors import DataError
from fs_local.pack.file import Pack
from tests.converters.files import BLOCKS, WIDTH, directions, mose_state, write_model
from tests.converters.test_alphasteer import matrices
from tests.converters.test_finesteer import check_same


def test_without_pytorch_the_message_says_how_to_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "MoSE.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MoSE/data.pkl", b"\x80\x02}q\0.")
    with pytest.raises(
        DataError, match=r"pip install torch; or load it with torch.load\(weights_only=True\) .*save_file$"
    ):
        convert(path, tmp_path / "p.fspack")


def test_zips_that_pytorch_would_not_write(tmp_path: Path) -> None:
    path = tmp_path / "v.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v/data.pkl", bytes(100_000))
    with pytest.raises(DataError, match="not stored plainly"):
        open_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("v/data.pkl", bytes(5 << 20))
    with pytest.raises(DataError, match="too much beside its tensors"):
        open_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("v/data.pkl", b"")
        for i in range(1100):
            archive.writestr(str(i), b"")
    with pytest.raises(DataError, match="too many members"):
        open_torch(path)


class SteeringVector:
    """Pickled under the name of the package's class, which is not installed here."""

    layer_activations: dict[int, Any]
    layer_type: str


class Marker:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.slow
def test_what_pytorch_saves_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import torch
    except ImportError:
        pytest.fail("this test needs PyTorch: pip install torch")
    model = str(write_model(tmp_path / "model.gguf", width=32))
    wide = str(write_model(tmp_path / "wide.gguf"))
    path, packed = tmp_path / "it.pt", tmp_path / "p.fspack"

    def tensors(state: dict[str, np.ndarray]) -> dict[str, object]:
        return {name: torch.from_numpy(array) for name, array in state.items()}

    for value in (False, True):
        state = mose_state(value=value)
        metadata = {"components": {"config": {"name": "MoSE", "k_min": 4}}, "training": {"history": [{"epoch": 1}]}}
        torch.save({"state_dict": tensors(state), "metadata": metadata}, path)
        done = convert(path, packed, model=model, layers="7", force=True)
        assert done.source == "finesteer"
        check_same(Pack.load(packed), state, 0)

    made = matrices({4: 1, 7: 3})
    torch.save(torch.from_numpy(made), path)
    assert convert(path, packed, model=wide, layers="7", force=True).source == "alphasteer"
    states = np.random.default_rng(1).standard_normal((5, WIDTH), dtype=np.float32)
    np.testing.assert_allclose(Pack.load(packed).experts.vector(states), states @ made[7], rtol=1e-3, atol=1e-3)

    theirs = directions(range(BLOCKS))
    saved = SteeringVector()
    saved.layer_activations = {n: torch.from_numpy(v).to(torch.bfloat16) for n, v in theirs.items()}
    saved.layer_type = "decoder_block"
    package: Any = type(sys)("steering_vectors.steering_vector")
    package.SteeringVector = SteeringVector
    monkeypatch.setattr(SteeringVector, "__module__", "steering_vectors.steering_vector")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "steering_vectors", type(sys)("steering_vectors"))
        patch.setitem(sys.modules, "steering_vectors.steering_vector", package)
        torch.save(saved, path)
        saved.layer_type = "mlp"
        torch.save(saved, tmp_path / "mlp.pt")
    done = convert(path, packed, model=wide, layers="3-5", force=True)
    assert done.source == "steering-vectors"
    assert not any("layer type" in sentence for sentence in done.lost)
    assert any("bfloat16 became float32" in sentence for sentence in done.lost)
    rounded = torch.from_numpy(theirs[3]).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(Pack.load(packed).experts.prototypes[0, :WIDTH], rounded)
    with pytest.raises(DataError, match="acts on 'mlp' inside each block"):
        convert(tmp_path / "mlp.pt", packed, model=wide, force=True)
    torch.save(saved.layer_activations, path)
    assert convert(path, packed, model=wide, force=True).source == "steering-vectors"

    def refused(content: object, message: str) -> None:
        torch.save(content, path)
        with pytest.raises(DataError, match=message) as error:
            convert(path, packed, model=wide, force=True)
        assert "\n" not in str(error.value)

    trace = tmp_path / "trace"
    refused({"a": Marker(trace)}, "without running code")
    assert not trace.exists()
    refused({"a": {"weight": torch.ones(3)}, "b": 3}, "no method that is known here: a.weight")
    refused({"1": torch.eye(3).to_sparse()}, "sparse")
    refused({"1": torch.ones(1).expand(10**9)}, "more than the file")
    refused({"1": torch.full((4,), torch.nan)}, "not finite")
    refused({"1": torch.ones(4, dtype=torch.int64)}, "numbers of type torch.int64")
    refused({}, "holds no tensors|no method that is known")
    torch.save(tensors(mose_state()), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError):
        convert(path, packed, model=model, layers="7", force=True)
