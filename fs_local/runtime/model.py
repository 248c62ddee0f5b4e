"""A GGUF model: load, tokenize, detokenize, chat template, fingerprint."""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from fs_local.errors import ModelError
from fs_local.progress import Progress
from fs_local.runtime import gguf_header
from fs_local.runtime.backends import Device, leave_out_accelerators
from fs_local.runtime.guard import WorkerLost
from fs_local.runtime.interrupt import deferred_interrupt
from fs_local.runtime.kernel_probe import probe_kernels
from fs_local.runtime.library import clear_log, llama, recent_problems
from fs_local.runtime.mapped_file import MappedFile
from fs_local.runtime.placement import Placement, guard_for
from fs_local.runtime.prompt import Prompt, build_prompt
from fs_local.runtime.template import ChatTemplate, Message, Tool


class Model:
    """The weights of one GGUF file, shared by any number of contexts.

    Attributes:
        path: the file.
        n_layer: number of blocks; layers are numbered 0 to n_layer - 1, as in `l_out-{il}`.
        width: d, the width of the residual stream.
        n_vocab: number of tokens.
        n_ctx_train: longest context the model was trained for, in tokens.
        fingerprint: 16 hex digits, the same for every quantization of one model.
        quantization: for example `Q4_1`.
        bos: the token that begins a text; -1 where there is none.
        window: tokens that its attention looks back in some of its blocks; 0 for all of them.
        can_roll_back: whether the end of a sequence can be removed from its memory; not so with a recurrent state.
        build: what its results depend on: these very weights, the version of llama-cpp-python, and the kernels.
        placement, extra_kernels: as it was loaded. is_remote: whether workers compute some of it.
        call: makes a call into llama.cpp that may need a worker: `WorkerLost` where one is gone.
    """

    def __init__(
        self,
        handle: Any,
        header: gguf_header.GgufHeader,
        placement: Placement,
        extra_kernels: bool,
        call: Callable[..., Any] | None = None,
    ) -> None:
        api = llama()
        self.placement, self.extra_kernels = placement, extra_kernels
        self.is_remote = bool(placement.workers)
        self.call: Callable[..., Any] = call or _directly
        self._handle = handle
        self._closed, self._held = False, 0
        self._held_lock = threading.Lock()
        self._file = MappedFile(header.path)
        self._vocab = api.llama_model_get_vocab(handle)
        self.path = header.path
        self.architecture = header.architecture
        self.name = gguf_header.model_name(header, header.path)
        self.n_layer: int = api.llama_model_n_layer(handle)
        self.width: int = api.llama_model_n_embd(handle)
        self.n_vocab: int = api.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = api.llama_model_n_ctx_train(handle)
        self.window: int = api.llama_model_n_swa(handle)
        self.can_roll_back = not (api.llama_model_is_recurrent(handle) or api.llama_model_is_hybrid(handle))
        self.fingerprint = gguf_header.fingerprint(header)
        self.quantization = gguf_header.quantization(header)
        # llama.cpp's own version is that of its next release, the same for many builds
        kernels = kernels_name(placement, extra_kernels)
        self.build = f"{gguf_header.weights_digest(header)}-{version('llama-cpp-python')}-{kernels}"
        self.bos: int = api.llama_vocab_bos(self._vocab)
        self.template = ChatTemplate(
            self.metadata("tokenizer.chat_template"),
            bos=self._token_text(self.bos),
            eos=self._token_text(api.llama_vocab_eos(self._vocab)),
        )

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        placement: Placement | None = None,
        extra_kernels: bool | None = None,
        progress: Progress | None = None,
    ) -> Model:
        """Loads a model, memory-mapped.

        Args:
            path: a GGUF file.
            placement: where its blocks lie; on this machine's processor by default.
            extra_kernels: AMX and repacking kernels; None asks the kernel probe.
            progress: called with how many of 100 parts are loaded.

        Raises:
            ModelError: no such file, no GGUF, truncated, or llama.cpp can't load it.
            KeyboardInterrupt: Ctrl-C while loading.
        """
        api = llama()
        leave_out_accelerators()
        header = gguf_header.read_header(path)
        placement = placement or Placement()
        if extra_kernels is None:
            extra_kernels = probe_kernels().usable
        params = api.llama_model_default_params()
        guard = guard_for(placement.workers)

        def joined() -> list[Device]:
            from fs_local.runtime.rpc_client import join

            assert guard is not None
            return join(placement.workers, guard)

        devices = placement.apply(params, joined)
        named = (ctypes.c_void_p * (len(devices) + 1))(*(d.handle for d in devices), None)
        if devices:
            params.devices = ctypes.addressof(named)
        params.use_extra_bufts = extra_kernels
        raised: list[BaseException] = []

        handle: Any = None
        try:
            with deferred_interrupt() as interrupt:

                def report(share: float, _user_data: Any) -> bool:
                    try:
                        if progress is not None:
                            progress("load model", round(100 * share), 100)
                    except BaseException as error:  # an exception can't cross llama.cpp's frames
                        raised.append(error)
                    return not (raised or interrupt.came)

                callback = api.llama_progress_callback(report)
                params.progress_callback = callback
                clear_log()
                handle = (guard or _directly)(api.llama_model_load_from_file, os.fsencode(path), params)
            if raised:
                raise raised[0]
            if not handle:
                raise ModelError(f"llama.cpp can't load {path}: {recent_problems() or 'it gives no reason'}")
            return cls(handle, header, placement, extra_kernels, guard)
        except BaseException:
            if handle:
                (guard or _directly)(api.llama_model_free, handle)
            raise

    def close(self) -> None:
        """Ends all use of the model, by contexts too. The weights are freed with the last context."""
        self._closed = True
        self._free_unused()

    def hold(self) -> None:
        """Notes that a context uses the weights."""
        _ = self.handle
        with self._held_lock:
            self._held += 1

    def release(self) -> None:
        """Notes that a context is gone."""
        with self._held_lock:
            self._held -= 1
        self._free_unused()

    def _free_unused(self) -> None:
        with self._held_lock:
            if self._closed and not self._held and self._handle:
                self._file.close()
                with suppress(WorkerLost):
                    self.call(llama().llama_model_free, self._handle)
                self._handle = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        """Raises ModelError: what is in a process's memory can't go to another one."""
        raise ModelError(
            "an open model can't be sent to another process or kept in a file; send its path, and load it there"
        )

    def check_file(self) -> None:
        """To be called after a computation. Raises ModelError: its weights were not all there, since the file has been cut short."""
        if self._file.is_lost:
            raise ModelError(
                f"{self.path.name} was cut short while it was in use, and answers no more; load it again when it is whole"
            )

    @property
    def handle(self) -> Any:
        """`llama_model *`"""
        if self._closed:
            raise ModelError(f"{self.path.name} is closed; load it again")
        return self._handle

    @property
    def vocab(self) -> Any:
        """`llama_vocab *`"""
        _ = self.handle  # a closed model has no vocabulary
        return self._vocab

    def tokenize(self, text: str, *, special: bool = True, add_bos: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            special: whether the text of control tokens (`<|im_end|>`) becomes those tokens.
            add_bos: whether to add what the vocabulary wants in front (BOS), where it wants it.
        """
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise ModelError(f"a text is not valid Unicode at character {error.start}; save it as UTF-8") from error
        n = len(data) + 2
        tokens = (ctypes.c_int32 * n)()
        count = llama().llama_tokenize(self.vocab, data, len(data), tokens, n, add_bos, special)
        if count < 0:
            raise ModelError(
                f"{self.path.name} can't tokenize a text of {len(data)} bytes; it has no usable vocabulary"
            )
        return list(tokens[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """UTF-8 bytes of one token, possibly a part of a character; control tokens give none, unless `special`."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = llama().llama_token_to_piece(self.vocab, token, buffer, size, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def text(self, tokens: Sequence[int]) -> str:
        """Text of generated tokens; a character that is not whole becomes U+FFFD."""
        return b"".join(self.piece(t) for t in tokens).decode("utf-8", "replace")

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """All end-of-generation tokens."""
        return tuple(filter(self.ends_generation, range(self.n_vocab)))

    def ends_generation(self, token: int) -> bool:
        """Whether a token is one of the model's end-of-generation tokens."""
        return bool(llama().llama_vocab_is_eog(self.vocab, token))

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Prompt:
        """A conversation, rendered by the chat template, ready for an answer. Raises as `build_prompt`."""
        return build_prompt(self, messages, tools)

    def prompt_tokens(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of `prompt` alone."""
        return list(self.prompt(messages).tokens)

    def tokenize_prompt(self, prompt: str) -> list[int]:
        """Tokens of a whole rendered prompt; BOS as the vocabulary wants, once."""
        bos = self.template.bos
        return self.tokenize(prompt, add_bos=not (bos and prompt.startswith(bos)))

    def metadata(self, key: str) -> str | None:
        """What the file says under a key, as text; None where it says nothing."""
        api = llama()
        size = 1 << 12
        while True:
            buffer = ctypes.create_string_buffer(size)
            n: int = api.llama_model_meta_val_str(self.handle, key.encode(), buffer, size)
            if n < 0:
                return None
            if n < size:
                return buffer.value.decode("utf-8", "replace")
            size = n + 1

    def _token_text(self, token: int) -> str:
        text = llama().llama_vocab_get_text(self._vocab, token) if token >= 0 else b""
        return (text or b"").decode("utf-8", "replace")


def kernels_name(placement: Placement, extra: bool) -> str:
    """What computes: where the blocks lie, AMX and repacking kernels, and the backends with their instructions, as llama.cpp names them."""
    features = hashlib.sha256(llama().llama_print_system_info()).hexdigest()[:8]
    return f"{placement.name}{'-extra' if extra else ''}-{features}"


def _directly(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)
