"""The conversion of a file from any format to any other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from converters import cast, onnx_file, svec
from converters.cast import Condition
from converters.formats import Content, Format, recognize, target_format, writes_packs
from converters.layers import parse_layers
from converters.onnx_file import Dtype
from converters.pack_of_parts import PackParts, as_pack, check_fits, vector_parts
from converters.vectors import Vectors, model_identity
from fs_local.errors import DataError
from fs_local.files import replace_file, replace_folder
from fs_local.model_files import resolve_model
from fs_local.pack.file import Pack
from fs_local.pack.manifest import ModelIdentity


@dataclass(frozen=True)
class Conversion:
    """What a conversion did: `source` and `target` are names of formats, `lost` one sentence for each thing that did not come along."""

    source: str
    target: str
    path: Path
    n_bytes: int
    lost: tuple[str, ...]


def convert(
    source: Path,
    target: Path,
    *,
    to: str | None = None,
    model: str | None = None,
    layers: str | None = None,
    condition: Condition | None = None,
    dtype: Dtype = "float32",
    query: str | None = None,
    force: bool = False,
) -> Conversion:
    """Converts a file. The target is written beside and then renamed: after an error, nothing has changed.

    Args:
        to: name of the target's format; by default its suffix says it.
        model: GGUF file or alias of the model that vectors are for; needed to make a pack of them.
        layers: those to convert, as the source counts them, such as `10-20` or `10,12`; by default all.
        condition: when a behaviour vector of activation-steering is added.
        dtype: of the weights in an ONNX file.
        query: in place of a pack's mean vector, the exact one of this query; the model then decides it.
        force: overwrite the target.

    Raises:
        FsLocalError: a source that can't be used, a model that it does not fit, or a target that exists or can't be written.
    """
    writer, write = target_format(target, to)
    if dtype != "float32":
        if writer.name != "onnx":
            raise DataError(f"{writer.name} holds float32 alone; --dtype {dtype} is for onnx")
        write = writes_packs(partial(onnx_file.write, dtype=dtype))
    if os.path.lexists(target):
        if not force:
            raise DataError(f"{target} exists; choose another name, or overwrite it with --force")
        if target.exists() and source.exists() and os.path.samefile(source, target):
            raise DataError(f"{target} is what is to be converted; choose another name")
    wanted = None if layers is None else parse_layers(layers)
    reader, opened = recognize(source)
    if query is None and reader.name == writer.name and wanted is None:
        raise DataError(f"{source} is {reader.name} already; there is nothing to convert")
    content = reader.read(opened, wanted)
    if condition is not None:
        content = _conditional(content, source, reader, condition)
    identity = None if model is None else model_identity(resolve_model(model))
    if identity is not None:
        _check_model(content, identity, source)
    if query is not None:
        if isinstance(content, PackParts):
            content = _pack_of(content, identity, source, reader)
        content = _for_query(content, source, model, query)
    data, lost = write(content, lambda found: _pack_of(found, identity, source, reader))
    if isinstance(data, dict):
        replace_folder(target, data)
        return Conversion(reader.name, writer.name, target, sum(map(len, data.values())), lost)
    replace_file(target, data)
    return Conversion(reader.name, writer.name, target, len(data), lost)


def _conditional(content: Content, source: Path, reader: Format, condition: Condition) -> PackParts:
    for path, name in ((source, reader.name), (condition.path, recognize(condition.path)[0].name)):
        if name != "svec":
            raise DataError(f"{path} is {name}; --condition joins two files of activation-steering (.svec)")
    if not isinstance(content, Vectors):
        raise DataError(f"{source} is no behaviour vector")
    return cast.conditional(content, source, svec.read(condition.path), condition)


def read_pack(source: Path, model: Path) -> Pack:
    """What is in a file of any format, as a pack for this model: vectors become one that steers every query at strength 1.

    Raises:
        FsLocalError: a file that can't be used, or that the model does not fit.
    """
    reader, opened = recognize(source)
    content, identity = reader.read(opened, None), model_identity(model)
    _check_model(content, identity, source)
    return content if isinstance(content, Pack) else _pack_of(content, identity, source, reader)


def _pack_of(found: Vectors | PackParts, identity: ModelIdentity | None, source: Path, reader: Format) -> Pack:
    if identity is None:
        raise DataError("a pack belongs to one model, and vectors do not say which; give its file with --model")
    parts = vector_parts(found, source) if isinstance(found, Vectors) else found
    return as_pack(parts, identity, name=source.stem or reader.name, source=reader.title)


def _for_query(content: Content, source: Path, model: str | None, query: str) -> Vectors:
    if not isinstance(content, Pack):
        raise DataError(f"{source} holds vectors, which are the same for every query; leave out --for")
    if model is None:
        raise DataError("the model decides what a query gets; give its file with --model, or leave out --for")
    from converters.one_query import vectors_for  # it loads llama.cpp, which no other conversion needs

    return vectors_for(content, resolve_model(model), query)


def _check_model(content: Content, identity: ModelIdentity, source: Path) -> None:
    if isinstance(content, Vectors):
        check_fits(vector_parts(content, source), identity)
    elif isinstance(content, PackParts):
        check_fits(content, identity)
    else:
        content.check_model(identity)
