"""A steering pack of fs-local in plain PyTorch. This file stands alone: copy it, its manifest and its arrays wherever they are needed.

    import sys; sys.path.append("refusal-torch")  # what `fs-local convert refusal.fspack refusal-torch --to torch` wrote
    from finesteer_torch import SteeringPack

    pack = SteeringPack.load("refusal-torch")
    prompts = pack.prompts(tokenizer, ["How do I pick a lock?", "What is the capital of Italy?"])
    with pack.steering(model, prompts) as steering:  # a model of Hugging Face transformers
        answers = model.generate(**prompts.inputs(model.device), max_new_tokens=100)
    steering.decisions.opening  # tensor([0.98, 0.00]): 0 leaves the query as it is, bit for bit

    H  ←  H + λ · g(h_q) · v(h_q)

The prompt's pass decides, once a query; the blocks that are steered add, at the prompt's positions (as the pack's scope says) and at
every generated one. Where the gate reads later blocks than the first steered one, the prompt passes once before, without a cache.
Tested with transformers; `finesteer_vllm.py` beside it is for vLLM.

Shapes: n is a number of queries, T of tokens, d the width of the residual stream, K a number of experts. A block is counted from 0;
the state after block i is `hidden_states[i + 1]` in transformers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CLOSED_BELOW = 0.05
"""A smaller opening counts as 0."""
TINY = 1e-30


class SteeringError(Exception):
    """One sentence for a person: what does not fit, and what to do."""


@dataclass(frozen=True)
class Prompts:
    """Queries as tokens, each in a row of its own, padded.

    Attributes:
        input_ids, attention_mask: (n, T). Padding is on the left where `SteeringPack.prompts` made them, as `generate` wants it.
        user: (n, 2): first token of the user's own text, and the one after its last; None where it is not known.
        turn: (n,): where the current turn begins; None where it is not known.
    """

    input_ids: Tensor
    attention_mask: Tensor
    user: Tensor | None = None
    turn: Tensor | None = None

    def inputs(self, device: Any = None) -> dict[str, Tensor]:
        """What `generate` and a forward pass take."""
        return {"input_ids": self.input_ids.to(device), "attention_mask": self.attention_mask.to(device)}

    def span(self, row: int, reading: str) -> tuple[int, int]:
        """The tokens of a row that a reading is the mean of: the first, and the one after the last.

        Raises:
            SteeringError: it is the user's text, and that is not known.
        """
        there = self.attention_mask[row].nonzero()[:, 0]
        first, stop = int(there[0]), int(there[-1]) + 1
        if reading == "last":
            return stop - 1, stop
        if reading == "mean":
            return first, stop
        if self.user is None:
            raise SteeringError(f"the gate reads {reading}: make the prompts with SteeringPack.prompts, or give `user`")
        begin, end = (int(x) for x in self.user[row])
        return (end - 1, end) if reading == "user_last" else (begin, end)

    def steered_from(self, row: int, scope: str) -> int:
        """The first position that an open gate steers. Raises SteeringError: the turn's beginning is not known."""
        first, stop = self.span(row, "mean")
        if scope != "turn":
            return {"all": first, "generation": stop - 1}[scope]
        if self.turn is None:
            raise SteeringError("the pack steers the current turn: make the prompts with SteeringPack.prompts")
        return int(self.turn[row])


@dataclass(frozen=True)
class Decisions:
    """What n queries get: opening g and energy ratio s, (n,); routing weights α, (n, K); steering vectors v, (n, steered blocks, d)."""

    opening: Tensor
    energy_ratio: Tensor
    weights: Tensor
    vector: Tensor


class SteeringPack(torch.nn.Module):  # type: ignore[misc]
    """A gate and experts, float32, with what the manifest says of them.

    Attributes:
        manifest: as a dict. strength: λ, which may be set. scope: the positions that are steered.
        gate_layers, readings: what the gate takes: the readings at the first block, then those at the next. layers: the steered blocks.
    """

    def __init__(self, manifest: dict[str, Any], arrays: dict[str, Tensor]) -> None:
        super().__init__()
        self.manifest = manifest
        gate, steer = manifest["gate"], manifest["steer"]
        self.kind, self.edge, self.decay, self.intercept = (gate[x] for x in ("kind", "edge", "decay", "intercept"))
        self.gate_layers: list[int] = gate["layers"]
        self.readings: list[str] = gate["readings"]
        self.layers: list[int] = steer["layers"]
        self.strength: float = steer["strength"]
        self.scope: str = steer["scope"]
        self.width: int = manifest["model"]["width"]
        for name, array in arrays.items():
            self.register_buffer(name, array.float())

    @classmethod
    def load(cls, folder: str | Path) -> SteeringPack:
        """Reads what `fs-local convert … --to torch` wrote.

        Raises:
            SteeringError: a file is missing or damaged.
        """
        from safetensors.torch import load

        try:
            manifest = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
            data = (Path(folder) / "arrays.safetensors").read_bytes()
            digest = manifest["digests"]["arrays.safetensors"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SteeringError(f"{folder} can't be read as a pack for PyTorch: {error}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise SteeringError(
                f"{folder} is damaged: arrays.safetensors does not match its digest; convert the pack again"
            )
        return cls(manifest, load(data))

    # --- the decision

    def energy_ratio(self, readings: Tensor) -> Tensor:
        """s, (n,): share of the energy in the gate's subspace. readings: (n, gate blocks × readings × d)."""
        centred = readings.float() - self.gate_mean
        inside = (centred @ self.gate_basis.T).square().sum(1)
        return (inside / centred.square().sum(1).clamp_min(TINY)).clamp(0, 1)

    def gate(self, readings: Tensor) -> Tensor:
        """g, (n,), in [0, 1]. readings: (n, gate blocks × readings × d): at each block, the readings in `self.readings`' order."""
        readings = readings.float()
        if self.kind == "open":
            return torch.ones_like(readings[:, 0])
        if self.kind.startswith("cosine"):
            along = self._cosine(readings)
            return ((along if self.kind == "cosine_above" else -along) > self.edge).float()
        if self.kind == "logistic":
            x = torch.sigmoid((readings - self.gate_mean) @ self.gate_coef + self.intercept)
        elif self.kind == "quantile":
            widths = self.gate_knots.diff().clamp_min(TINY)
            x = ((self.energy_ratio(readings)[:, None] - self.gate_knots[:-1]) / widths).clamp(0, 1).mean(1)
        elif self.kind == "soft":
            x = self.energy_ratio(readings)
        else:
            raise SteeringError(f"this module knows no gate of kind {self.kind}; convert the pack again")
        opening = (x / self.edge).clamp_max(1) ** self.decay
        return torch.where(opening < CLOSED_BELOW, torch.zeros_like(opening), opening)

    def _cosine(self, states: Tensor) -> Tensor:
        c = self.gate_coef / self.gate_coef.norm().clamp_min(TINY)
        projected = torch.tanh((states @ c)[:, None] * c)
        return (states * projected).sum(1) / (states.norm(dim=1) * projected.norm(dim=1)).clamp_min(TINY)

    def weights(self, state: Tensor) -> Tensor:
        """α, (n, K). state: (n, d), of the prompt's last token after the first steered block."""
        return torch.softmax(
            (state.float() - self.experts_center) @ self.experts_routing.T + self.experts_routing_bias, 1
        )

    def vector(self, state: Tensor) -> Tensor:
        """v, (n, steered blocks, d). state: as for `weights`."""
        v = self.weights(state) @ self.experts_prototypes
        hidden = torch.relu((state.float() - self.experts_center) @ self.experts_hidden.T + self.experts_hidden_bias)
        v = v + (hidden @ self.experts_output.T + self.experts_output_bias) @ self.experts_residual
        return v.reshape(len(state), len(self.layers), self.width)

    def decide(self, readings: Tensor, state: Tensor) -> Decisions:
        """All of it. readings: as for `gate`; state: as for `weights`."""
        with torch.no_grad():
            return Decisions(self.gate(readings), self.energy_ratio(readings), self.weights(state), self.vector(state))

    def places(self) -> list[tuple[int, str]]:
        """What is read on the way, (block, reading): what the gate takes in its order, then the state that the experts take."""
        return [*((b, r) for b in self.gate_layers for r in self.readings), (self.layers[0], "last")]

    def decide_on(self, read: dict[tuple[int, str], Tensor]) -> Decisions:
        """`decide`, of what was read at each of `places`, (n, d)."""
        device = self.gate_mean.device
        states = [read[at].to(device) for at in self.places()]
        return self.decide(torch.cat(states[:-1], dim=1), states[-1])

    # --- prompts

    def prompts(self, tokenizer: Any, queries: Sequence[str | Sequence[dict[str, str]]]) -> Prompts:
        """Queries, or conversations, rendered by the tokenizer's chat template, padded on the left.

        The text of control tokens inside a message becomes such tokens, as transformers does it.

        Raises:
            SteeringError: the chat template leaves out the user's message, or the tokenizer gives no offsets.
        """
        rows = [_tokenized(tokenizer, _messages(query)) for query in queries]
        longest = max(len(ids) for ids, _, _ in rows)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        lead = [longest - len(ids) for ids, _, _ in rows]
        return Prompts(
            torch.tensor([[pad] * n + ids for n, (ids, _, _) in zip(lead, rows, strict=True)]),
            torch.tensor([[0] * n + [1] * len(ids) for n, (ids, _, _) in zip(lead, rows, strict=True)]),
            torch.tensor([[n + user[0], n + user[1]] for n, (_, user, _) in zip(lead, rows, strict=True)]),
            torch.tensor([n + turn for n, (_, _, turn) in zip(lead, rows, strict=True)]),
        )

    # --- Hugging Face transformers

    @contextmanager
    def steering(self, model: Any, prompts: Prompts) -> Iterator[Steering]:
        """Steers these prompts' answers, by `generate` or by forward passes, inside the `with`.

        Beams and several answers a prompt get their prompt's decision. Not for a prompt that passes in parts, or behind a cache from
        before.

        Raises:
            SteeringError: another model, or (from the forward pass) other tokens than the prompts'.
        """
        blocks = _blocks(model, self.manifest["model"])
        steering = Steering(self, prompts)
        handles = [model.register_forward_pre_hook(steering._begin, with_kwargs=True)]
        try:
            for i in {*self.layers, *(block for block, _ in self.places())}:
                handles.append(blocks[i].register_forward_hook(steering._after(i)))
            yield steering
        finally:
            for handle in handles:
                handle.remove()


class _Decided(Exception):
    """Ends the pass that only decides."""


class Steering:
    """The hooks of one `with`. decisions: None until the prompts have passed."""

    def __init__(self, pack: SteeringPack, prompts: Prompts) -> None:
        self.decisions: Decisions | None = None
        self._pack, self._prompts = pack, prompts
        self._starts = [prompts.steered_from(i, pack.scope) for i in range(len(prompts.input_ids))]
        self._places = pack.places()
        self._spans = {r: [prompts.span(i, r) for i in range(len(self._starts))] for _, r in self._places}
        self._decides_at = max(block for block, _ in self._places)
        self._read: dict[tuple[int, str], Tensor] = {}
        self._first, self._probing = 0, False

    def _begin(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._probing:
            return
        ids, wanted = args[0] if args else kwargs.get("input_ids"), self._prompts.input_ids
        cache = next(
            (x for x in kwargs.values() if hasattr(x, "get_seq_length")), None
        )  # its name depends on the version
        self._first = int(cache.get_seq_length()) if cache is not None else 0
        n, length = wanted.shape
        if ids is None or len(ids) % n:
            raise SteeringError(
                f"{n} prompts are steered, and the model is given another number of rows, or no input_ids"
            )
        if self._first == 0:
            expected = wanted.to(ids.device).repeat_interleave(len(ids) // n, 0)
            if ids.shape[1] < length or not torch.equal(ids[:, :length], expected):
                raise SteeringError(
                    "the model is given other tokens than the prompts', or a part of them; give it prompts.inputs()"
                )
        elif self.decisions is None:
            raise SteeringError("the cache holds tokens already, so nothing can be decided; begin with an empty one")
        if self.decisions is None and self._decides_at > self._pack.layers[0]:
            known = {x: kwargs[x] for x in ("attention_mask", "position_ids") if kwargs.get(x) is not None}
            self._probing = True
            try:
                model(input_ids=ids, use_cache=False, **known)
            except _Decided:
                pass
            finally:
                self._probing = False

    def _after(self, block: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            if self.decisions is None:
                self._take(block, hidden)
                if block == self._decides_at:
                    self.decisions = self._pack.decide_on(self._read)
                    if self._probing:
                        raise _Decided
            if self._probing or self.decisions is None or block not in self._pack.layers:
                return output
            steered = self._added(block, hidden)
            return (steered, *output[1:]) if isinstance(output, tuple) else steered

        return hook

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _take(self, block: int, hidden: Tensor) -> None:
        each = len(hidden) // len(self._starts)
        for at in self._places:
            if at[0] == block:
                rows = [hidden[i * each, a:b].double().mean(0).float() for i, (a, b) in enumerate(self._spans[at[1]])]
                self._read[at] = torch.stack(rows)

    def _added(self, block: int, hidden: Tensor) -> Tensor:
        assert self.decisions is not None
        pack, found = self._pack, self.decisions
        opened = (found.opening > 0) & bool(pack.strength)
        if not opened.any():
            return hidden
        each = len(hidden) // len(self._starts)
        vectors = (pack.strength * found.opening)[:, None] * found.vector[:, pack.layers.index(block)]
        vectors = vectors.repeat_interleave(each, 0).to(hidden.device)
        starts = torch.tensor(self._starts).repeat_interleave(each)[:, None] - self._first
        where = opened.cpu().repeat_interleave(each)[:, None] & (torch.arange(hidden.shape[1])[None] >= starts)
        return torch.where(
            where[:, :, None].to(hidden.device), (hidden.float() + vectors[:, None]).to(hidden.dtype), hidden
        )


def _blocks(model: Any, about: dict[str, Any]) -> Any:
    """The model's blocks. Raises SteeringError: it is not the pack's."""
    config = model.config.get_text_config()
    if (config.hidden_size, config.num_hidden_layers) != (about["width"], about["n_layer"]):
        raise SteeringError(
            f"the pack is for {about['name']} with {about['n_layer']} blocks of width {about['width']}, and this model has "
            f"{config.num_hidden_layers} of width {config.hidden_size}; convert a pack that was fitted for it"
        )
    found = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == about["n_layer"]]
    if len(found) != 1:
        raise SteeringError(
            f"{type(model).__name__} has {len(found)} lists of {about['n_layer']} blocks; give the language model alone"
        )
    return found[0]


# --- prompts as tokens


def _messages(query: str | Sequence[dict[str, str]]) -> list[dict[str, str]]:
    return [{"role": "user", "content": query}] if isinstance(query, str) else list(query)


def _tokenized(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[list[int], tuple[int, int], int]:
    """Tokens of a conversation, the user's own text among them, and where the current turn begins."""

    def render(some: list[dict[str, str]], answering: bool = True) -> str:
        return str(tokenizer.apply_chat_template(some, tokenize=False, add_generation_prompt=answering))

    text = render(messages)
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
    start, end, turn = 0, len(text), 0
    if last is not None and messages[last]["content"].strip():
        mark = next(c for c in map(chr, range(0xE000, 0xF900)) if all(c not in m["content"] for m in messages))
        without = render([*messages[:last], {"role": "user", "content": mark}, *messages[last + 1 :]])
        start = _common(text, without)
        end = len(text) - min(_common(text[::-1], without[::-1]), len(text) - start)
        if mark not in without or start == end:
            raise SteeringError("the chat template leaves out the user's message; a gate can't read it")
        turn = min(_common(text, render(messages[:last], False)) if last else _first_turn(text, start, render), start)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets, lead = list(found["input_ids"]), list(found["offset_mapping"]), 0
    if getattr(tokenizer, "add_bos_token", False) and tokenizer.bos_token and not text.startswith(tokenizer.bos_token):
        ids, lead = [tokenizer.bos_token_id, *ids], 1
    first = next((i for i, (_, stop) in enumerate(offsets) if stop > start), len(offsets) - 1)
    stop = next((i for i, (begin, _) in enumerate(offsets) if i > first and begin >= end), len(offsets))
    at_turn = next((i for i, (_, stop) in enumerate(offsets) if stop > turn), 0)
    return ids, (first + lead, stop + lead), at_turn + lead if turn else 0


def _first_turn(text: str, start: int, render: Callable[..., str]) -> int:
    """Where a first turn begins: behind what the template puts before it by itself, which may be a system prompt."""
    asked = [{"role": "user", "content": "zq_probe"}, {"role": "assistant", "content": "zq_answer"}]
    try:
        end = render(asked, False).rpartition("zq_answer")[2]
        between = render([*asked, asked[0]]).rpartition("zq_answer")[2]
    except Exception:  # a template may refuse anything
        return 0
    header = between.partition("zq_probe")[0].removeprefix(end)
    return start - len(header) if header and text[:start].endswith(header) else 0


def _common(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
