"""A fit, end to end, on the real model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fs_local import DataError, Examples, FitError, FitOptions, FsLocalError, Pack, Steer, SteeredModel, fit
from fs_local.arrays import F32
from fs_local.demo import DATA, demo_examples
from fs_local.examples import Query, read_queries
from fs_local.fitting.methods import FitRows, FittedExperts, fit_experts
from fs_local.fitting.near_twins import groups_of
from fs_local.fitting.trials import Trials
from fs_local.generation import GenerationOptions
from fs_local.method.rivals import NullSpaceMap
from fs_local.method.rows import Rows
from fs_local.refusals import is_refusal, refusal_pairs
from fs_local.runtime.model import Model


def test_a_pack_steers_unseen_ir_queries_leaves_general_ones_and_says_how_it_was_made(smollm2: Model) -> None:
    """One test, since a real refusal pack takes half a minute: layers, strength and residual given, all else chosen by the fit."""
    shipped = demo_examples()
    pairs = refusal_pairs([p.query for p in shipped.pairs[::3]])  # as few as it needs to refuse, with short answers
    examples = Examples(pairs, general={"general": shipped.general["general"][::3]}, files=shipped.files)
    options = FitOptions(background=False, name="refusal", layers=(10,), gate_layer=15, strength=1.3, residual_rank=0)
    pack = fit(smollm2, examples, options).pack
    says_what_was_done(pack, examples)
    steers_ir_queries_alone(pack)


def steers_ir_queries_alone(pack: Pack) -> None:
    with SteeredModel.load("smollm2", [pack]) as model, SteeredModel.load("smollm2") as unsteered:
        ir, general = (list(read_queries(DATA / f"{name}.jsonl")[0]) for name in ("unseen_ir", "unseen_general"))
        steered, plain = (m.generate_many(ir, GenerationOptions(max_tokens=14)) for m in (model, unsteered))
        assert np.mean([c.decisions[0].is_open for c in steered]) > 0.8
        assert sum(is_refusal(c.text) for c in steered) >= 2 * sum(is_refusal(c.text) for c in plain) + 3
        short = GenerationOptions(max_tokens=12)
        closed = [q for q in general if not model.decide(q)[0].is_open]
        assert len(closed) >= 10
        for q in closed[:4]:
            exact = Steer(exact=True)
            assert model.generate(q, short, steered=exact).text == unsteered.generate(q, short, steered=exact).text


def says_what_was_done(pack: Pack, examples: Examples) -> None:
    m = pack.manifest
    assert (m.steer.layers, m.gate.layers, m.steer.strength, m.method) == ([10], [15], 1.3, "finesteer")
    assert m.data["pairs"].sha256 == examples.files["pairs"].sha256  # type: ignore[index]
    assert sum(e.pairs for e in m.experts) == pytest.approx(0.8 * 0.85 * len(examples.pairs), abs=1.5)
    assert all(e.queries for e in m.experts)
    assert m.figures.open_ir is not None
    assert m.figures.open_ir > 0.7
    assert m.figures.open_general is not None
    assert m.figures.open_general <= 0.05
    assert m.figures.effect_kind == "refusal"
    assert m.figures.trials[0].effect > (m.figures.unsteered_effect or 0)
    assert m.figures.held_out is not None
    assert m.figures.held_out.effect > (m.figures.unsteered_held_out or 0)
    assert m.figures.roc is not None
    assert (m.figures.roc.ir[-1], m.figures.roc.general[-1]) == (1, 1)


def test_two_fits_with_one_seed_give_one_file(tiny: Model, few_examples: Examples, tmp_path: Path) -> None:
    few = Examples(few_examples.pairs[:20], general={"general": few_examples.general["general"][:20]})
    for name in ("a", "b"):
        fit(tiny, few, FitOptions(background=False, layers=(3,), gate_layer=2, strength=1.0)).pack.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size < 400_000


def test_ir_queries_alone_give_a_one_class_gate(tiny: Model, few_examples: Examples) -> None:
    few = Examples(few_examples.pairs[:20], ir=[p.query for p in few_examples.pairs])
    pack = fit(tiny, few, FitOptions(background=False, layers=(3,), strength=1.0, residual_rank=0)).pack
    assert (pack.gate.kind, pack.manifest.gate.layers) == ("quantile", [3])
    assert pack.manifest.figures.open_general is None


def test_every_stage_reports_to_its_end(tiny: Model, few_examples: Examples) -> None:
    ends: dict[str, tuple[int, int]] = {}
    few = Examples(few_examples.pairs[:12], general={"general": few_examples.general["general"][:12]})
    fit(
        tiny,
        few,
        FitOptions(background=False, layers=(3,), strength=1.0, gate="soft"),
        lambda what, done, total: ends.update({what: (done, total)}),
    )
    assert set(ends) == {"capture pairs", "search", "capture queries", "fit gates"}
    assert all(done == total for done, total in ends.values())


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({"pairs": []}, {}, DataError, "0 pairs are too few"),
        ({"general": "one"}, {}, DataError, "1 general queries are too few"),
        ({}, {"layers": (0,)}, FitError, "block 0"),
        ({}, {"layers": (6,)}, FsLocalError, "layers 0 to 5"),
        ({}, {"gate_layer": 99}, FsLocalError, "layers 0 to 5"),
        ({"general": {}}, {"gate": "logistic"}, FitError, "--general"),
    ],
)
def test_what_can_not_be_fitted_says_so(
    tiny: Model,
    few_examples: Examples,
    change: dict[str, Any],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    change = {k: {"general": few_examples.general["general"][:1]} if v == "one" else v for k, v in change.items()}
    with pytest.raises(error, match=message):
        fit(tiny, dataclasses.replace(few_examples, **change), FitOptions(background=False, **options))


def test_a_setting_that_is_no_good_one_is_noted(tiny: Model, few_examples: Examples) -> None:
    few = Examples(few_examples.pairs[:20])
    notes = fit(tiny, few, FitOptions(background=False, layers=(3,), strength=30.0, residual_rank=0, gate="open")).notes
    assert any("fluency budget" in note for note in notes)
    assert any("does not do what your pairs show" in note for note in notes)


def test_a_map_is_tried_without_the_queries_that_were_held_out(
    tiny: Model, few_examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Examples(few_examples.pairs[:20], general={"general": few_examples.general["general"][:20]})
    rows: list[int] = []
    fit_map = NullSpaceMap.fit

    def spied(self: NullSpaceMap, ir: Rows | F32, general: Rows | F32, direction: F32) -> NullSpaceMap:
        rows.append(len(ir))
        return fit_map(self, ir, general, direction)

    monkeypatch.setattr(NullSpaceMap, "fit", spied)
    fit(tiny, few, FitOptions(background=False, layers=(3,), strength=1.0, method="alphasteer"))
    assert rows == [13, 17]  # of 20: 4 choose and 3 report, and those that chose are fitted on in the end


def test_what_reports_has_neither_fitted_nor_chosen_and_nor_have_its_twins(
    tiny: Model, few_examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = [
        dataclasses.replace(p, query=Query.of(text))
        for p in few_examples.pairs[:12]
        for text in (p.query.text, f"{p.query.text} Please!")
    ]
    groups = groups_of([p.query.text for p in twins])
    assert len({*groups}) == 12
    fitted, tried = [], []

    def fit_some(states: FitRows, options: Any, layers: Any, rank: Any, rows: Any, without: Any) -> FittedExperts:
        fitted.append({int(groups[i]) for i in rows})
        return fit_experts(states, options, layers, rank, rows, without)

    begin = Trials.__init__

    def begun(self: Trials, runner: Any, kind: Any, pairs: Any, *rest: Any) -> None:
        tried.append({int(groups[twins.index(p)]) for p in pairs})
        begin(self, runner, kind, pairs, *rest)

    monkeypatch.setattr("fs_local.fitting.expert_search.fit_experts", fit_some)
    monkeypatch.setattr(Trials, "__init__", begun)
    m = fit(
        tiny, Examples(twins), FitOptions(background=False, layers=(3,), residual_rank=0, gate="open")
    ).pack.manifest
    (for_trials, shipped), (chosen_on, reported_on) = fitted, tried
    assert not for_trials & chosen_on
    assert shipped == for_trials | chosen_on
    assert not shipped & reported_on
    assert m.figures.held_out is not None
    assert (m.figures.held_out.pairs, m.figures.trials[0].pairs) == (4, 4)
    assert m.figures.held_out not in m.figures.trials
