"""States that were captured elsewhere, in place of our own capture: what PyTorch reads of a model fits a pack for its GGUF.

What vLLM's connector writes is taken too, by an index of its files: `vllm_states.py` says how. A states file is an npz (`numpy.savez`) or safetensors of float32 matrices, one row an example, named by what they are and by the
block il, counted from 0, after which they were read:

    pairs.{il}      (M, d)  state of each pair's query: of the last token of its prompt, generation prompt included
    preferred.{il}  (M, d)  mean state over the tokens of the preferred answer that follows; of several, the mean of their means
    undesired.{il}  (M, d)  the same of the undesired answer
    ir.{il}         (n, d)  states of IR queries; without them, the pairs' queries serve
    general.{il}    (m, d)  states of general queries; may be missing
    contrast.{il}   (c, d)  states of general queries that resemble IR queries; may be missing

The state after block il is `l_out-{il}` in llama.cpp, and `hidden_states[il + 1]` in Hugging Face transformers, but for the last
block: transformers' last entry is normalized, so that block is refused. Made with transformers:

    import numpy as np, torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name)

    @torch.no_grad()
    def state(il, query, answer=""):
        chat = [{"role": "user", "content": query}]
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer.encode(text, add_special_tokens=False)
        ids = prompt + tokenizer.encode(answer, add_special_tokens=False)
        h = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[il + 1][0]
        return (h[len(prompt) :].mean(0) if answer else h[-1]).float().numpy()

    np.savez(
        "states.npz",
        **{f"pairs.{il}": np.stack([state(il, p["query"]) for p in pairs]) for il in blocks},
        **{f"{k}.{il}": np.stack([state(il, p["query"], p[k]) for p in pairs]) for k in ("preferred", "undesired") for il in blocks},
        **{f"general.{il}": np.stack([state(il, q) for q in general]) for il in blocks},
    )
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fs_local.arrays import F32
from fs_local.errors import DataError, FitError
from fs_local.examples import FileDigest
from fs_local.files import file_digest
from fs_local.fitting.methods import TAKE_QUERIES
from fs_local.fitting.options import FitOptions, Shape
from fs_local.fitting.states import PairStates, Place, QueryStates, gate_layers
from fs_local.fitting.vllm_states import is_index, read_index
from fs_local.method.rows import Rows
from fs_local.tensor_file import container, open_npz, open_safetensors

_HEAD_BYTES = 1 << 16
_PAIRS = ("pairs", "preferred", "undesired")
_KINDS = (*_PAIRS, "ir", "general", "contrast")
Arrays = dict[str, dict[int, F32]]


@dataclass(frozen=True)
class GivenStates:
    """What a states file holds, checked: finite, of one width, and of the same rows at every block.

    Attributes:
        pairs: at the blocks that may be steered. queries: at the blocks whose states a gate may take.
        files: what a manifest says of the file, for each kind of states.
        width: d. path: of the file, for messages.
    """

    path: Path
    width: int
    pairs: PairStates
    queries: QueryStates
    files: dict[str, FileDigest]

    @property
    def n_pairs(self) -> int:
        return len(next(iter(self.pairs.differences.values())))

    @property
    def n_general(self) -> int:
        return self.queries.n_general

    def check(self, model: Shape) -> None:
        """Compares the states with a model.

        Raises:
            DataError: states of another width, or of a block that the model does not have, or of its last.
        """
        if self.width != model.width:
            raise DataError(f"{self.path} has states of width {self.width}, and {model.name} has width {model.width}")
        last = max(*self.pairs.differences, *self.queries.layers)
        if last >= model.n_layer:
            raise DataError(
                f"{self.path} has states of block {last}, and {model.name} has blocks 0 to {model.n_layer - 1}"
            )
        if last == model.n_layer - 1:
            raise DataError(
                f"{self.path} has states of block {last}, the last of {model.name}: nothing comes after it to be steered, and "
                "transformers gives it normalized; leave it out"
            )

    def steer_layers(self, options: FitOptions) -> list[tuple[int, ...]]:
        """Blocks that may be steered: each alone, or those that were asked for together.

        Raises:
            FitError: others were asked for.
        """
        have = sorted(self.pairs.differences.keys() - {0})
        if options.method in TAKE_QUERIES:  # these take the queries' states at the block that they steer
            have = [layer for layer in have if layer in self.queries.layers]
        if options.layers is not None:
            return [tuple(self._held(have, layer, "pairs'") for layer in options.layers)]
        if not have:
            raise FitError(
                f"{self.path} has pairs' states of block 0 alone, which can't have a control vector in llama.cpp"
            )
        return [(layer,) for layer in have]

    def gate_layers(self, n_layer: int, options: FitOptions, steered: int) -> tuple[int, ...]:
        """Blocks whose states a gate may take: those at the depths of our own captures, or where there are none all; without general queries
        there is nothing to choose by.

        Raises:
            FitError: another one was asked for.
        """
        have = self.queries.layers
        if options.gate_layer is not None:
            return (self._held(have, options.gate_layer, "queries'"),)
        if not self.n_general:
            return (self._held(have, steered, "queries'"),)
        usual = gate_layers(n_layer, options, steered, supervised=True)
        return tuple(layer for layer in have if usual[0] <= layer <= usual[-1]) or tuple(have)

    def _held(self, have: list[int], layer: int, whose: str) -> int:
        if layer not in have:
            raise FitError(
                f"{self.path} has no {whose} states of block {layer}; it has those of {', '.join(map(str, have))}"
            )
        return layer


def read_states(path: Path) -> GivenStates:
    """Reads a states file, trusting nothing in it.

    Raises:
        DataError: it can't be read, or has not the arrays that the module's description names.
    """
    try:
        about = path.stat()
        kind, head = None, b""
        if stat.S_ISREG(about.st_mode):
            with path.open("rb") as file:
                kind = container(head := file.read(_HEAD_BYTES), about.st_size)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    if kind is None and head and is_index(head):
        return _checked(path, *read_index(path))
    if kind not in ("npz", "safetensors"):
        raise DataError(f"{path} is neither an npz nor safetensors; write it with numpy.savez, as float32")
    found = (open_npz if kind == "npz" else open_safetensors)(path)
    arrays: Arrays = {kind: {} for kind in _KINDS}
    for name, tensor in found.tensors.items():
        if tensor.dtype != "F32":
            raise DataError(f"{path} has states that are not float32; save them as float32")
        what, layer = _named(path, name)
        arrays[what][layer] = tensor.read()
    return _checked(path, arrays, file_digest(path))


def _named(path: Path, name: str) -> tuple[str, int]:
    kind, _, number = name.partition(".")
    if kind not in _KINDS or not number.isdecimal() or not number.isascii() or str(int(number[:9])) != number:
        raise DataError(f"{path} has an array {name[:60]!r}; states are named {', '.join(f'{k}.12' for k in _KINDS)}")
    return kind, int(number)


def _checked(path: Path, arrays: Arrays, sha256: str) -> GivenStates:
    if not arrays["pairs"]:
        raise DataError(f"{path} has no pairs' states; name them pairs.12, preferred.12 and undesired.12 for block 12")
    shape: dict[str, tuple[int, ...]] = {}
    width = next(iter(arrays["pairs"].values())).shape[-1:]
    for kind, by_layer in arrays.items():
        for layer, array in by_layer.items():
            if array.ndim != 2 or array.shape[1:] != width or array.shape != shape.setdefault(kind, array.shape):
                raise DataError(
                    f"{path} has {kind}.{layer} of shape {array.shape}; all states are rows of one width, and as many of a kind "
                    "at every block"
                )
    for kind in _PAIRS[1:]:
        if arrays[kind].keys() != arrays["pairs"].keys() or shape[kind] != shape["pairs"]:
            raise DataError(f"{path} must have as many states in {kind} as in pairs, at the same blocks")
    ir = arrays["ir"] or arrays["pairs"]
    for kind in ("general", "contrast"):
        if arrays[kind] and arrays[kind].keys() != ir.keys():
            raise DataError(f"{path} must have {kind} states at the same blocks as IR queries: {sorted(ir)}")
    if arrays["contrast"] and not arrays["general"]:
        raise DataError(f"{path} has contrast states without general ones; name these general.12 for block 12")
    kinds = [kind for kind in ("general", "contrast") if arrays[kind]]
    at_ir: dict[Place, Rows] = {(layer, "last"): Rows.of(array) for layer, array in ir.items()}
    at_general: dict[Place, Rows] = {
        (layer, "last"): Rows.stacked(*(Rows.of(arrays[kind][layer]) for kind in kinds)) for layer in ir if kinds
    }
    first = ir[min(ir)]
    n_ir, sizes = len(first), [shape[kind][0] for kind in kinds]
    queries = QueryStates(
        at_ir,
        at_general,
        np.zeros(n_ir, dtype=np.intp),
        np.repeat(np.arange(len(kinds)), sizes).astype(np.intp),
        tuple(kinds),
        np.arange(n_ir, dtype=np.intp),
        np.arange(sum(sizes), dtype=np.intp),
        [h.tobytes() for h in first],
    )
    differences = {layer: Rows.of(arrays["preferred"][layer] - arrays["undesired"][layer]) for layer in arrays["pairs"]}
    keys = [h.tobytes() for h in arrays["pairs"][min(arrays["pairs"])]]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    named = {"pairs": "pairs' states", "ir": "IR states", "general": "general states", "contrast": "contrast states"}
    return GivenStates(
        path,
        width[0],
        PairStates(arrays["pairs"], differences, np.array([numbers[key] for key in keys], dtype=np.intp), keys),
        queries,
        {words: FileDigest(shape[kind][0], sha256) for kind, words in named.items() if arrays[kind]},
    )
