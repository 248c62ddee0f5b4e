"""The report: one self-contained HTML page of what a fit chose, what an evaluation measured, or how both grow with the data; its
charts are inline SVG."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup  # jinja2's own dependency

from fs_local.files import replace_file
from fs_local.pack_summary import experts
from fs_local.report.charts import COLOURS, Chart, Scale, linear, logarithmic, swatch
from fs_local.report.leads import leads
from fs_local.report.numbers import blocks, finite, is_finite, number, percent, plain, real, whole

_BINS = 24
_EFFECTS = {
    "refusal": "share of answers that refuse",
    "mc2": "probability of the preferred answers (MC2)",
    "preference": "probability of the preferred answers, a token",
}

_View = dict[str, Any]


def write_report(
    path: Path, fitted: _View | None = None, evaluations: Sequence[_View] = (), scaling: _View | None = None
) -> None:
    """Writes the page, or leaves the old file as it was.

    Raises:
        PackError: the folder is missing, can't be written, or has no space.
    """
    replace_file(path, _render(fitted, evaluations, scaling).encode("utf-8", "replace"))


def _render(fitted: _View | None, evaluations: Sequence[_View], scaling: _View | None) -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    for text in (number, percent, plain, blocks, is_finite):
        environment.filters[text.__name__] = text
    environment.globals["swatch"] = swatch
    environment.filters["form"] = _form
    source = importlib.resources.files("fs_local").joinpath("report", "template.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        fitted=fitted and {**fitted, **_fit_parts(fitted)},
        evaluations=[{**e, **_evaluation_parts(e)} for e in evaluations],
        leads=leads(evaluations) if len(evaluations) > 1 else None,
        scaling=scaling and {**scaling, **_scaling_parts(scaling)},
    )


def _heat(cells: dict[tuple[tuple[int, ...], Any], _View], text: Callable[[Any], str]) -> _View:
    """Rows and columns of cells for the template, coloured from the lowest value to the highest; keys are (layers, column)."""
    values = [c["value"] for c in cells.values()]
    colours = Scale(min(values), max(values))
    for cell in cells.values():
        cell["shade"] = 5 + round(50 * colours.place(cell["value"]))
    columns = sorted({column for _, column in cells})
    table = [(blocks(r), [cells.get((r, c)) for c in columns]) for r in _rows(cells)]
    return {"columns": [text(c) for c in columns], "rows": table}


def _rows(keys: Iterable[tuple[tuple[int, ...], Any]]) -> list[tuple[int, ...]]:
    return sorted({layers for layers, _ in keys}, key=lambda r: (len(r), r))


# a fit


def _fit_parts(fitted: _View) -> _View:
    gate = fitted.get("gate") or {}
    histograms = [_histogram(gate, "ratio", "energy ratio"), _histogram(gate, "score", "score")]
    return {
        "histograms": [h for h in histograms if h],
        "roc": _roc(gate),
        "kinds": _kinds(gate.get("kinds") or ()),
        "gate_sweep": _gate_sweep(fitted.get("gate_trials") or (), gate),
        "scatter": _scatter(fitted.get("scatter") or ()),
        **_steering_sweep(fitted),
    }


def _histogram(gate: _View, key: str, what: str) -> Markup | None:
    groups = {name: finite(gate.get(f"{name}_{key}s")) for name in ("general", "ir")}
    edge = finite([gate.get(f"{key}_threshold")])
    if not any(groups.values()) or (key == "score" and not edge):
        return None
    x = linear([*groups["ir"], *groups["general"], *edge])
    shares = {}
    for name, values in groups.items():
        bins = [min(_BINS - 1, int(_BINS * x.place(v))) for v in values]
        shares[name] = [bins.count(i) / len(bins) for i in range(_BINS) if bins]
    y = linear([0, min(1, 1.12 * max(*shares["ir"], *shares["general"]))], percent)  # room for the label
    chart = Chart(f"Histogram of the {what} of IR and general queries", x, y, what, "share of queries", 240)
    width = (x.high - x.low) / _BINS
    for name, heights in shares.items():
        steps = [(x.low + width * (i + k), h) for i, h in enumerate(heights) for k in (0, 1)]
        chart.line([(x.low, 0), *steps, (x.high, 0)], f"area {name}")
    for at in edge:
        chart.line([(at, 0), (at, y.high)], "rule")
        chart.label(at, y.high, f"threshold {number(at)}", 12)
    return chart.svg()


def _roc(gate: _View) -> Markup | None:
    roc, at = gate.get("roc") or {}, gate.get("operating_point") or {}
    pairs = zip(roc.get("general") or (), roc.get("ir") or (), strict=False)
    points = [(x, y) for x, y in pairs if is_finite(x) and is_finite(y)]
    if not points:
        return None
    share = linear([0, 1], percent)
    chart = Chart("ROC of the gate", share, share, "opens for general queries", "opens for IR queries", 330)
    chart.line([(0, 0), (1, 1)], "rule")
    chart.line(points, "ir")
    general, ir = real(at.get("general")), real(at.get("ir"))
    if not math.isnan(general + ir):
        text = f"{percent(ir)} of IR, {percent(general)} of general"
        chart.mark(1, general, ir, f"operating point: {text}", 6)
        chart.label(general, ir, text, 22)
    return chart.svg()


def _kinds(kinds: Sequence[_View]) -> list[_View]:
    """How each kind of general query fares, the worst first: numbers, and where its bar and its interval stand, in percent of the widest."""
    most = max((real(k.get("high")) for k in kinds), default=0.0) or 1.0

    def width(value: object) -> float:
        return round(100 * real(value) / most, 1)

    return [
        {
            **k,
            "bar": width(k.get("opened")),
            "from": width(k.get("low")),
            "to": width(k.get("high")),
        }
        for k in sorted(kinds, key=lambda k: -real(k.get("opened")))
    ]


def _best(rows: Iterable[_View], key: Callable[[_View], Any], rank: Callable[[_View], Any]) -> dict[Any, _View]:
    """The highest-ranking row of each key."""
    return {key(row): row for row in sorted(rows, key=rank)}


def _gate_sweep(trials: Sequence[_View], gate: _View) -> _View | None:
    def apart(trial: _View) -> float:
        """Nearly what the fit ranks gates by: it takes mean openings, and a price for a second pass."""
        ir, general = real(trial.get("open_ir")), real(trial.get("open_general"))
        return 0.0 if math.isnan(ir) else max(0.0, ir - (0.0 if math.isnan(general) else general))

    chosen = tuple(gate.get("layers") or ()), gate.get("kind"), gate.get("rank")

    def of(trial: _View) -> tuple[tuple[int, ...], str]:
        return tuple(trial["layers"]), str(trial["kind"])

    cells = {}
    for key, t in _best(trials, of, lambda t: ((*of(t), t.get("rank")) == chosen, apart(t))).items():
        ir, general = percent(t.get("open_ir")), percent(t.get("open_general"))
        cells[key] = {
            "value": apart(t),
            "text": f"{whole(t.get('open_ir'))} / {whole(t.get('open_general'))}",
            "title": f"{t['kind']}, layer {blocks(t['layers'])}, rank {t.get('rank')}: opens for {ir} of IR and "
            f"{general} of general queries, AUROC {number(t.get('auroc'))}",
            "chosen": (*key, t.get("rank")) == chosen,
        }
    return _heat(cells, str) if cells else None


def _steering_sweep(fitted: _View) -> _View:
    """The steering trials as a heat map, and as lines of the effect against the strength."""
    trials = [t for t in fitted.get("trials") or () if is_finite(t.get("strength")) and is_finite(t.get("effect"))]
    if not trials:
        return {}
    chosen, refusal = fitted.get("chosen") or {"layers": None}, fitted.get("effect_kind") == "refusal"
    best = _best(
        trials,
        lambda t: (tuple(t["layers"]), float(t["strength"])),
        lambda t: (
            all(t.get(k) == v for k, v in chosen.items()),
            t.get("pairs", 0),
            bool(t.get("within_budget")),
            t["effect"],
        ),
    )
    text = percent if refusal else number
    effects, unsteered = [float(t["effect"]) for t in best.values()], finite([fitted.get("unsteered_effect")])
    x, y = linear([0, *(s for _, s in best)]), linear([0, 1] if refusal else [*effects, *unsteered], text)
    what = _EFFECTS.get(str(fitted.get("effect_kind")), "effect")
    chart = Chart("The effect against the strength, a line per layer", x, y, "strength λ", what)
    for level in unsteered:
        chart.line([(x.low, level), (x.high, level)], "rule")
        chart.label(x.high, level, f"unsteered {text(level)}", -5)
    cells, rows = {}, _rows(best)
    for i, layers in enumerate(rows):
        line = sorted((s, t) for (r, s), t in best.items() if r == layers)
        chart.line([(s, t["effect"]) for s, t in line], f"s{i % COLOURS}")
        for s, t in line:
            within, here = bool(t.get("within_budget")), all(t.get(k) == v for k, v in chosen.items())
            about = (
                f"layer {blocks(layers)}, λ {number(s)}: {text(t['effect'])}; {_form(t)}, repeated words {percent(t.get('repeated'))}, perplexity × "
                f"{number(t.get('perplexity_ratio'))}{'' if within else ', over the fluency budget'}"
            )
            chart.mark(i, s, t["effect"], about, 7 if here else 4.5, "" if within else "hollow")
            cells[layers, s] = {
                "value": t["effect"],
                "text": whole(t["effect"]) if refusal else f"{t['effect']:.2f}",
                "title": about,
                "hatched": not within,
                "chosen": here,
            }
    return {
        "steering_sweep": _heat(cells, lambda s: f"λ {number(s)}"),
        "curves": chart.svg(),
        "curve_legend": [f"layer {blocks(r)}" for r in rows],
        "effect": what,
    }


def _form(trial: _View) -> str:
    return experts(trial["experts"], trial["residual"], trial.get("form"))


def _scatter(points: Sequence[_View]) -> Markup | None:
    known = [p for p in points if all(is_finite(p.get(k)) for k in ("x", "y", "expert"))]
    if not known:
        return None
    x, y = (Scale(min(p[k] for p in known), max(p[k] for p in known)) for k in ("x", "y"))
    chart = Chart("Scatter of the pairs, coloured by expert", x, y, "", "", 330)
    groups: dict[int, list[_View]] = {}
    for p in known:
        groups.setdefault(int(p["expert"]), []).append(p)
        chart.mark(int(p["expert"]), p["x"], p["y"], f"expert {int(p['expert']) + 1}: {p.get('query')}", 3.5, "faint")
    for expert, members in groups.items():
        across, down = chart.at(*(sum(p[k] for p in members) / len(members) for k in ("x", "y")))
        chart.add("text", str(expert + 1), x=across, y=down + 6, class_="number middle")
    return chart.svg()


# an evaluation


def _evaluation_parts(evaluation: _View) -> _View:
    suites: dict[tuple[Any, ...], list[_View]] = {}
    for result in evaluation.get("results") or ():
        suites.setdefault((result.get("suite"), result.get("rows"), result.get("file")), []).append(result)
    tasks: dict[str, list[_View]] = {}
    for row in evaluation.get("frontier") or ():
        if all(is_finite((row.get(k) or {}).get("mean")) for k in ("effect", "drift")):
            tasks.setdefault(str(row.get("task")), []).append(row)
    return {
        "suites": [
            (*key, {n: None for r in results for n in r.get("figures") or ()}, results)
            for key, results in suites.items()
            if key[0] != "opening"
        ],
        "openings": _openings({key[1:]: results for key, results in suites.items() if key[0] == "opening"}),
        "frontiers": [_frontier(task, rows) for task, rows in tasks.items()],
    }


def _openings(files: dict[tuple[Any, ...], list[_View]]) -> _View | None:
    """How many queries of each file opened each pack's gate, a row a file; files are (rows, name)."""
    found = [(rows, file, {r.get("pack"): r.get("figures") or {} for r in files[rows, file]}) for rows, file in files]
    packs = {pack: None for _, _, figures in found for pack in figures if pack != "unsteered"}
    return {"packs": list(packs), "files": found} if packs else None


def _interval(figure: _View) -> tuple[float, float, float]:
    """Low, mean and high; the mean thrice where there is no interval."""
    low, mean, high = (real(figure.get(k)) for k in ("low", "mean", "high"))
    return (mean, mean, mean) if math.isnan(low + high) else (low, mean, high)


def _frontier(task: str, rows: Sequence[_View]) -> _View:
    drifts = [real(r["drift"]["mean"]) for r in rows]
    positive = [d for d in drifts if d > 0]
    wide = bool(positive) and max(positive) > 100 * min(positive)
    x = logarithmic(drifts) if wide else linear([0, *(v for r in rows for v in _interval(r["drift"]))])
    y = linear([v for r in rows for v in _interval(r["effect"])])
    x_text = "drift (logarithmic)" if wide else "drift"
    chart = Chart(f"Effect against drift, a line per pack: {task}", x, y, x_text, "effect", 320)
    packs = list(dict.fromkeys(str(r.get("pack")) for r in rows))
    for i, pack in enumerate(packs):
        own = sorted((r for r in rows if str(r.get("pack")) == pack), key=lambda r: real(r.get("strength")))
        line = [(_interval(r["drift"]), _interval(r["effect"]), r.get("strength")) for r in own]
        chart.line([(drift[1], effect[1]) for drift, effect, _ in line], f"s{i % COLOURS}")
        for drift, effect, strength in line:
            chart.line([(drift[0], effect[1]), (drift[2], effect[1])], f"bar s{i % COLOURS}")
            chart.line([(drift[1], effect[0]), (drift[1], effect[2])], f"bar s{i % COLOURS}")
            about = f"{pack}, λ {number(strength)}: effect {number(effect[1])}, drift {number(drift[1])}"
            chart.mark(i, drift[1], effect[1], about)
    return {"task": task, "chart": chart.svg(), "legend": packs, "rows": rows}


# growth with the data


def _scaling_parts(scaling: _View) -> _View:
    series = scaling.get("series") or ()
    charts = [
        _growth(series, "seconds", "seconds", "Time against rows: straight where it is linear"),
        _growth(series, "megabytes", "peak resident MB", "Memory against rows: level where it is flat"),
    ]
    return {"charts": [c for c in charts if c], "legend": [s.get("what") for s in series]}


def _growth(series: Sequence[_View], key: str, text: str, title: str) -> Markup | None:
    lines = [
        [(p["rows"], p[key]) for p in s.get("points") or () if is_finite(p.get("rows")) and is_finite(p.get(key))]
        for s in series
    ]
    points = [p for line in lines for p in line]
    if not points:
        return None
    chart = Chart(title, linear([0, *(x for x, _ in points)]), linear([0, *(y for _, y in points)]), "rows", text)
    for i, (s, line) in enumerate(zip(series, lines, strict=True)):
        chart.line(line, f"s{i % COLOURS}")
        for x, y in line:
            chart.mark(i, x, y, f"{s.get('what')}, {number(x)} rows: {number(y)} {text}")
    return chart.svg()
