"""A fit: how to steer, when to steer, and all that is known of both, in a pack.

Whatever is chosen here is chosen on examples that were held out of what is being judged: pairs that the experts were not
trained on for layer and strength, cross-fitted scores for the gate. What is reported of the steering is measured on pairs that
neither fitted nor chose anything (`fs_local.fitting.held_out`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fs_local.errors import DataError, FitError
from fs_local.evaluation.runner import Runner
from fs_local.examples import FileDigest, Pair
from fs_local.fitting.expert_search import ChosenExperts, HeldOutAnswer, about, choose_experts, experts_untried
from fs_local.fitting.fit_gate import fit_gate, notes_on_gate, queries_for
from fs_local.fitting.gate_search import ChosenGate, always, choose_gate, needs_no_states
from fs_local.fitting.given import GivenStates
from fs_local.fitting.options import Examples, FitOptions, Shape, check
from fs_local.method.subspace import principal
from fs_local.pack.file import Pack
from fs_local.pack.manifest import DataDigest, Figures, Manifest, ModelIdentity, SteerSettings
from fs_local.progress import Progress, untold
from fs_local.runtime.model import Model
from fs_local.steering import identity
from fs_local.store import Store
from fs_local.version import __version__

LEAST_GAIN = 0.02
"""Of the effect, over unsteered: less is nothing that anybody would notice."""


@dataclass(frozen=True)
class Fitted:
    """A pack, and what the fit saw on the way.

    Attributes:
        record: for a report: plain lists and numbers. notes: what a person should know.
        answers: to some held-out queries, unsteered and steered; empty where nothing was tried.
    """

    pack: Pack
    record: dict[str, Any]
    notes: tuple[str, ...] = ()
    answers: tuple[HeldOutAnswer, ...] = ()


def fit(
    model: Model,
    examples: Examples,
    options: FitOptions | None = None,
    progress: Progress | None = None,
    store: Store | None = None,
    given: GivenStates | None = None,
) -> Fitted:
    """Fits a pack with the model itself.

    Args:
        store: where captures and trials are kept, so that a stopped fit goes on where it was.
        given: states that were captured elsewhere, in place of our own; `examples` then has pairs alone, for trials, in the order
            of their states.

    Raises:
        DataError: too few examples, or one that is longer than the context.
        FitError: states that are not finite, or options out of range, or that want examples which are not there.
    """
    options = options or FitOptions()
    report = progress or untold
    captures = store.captures if store is not None else None
    if given is None:
        check(model, options, pairs=len(examples.pairs), ir=len(examples.ir), general=examples.n_general)
    else:
        _check_given(model, given, options)
        if given.n_pairs != len(examples.pairs):
            raise DataError(
                f"{given.path} has states of {given.n_pairs} pairs, and there are {len(examples.pairs)} pairs; they must be the same, "
                "in the same order"
            )
    if options.share < 1:
        examples = examples.drawn(options)
    queries = queries_for(examples, options)
    how = choose_experts(Runner(model, store), examples, options, report, queries, captures, given)
    if given is None:
        when = fit_gate(model, queries, options, how.layers[0], report, captures)
    else:
        when = _gate_given(model, given, options, how.layers[0], report)
    files = {**(examples.files or {}), **(given.files if given is not None else {})}
    notes = (*examples.notes, *queries.notes, *notes_on_gate(when, queries, options), *_notes(how))
    return replace(_fitted(identity(model), how, when, examples.pairs, files, options), notes=notes)


def fit_untried(
    model: ModelIdentity, given: GivenStates, options: FitOptions | None = None, progress: Progress | None = None
) -> Fitted:
    """Fits a pack on states that were captured elsewhere, without the model's weights: nothing is tried on it.

    Args:
        options: needs a layer where the states are of several; without a strength, it is 1.

    Raises:
        DataError: too few examples, or states that do not fit the model.
        FitError: options out of range, or that the states don't allow.
    """
    options = options or FitOptions()
    _check_given(model, given, options)
    layers = given.steer_layers(options)
    if len(layers) > 1:
        blocks = sorted({layer for together in layers for layer in together})
        raise FitError(
            f"{given.path} has states of blocks {', '.join(map(str, blocks))}, and no texts to try them on; choose one with --layer, "
            "or give the pairs' texts with --pairs"
        )
    how = experts_untried(given, options, layers[0])
    when = _gate_given(model, given, options, how.layers[0], progress or untold)
    notes = (
        (
            f"nothing was tried on the model: the strength is {how.strength:g}, at which the pack adds what tells preferred from "
            "undesired answers; to have it chosen, give the pairs' texts with --pairs",
        )
        if options.strength is None
        else ()
    )
    return replace(_fitted(model, how, when, (), given.files, options), notes=notes)


def _check_given(model: Shape, given: GivenStates, options: FitOptions) -> None:
    given.check(model)
    check(model, options, pairs=given.n_pairs, ir=given.queries.n_ir, general=given.n_general)
    candidates = given.steer_layers(options)
    if not needs_no_states(options) and (options.gate_layer is not None or len(candidates) == 1):
        # what the gate wants must be there before a search begins
        given.gate_layers(model.n_layer, options, candidates[0][0])


def _gate_given(model: Shape, given: GivenStates, options: FitOptions, steered: int, report: Progress) -> ChosenGate:
    if needs_no_states(options):
        return always(model.width, steered)
    return choose_gate(given.queries, given.gate_layers(model.n_layer, options, steered), options, steered, report)


def _fitted(
    model: ModelIdentity,
    how: ChosenExperts,
    when: ChosenGate,
    pairs: Sequence[Pair],
    files: Mapping[str, FileDigest],
    options: FitOptions,
) -> Fitted:
    manifest = Manifest(
        name=options.name,
        method=options.method,
        fitted_by=f"fs-local {__version__}",
        model=model,
        gate=when.settings,
        steer=SteerSettings(
            layers=list(how.layers),
            reads=None if how.reads == how.layers[:1] else list(how.reads),
            strength=how.strength,
            scope=options.scope,
        ),
        experts=about(how, pairs),
        data={name: DataDigest(rows=f.rows, sha256=f.sha256) for name, f in files.items()},
        figures=Figures(
            open_ir=when.open_ir,
            open_general=when.open_general,
            auroc=when.auroc,
            roc=when.roc,
            recall=list(when.recall),
            kinds=list(when.kinds),
            open_ir_in_wraps=when.open_ir_in_wraps,
            open_general_in_wraps=when.open_general_in_wraps,
            validation_error=how.error,
            constant_error=how.constant_error,
            effect_kind=how.effect_kind,
            unsteered_effect=how.unsteered_effect,
            trials=list(how.trials),
            held_out=how.held_out,
            unsteered_held_out=how.unsteered_held_out,
            gate_trials=list(when.trials),
        ),
        seed=options.seed,
        digests={},
    )
    pack = Pack.of(manifest, when.gate, how.experts)
    return Fitted(pack, _record(pack, how, when, pairs), answers=tuple(how.answers))


def _notes(how: ChosenExperts) -> tuple[str, ...]:
    """What a person should know of the setting that was chosen, where it is no good one."""
    trial, unsteered = how.held_out, how.unsteered_held_out
    if trial is None or unsteered is None:
        return ()
    notes = []
    gains = trial.effect >= unsteered + LEAST_GAIN
    if not trial.within_budget and gains:
        notes.append(
            f"the chosen setting is not within the fluency budget on {trial.pairs} held-out pairs (perplexity ×{trial.perplexity_ratio:.2f}, "
            f"{trial.repeated:.0%} repeated words): read its answers, and use it with a smaller --strength"
        )
    if not gains:
        over = "" if trial.within_budget else ", although it is over the fluency budget"
        notes.append(
            f"this pack does not do what your pairs show: on {trial.pairs} held-out pairs it gains next to nothing{over} ({trial.effect:.1%}, "
            f"unsteered {unsteered:.1%}); give more pairs, pairs whose answers differ in what you want and in nothing else, or a larger model"
        )
    return tuple(notes)


def _record(pack: Pack, how: ChosenExperts, when: ChosenGate, pairs: Sequence[Pair]) -> dict[str, Any]:
    m, gate = pack.manifest, pack.gate
    return {
        "name": m.name,
        "method": m.method,
        "model": m.model.name,
        "quantization": m.model.quantization,
        "gate": {
            "kind": gate.kind,
            "layers": when.layers,
            "readings": list(when.readings),
            "kinds": [k.model_dump() for k in when.kinds],
            "recall": [r.model_dump() for r in when.recall],
            "in_wraps": {"ir": when.open_ir_in_wraps, "general": when.open_general_in_wraps},
            "rank": when.rank,
            "ir_ratios": when.ir_ratio.tolist(),
            "general_ratios": when.general_ratio.tolist(),
            "ratio_threshold": gate.ratio_threshold,
            "ir_scores": when.ir_score.tolist(),
            "general_scores": when.general_score.tolist(),
            "score_threshold": gate.edge if gate.kind != "quantile" and len(when.ir_score) else None,
            "roc": when.roc.model_dump() if when.roc else {"general": [], "ir": []},
            "operating_point": None
            if when.open_ir is None or when.open_general is None
            else {"general": when.open_general, "ir": when.open_ir},
            "auroc": when.auroc,
        },
        "gate_trials": [t.model_dump() for t in when.trials],
        "trials": [t.model_dump() for t in how.trials],
        "effect_kind": how.effect_kind,
        "unsteered_effect": how.unsteered_effect,
        "held_out": how.held_out.model_dump() if how.held_out else None,
        "unsteered_held_out": how.unsteered_held_out,
        "chosen": {
            "pairs": max((t.pairs for t in how.trials), default=0),
            "layers": m.steer.layers,
            "strength": how.strength,
            "experts": len(m.experts),
            "residual": len(pack.experts.residual),
            "form": how.held_out.form if how.held_out else None,
        },
        "answers": [asdict(a) for a in how.answers],
        "experts": [e.model_dump() for e in m.experts],
        "scatter": _scatter(how, pairs, m.seed),
    }


def _scatter(how: ChosenExperts, pairs: Sequence[Pair], seed: int) -> list[dict[str, Any]]:
    """The differences in the plane where they vary most; nothing where they vary along a line."""
    if how.mixture is None:
        return []
    plane = principal(how.differences, min(2, len(how.differences)), seed)
    if len(plane.axes) < 2:
        return []
    points, labels = plane.coordinates(how.differences), how.mixture.labels_
    queries = [pairs[i].query.text[:160] if pairs else f"pair {i + 1}" for i in how.train]
    return [
        {"x": float(x), "y": float(y), "expert": int(k), "query": query}
        for (x, y), k, query in zip(points, labels, queries, strict=True)
    ]
