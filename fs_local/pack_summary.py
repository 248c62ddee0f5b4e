"""What a pack is and how its fit went, in words."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from fs_local.choices import ExpertForm
from fs_local.method.readings import Reading
from fs_local.pack.file import Pack
from fs_local.pack.manifest import EFFECTS, SCOPES
from fs_local.terminal import facts

_MOST_KINDS = 6
READINGS: dict[Reading, str] = {
    "last": "the last token",
    "user_last": "the user's last token",
    "user_mean": "the mean over the user's tokens",
    "mean": "the mean over the prompt",
}


def pack_summary(pack: Pack, size: int) -> Table:
    """A pack as a person judges it."""
    return facts(f"steering pack {pack.manifest.name}", summary_rows(pack, size, most_kinds=_MOST_KINDS))


def summary_rows(pack: Pack, size: int, most_kinds: int | None = None) -> list[tuple[str, str]]:
    """What there is to say of a pack: label and value.

    Args:
        most_kinds: how many kinds of general query are told of, those that open most often; None for all.
    """
    m = pack.manifest
    f = m.figures
    rows: list[tuple[str, str]] = []

    def row(name: str, value: str) -> None:
        rows.append((name, value))

    row("size", f"{size / 1024:.0f} KB")
    row(
        "model",
        f"{m.model.name} ({m.model.architecture}, {m.model.n_layer} blocks, {m.model.quantization}), fingerprint {m.model.fingerprint}",
    )
    row("fitted on", ", ".join(f"{d.rows} {name}" for name, d in m.data.items()) or "examples given in Python")
    also = "" if m.steer.reads is None else f", by states after {blocks(m.steer.reads)}"
    row(
        "steers",
        f"after {blocks(m.steer.layers)}, strength {m.steer.strength:g}, {SCOPES[m.steer.scope]}{also}",
    )
    reads = "" if m.gate.readings == ["last"] else f", reading {readings(m.gate.readings)}"
    row(
        "gate", f"{m.gate.kind}, at {blocks(m.gate.layers)}{reads}, rank {len(pack.gate.basis)}; {gate_threshold(pack)}"
    )
    if f.open_ir is not None:
        unseen = " of kinds it had not seen" if f.kinds else ""
        general = "" if f.open_general is None else f", and for {f.open_general:.1%} of general queries{unseen}"
        auroc = "" if f.auroc is None else f"; AUROC {f.auroc:.3f}"
        row("cross-fitted", f"opens for {f.open_ir:.1%} of IR queries{general}{auroc}")
    if f.recall:
        at = ", ".join(f"{r.ir:.1%} of IR queries where {r.general:.0%} of general ones open it" for r in f.recall)
        row("recall", at)
    kinds = sorted(f.kinds, key=lambda k: (k.held, -k.opened))
    told = kinds if most_kinds is None else kinds[:most_kinds]
    for kind in told:
        seen = "" if kind.held else f"; NOT HELD: {kind.opened_seen:.1%} open with the kind in the fit"
        row(
            f"  {kind.name}",
            f"{kind.opened:.1%} [{kind.low:.1%}, {kind.high:.1%}] of {kind.rows} open, the kind left out{seen}",
        )
    if rest := kinds[len(told) :]:
        row(f"  {len(rest)} other kinds", f"at most {max(k.opened for k in rest):.1%} open; --json has them all")
    if f.open_ir_in_wraps is not None and f.open_general_in_wraps is not None:
        row(
            "in unseen wraps",
            f"opens for {f.open_ir_in_wraps:.1%} of IR and {f.open_general_in_wraps:.1%} of general queries",
        )
    row("experts", experts(len(m.experts), len(pack.experts.residual), f.held_out.form if f.held_out else None))
    if f.validation_error is not None and f.constant_error:
        better = 1 - f.validation_error / f.constant_error
        compared = f"{abs(better):.1%} {'below' if better >= 0 else 'ABOVE'} it"
        row(
            "validation error",
            f"{f.validation_error:.4g}, the constant mean vector's {f.constant_error:.4g} ({compared})",
        )
    if f.held_out is not None:
        effect = EFFECTS[f.effect_kind]
        budget = "" if f.held_out.within_budget else " (over the fluency budget)"
        row(
            "held out",
            f"{effect} {share(f.held_out.effect)} (unsteered {share(f.unsteered_held_out or 0)}) on {f.held_out.pairs} pairs that had no part in "
            f"the fit; repeated words {f.held_out.repeated:.0%}, perplexity ×{f.held_out.perplexity_ratio:.2f}{budget}",
        )
    if f.trials:
        row("tried", f"{len(f.trials)} settings of block, strength and form of the experts; --json has them all")
    for k, about in enumerate(m.experts):
        if about.queries:
            row(f"  expert {k + 1}", f"{about.pairs} pairs, such as: {about.queries[0]}")
    return rows


def experts(k: int, rank: int, form: ExpertForm | None) -> str:
    """What makes a query's vector: K experts with a residual, or what a fit found to do better."""
    if form == "ridge":
        return f"a ridge map of rank {rank} in place of a mixture"
    if form == "mean":
        return "one vector in place of a mixture"
    return f"K = {k}, residual rank {rank}"


def share(x: float) -> str:
    """A share in percent, with one digit more where it is small: 4% is not 4.4%, but 0.4% is not nothing."""
    if 0 < x < 1e-4:
        return "<0.01%"
    return f"{x:.0%}" if x == 0 or x >= 0.01 else f"{100 * x:.1g}%"


def blocks(layers: Sequence[int]) -> str:
    """Layers in words: block 10, or blocks 10, 14."""
    return ("block " if len(layers) == 1 else "blocks ") + ", ".join(map(str, layers))


def readings(some: Sequence[Reading]) -> str:
    """Readings in words."""
    return ", ".join(READINGS[r] for r in some)


def gate_threshold(pack: Pack) -> str:
    """What opens a pack's gate, in words."""
    gate = pack.gate
    if gate.kind == "quantile":
        return f"opens fully from energy ratio {gate.ratio_threshold:.2f} on (tail {gate.edge:g} of held-out IR queries), one-class"
    if gate.kind == "logistic":
        return "opens by linear margins between IR and general queries; the energy ratio only describes"
    if gate.kind == "open":
        return "is always open"
    if gate.kind in ("cosine_above", "cosine_below"):
        side, edge = (">", gate.edge) if gate.kind == "cosine_above" else ("<", -gate.edge)
        return f"opens where the similarity to the condition vector is {side} {edge:.3f}"
    if gate.kind == "soft":
        return "the opening is the energy ratio itself"
    raise ValueError(f"no words for a gate of kind {gate.kind}")
