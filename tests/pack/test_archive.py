"""The container: deterministic, and closed to everything that it did not write."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fs_local.errors import PackError
from fs_local.files import replace_file
from fs_local.pack import archive
from fs_local.pack.archive import read_members, read_npz, seal, write_npz
from fs_local.pack.file import Pack
from tests.packs import random_pack

finite = st.floats(-1e6, 1e6, width=32)
matrices = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=6), elements=finite)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), matrices, max_size=5))
def test_arrays_come_back_as_they_were(arrays: dict[str, np.ndarray]) -> None:
    data, spans = write_npz(arrays)
    back = read_npz(data)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        offset, length = spans[name]
        assert data[offset : offset + length] == np.ascontiguousarray(array).tobytes()
    assert write_npz(back)[0] == data
    with np.load(io.BytesIO(data), allow_pickle=False) as npz:  # any numpy opens it
        assert set(npz.files) == set(arrays)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "p.fspack"
    random_pack().save(path)
    return path


def test_any_flipped_byte_is_refused(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    flipped = tmp_path / "flipped.fspack"
    positions = [*range(200), *range(200, len(data) - 400, 97), *range(len(data) - 400, len(data))]
    for position in positions:
        broken = bytearray(data)
        broken[position] ^= 1 << position % 8
        flipped.write_bytes(broken)
        with pytest.raises(PackError):
            Pack.load(flipped)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_mutated_packs_are_refused_even_with_a_fresh_seal(saved: Path, data: st.DataObject) -> None:
    """Somebody who can compute a digest can seal anything: what is inside must be refused or be sound, and never crash."""
    original = saved.read_bytes()[: -archive._SEAL_BYTES]
    broken = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 0, 0, 1, 50, 5000]))
    path = saved.parent / "mutated.fspack"
    path.write_bytes(seal(bytes(broken[: len(broken) - cut])))
    try:
        pack = Pack.load(path)
        pack.evaluator("onnx")
    except PackError:
        return
    assert np.isfinite(pack.experts.prototypes).all()  # the flip hit nothing that matters


def sealed(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as z:
        for name, content in members.items():
            z.writestr(name, content)
        z.comment = b"\0" * archive._SEAL_BYTES
    path.write_bytes(seal(buffer.getvalue()[: -archive._SEAL_BYTES]))
    return path


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as z:
        return {n: z.read(n) for n in z.namelist()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {**m, "../../evil": b"x"}, "unknown member"),
        (lambda m: {k: v for k, v in m.items() if k != "arrays.npz"}, "lacks arrays.npz"),
        (lambda m: {**m, "arrays.npz": b"not a zip"}, "does not match its digest"),
        (lambda m: {**m, "manifest.json": b"{" * 100_000}, "not JSON"),
        (lambda m: {**m, "manifest.json": b"[1]"}, "manifest is wrong"),
        (
            lambda m: {**m, "manifest.json": m["manifest.json"].replace(b'"version": 5', b'"version": 7')},
            "version 7.*upgrade",
        ),
        (
            lambda m: {**m, "manifest.json": m["manifest.json"].replace(b'"seed": 0', b'"seed": 0, "x": 1')},
            "manifest is wrong at x",
        ),
        (
            lambda m: {**m, "manifest.json": m["manifest.json"].replace(b'"strength": 1.5', b'"strength": NaN')},
            "manifest is wrong",
        ),
    ],
)
def test_sealed_but_wrong_content_is_refused(saved: Path, tmp_path: Path, change: object, message: str) -> None:
    path = sealed(tmp_path / "p.fspack", change(members_of(saved)))  # type: ignore[operator]
    with pytest.raises(PackError, match=message):
        Pack.load(path)


def test_compressed_members_are_refused(saved: Path, tmp_path: Path) -> None:
    bomb = {**members_of(saved), "arrays.npz": b"\0" * 50_000_000}
    with pytest.raises(PackError, match="not stored plainly"):
        Pack.load(sealed(tmp_path / "bomb.fspack", bomb, zipfile.ZIP_DEFLATED))


def npz_of(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npz_of(a=np.array([object()], dtype=object)), "float32"),
        (npz_of(a=np.zeros(3)), "float32"),
        (npz_of(a=np.zeros((2, 2, 2), np.float32)), "float32 matrix"),
        (npz_of(a=np.array([1, np.nan], np.float32)), "not finite"),
        (npz_of(a=np.asfortranarray(np.zeros((2, 3), np.float32))), "Fortran"),
        (npz_of(a=np.zeros(9, np.float32)).replace(b"(9,)", b"(8,)"), "can't be read"),  # the member's CRC
        (b"PK\x03\x04 nothing", "can't be read"),
    ],
)
def test_hostile_arrays_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(PackError, match=message):
        read_npz(data)


def test_a_header_that_claims_terabytes_allocates_nothing() -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("a.npy", header.getvalue() + b"\0" * 16)
    with pytest.raises(PackError, match="stated shape"):
        read_npz(buffer.getvalue())


def test_what_is_no_pack_says_so(tmp_path: Path) -> None:
    for content, message in ((b"", "no steering pack"), (b"GGUF....", "no steering pack")):
        path = tmp_path / "x.fspack"
        path.write_bytes(content)
        with pytest.raises(PackError, match=message):
            read_members(path, ())
    with pytest.raises(PackError, match="can't be read"):
        read_members(tmp_path / "missing.fspack", ())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.fspack"
    path.write_bytes(b"old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(PackError, match="No space left on device; nothing was changed"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(PackError, match="can't be written"):
        replace_file(tmp_path / "no" / "such" / "p.fspack", b"new")


@pytest.mark.parametrize("header", ["{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3)}", "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 10000000000000000000000)}", "{'shape': ((", "{'descr': (), 'fortran_order': False, 'shape': (1,)}"])  # fmt: skip
def test_strange_headers_are_refused(header: str) -> None:
    text = header.encode().ljust(117) + b"\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 24)
    with pytest.raises(PackError):
        read_npz(buffer.getvalue())


def test_a_directory_of_a_million_members_is_refused_at_once(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for i in range(100):
            z.writestr(str(i), b"")
    with pytest.raises(PackError, match="too many members"):
        read_npz(buffer.getvalue())
