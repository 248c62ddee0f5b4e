"""Which packs go with which model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fs_local.errors import PackError
from fs_local.pack.file import Pack
from fs_local.pack.manifest import ModelIdentity

if TYPE_CHECKING:
    from fs_local.runtime.model import Model


def identity(model: Model) -> ModelIdentity:
    """What a pack's manifest says of a model."""
    return ModelIdentity(
        fingerprint=model.fingerprint,
        name=model.name,
        architecture=model.architecture,
        n_layer=model.n_layer,
        width=model.width,
        quantization=model.quantization,
    )


def check_model(pack: Pack, model: Model) -> str | None:
    """Compares a pack with a model; returns a note if it was fitted with another quantization.

    Raises:
        PackError: the pack is for another model.
    """
    return pack.check_model(identity(model))


def check_names(packs: Sequence[Pack]) -> None:
    """Refuses packs that could not be told apart.

    Raises:
        PackError: two of one name.
    """
    names = [p.manifest.name for p in packs]
    if len(set(names)) < len(names):
        raise PackError(f"two packs are called {max(names, key=names.count)!r}; fit one under another --name")
