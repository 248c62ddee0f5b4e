"""Conversions between all formats: what comes back bit for bit, what is lost and said, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from converters import gguf_vector, npz, safetensors_file, svec
from converters.conversion import convert
from converters.formats import FORMATS, recognize
from converters.vectors import checked_vectors, constant_part
from fs_local.errors import DataError, FsLocalError
from fs_local.method.folded import GateKind
from fs_local.pack.file import Pack
from fs_local.runtime.gguf_header import read_header
from tests.converters.files import (
    BLOCKS,
    WIDTH,
    directions,
    tensors,
    write_control_vector,
    write_model,
    write_npz,
    write_svec,
)
from tests.packs import describe, random_experts, random_gate, random_pack, some_identity

ALL_BLOCKS = range(BLOCKS)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_model(tmp_path / "model.gguf"))


@pytest.fixture
def vector(tmp_path: Path) -> Path:
    return write_control_vector(tmp_path / "vector.gguf", directions(ALL_BLOCKS))


def test_a_control_vector_becomes_a_pack_and_comes_back_bit_for_bit(vector: Path, model: str, tmp_path: Path) -> None:
    packed, back = tmp_path / "v.fspack", tmp_path / "back.gguf"
    done = convert(vector, packed, model=model)
    assert (done.source, done.target) == ("gguf", "fspack")
    assert done.lost == ("2 metadata keys of the file, such as how it was extracted",)
    pack = Pack.load(packed)
    m = pack.manifest
    assert (m.method, m.gate.kind, len(pack.experts.prototypes)) == ("vector", "open", 1)
    assert (m.steer.layers, m.steer.strength) == (list(ALL_BLOCKS), 1)
    assert "diffmean" in m.fitted_by
    assert "qwen2.5" in m.fitted_by
    done = convert(packed, back)
    assert "llama.cpp as a reader" in done.lost[0]
    assert tensors(back) == tensors(vector)


def test_the_pack_adds_each_direction_after_its_own_block(vector: Path, model: str, tmp_path: Path) -> None:
    """Numbers mean the same to llama.cpp, repeng and EasySteer: `direction.{n}` is added after block n."""
    convert(vector, tmp_path / "v.fspack", model=model)
    pack = Pack.load(tmp_path / "v.fspack")
    rng = np.random.default_rng(1)
    states = rng.standard_normal((2, WIDTH), dtype=np.float32)
    for engine in (pack.evaluator("numpy"), pack.evaluator("onnx")):
        found = engine(states[0], states[1])
        assert found.opening == 1
        parts = found.vector.reshape(BLOCKS, WIDTH)
        for layer, direction in directions(ALL_BLOCKS).items():
            np.testing.assert_array_equal(parts[pack.manifest.steer.layers.index(layer)], direction)


@pytest.mark.parametrize("name", ["npz", "safetensors", "svec"])
def test_there_and_back_keeps_every_bit(name: str, vector: Path, tmp_path: Path) -> None:
    between, back = tmp_path / f"v.{name}", tmp_path / "back.gguf"
    convert(vector, between)
    assert recognize(between)[0].name == name
    convert(between, back)
    assert tensors(back) == tensors(vector)


WRITTEN = [f.name for f in FORMATS if f.write and f.name not in ("gguf", "torch")]  # a folder: test_torch_folder.py


@pytest.mark.parametrize("name", WRITTEN)
def test_conversions_are_deterministic(name: str, vector: Path, model: str, tmp_path: Path) -> None:
    for out in ("a", "b"):
        convert(vector, tmp_path / out, to=name, model=model)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_format_is_known_by_content_and_not_by_name(vector: Path, model: str, tmp_path: Path) -> None:
    for name in WRITTEN:
        odd = tmp_path / "odd.txt"
        convert(vector, odd, to=name, model=model, force=True)
        assert recognize(odd)[0].name == name


def test_the_written_control_vector_is_what_each_tool_reads(tmp_path: Path) -> None:
    pack = some_pack(kind="open", k=1, u=0, layers=[3, 5])
    pack.save(tmp_path / "p.fspack")
    convert(tmp_path / "p.fspack", tmp_path / "p.gguf")
    reader = gguf.GGUFReader(tmp_path / "p.gguf")
    fields = {name: reader.get_field(name) for name in ("general.architecture", "controlvector.model_hint")}
    said = {name: str(bytes(f.parts[-1]), "utf-8") for name, f in fields.items() if f is not None}  # repeng, EasySteer
    assert said == {"general.architecture": "controlvector", "controlvector.model_hint": "llama"}
    wanted = (np.float32(pack.manifest.steer.strength) * pack.experts.prototypes).reshape(2, -1)
    buffer = np.zeros((5, 64), dtype=np.float32)  # as llama.cpp's loader fills it: direction.n at n - 1
    for tensor in reader.tensors:
        n = int(tensor.name.removeprefix("direction."))
        assert n > 0
        assert (tensor.tensor_type, tensor.data.ndim) == (gguf.GGMLQuantizationType.F32, 1)
        buffer[n - 1] = tensor.data
    np.testing.assert_array_equal(buffer[[2, 4]], wanted)
    assert not buffer[[0, 1, 3]].any()


def some_pack(kind: GateKind = "logistic", k: int = 4, u: int = 3, layers: list[int] | None = None) -> Pack:
    layers = layers or [10]
    experts = random_experts(64, k=k, u=u, layers=len(layers))
    return describe(
        random_gate(kind, 64), experts, some_identity(64), layers=layers, gate_layers=[8], strength=1.5, scope="all", name="some"
    )  # fmt: skip


def test_the_constant_part_is_the_mean_over_training_pairs(tmp_path: Path) -> None:
    pack = some_pack(k=2)
    about = [a.model_copy(update={"pairs": n}) for a, n in zip(pack.manifest.experts, (30, 10), strict=True)]
    pack = Pack.of(pack.manifest.model_copy(update={"experts": about}), pack.gate, pack.experts)
    vectors = constant_part(pack)
    np.testing.assert_allclose(
        vectors.directions[10], 1.5 * np.array([0.75, 0.25]) @ pack.experts.prototypes, rtol=1e-5
    )
    gate, routing, residual = vectors.lost[:3]
    assert "the gate (logistic, it opens for 100.0% of IR queries)" in gate
    assert "2 experts" in routing
    assert "rank 3" in residual
    assert "2.00 times that of the pack's own vectors (2 against 1, both at strength 1)" in vectors.lost[3]


def test_a_pack_without_a_constant_part_is_no_vector() -> None:
    pack = some_pack(k=1)
    nothing = Pack.of(pack.manifest, pack.gate, random_experts(64, k=1, size=0.0))
    with pytest.raises(FsLocalError, match="no constant part"):
        constant_part(nothing)


def test_svec_acts_before_its_layer_and_embeddings_are_left_out(tmp_path: Path) -> None:
    theirs = directions([0, 4, 7])
    found = svec.read(write_svec(tmp_path / "v.svec", theirs))
    assert list(found.directions) == [3, 6]
    np.testing.assert_array_equal(found.directions[3], theirs[4])
    assert "the embeddings), 1 of 3" in found.lost[0]
    assert "explained variances" in found.lost
    data, _ = svec.write(found)
    document = json.loads(data)
    assert {int(k): np.array(v, dtype=np.float32).tobytes() for k, v in document["directions"].items()} == {
        k: theirs[k].tobytes() for k in (4, 7)
    }
    assert {int(k) for k in document["explained_variances"]} == set()  # as its loader reads them
    with pytest.raises(DataError, match="layer 0 alone"):
        svec.read(write_svec(tmp_path / "v.svec", directions([0])))


def test_svec_says_what_rounding_costs(tmp_path: Path) -> None:
    path = tmp_path / "v.svec"
    path.write_text('{"directions": {"2": [0.1, 3, -2e-3]}}')
    found = svec.read(path)
    assert found.lost == ("digits beyond float32, 1e-09 at most",)
    np.testing.assert_array_equal(found.directions[1], np.array([0.1, 3, -2e-3], dtype=np.float32))


BAD_FILES = [
    (b"", "no format that is read"),
    (b"hello", "no format that is read"),
    (b"\x80\x04K\x01.", "pickle, which can run code"),
    (b"PK\x03\x04" + b"\0" * 26 + b"archive/data.pkl", "can't be used: File is not a zip file"),
    (b"GGUF" + b"\3\0\0\0" + b"\xff" * 16, "counts 18,446,744,073,709,551,615 tensors"),
    (b"GGUF\3\0\0\0", "no control vector"),
    (b"\xff\xff\0\0\0\0\0\0{}", "no format that is read"),
    (b'\x02\0\0\0\0\0\0\0{}', "has no directions"),
    (b'{"directions": 3}', "no directions"),
    (b"{", "not JSON"),
    (b'{"directions": {"1": [1], "1": [2]}}', "key twice"),
    (b'{"directions": {"1": [NaN]}}', "not a list of finite numbers"),
    (b'{"directions": {"1": [1e39]}}', "not finite"),
    (b'{"directions": {"1": [true]}}', "not a list of finite numbers"),
    (b'{"directions": {"1": [1,2-3]}}', "not of numbers"),
    (b'{"directions": {"1": [1,,3]}}', "list"),
    (b'{"directions": {"1": []}}', "list without numbers"),
    (b'{"directions": {"1": [[1]]}}', "not a list of finite numbers"),
    (b'{"directions": {"1": 1}}', "not a list of finite numbers"),
    (b'{"directions": {"-1": [1]}}', "no layer"),
    (b'{"directions": {"1": [1], "2": [1, 2]}}', "not vectors of one width"),
    (b'{"directions": {"99999999999999999999": [1]}}', "no layer"),
    (b'{"directions": {"9999": [1]}}', "beyond 0 to 1023"),
    (b'{"directions": {}}', "has no directions"),
    (b'{"x":' + b"[" * 100_000, "too many lists"),
    (b"\x08\x08\x12", "ONNX, which is written and not read"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), BAD_FILES)
def test_bad_files_get_one_sentence_and_nothing_is_written(
    data: bytes, message: str, model: str, tmp_path: Path
) -> None:
    source, target = tmp_path / "bad", tmp_path / "out.npz"
    source.write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        convert(source, target)
    assert "\n" not in str(error.value)
    assert not target.exists()


def test_bad_control_vectors(tmp_path: Path) -> None:
    good = directions([1, 2])
    path = tmp_path / "v.gguf"

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            gguf_vector.read(path)

    write_control_vector(path, good, architecture="llama")
    refused("architecture 'llama', no control vector")
    write_control_vector(path, {1: good[1].astype(np.float16)})
    refused("no float32 vector")
    write_control_vector(path, {1: good[1].reshape(8, 8)})
    refused("no float32 vector")
    write_control_vector(path, {1: good[1], 2: good[2][:5]})
    refused("not vectors of one width")
    write_control_vector(path, {1: good[1] * np.float32(np.nan)})
    refused("not finite")
    data = write_control_vector(path, good).read_bytes()
    path.write_bytes(data[:-1])
    refused("truncated")
    path.write_bytes(data.replace(b"direction.2", b"direction.1"))
    refused("twice")
    path.write_bytes(data.replace(b"direction.2", b"direction.x"))
    refused("has an array 'direction.x'")
    path.write_bytes(data.replace(b"direction.2", b"../../tmp/x"))
    refused("has an array")


def test_long_names_of_files_stay_out_of_messages(tmp_path: Path) -> None:
    path = tmp_path / "v"
    name = b"x" * 100_000
    path.write_bytes(
        b"GGUF\3\0\0\0" + bytes(8) + b"\1" + bytes(7) + len(name).to_bytes(8, "little") + name + b"\x63\0\0\0"
    )
    with pytest.raises(DataError, match=r"x…$") as error:
        gguf_vector.read(path)
    assert len(str(error.value)) < 600


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """A few bytes of header a tensor could otherwise ask for any multiple of the file."""
    path = write_control_vector(tmp_path / "v.gguf", directions(range(1, 40), width=4096))
    header = read_header(path)
    data = bytearray(path.read_bytes())
    start = header.tensors[0].offset
    for tensor in header.tensors[1:]:
        relative = (tensor.offset - start).to_bytes(8, "little")
        at = data.index(tensor.name.encode() + b"\1\0\0\0") + len(tensor.name) + 4 + 8 + 4
        assert data[at : at + 8] == relative
        data[at : at + 8] = bytes(8)
    path.write_bytes(data[: start + 4096 * 4])
    with pytest.raises(DataError, match="share bytes"):
        gguf_vector.read(path)


class Marker:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.path), "w"))


def test_no_pickle_is_ever_run(tmp_path: Path) -> None:
    trace, path, target = tmp_path / "trace", tmp_path / "v", tmp_path / "out.gguf"
    objects = np.array([Marker(trace)], dtype=object)
    write_npz(path, {"direction.1": objects})
    with pytest.raises(DataError, match="can't be used"):
        convert(path, target)
    path.write_bytes(pickle.dumps(Marker(trace)))
    with pytest.raises(DataError, match="pickle"):
        convert(path, target)
    assert not trace.exists()


def test_arrays_of_other_types_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    cases: list[tuple[str, np.ndarray, bool, str]] = [
        ("direction.1", np.ones(4), False, "as float32"),
        ("direction.1", np.ones(4, np.float32), True, "numpy.savez"),
        ("vector", np.ones(4, np.float32), False, "named direction.0"),
        ("direction.1", np.array([np.inf], np.float32), False, "not finite"),
    ]
    for name, array, compressed, message in cases:
        write_npz(path, {name: array}, compressed=compressed)
        with pytest.raises(DataError, match=message):
            npz.read(path)


def test_safetensors_of_other_types_and_doubled_names(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"

    def refused(header: str, message: str, body: bytes = bytes(8)) -> None:
        path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + body)
        with pytest.raises(DataError, match=message):
            safetensors_file.read(path)

    f32 = '"direction.1":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    refused(f"{{{f32},{f32}}}", "a name twice")
    refused('{"direction.1":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}', "not float32")
    refused(f"{{{f32}}}", "damaged", bytes(4))
    refused(f"{{{f32.replace('[2]', '[1000000000000]')}}}", "damaged")
    refused('{"weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "named direction.0")


def test_the_safetensors_package_reads_and_writes_the_same(vector: Path, tmp_path: Path) -> None:
    convert(vector, tmp_path / "v.safetensors")
    found = load_file(tmp_path / "v.safetensors")
    assert {n: v.tobytes() for n, v in found.items()} == tensors(vector)
    save_file(found, tmp_path / "w.safetensors", {"model_hint": "qwen2.5"})
    convert(tmp_path / "w.safetensors", tmp_path / "back.gguf")
    assert tensors(tmp_path / "back.gguf") == tensors(vector)


def test_a_model_that_does_not_fit_is_named_with_the_vectors(vector: Path, tmp_path: Path) -> None:
    for sizes in ({"width": 128}, {"blocks": BLOCKS - 1}):
        other = write_model(tmp_path / "other.gguf", **sizes)
        with pytest.raises(DataError, match=r"vectors for qwen2.5 have width 64 and go up to block 11, and model of"):
            convert(vector, tmp_path / "v.fspack", model=str(other))
    with pytest.raises(DataError, match="give its file with --model"):
        convert(vector, tmp_path / "v.fspack")
    random_pack().save(tmp_path / "p.fspack")
    with pytest.raises(FsLocalError, match="was fitted for some model"):
        convert(tmp_path / "p.fspack", tmp_path / "p.gguf", model=str(other))
    assert not (tmp_path / "v.fspack").exists()


def test_files_are_overwritten_by_force_alone(vector: Path, tmp_path: Path) -> None:
    target = tmp_path / "v.npz"
    target.write_bytes(b"mine")
    with pytest.raises(DataError, match="--force"):
        convert(vector, target)
    assert target.read_bytes() == b"mine"
    convert(vector, target, force=True)
    assert recognize(target)[0].name == "npz"
    target.write_bytes(b"mine")
    with pytest.raises(DataError):
        convert(tmp_path / "missing", target, force=True)
    assert target.read_bytes() == b"mine"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_targets_that_make_no_sense(vector: Path, tmp_path: Path) -> None:
    for target, to, message in (
        ("v.bin", None, "give --to with one of fspack"),
        ("v.bin", "exe", "unknown format 'exe'"),
        ("w.gguf", None, "gguf already"),
    ):
        with pytest.raises(DataError, match=message):
            convert(vector, tmp_path / target, to=to)
    with pytest.raises(DataError, match="is for onnx"):
        convert(vector, tmp_path / "v.npz", dtype="float16")
    with pytest.raises(DataError, match="is no file"):
        convert(tmp_path, tmp_path / "v.npz")


def test_names_and_hints_of_files_are_cleaned() -> None:
    found = checked_vectors(Path("x"), directions([1]), model_hint="a\x1b[2J\n" + "b" * 500)
    assert found.model_hint == ("a[2J" + "b" * 500)[:100]
