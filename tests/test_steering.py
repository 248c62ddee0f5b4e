"""Which packs go with which model."""

from __future__ import annotations

import pytest

from fs_local.engine.packs import Packs
from fs_local.errors import PackError
from fs_local.pack.file import Pack
from fs_local.runtime.model import Model
from fs_local.steering import check_model
from tests.packs import random_pack, synthetic_pack


def test_a_pack_for_another_model_names_both(tiny: Model) -> None:
    with pytest.raises(PackError, match=f"fingerprint 0123456789abcdef.*fingerprint {tiny.fingerprint}"):
        Packs.load(tiny, [random_pack()])


def test_another_quantization_is_a_note(tiny: Model) -> None:
    pack = synthetic_pack(tiny, "open", layer=3, gate_layer=1)
    assert check_model(pack, tiny) is None
    identity = pack.manifest.model.model_copy(update={"quantization": "Q8_0"})
    other = Pack(pack.manifest.model_copy(update={"model": identity}), pack.gate, pack.experts, pack.graph)
    assert "fitted with Q8_0" in (check_model(other, tiny) or "")


def test_packs_of_different_scope_do_not_mix(tiny: Model) -> None:
    packs = [synthetic_pack(tiny, "open", layer=3, gate_layer=1, scope=s) for s in ("all", "generation")]
    with pytest.raises(PackError, match="different scopes"):
        Packs.load(tiny, packs)
