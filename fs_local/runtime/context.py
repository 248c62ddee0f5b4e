"""A llama.cpp context: batches in, logits out, the KV cache, hooks on the residual stream, and the control vector."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import numpy as np

from fs_local.arrays import F32
from fs_local.errors import ContextFullError, ModelError
from fs_local.runtime.batch import Batch
from fs_local.runtime.control_vector import control_vector_buffer
from fs_local.runtime.guard import WorkerLost
from fs_local.runtime.interrupt import Interrupt, deferred_interrupt
from fs_local.runtime.layer_states import Hook, LayerStates
from fs_local.runtime.library import ggml, llama, recent_problems
from fs_local.runtime.model import Model
from fs_local.runtime.node_filter import Additions, NodeFilter
from fs_local.runtime.silent_decodes import SilentDecodes
from fs_local.runtime.sliding_window import SlidingWindow
from fs_local.runtime.threads import default_threads

DEFAULT_CTX = 4096
MICRO_BATCH = 512


class Context:
    """Evaluates tokens of one model. Not for several threads at once.

    Args:
        model: its weights stay in memory as long as the context does.
        n_ctx: tokens that the KV cache holds, over all sequences; 0 for `DEFAULT_CTX`, or the model's own if shorter.
        n_ubatch: most tokens in one decode; longer inputs go in several.
        n_seq: number of sequences.
        n_threads: for everything; None for the cores of this machine.
    """

    def __init__(
        self, model: Model, *, n_ctx: int = 0, n_ubatch: int = MICRO_BATCH, n_seq: int = 1, n_threads: int | None = None
    ) -> None:
        api = llama()
        self._model = model
        self._hook: Hook | None = None
        self._layers = {f"l_out-{layer}".encode(): layer for layer in range(model.n_layer)}
        self._wanted: frozenset[int] = frozenset()
        self._raised: BaseException | None = None
        self._stopped = False
        self._interrupt = Interrupt()
        self.stopped_early = False
        params = api.llama_context_default_params()
        params.n_ctx = n_ctx or min(DEFAULT_CTX, model.n_ctx_train)
        params.n_ubatch = n_ubatch
        self._window = SlidingWindow(model.window, n_seq) if model.window and model.can_roll_back else None
        params.n_seq_max = 2 * n_seq if self._window else n_seq
        # llama.cpp ends the process where a batch has no room for a token of each sequence
        params.n_batch = max(n_ubatch, params.n_seq_max)
        params.kv_unified = True  # one pool of cells: sequences of any length, and tokens that several sequences share
        params.n_threads = params.n_threads_batch = n_threads or default_threads()
        on_node = weakref.WeakMethod(self._on_node)  # a cycle would keep the context until it is looked for

        def ask(tensor: int, only_ask: bool, user_data: Any) -> bool:
            method = on_node()
            return method is not None and method(tensor, only_ask, user_data)

        self._filter = NodeFilter(ask, model.n_layer, model.width, n_ubatch)
        params.cb_eval, params.cb_eval_user_data = self._filter.callback, self._filter.user_data
        self._silent_decodes = SilentDecodes(self._filter.callback, self._filter.user_data)
        self._handle = model.call(api.llama_init_from_model, model.handle, params)
        if not self._handle:
            raise ModelError(
                f"no context of {params.n_ctx} tokens for {model.path.name}: {recent_problems() or 'not enough memory?'}"
            )
        model.hold()
        self._free = weakref.finalize(self, _free, self._handle, model, self._filter, os.getpid())
        self.n_ctx: int = api.llama_n_ctx(self._handle)
        self.n_ubatch: int = api.llama_n_ubatch(self._handle)
        self.n_seq = n_seq
        self.n_threads: int = params.n_threads
        self._decode, self._get_logits = api.llama_decode, api.llama_get_logits_ith
        if model.is_remote:
            self._decode = functools.partial(model.call, _decode_and_wait)
        self._all_logits = ctypes.c_float * model.n_vocab
        self._batch = Batch(self.n_ubatch, n_seq)
        self._has_control_vector = self._adds_natively = False

    @property
    def model(self) -> Model:
        return self._model

    @property
    def handle(self) -> Any:
        """`llama_context *`"""
        if not self._handle:
            raise ModelError("this context is closed")
        _ = self._model.handle  # a closed model answers no more
        return self._handle

    def close(self) -> None:
        self._free()
        self._handle = None

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- evaluate

    def decode(self, tokens: Sequence[int], *, start: int, seq: int = 0, output: bool = True) -> None:
        """Evaluates consecutive tokens of one sequence, in one micro-batch.

        Args:
            tokens: 1 to n_ubatch token ids.
            start: position of the first.
            output: whether the last one gets logits.

        Raises:
            as `decode_batch`.
        """
        self._batch.one_sequence(tokens, start, seq, output)
        self._evaluate({seq: start})

    def decode_each(self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]) -> None:
        """Evaluates the next token of each of some sequences, all with logits.

        Raises:
            as `decode_batch`.
        """
        self._batch.one_each(tokens, positions, sequences)
        self._evaluate(dict(zip(sequences, positions, strict=True)))

    def decode_batch(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[Sequence[int]],
        outputs: Sequence[bool],
    ) -> None:
        """Evaluates tokens, each at its position in one or more sequences, with logits where `outputs` says so.

        After an exception, the cells of these tokens are removed; the context stays usable.

        Raises:
            ContextFullError: the KV cache has no room.
            ModelError: llama.cpp failed.
            Exception: whatever the hook raised, once llama.cpp has returned.
        """
        self._batch.any(tokens, positions, sequences, outputs)
        of_each = [(seq, at) for at, of in zip(positions, sequences, strict=True) for seq in of]
        self._evaluate(dict(sorted(of_each, reverse=True)))  # the first position of each

    def _evaluate(self, starts: Mapping[int, int]) -> None:
        """Evaluates what stands in the rows. starts: the first position of each sequence, from where it is removed after an exception."""
        try:
            self._evaluate_rows()
        except BaseException:
            for seq, start in starts.items():
                self.remove(seq, start)
            raise
        for seq in starts:
            self._has_grown(seq)

    def _has_grown(self, seq: int) -> None:
        if self._window:
            self._window.has_grown(llama().llama_get_memory(self.handle), seq, self.n_past(seq))

    def _evaluate_rows(self) -> None:
        handle, batch = self.handle, self._batch.struct
        self.stopped_early = False
        self._silent_decodes.set(handle, self._filter.is_silent)
        if not self._filter.calls_python:  # Ctrl-C may come when it likes
            status = self._decode(handle, batch)
        else:
            self._raised, self._stopped = None, False
            self._filter.rearm()
            try:
                with deferred_interrupt() as self._interrupt:
                    status = self._decode(handle, batch)
            except KeyboardInterrupt as interrupt:
                self._raised, status = interrupt, 0
            self.stopped_early = self._stopped
            raised, self._raised = self._raised, None
            if raised is not None:
                raise raised
        self._model.check_file()
        if status == 1:
            raise ContextFullError(f"the context of {self.n_ctx} tokens is full; shorten the text or raise --ctx")
        if status != 0:
            raise ModelError(f"llama.cpp failed to decode ({status}): {recent_problems() or 'it gives no reason'}")

    def logits(self, output: int = -1) -> F32:
        """Copy of the logits of one output of the last decode, float32, (n_vocab,). -1: the last output."""
        return self.logits_in_place(output).copy()

    def logits_in_place(self, output: int = -1) -> F32:
        """The same where they stand: a sampler sees what is written, and the next decode replaces them."""
        # numpy's `as_array` leaves a circle of references behind at each call
        row = self._all_logits.from_address(ctypes.addressof(self._logits_at(output).contents))
        return np.asarray(row)

    def has_finite_logit(self, token: int, output: int = -1) -> bool:
        """Whether a token's logit is a number."""
        return math.isfinite(self._logits_at(output)[token])

    def _logits_at(self, output: int) -> Any:
        pointer = self._get_logits(self.handle, output)
        if not pointer:
            raise ModelError("no logits: the last decode had no such output, or was stopped early")
        return pointer

    # --- KV cache

    def n_past(self, seq: int) -> int:
        """Number of tokens in a sequence."""
        return int(llama().llama_memory_seq_pos_max(llama().llama_get_memory(self.handle), seq)) + 1

    def remove(self, seq: int, start: int = 0) -> bool:
        """Removes a sequence from position `start` on; False where this model's memory can't be cut there (it was then cleared)."""
        memory = llama().llama_get_memory(self.handle)
        if self._window:
            self._window.was_cut(memory, seq, start)
        if llama().llama_memory_seq_rm(memory, seq, start, -1):
            return True
        llama().llama_memory_seq_rm(memory, seq, -1, -1)
        return False

    def occupy(self, n: int, *, start: int, seq: int) -> None:
        """Gives `n` tokens of a sequence cells that hold nothing. Up to `n_ubatch`; raises as `decode_batch`."""
        self._batch.one_sequence([0] * n, start, seq, False)
        self._filter.skip(True)
        try:
            self._evaluate({seq: start})
        finally:
            self._filter.skip(False)

    def first_position(self, seq: int) -> int:
        """Of the tokens that a sequence has in all blocks; -1 for an empty one."""
        return int(llama().llama_memory_seq_pos_min(llama().llama_get_memory(self.handle), seq))

    def copy(self, source: int, target: int, end: int, start: int = 0) -> None:
        """Makes `target`, from `start` on, share the tokens of `source` up to `end`."""
        self.remove(target, start)
        llama().llama_memory_seq_cp(llama().llama_get_memory(self.handle), source, target, start, end)
        self._has_grown(target)

    def clear(self, zero: bool = False) -> None:
        """Empties the KV cache. zero: the numbers in it too, which matters where they may be NaN."""
        self._model.call(llama().llama_memory_clear, llama().llama_get_memory(self.handle), zero)
        if self._window:
            self._window.was_cleared()

    # --- hooks

    @contextmanager
    def hooked(self, layers: Sequence[int], hook: Hook) -> Iterator[None]:
        """Calls `hook` after each of these blocks, in every decode inside the `with`.

        Answering False ends the graph there: no logits, and later layers' KV cells of these tokens are garbage.

        Raises:
            ModelError: a layer that the model does not have.
        """
        for layer in layers:
            self._check_layer(layer)
        if self._hook is not None:
            raise RuntimeError("this context has a hook already")
        self._wanted = frozenset(layers)
        self._hook = hook
        self._filter.want(layers)
        try:
            yield
        finally:
            self._hook = None
            self._wanted = frozenset()
            self._filter.want(())

    def add_to_rows(self, additions: Additions) -> None:
        """What rows of all decodes from now on get added after each layer, until it is set anew; `{}` for nothing.

        Bit for bit what `LayerStates.add` does. May be called by a hook, and then holds from the hook's own layer on.
        """
        for layer in additions:
            self._check_layer(layer)
        if self._adds_natively:
            self._adds_natively = False
            self.clear_control_vector()
        self._filter.add(additions)

    def add_to_all(self, vectors: Mapping[int, F32]) -> None:
        """What every row gets added after each layer, until additions are set anew: bit for bit the same.

        With workers it is a control vector, which their machines keep: rows that are read and written would travel with each token, and cut
        the graph, so that it travels in parts. Not to be called by a hook.
        """
        self.add_to_rows({})
        if self._model.is_remote and 0 not in vectors:
            self.set_control_vector(dict(vectors))
            self._adds_natively = bool(vectors)
        else:
            self.add_to_rows({layer: [(0, self.n_ubatch, vector)] for layer, vector in vectors.items()})

    def _on_node(self, tensor: int, only_ask: bool, _user_data: Any) -> bool:
        if self._interrupt.came:
            self._stopped = True
        if self._filter.skips or self._stopped:  # ends each part of the graph at its first node, as node_filter.c says
            return only_ask
        try:
            layer = self._layers.get(ggml().get_name(tensor))
            if layer is None:
                return False
            is_wanted, go_on = layer in self._wanted, True
            if only_ask:
                return is_wanted or layer in self._filter.additions
            if is_wanted and self._hook is not None:
                go_on = self._hook(LayerStates(layer, tensor))
            if go_on and not self._filter.is_native and layer in self._filter.additions:
                self._add(LayerStates(layer, tensor))
        except BaseException as error:  # Ctrl-C too: an exception can't cross llama.cpp's frames
            self._raised = error
            go_on = False
        self._stopped = not go_on
        return go_on

    def _add(self, states: LayerStates) -> None:
        """Adds to the rows of a layer, in Python: where there is no C filter, which otherwise does it."""
        if states.n_rows == 0:  # the last block of a batch without outputs
            return
        rows = states.read()
        for first, count, vector in self._filter.additions[states.layer]:
            rows[first : first + count] += vector
        states.write(rows)

    def _check_layer(self, layer: int) -> None:
        if not 0 <= layer < self._model.n_layer:
            raise ModelError(
                f"layer {layer} is out of range: {self._model.path.name} has layers 0 to {self._model.n_layer - 1}"
            )

    # --- control vector

    @contextmanager
    def control_vector(self, vectors: dict[int, F32]) -> Iterator[None]:
        """Adds a vector after each of these blocks, natively, to every token decoded inside the `with`."""
        self.set_control_vector(vectors)
        try:
            yield
        finally:
            self.clear_control_vector()

    def set_control_vector(self, vectors: dict[int, F32]) -> None:
        """Sets the control vector: layer -> float32, (width,). Replaces what was set before; empty clears it.

        Raises:
            ModelError: a layer out of range, or as `control_vector_buffer`.
        """
        if not vectors:
            self.clear_control_vector()
            return
        for layer in vectors:
            self._check_layer(layer)
        width = self._model.width
        buffer = control_vector_buffer(vectors, self._model.n_layer, width)
        data = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        set_vector, range_of = llama().llama_set_adapter_cvec, (min(vectors), max(vectors))
        if self._model.call(set_vector, self.handle, data, buffer.size, width, *range_of) != 0:
            raise ModelError(f"llama.cpp refuses the control vector: {recent_problems() or 'it gives no reason'}")
        self._has_control_vector = True

    def clear_control_vector(self) -> None:
        """Removes the control vector, if there is one."""
        if self._has_control_vector and self._handle:
            self._model.call(llama().llama_set_adapter_cvec, self._handle, None, 0, 0, 0, 0)
            self._has_control_vector = False


def _free(handle: Any, model: Model, _filter: NodeFilter, process: int) -> None:
    """Frees a context, whose callback lives until here, and lets its model go. A forked process leaves both to its parent."""
    if os.getpid() == process:
        with suppress(WorkerLost):  # what is left of a context then is left
            model.call(llama().llama_free, handle)
        model.release()


def _decode_and_wait(handle: Any, batch: Any) -> int:
    """`llama_decode`, and until its logits are there: nothing that needs a worker comes after it."""
    status: int = llama().llama_decode(handle, batch)
    llama().llama_synchronize(handle)
    return status
