"""The decision of each query, and the two hooks that carry it out.

    H ← H + λ · g(h_q) · v(h_q)

One prefill is enough where every decision is made no later than the first layer that it steers, and the prompt is one
micro-batch: the states are read on the way, the additions are made on the way. Else the first pass decides, ends at the last layer
that it needs if anything opened, and a second pass runs with the control vector set. Both give the same logits, bit for bit.
Of a prompt of several micro-batches, the parts before the last are evaluated whole only if the gates look closed at the end of the
first: else a second pass is likely, and what is behind the decision would be evaluated for nothing. A wrong guess costs time alone.
Decisions are always of the unsteered model: no pack sees what another one added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from fs_local.capture import Request
from fs_local.errors import ContextFullError, ModelError, PackError
from fs_local.method.folded import F32
from fs_local.method.readings import QueryReader, Reading, Span, part_of
from fs_local.pack.engine import EngineName
from fs_local.pack.file import Pack
from fs_local.pack.manifest import ModelIdentity
from fs_local.runtime.context import Context, LayerStates
from fs_local.runtime.model import Model

SAME_SUMS_BELOW = 64
"""Tokens: from there on, llama.cpp's attention on CPUs sums in another order, and a state's last bits are others."""


@dataclass(frozen=True)
class Decision:
    """What one query got from one pack.

    Attributes:
        pack: the pack's name.
        opening: g, in [0, 1]; 0 leaves the model as it is.
        energy_ratio: s, in [0, 1].
        weights: routing weights α, float32, (K,).
        vector: steering vector v, float32, (layers, d), before opening and strength.
        strength: λ.
        layers: the blocks it is added after.
    """

    pack: str
    opening: float
    energy_ratio: float
    weights: F32
    vector: F32
    strength: float
    layers: tuple[int, ...]

    @property
    def is_open(self) -> bool:
        return self.opening > 0 and self.strength != 0

    @property
    def addition(self) -> F32:
        """λ · g · v, float32, (layers, d): what is added to every state at each layer."""
        return np.float32(self.strength * self.opening) * self.vector


class Steering:
    """Packs on one model: decides queries, and evaluates prompts and tokens steered.

    Args:
        model: the model that will be steered.
        packs: any number, each with its own gate; none leaves the model as it is.
        engine: what evaluates decisions. providers: ONNX Runtime's execution providers.

    Raises:
        PackError: a pack for another model, packs of differing scope, or two of one name.
    """

    def __init__(
        self,
        model: Model,
        packs: Sequence[Pack] = (),
        *,
        engine: EngineName = "numpy",
        providers: list[str] | None = None,
    ) -> None:
        for pack in packs:
            check_model(pack, model)
        if len({p.manifest.steer.scope for p in packs}) > 1:
            raise PackError(
                "these packs have different scopes (prompt and generation, generation alone); use them one at a time"
            )
        check_names(packs)
        self.packs = list(packs)
        self._engines = [p.engine(engine, providers) for p in packs]
        self._native: bool | None = None
        self._wanted: dict[int, set[Reading]] = {}
        for pack in packs:
            for layer in pack.manifest.gate.layers:
                self._wanted.setdefault(layer, set()).update(pack.manifest.gate.readings)
            self._wanted.setdefault(pack.manifest.steer.layers[0], set()).add("last")
        self._reads = sorted(self._wanted)
        self._hooks = sorted({*self._reads, *(x for p in packs for x in p.manifest.steer.layers)})

    @property
    def _decides_at(self) -> int:
        return self._reads[-1]

    @property
    def prompt_too(self) -> bool:
        """Whether the whole prompt is steered, or only its last token and what comes after."""
        return not self.packs or self.packs[0].manifest.steer.scope == "all"

    def decide(
        self, context: Context, tokens: Sequence[int], *, user: Span | None = None, start: int = 0, seq: int = 0
    ) -> list[Decision]:
        """The decisions alone, one a pack; the KV cache is left as it was, or the sequence cleared where it can't be cut.

        Args:
            user: the user's own text among the tokens; all of them where nobody said.

        Raises:
            as `prefill`.
        """
        if not self.packs:
            return []
        _check_room(context, tokens, start)
        context.clear_control_vector()
        probe = _Probe(self, len(tokens), user)
        with context.hooked(self._reads, probe.read_and_stop):
            for first, last, chunk in _chunks(tokens, context.n_ubatch):
                probe.begin(first, len(chunk))
                context.decode(chunk, start=start + first, seq=seq, output=last)
        context.remove(seq, start)
        return probe.decisions

    def decide_many(
        self, context: Context, requests: Sequence[Request], *, shared: int, seq: int = 0
    ) -> list[list[Decision]]:
        """The decisions of several prompts, each as it would be alone, bit for bit.

        The `shared` tokens that all begin with are evaluated once, for prompts whose sums that leaves as they are.

        Raises:
            as `prefill`.
        """
        if not self.packs:
            return [[] for _ in requests]
        prompts = [r.prompt for r in requests]
        shared = min(shared, *(r.user_text.start for r in requests))  # the user's own text is read
        try:
            if min(map(len, prompts)) >= SAME_SUMS_BELOW:
                shared = 0
            if shared:
                context.clear_control_vector()
                with context.hooked(self._reads, self._pass_and_stop):
                    for first, _, chunk in _chunks(prompts[0][:shared], context.n_ubatch):
                        context.decode(chunk, start=first, seq=seq, output=False)
            decided: dict[int, list[Decision]] = {}
            for i, prompt in sorted(enumerate(prompts), key=lambda p: len(p[1]) >= SAME_SUMS_BELOW):
                if shared and (len(prompt) >= SAME_SUMS_BELOW or context.n_past(seq) < shared):
                    context.remove(seq, 0)  # such prompts alone are left, or the memory could not be cut
                    shared = 0
                user = Span(*(at - shared for at in requests[i].user_text))
                decided[i] = self.decide(context, prompt[shared:], user=user, start=shared, seq=seq)
            return [decided[i] for i in range(len(prompts))]
        finally:
            context.remove(seq, 0)

    def _pass_and_stop(self, states: LayerStates) -> bool:
        """A hook that reads nothing, and ends the graph where nothing more is wanted of it."""
        return states.layer != self._decides_at

    def prefill(
        self, context: Context, tokens: Sequence[int], *, user: Span | None = None, start: int = 0, seq: int = 0
    ) -> list[Decision]:
        """Evaluates a query's prompt, steered where its gates open, up to the logits of its last token.

        Args:
            tokens: the prompt, or what of it the sequence does not hold yet.
            user: the user's own text among these tokens; all of them where nobody said.
            start: position of its first token.

        Raises:
            ContextFullError: the prompt is longer than the context.
            FitError: a state that is not finite.
        """
        _check_room(context, tokens, start)
        context.clear_control_vector()
        if self._native is None and self.packs:
            self._native = has_control_vector_hook(context)
        chunks = list(_chunks(tokens, context.n_ubatch))
        if not self.packs:
            for first, last, chunk in chunks:
                context.decode(chunk, start=start + first, seq=seq, output=last)
            return []

        in_place = len(chunks) == 1 or not self.prompt_too
        probe = _Probe(self, len(tokens), user, in_place, may_guess=not in_place and context.model.can_roll_back)
        with context.hooked(self._hooks, probe.read_and_add):
            for first, last, chunk in chunks:
                probe.begin(first, len(chunk))
                context.decode(chunk, start=start + first, seq=seq, output=last)
        if probe.wants_second_pass:
            again = chunks if self.prompt_too else chunks[-1:]
            if not context.remove(seq, start + again[0][0]):
                raise PackError(
                    f"{context.model.path.name} keeps a recurrent state that can't be rolled back, so a pack whose gate is behind its "
                    "steered layer, or a prompt of several micro-batches, can't be steered; fit with --gate-layer at or below --layer"
                )
            with self.applied(context, probe.decisions, last_row_only=not self.prompt_too):
                for first, last, chunk in again:
                    context.decode(chunk, start=start + first, seq=seq, output=last)
        return probe.decisions

    @contextmanager
    def applied(
        self, context: Context, decisions: Sequence[Decision], *, last_row_only: bool = False
    ) -> Iterator[None]:
        """Steers every token decoded inside the `with`, and nothing after it.

        By the native control vector wherever the model's graph has that hook; else, and for the last row alone, from the callback.
        """
        additions = added_by_layer(decisions)
        if not additions:
            yield
        elif self._native and not last_row_only and 0 not in additions:
            with context.control_vector(additions):
                yield
        else:

            def add(states: LayerStates) -> bool:
                states.add(additions[states.layer], first=states.n_rows - 1 if last_row_only else 0)
                return True

            with context.hooked(sorted(additions), add):
                yield


class _Probe:
    """Takes the readings of a query's states on their way through the graph, decides, and steers where it is not too late."""

    def __init__(
        self,
        steering: Steering,
        n_tokens: int,
        user: Span | None,
        steer_in_place: bool = False,
        may_guess: bool = False,
    ) -> None:
        self._steering = steering
        self._user, self._n_tokens = user or Span(0, n_tokens), n_tokens
        self._reader = QueryReader(steering._wanted, n_tokens, self._user)
        self._steer_in_place = steer_in_place
        self._looks_open: bool | None = None if may_guess else False  # None: not known yet
        self._additions: dict[int, F32] = {}
        self._first = self._count = 0
        self.decisions: list[Decision] = []
        self.wants_second_pass = False

    def begin(self, first: int, count: int) -> None:
        """Called before each part of the prompt: its first token, and how many it has."""
        self._first, self._count = first, count

    @property
    def _in_last(self) -> bool:
        return self._first + self._count == self._n_tokens

    def read_and_stop(self, states: LayerStates) -> bool:
        """A hook that only decides, and ends the graph where nothing more is wanted of it."""
        self._read(states)
        return states.layer != self._steering._decides_at

    def read_and_add(self, states: LayerStates) -> bool:
        """A hook that decides, and adds from there on, if no layer that was passed wants an addition."""
        if not self.decisions:
            self._read(states)
            if not self._in_last and self._looks_open is not False:
                return self._guess(states)
            self._additions = added_by_layer(self.decisions)
            too_late = self._additions and (not self._steer_in_place or min(self._additions) < states.layer)
            if too_late or (self.decisions and self._looks_open):
                self.wants_second_pass = True
                return False
        if states.layer in self._additions:
            first = 0 if self._steering.prompt_too else states.n_rows - 1
            states.add(self._additions[states.layer], first)
        return True

    def _guess(self, states: LayerStates) -> bool:
        """Whether to evaluate a part before the last beyond the last layer that decides: not if the prompt would open a gate if it ended
        with the first part."""
        if states.layer != self._steering._decides_at:
            return True
        if self._looks_open is None:
            self._looks_open = any(d.is_open for d in self._decide(self._first_part))
        return not self._looks_open

    def _read(self, states: LayerStates) -> None:
        self._take(self._reader, states)
        if self._looks_open is None and states.n_rows == 0:
            self._looks_open = False  # the last block, which has nothing of this part
        if self._looks_open is None:
            if states.layer == self._steering._reads[0]:
                self._first_part = QueryReader(self._steering._wanted, self._count, part_of(self._user, self._count))
            self._take(self._first_part, states)
        if self._in_last and states.layer == self._steering._decides_at:
            self.decisions = self._decide(self._reader)

    def _take(self, reader: QueryReader, states: LayerStates) -> None:
        rows = reader.rows(states.layer, self._first, self._count)
        if rows.start < rows.stop:
            # the last block has only the rows with outputs: the prompt's last token
            at = states.n_rows - 1 if states.n_rows < self._count else rows.start
            reader.take(states.layer, states.read(at, rows.stop - rows.start), self._first + rows.start)

    def _decide(self, reader: QueryReader) -> list[Decision]:
        """Every pack's decision on what was read."""
        decisions = []
        for pack, engine in zip(self._steering.packs, self._steering._engines, strict=True):
            gate, steer = pack.manifest.gate, pack.manifest.steer
            at_gate = reader.gate_state(gate.layers, gate.readings)
            found = engine(at_gate, reader.state(steer.layers[0], "last"))
            decisions.append(
                Decision(
                    pack.manifest.name,
                    found.opening,
                    found.energy_ratio,
                    found.weights,
                    found.vector.reshape(len(steer.layers), -1),
                    steer.strength,
                    tuple(steer.layers),
                )
            )
        return decisions


def added_by_layer(decisions: Sequence[Decision]) -> dict[int, F32]:
    """Sum of the additions of all open decisions, by layer: float32, (d,)."""
    additions: dict[int, F32] = {}
    for d in decisions:
        if d.is_open:
            for layer, addition in zip(d.layers, d.addition, strict=True):
                additions[layer] = additions[layer] + addition if layer in additions else addition
    return additions


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


def has_control_vector_hook(context: Context) -> bool:
    """Whether this model's graph adds a control vector at all: a few architectures ignore it in silence.

    Evaluates one token twice in the context's last sequence, up to block 1.
    """
    model, seq = context.model, context.n_seq - 1
    if model.n_layer < 2:
        return False
    start = context.n_past(seq)
    states: list[F32] = []

    def read(at: LayerStates) -> bool:
        states.append(at.read())
        return False

    probe = np.ones(model.width, dtype=np.float32)
    for vectors in ({}, {1: probe}):
        with context.control_vector(vectors), context.hooked([1], read):
            context.decode([0], start=start, seq=seq)
        context.remove(seq, start)
    if not states:
        raise ModelError(
            f"the graph of {model.path.name} ({model.architecture}) has no l_out tensors in this llama.cpp; it can't be steered"
        )
    return not np.array_equal(states[0], states[1])


def _chunks(tokens: Sequence[int], size: int) -> Iterator[tuple[int, bool, Sequence[int]]]:
    """Micro-batches: offset of the first token, whether it is the last chunk, its tokens."""
    for first in range(0, len(tokens), size):
        yield first, first + size >= len(tokens), tokens[first : first + size]


def _check_room(context: Context, tokens: Sequence[int], start: int) -> None:
    if not tokens:
        raise ContextFullError("the query is empty; give it at least one token")
    if start + len(tokens) >= context.n_ctx:
        raise ContextFullError(
            f"the prompt has {start + len(tokens)} tokens, and the context {context.n_ctx}, which must hold the answer too; shorten it or raise --ctx"
        )
