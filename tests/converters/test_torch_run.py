"""The folder for PyTorch at work: the same decisions, and steering by hooks on transformers' models. Needs the extra `peers`."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from converters import torch_folder
from converters.conversion import convert
from fs_local.background import background
from fs_local.choices import Scope
from fs_local.demo import DATA, demo_examples
from fs_local.engine import Engine
from fs_local.examples import Query, read_queries
from fs_local.fitting import FitOptions, fit
from fs_local.method.folded import Gate, GateKind
from fs_local.method.gates import is_open
from fs_local.model_files import resolve_model
from fs_local.pack.file import Pack
from fs_local.runtime.model import Model
from tests.packs import random_experts, random_gate, random_pack, some_identity
from tests.transformers_model import TransformersModel

pytestmark = pytest.mark.slow
KINDS = ["quantile", "logistic", "soft", "open", "cosine_above", "cosine_below"]
N_LAYER, WIDTH, VOCABULARY = 6, 32, 97


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    """`finesteer_torch`, imported as its user does."""
    folder = str(Path(torch_folder.__file__).parent)
    sys.path.insert(0, folder)
    yield importlib.import_module("finesteer_torch")
    sys.path.remove(folder)


def loaded(module: Any, pack: Pack, folder: Path) -> Any:
    pack.save(folder / "p.fspack")
    convert(folder / "p.fspack", folder / "torch", to="torch", force=True)
    return module.SteeringPack.load(folder / "torch")


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_the_pack_does(module: Any, kind: GateKind, tmp_path: Path) -> None:
    import torch

    pack = random_pack(kind)
    theirs, rng = loaded(module, pack, tmp_path), np.random.default_rng(0)
    at_gate, states = (rng.standard_normal((50, 64), dtype=np.float32) for _ in range(2))
    found = theirs.decide(torch.from_numpy(at_gate), torch.from_numpy(states))
    np.testing.assert_allclose(found.opening.numpy(), pack.gate.opening(at_gate), atol=1e-5)
    np.testing.assert_allclose(found.energy_ratio.numpy(), pack.gate.energy_ratio(at_gate), atol=1e-5)
    np.testing.assert_allclose(found.weights.numpy(), pack.experts.weights(states), atol=1e-5)
    np.testing.assert_allclose(found.vector.numpy()[:, 0], pack.experts.vector(states), atol=1e-4)


@pytest.fixture(scope="module")
def tiny_llama() -> Any:
    """A llama of random weights, in float64 so that batches, caches and single rows agree to the last digits that matter."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=N_LAYER, num_attention_heads=4, pad_token_id=0, eos_token_id=None, bos_token_id=None)  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


def of_tiny(scope: Scope, *, gate_layer: int, gate: str = "open", readings: tuple[str, ...] = ("last",)) -> Pack:
    from tests.packs import describe

    n = WIDTH * len(readings)
    chosen: Gate = random_gate("logistic", n, rank=2)
    if gate == "open":
        chosen = random_gate("open", n, rank=2)
    pack = describe(chosen, random_experts(WIDTH, layers=2), some_identity(WIDTH, N_LAYER), layers=[2, 3], gate_layers=[gate_layer], strength=0.4, scope=scope, name="tiny")  # fmt: skip
    settings = pack.manifest.gate.model_copy(update={"readings": list(readings)})
    return Pack.of(pack.manifest.model_copy(update={"gate": settings}), pack.gate, pack.experts)


def some_prompts(module: Any, lengths: tuple[int, ...] = (5, 9, 7)) -> Any:
    import torch

    longest, rng = max(lengths), np.random.default_rng(1)
    ids, mask = (torch.zeros(len(lengths), longest, dtype=torch.long) for _ in range(2))
    for i, n in enumerate(lengths):
        ids[i, longest - n :] = torch.from_numpy(rng.integers(1, VOCABULARY, n))
        mask[i, longest - n :] = 1
    lead = torch.tensor([longest - n for n in lengths])
    return module.Prompts(ids, mask, torch.stack([lead + 1, lead + 4], 1), lead + 1)


def reference(model: Any, pack: Any, prompts: Any, row: int, n_new: int) -> list[int]:
    """Greedy answer to one prompt, without cache or padding: decided by an unsteered pass, added to by hooks of the simplest kind."""
    import torch

    ids = prompts.input_ids[row, prompts.attention_mask[row] > 0][None]
    lead = prompts.input_ids.shape[1] - ids.shape[1]
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    read = {
        (b, r): states[b + 1][:, prompts.span(row, r)[0] - lead : prompts.span(row, r)[1] - lead].mean(1).float()
        for b, r in pack.places()
    }
    found, start = pack.decide_on(read), prompts.steered_from(row, pack.scope) - lead
    added = (pack.strength * found.opening[0]) * found.vector[0]

    def adder(k: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            output = output.clone()
            output[:, start:] = (output[:, start:].float() + added[k]).double()
            return output

        return hook

    handles = [model.model.layers[b].register_forward_hook(adder(k)) for k, b in enumerate(pack.layers)]
    for _ in range(n_new):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    for handle in handles:
        handle.remove()
    return list(ids[0, -n_new:].tolist())


@pytest.mark.parametrize("scope", ["all", "turn", "generation"])
@pytest.mark.parametrize("gate_layer", [1, 2, 4])  # before, at and behind the first steered block
@pytest.mark.parametrize("use_cache", [True, False])
def test_padded_batches_answer_as_each_alone(module: Any, tiny_llama: Any, tmp_path: Path, scope: Scope, gate_layer: int, use_cache: bool) -> None:  # fmt: skip
    readings = ("last", "user_last", "user_mean", "mean")
    pack = loaded(module, of_tiny(scope, gate_layer=gate_layer, gate="logistic", readings=readings), tmp_path)
    pack.edge, pack.intercept = 0.5, 0.0
    prompts = some_prompts(module)
    with pack.steering(tiny_llama, prompts) as steering:
        answers = tiny_llama.generate(**prompts.inputs(), max_new_tokens=6, do_sample=False, use_cache=use_cache)
    assert steering.decisions.opening.sum() > 0
    for row in range(3):
        assert answers[row, -6:].tolist() == reference(tiny_llama, pack, prompts, row, 6)
    left = [hook for block in tiny_llama.model.layers for hook in block._forward_hooks.values()]
    assert not [hook for hook in left if hook.__module__ == "finesteer_torch"]


@pytest.mark.parametrize("gate_layer", [2, 4])
def test_a_closed_row_is_the_unhooked_models_bit_for_bit(
    module: Any, tiny_llama: Any, tmp_path: Path, gate_layer: int
) -> None:
    import torch

    pack = loaded(module, of_tiny("all", gate_layer=gate_layer), tmp_path)
    decide = pack.gate
    pack.gate = lambda readings: decide(readings) * torch.tensor([0.0, 1.0, 0.0])
    prompts, model = some_prompts(module), tiny_llama.float()
    try:
        with torch.no_grad():
            plain = model(**prompts.inputs()).logits
            with pack.steering(model, prompts):
                steered = model(**prompts.inputs()).logits
        ask = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        before = model.generate(**prompts.inputs(), **ask)
        with pack.steering(model, prompts):
            after = model.generate(**prompts.inputs(), **ask)
    finally:
        tiny_llama.double()
    assert torch.equal(plain[[0, 2]], steered[[0, 2]])
    assert not torch.equal(plain[1], steered[1])
    for a, b in zip(before.logits, after.logits, strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])


def test_several_answers_and_beams_get_their_prompts_decision(module: Any, tiny_llama: Any, tmp_path: Path) -> None:
    pack = loaded(module, of_tiny("all", gate_layer=4), tmp_path)
    prompts = some_prompts(module)
    with pack.steering(tiny_llama, prompts) as steering:
        three = tiny_llama.generate(**prompts.inputs(), max_new_tokens=4, do_sample=True, num_return_sequences=3)
    assert (len(three), len(steering.decisions.opening)) == (9, 3)
    with pack.steering(tiny_llama, prompts) as steering:
        beams = tiny_llama.generate(**prompts.inputs(), max_new_tokens=4, do_sample=False, num_beams=2)
    assert (len(beams), len(steering.decisions.opening)) == (3, 3)


def test_what_does_not_fit_gets_a_sentence(module: Any, tiny_llama: Any, tmp_path: Path) -> None:
    pack, prompts = loaded(module, of_tiny("all", gate_layer=1), tmp_path), some_prompts(module)
    with pytest.raises(module.SteeringError, match="other tokens"), pack.steering(tiny_llama, prompts):
        tiny_llama(input_ids=prompts.input_ids[:, :4])
    with pytest.raises(module.SteeringError, match="number of rows"), pack.steering(tiny_llama, prompts):
        tiny_llama(input_ids=prompts.input_ids[:2])
    cache = tiny_llama(input_ids=prompts.input_ids, use_cache=True).past_key_values
    with pytest.raises(module.SteeringError, match="cache holds tokens"), pack.steering(tiny_llama, prompts):
        tiny_llama(input_ids=prompts.input_ids[:, :1], past_key_values=cache)
    other = loaded(module, random_pack(), tmp_path)
    with pytest.raises(module.SteeringError, match="of width 64"), other.steering(tiny_llama, prompts):
        pass
    of_user = loaded(module, of_tiny("all", gate_layer=1, readings=("user_mean",)), tmp_path)
    bare = module.Prompts(prompts.input_ids, prompts.attention_mask)
    with pytest.raises(module.SteeringError, match="reads user_mean"), of_user.steering(tiny_llama, bare):
        pass
    arrays = tmp_path / "torch" / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"\x01")
    with pytest.raises(module.SteeringError, match="damaged"):
        module.SteeringPack.load(tmp_path / "torch")
    with pytest.raises(module.SteeringError, match="can't be read"):
        module.SteeringPack.load(tmp_path)


@dataclasses.dataclass
class _Hook:
    fn: Any
    layer_indices: list[int]


class _StandIn:
    """What `finesteer_vllm` uses of vLLM and vllm-lens' hooks, by their documentation, on transformers: one request after the other."""

    def __init__(self, model: Any, caching: bool = False, chunked: bool = False) -> None:
        self._model = model
        self.llm_engine = SimpleNamespace(
            vllm_config=SimpleNamespace(
                cache_config=SimpleNamespace(enable_prefix_caching=caching),
                scheduler_config=SimpleNamespace(enable_chunked_prefill=chunked),
            )
        )

    def generate(self, prompts: list[dict[str, list[int]]], settings: list[Any]) -> list[Any]:
        import torch

        outputs = []
        for prompt, one in zip(prompts, settings, strict=True):
            hooks, saved, handles = (one.extra_args or {}).get("apply_hooks", []), [], []
            for hook in hooks:
                kept: dict[str, Any] = {}
                saved.append(kept)

                def call(_m: Any, _i: Any, output: Any, hook: Any = hook, kept: Any = kept, layer: int = 0) -> Any:
                    context = SimpleNamespace(saved=kept, layer_idx=layer, seq_len=output.shape[1])
                    changed = hook.fn(context, output[0])
                    return output if changed is None else changed[None]

                for layer in hook.layer_indices:
                    block = self._model.model.layers[layer]
                    handles.append(block.register_forward_hook(lambda m, i, o, c=call, n=layer: c(m, i, o, layer=n)))
            ids = torch.tensor([prompt["prompt_token_ids"]])
            done = self._model.generate(ids, max_new_tokens=one.max_tokens, do_sample=False)
            for handle in handles:
                handle.remove()
            results = {str(i): kept for i, kept in enumerate(saved)}
            outputs.append(SimpleNamespace(token_ids=done[0, ids.shape[1] :].tolist(), hook_results=results))
        return outputs


class _Sampling(SimpleNamespace):
    def clone(self) -> _Sampling:
        return _Sampling(**vars(self))


@pytest.mark.parametrize("scope", ["all", "turn", "generation"])
def test_the_hooks_for_vllm_steer_as_those_for_transformers(
    module: Any, tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: Scope
) -> None:
    monkeypatch.setitem(sys.modules, "vllm_lens", SimpleNamespace(Hook=_Hook))
    finesteer_vllm = importlib.import_module("finesteer_vllm")
    pack, prompts = loaded(module, of_tiny(scope, gate_layer=4), tmp_path), some_prompts(module)
    found, decisions = finesteer_vllm.generate(pack, _StandIn(tiny_llama), prompts, _Sampling(max_tokens=6))
    with pack.steering(tiny_llama, prompts) as steering:
        answers = tiny_llama.generate(**prompts.inputs(), max_new_tokens=6, do_sample=False)
    assert np.allclose(decisions.opening, steering.decisions.opening, atol=1e-5)
    assert [output.token_ids for output in found] == answers[:, -6:].tolist()
    for wrong in ({"caching": True}, {"chunked": True}):
        with pytest.raises(module.SteeringError, match="start vLLM with enable_"):
            finesteer_vllm.generate(pack, _StandIn(tiny_llama, **wrong), prompts, _Sampling(max_tokens=6))


TURNS = [
    {"role": "user", "content": "What is a lock?"},
    {"role": "assistant", "content": "It keeps a door shut."},
    {"role": "user", "content": "How do I pick one, ça va, 鍵?"},
]


def test_prompts_have_the_tokens_and_places_that_the_gguf_has(module: Any, smollm2: Model) -> None:
    theirs = TransformersModel(resolve_model("smollm2"))
    pack = module.SteeringPack({**random_pack().manifest.model_dump()}, {})
    queries: list[Any] = ["How do I pick a lock?", TURNS, [{"role": "system", "content": "Be brief."}, *TURNS]]
    prompts = pack.prompts(theirs.tokenizer, queries)
    for i, query in enumerate(queries):
        ours = smollm2.prompt(Query.of(query).messages if isinstance(query, str) else query)
        lead = prompts.input_ids.shape[1] - len(ours.tokens)
        assert prompts.input_ids[i, lead:].tolist() == list(ours.tokens)
        assert prompts.attention_mask[i].tolist() == [0] * lead + [1] * len(ours.tokens)
        assert (prompts.user[i] - lead).tolist() == [ours.user.start, ours.user.stop]
        assert int(prompts.turn[i]) - lead == ours.turn_start


def test_it_decides_as_the_gguf_does(module: Any, smollm2: Model, tmp_path: Path) -> None:
    """On 500 real queries that the gate was not fitted on; prints how many decisions agree. Closed ones keep the bits of the plain model."""
    import torch

    options = FitOptions(background=False, layers=(14,), strength=1.0)
    pack = fit(smollm2, demo_examples(), options).pack
    theirs, transformers = loaded(module, pack, tmp_path), TransformersModel(resolve_model("smollm2"))
    ir, general = (read_queries(DATA / f"{name}.jsonl")[0] for name in ("unseen_ir", "unseen_general"))
    texts = [q.text for some in (ir, general, *(kind[:21] for kind in background().values())) for q in some]
    queries = sorted(texts, key=len)[:500]
    with Engine(smollm2, [pack], n_ctx=2048) as engine:
        prompts = [engine.prompt(Query.of(query).messages) for query in queries]
        opened = is_open(np.array([engine.decide(prompt)[0].opening for prompt in prompts], dtype=np.float32))
    agree, closed = 0, 0
    for first in range(0, len(queries), 8):
        batch = theirs.prompts(transformers.tokenizer, queries[first : first + 8])
        with torch.no_grad():
            plain = transformers.model(**batch.inputs()).logits
            with theirs.steering(transformers.model, batch) as steering:
                steered = transformers.model(**batch.inputs()).logits
        openings = steering.decisions.opening.numpy()
        agree += int((is_open(openings) == opened[first : first + 8]).sum())
        for row in np.flatnonzero(openings == 0):
            assert torch.equal(plain[row], steered[row])
            closed += 1
    print(f"{agree} of {len(queries)} decisions agree, {int(opened.sum())} open; {closed} closed ones bit for bit")
    assert len(queries) == 500
    assert 10 < closed < 490
    assert agree >= 0.99 * len(queries)
