"""The table of formats, and what a file is, by its content."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from converters import (
    alphasteer,
    finesteer,
    gguf_vector,
    npz,
    onnx_file,
    safetensors_file,
    steering_vectors,
    svec,
    torch_file,
    torch_folder,
)
from converters.pack_of_parts import PackParts
from converters.vectors import Vectors, constant_part
from fs_local.errors import DataError
from fs_local.pack.file import SUFFIX, Pack
from fs_local.tensor_file import Container, TensorFile, container, open_npz, open_safetensors

_HEAD_BYTES = 512
Content = Vectors | PackParts | Pack
PackOf = Callable[[Vectors | PackParts], Pack]
Layers = frozenset[int] | None
"""Layers that are wanted, as the source counts them; None for all."""
Written = tuple[bytes | dict[str, bytes], tuple[str, ...]]
"""A file's bytes, or those of a folder's files by their names; and what it lost: one sentence each."""
Write = Callable[[Content, PackOf], Written]


@dataclass(frozen=True)
class Source:
    """A file that is to be recognized: its first bytes, and how many it has."""

    path: Path
    head: bytes
    size: int

    @cached_property
    def tensors(self) -> TensorFile | None:
        """Its tensors, if it is a container of tensors.

        Raises:
            DataError: it is one that is damaged, or that can't be read here.
        """
        match container(self.head, self.size):
            case "safetensors":
                return open_safetensors(self.path)
            case "npz":
                return open_npz(self.path)
            case "torch":
                return torch_file.open_torch(self.path)
        return None


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as `--to` takes it. suffix: of its files. title: what it is.
        coming_in, going_out: what that direction keeps and loses, for people.
        matches: whether a file is of this format.
        read: gives what is in a file, all of it or these layers of it; raises DataError or PackError.
        write: gives a file for any content, and may call its second argument to make a pack of vectors or parts; None for a format
            that is read alone.
    """

    name: str
    suffix: str
    title: str
    coming_in: str
    going_out: str
    matches: Callable[[Source], bool]
    read: Callable[[Source, Layers], Content]
    write: Write | None


def _reads_vectors(read: Callable[[Path], Vectors]) -> Callable[[Source, Layers], Vectors]:
    """The reader of a format that holds directions by layer."""

    def read_content(source: Source, layers: Layers) -> Vectors:
        vectors = read(source.path)
        return vectors if layers is None else vectors.only(source.path, layers)

    return read_content


def _reads_whole(read: Callable[[Path], Pack]) -> Callable[[Source, Layers], Pack]:
    """The reader of a format that is converted whole."""

    def read_content(source: Source, layers: Layers) -> Pack:
        if layers is not None:
            raise DataError(
                f"{source.path} is converted whole; --layers chooses among the layers of vectors and matrices"
            )
        return read(source.path)

    return read_content


def _holds(matches: Callable[[TensorFile], bool]) -> Callable[[Source], bool]:
    """Whether a file holds the tensors of a format that is known by their names and shapes."""
    return lambda source: source.tensors is not None and matches(source.tensors)


def _opened(source: Source) -> TensorFile:
    if source.tensors is None:
        raise DataError(f"{source.path} holds no tensors")
    return source.tensors


def _writes_vectors(write: Callable[[Vectors], Written]) -> Write:
    """The writer of a format that holds vectors alone."""

    def write_content(content: Content, pack_of: PackOf) -> Written:
        vectors = content if isinstance(content, Vectors) else constant_part(_pack(content, pack_of))
        data, lost = write(vectors)
        return data, (content.lost if isinstance(content, PackParts) else ()) + vectors.lost + lost

    return write_content


def writes_packs(write: Callable[[Pack], Written]) -> Write:
    """The writer of a format that holds whole packs."""

    def write_content(content: Content, pack_of: PackOf) -> Written:
        data, lost = write(_pack(content, pack_of))
        return data, (() if isinstance(content, Pack) else content.lost) + lost

    return write_content


def _pack(content: Content, pack_of: PackOf) -> Pack:
    return content if isinstance(content, Pack) else pack_of(content)


def _is_pack(source: Source) -> bool:
    return source.head[:4] == b"PK\x03\x04" and source.head[30:43] == b"manifest.json"


def _starts(matches: Callable[[bytes], bool]) -> Callable[[Source], bool]:
    return lambda source: matches(source.head)


def _is(wanted: Container) -> Callable[[Source], bool]:
    return lambda source: container(source.head, source.size) == wanted


_CONSTANT = (
    "a pack's mean vector, strength included; loses the gate, the routing and the residual, and says by how much"
)

_NOT_WRITTEN = "not written"

FORMATS = (
    Format(
        "fspack",
        SUFFIX,
        "steering pack of fs-local",
        "everything",
        "directions bit for bit, for every query, at strength 1; needs --model",
        _is_pack,
        _reads_whole(Pack.load),
        writes_packs(lambda pack: (pack.to_bytes(), ())),
    ),
    Format(
        "gguf",
        ".gguf",
        "control vector of llama.cpp, repeng, EasySteer",
        "directions bit for bit; loses metadata, and says how many keys",
        _CONSTANT,
        _starts(gguf_vector.matches),
        _reads_vectors(gguf_vector.read),
        _writes_vectors(gguf_vector.write),
    ),
    Format(
        "finesteer",
        "",
        "checkpoint of FineSteer's own code (MoSE.pt)",
        "prototypes, value projection, routing and residual, folded; loses the strength; needs --layers with its layer, and --model",
        _NOT_WRITTEN,
        _holds(finesteer.matches),
        lambda source, layers: finesteer.read(_opened(source), layers),
        None,
    ),
    Format(
        "alphasteer",
        "",
        "AlphaSteer's steering matrices (layers, d, d)",
        "one layer's matrix, at the rank that errs by 1% at most, and says by how much; loses the strength; needs --layers and --model",
        _NOT_WRITTEN,
        _holds(alphasteer.matches),
        lambda source, layers: alphasteer.read(_opened(source), layers),
        None,
    ),
    Format(
        "steering-vectors",
        "",
        "SteeringVector of the package steering-vectors, or its tensors",
        "directions bit for bit (float32, float16, bfloat16), of layer type decoder_block",
        _NOT_WRITTEN,
        _holds(steering_vectors.matches),
        lambda source, layers: _reads_vectors(lambda _: steering_vectors.read(_opened(source)))(source, layers),
        None,
    ),
    Format(
        "npz",
        ".npz",
        "numpy arrays direction.{block}",
        "directions bit for bit (float32, not compressed)",
        f"{_CONSTANT}; and what model it is of",
        _is("npz"),
        _reads_vectors(npz.read),
        _writes_vectors(npz.write),
    ),
    Format(
        "safetensors",
        ".safetensors",
        "tensors direction.{block}",
        "directions bit for bit (float32)",
        _CONSTANT,
        _is("safetensors"),
        _reads_vectors(safetensors_file.read),
        _writes_vectors(safetensors_file.write),
    ),
    Format(
        "svec",
        ".svec",
        "JSON of IBM's activation-steering",
        "directions, rounded to float32 and says by how much; loses key 0 (the embeddings) and explained variances; with --condition, a CAST pack",
        _CONSTANT,
        _starts(svec.matches),
        _reads_vectors(svec.read),
        _writes_vectors(svec.write),
    ),
    Format(
        "onnx",
        ".onnx",
        "a pack's decision for any ONNX runtime",
        "not read",
        "gate, routing and residual; strength and layers as text; --dtype float16 says its error",
        _starts(onnx_file.matches),
        _reads_whole(onnx_file.read),
        writes_packs(onnx_file.write),
    ),
    Format(
        "torch",
        "",
        "a folder for PyTorch: arrays, manifest, and a module for transformers",
        "not read",
        "everything that decides and steers; differs from llama.cpp in its last digits; give --to torch",
        lambda source: False,
        _reads_whole(onnx_file.read),
        writes_packs(torch_folder.write),
    ),
)


def recognize(path: Path) -> tuple[Format, Source]:
    """The format of a file, by its content, and the file.

    Raises:
        DataError: it can't be read, or is of no format that is read here.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path} is no file")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        source = Source(path, head, path.stat().st_size)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    for known in FORMATS:
        if known.matches(source):
            return known, source
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise DataError(f"{path} is a pickle, which can run code and is never read; {torch_file.ELSEWHERE}")
    if source.tensors is not None:
        raise DataError(
            f"{path} has tensors of no method that is known here: {source.tensors.names()}; see: fs-local convert --list"
        )
    raise DataError(f"{path} is of no format that is read here; see: fs-local convert --list")


def target_format(path: Path, name: str | None) -> tuple[Format, Write]:
    """The format to write, and its writer: the one of this name, or else the one of the path's suffix.

    Raises:
        DataError: no such format, or one that is not written.
    """
    names = ", ".join(known.name for known in FORMATS if known.write)
    for known in FORMATS:
        if known.name == name or (name is None and known.suffix and known.suffix == path.suffix.lower()):
            if known.write:
                return known, known.write
            if name:
                raise DataError(f"{name} is read and not written; write one of {names}")
    if name is None:
        raise DataError(f"{path} doesn't say what to write; give --to with one of {names}")
    raise DataError(f"unknown format {name!r}; it is one of {names}")
