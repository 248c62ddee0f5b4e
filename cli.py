"""The command line: one function a command, no logic of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from converters.cast import Condition
    from fs_local.engine import Sampling
    from fs_local.steered_model import SteeredModel

app = typer.Typer(
    name="fs-local",
    help="Make a quantized GGUF model behave as your examples show, only on the queries that need it.\n\n"
    "Begin with: fs-local demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)

ModelArgument = Annotated[
    str,
    typer.Argument(help="A GGUF file, an alias (smollm2), or a name that fs-local models lists (ollama:llama3.2:1b)."),
]
Packs = Annotated[
    Optional[list[Path]], typer.Option("--pack", "-p", help="A steering pack; may be given several times.")
]
GpuLayers = Annotated[int, typer.Option(help="Blocks to offload to a GPU; -1 for all.")]
Threads = Annotated[Optional[int], typer.Option(min=1, help="Threads; by default the cores of this machine.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
LessonName = Annotated[str, typer.Argument(metavar="NAME", help="A lesson's name.")]
System = Annotated[Optional[str], typer.Option(help="System message.")]
MaxTokens = Annotated[int, typer.Option(help="Most tokens of an answer.")]
Temperature = Annotated[
    Optional[float],
    typer.Option(help="0 is greedy. By default as the model's file recommends, else 0.8; greedy with --json."),
]
TopK = Annotated[Optional[int], typer.Option(help="0 for all tokens. By default the file's, else 40.")]
TopP = Annotated[Optional[float], typer.Option(help="1 for all tokens. By default the file's, else 0.95.")]
MinP = Annotated[Optional[float], typer.Option(help="0 for all tokens. By default the file's, else 0.05.")]
RepeatPenalty = Annotated[Optional[float], typer.Option(help="1 for none. By default the file's, else 1.1.")]
DrawSeed = Annotated[
    Optional[int], typer.Option("--seed", help="Of the draw; by default a random one, which is shown.")
]
Seed = Annotated[int, typer.Option(help="Of everything that is random.")]
Stop = Annotated[Optional[list[str]], typer.Option(help="A text that ends the answer; may be given several times.")]
Ctx = Annotated[int, typer.Option(min=0, help="Tokens of context; 0 for 4096, or the model's own if shorter.")]
General = Annotated[
    Optional[list[Path]],
    typer.Option(
        help="JSONL or CSV of general queries {query}. May be given several times: each file is a kind with a budget of its own."
    ),
]
PackOutput = Annotated[Path, typer.Option("--output", "-o", help="Where the pack goes.")]
GateLayer = Annotated[str, typer.Option(help="Block whose states the gate takes: a number, or auto (several).")]
GeneralBudget = Annotated[float, typer.Option(help="Share of each kind of general query that may open the gate.")]
NoBackground = Annotated[
    bool, typer.Option("--no-background", help="Leave out the general queries that come with fs-local.")
]
Strength = Annotated[Optional[float], typer.Option(help="λ in place of the packs' own.")]
EngineOption = Annotated[str, typer.Option("--engine", help="What evaluates decisions: numpy or onnx.")]
Providers = Annotated[
    Optional[list[str]], typer.Option("--provider", help="ONNX Runtime execution provider; may be given several times.")
]


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="A GGUF file or an alias.")] = "smollm2",
    output: PackOutput = Path("refusal.fspack"),
    as_json: AsJson = False,
) -> None:
    """Fit a refusal pack from shipped examples, and see it at work on queries it has not seen. A few minutes.

    Example: fs-local demo
    """
    from dataclasses import asdict

    from fs_local.demo import Counts, fit_demo_pack, show_unseen
    from fs_local.terminal import decision_json, escape, out, pack_summary, side_by_side, stages

    _check_outputs(output, inputs=[Path(model)])
    with stages() as progress:
        pack = fit_demo_pack(model, progress)
        pack.save(output)
        shown = list(show_unseen(model, pack, progress))
    counts = Counts.of(shown)
    if as_json:
        rows = [
            {
                "kind": s.kind,
                "query": s.query.text,
                **decision_json(s.decision),
                "unsteered": s.unsteered,
                "steered": s.steered,
            }
            for s in shown
        ]
        _print_json(
            {
                "pack": str(output),
                **asdict(counts),
                "answers": rows,
            }
        )
        return
    out.print(pack_summary(pack, output.stat().st_size))
    for kind, title in (("IR", "Unseen IR queries"), ("general", "Unseen general queries")):
        out.print(
            side_by_side([(s.query.text, s.decision, s.unsteered, s.steered) for s in shown if s.kind == kind], title)
        )
    out.print(
        f"Refused, of {counts.ir} unseen IR queries: {counts.refused_unsteered} unsteered, {counts.refused_steered} steered."
    )
    out.print(f"Gate closed, of {counts.general} unseen general queries: {counts.general_closed}.")
    out.print(
        f"The pack is {escape(str(output))}. Go on with: [bold]fs-local chat {escape(model)} --pack {escape(str(output))}[/]"
    )


@app.command()
def fit(
    model: ModelArgument,
    pairs: Annotated[
        Optional[Path],
        typer.Option(
            help="JSONL or CSV of {query, preferred, undesired}, or TruthfulQA's task format. Without it, the IR queries are to be refused."
        ),
    ] = None,
    ir: Annotated[
        Optional[list[Path]],
        typer.Option(
            help="JSONL or CSV of IR queries {query}; by default the pairs' queries. May be given several times."
        ),
    ] = None,
    general: General = None,
    openings: Annotated[
        Optional[Path],
        typer.Option(
            help="JSON of {preferred, undesired} openings of answers, to build pairs for the IR queries with."
        ),
    ] = None,
    states: Annotated[
        Optional[Path],
        typer.Option(
            help="npz or safetensors of states captured elsewhere, by PyTorch for example, instead of capturing them here: pairs.N, preferred.N, "
            "undesired.N, ir.N, general.N (rows, width) after block N. With --pairs, settings are tried on these pairs; without, the model's "
            "weights are not needed. See: README, Fitted elsewhere."
        ),
    ] = None,
    output: PackOutput = Path("pack.fspack"),
    report: Annotated[Optional[Path], typer.Option(help="Where an HTML page about the fit goes.")] = None,
    name: Annotated[Optional[str], typer.Option(help="Name of the pack; by default the file's.")] = None,
    method: Annotated[str, typer.Option(help="finesteer, caa, repe, cast or alphasteer.")] = "finesteer",
    layer: Annotated[
        str, typer.Option(help="Steered block: a number, several with commas between them, or auto.")
    ] = "auto",
    gate: Annotated[str, typer.Option(help="quantile (one-class), logistic, soft, open (no gate), or auto.")] = "auto",
    gate_layer: GateLayer = "auto",
    general_budget: GeneralBudget = 0.02,
    no_background: NoBackground = False,
    strength: Annotated[str, typer.Option(help="λ: a number, or auto.")] = "auto",
    experts: Annotated[str, typer.Option(help="K: a number, or auto.")] = "auto",
    residual: Annotated[str, typer.Option(help="Rank of the residual: a number (0: none), or auto.")] = "auto",
    scope: Annotated[str, typer.Option(help="all (prompt and generation), or generation.")] = "all",
    lesson: Annotated[
        Optional[str], typer.Option(help="A lesson's name, in place of files; fs-local lesson list shows them.")
    ] = None,
    seed: Seed = 0,
    gpu_layers: GpuLayers = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a steering pack from examples, with the model itself. A search that was stopped goes on where it was.

    Example: fs-local fit model.gguf --ir harmful.jsonl --general general.jsonl -o refusal.fspack

    Example for any behaviour: fs-local fit model.gguf --pairs pairs.jsonl --general general.jsonl -o truthful.fspack

    Example for corrections that were made in the page: fs-local fit model.gguf --lesson tone -o tone.fspack

    Example with states from PyTorch: fs-local fit model.gguf --states states.npz --layer 12 --strength 1.5 -o pack.fspack
    """
    from converters.vectors import model_identity
    from fs_local.fitting import FitOptions, fit_untried
    from fs_local.fitting import fit as fit_pack
    from fs_local.fitting.files import read_examples, read_given
    from fs_local.model_files import resolve_model
    from fs_local.report import write_report
    from fs_local.runtime.model import Model
    from fs_local.store import Store
    from fs_local.terminal import err, loading, out, pack_summary, stages, summary_rows

    k = _number_or_auto("--experts", experts, int)
    options = FitOptions(
        name=name or lesson or output.stem,
        method=_choice("--method", method, ("finesteer", "caa", "repe", "cast", "alphasteer")),
        layers=_numbers_or_auto("--layer", layer),
        gate_layer=_number_or_auto("--gate-layer", gate_layer, int),
        gate=_choice("--gate", gate, ("quantile", "logistic", "soft", "open"), auto=True),
        budget=general_budget,
        background=not no_background,
        strength=_number_or_auto("--strength", strength, float),
        n_experts=FitOptions.n_experts if k is None else (k, k),
        residual_rank=_number_or_auto("--residual", residual, int),
        scope=_choice("--scope", scope, ("all", "generation")),
        seed=seed,
    )
    path = resolve_model(model)
    _check_outputs(output, report, inputs=[path, pairs, *(ir or []), *(general or []), openings, states])
    if lesson is not None:
        from fs_local.lessons import read_lesson_examples

        if pairs or ir or general or openings or states:
            raise typer.BadParameter("--lesson is in place of --pairs, --ir, --general, --openings and --states")
        given, examples = None, read_lesson_examples(lesson, seed)
    elif states is None:
        given, examples = None, read_examples(pairs, ir or [], general or [], openings, seed)
    else:
        given, examples = read_given(states, pairs, [*(ir or []), *(general or []), *([openings] if openings else [])])
    if given is not None and pairs is None:
        with stages(as_json) as told:
            fitted = fit_untried(model_identity(path), given, options, told)
    else:
        with loading() as progress:
            loaded = Model.load(path, gpu_layers=gpu_layers, progress=progress)
        with loaded, stages(as_json) as told:
            store = Store.for_model(loaded.build)
            fitted = fit_pack(loaded, examples, options, told, store, given)
    for note in fitted.notes:
        err.print(f"note: {note}", style="yellow", markup=False)
    fitted.pack.save(output)
    size = output.stat().st_size
    if report is not None:
        write_report(report, {**fitted.record, "summary": summary_rows(fitted.pack, size)})
    if as_json:
        _print_json({"pack": str(output), "bytes": size, "notes": fitted.notes, **fitted.pack.manifest.model_dump()})
    else:
        out.print(pack_summary(fitted.pack, size))


@app.command()
def gate(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A control vector or a pack, of any format convert reads.")
    ],
    model: Annotated[str, typer.Option(help="The model that SRC is for: a GGUF file or an alias.")],
    ir: Annotated[
        list[Path], typer.Option(help="JSONL or CSV of the queries {query} to steer. May be given several times.")
    ],
    general: General = None,
    output: PackOutput = Path("gated.fspack"),
    kind: Annotated[str, typer.Option("--gate", help="quantile (one-class), logistic, soft, or auto.")] = "auto",
    gate_layer: GateLayer = "auto",
    general_budget: GeneralBudget = 0.02,
    no_background: NoBackground = False,
    strength: Annotated[Optional[float], typer.Option(help="λ; by default SRC's own, 1 for vectors.")] = None,
    seed: Seed = 0,
    gpu_layers: GpuLayers = 0,
    as_json: AsJson = False,
) -> None:
    """Put a gate before a control vector, or before a pack in place of its own: it then steers only queries like those of --ir.

    Example: fs-local gate happy.gguf --model model.gguf --ir sad.jsonl --general general.jsonl -o happy.fspack
    """
    from converters.conversion import read_pack
    from fs_local.fitting import FitOptions, gated
    from fs_local.fitting.files import read_gate_examples
    from fs_local.model_files import resolve_model
    from fs_local.runtime.model import Model
    from fs_local.steering import check_model
    from fs_local.store import Store
    from fs_local.terminal import err, loading, out, pack_summary, stages

    options = FitOptions(
        name=output.stem,
        gate_layer=_number_or_auto("--gate-layer", gate_layer, int),
        gate=_choice("--gate", kind, ("quantile", "logistic", "soft"), auto=True),
        budget=general_budget,
        background=not no_background,
        strength=strength,
        seed=seed,
    )
    path = resolve_model(model)
    _check_outputs(output, inputs=[path, source, *ir, *(general or [])])
    pack, examples = read_pack(source, path), read_gate_examples(ir, general or [])
    with loading() as progress:
        loaded = Model.load(path, gpu_layers=gpu_layers, progress=progress)
    with loaded, stages() as told:
        note = check_model(pack, loaded)
        pack, notes = gated(loaded, pack, examples, options, told, Store.for_model(loaded.build))
    for said in (*([note] if note else []), *notes):
        err.print(f"note: {said}", style="yellow", markup=False)
    pack.save(output)
    size = output.stat().st_size
    if as_json:
        _print_json({"pack": str(output), "bytes": size, **pack.manifest.model_dump()})
    else:
        out.print(pack_summary(pack, size))


@app.command()
def evaluate(
    model: ModelArgument,
    suite: Annotated[
        str,
        typer.Option(
            help="opening, refusal, over-refusal, truthfulqa, exact-match, drift, or compare (all packs on all files, at several strengths)."
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            help="The suite's file, or several. For compare, each as SUITE=FILE; for opening, ir=FILE and general=FILE also give the AUROC."
        ),
    ],
    pack: Packs = None,
    limit: Annotated[Optional[int], typer.Option(min=1, help="Only the first rows of each file.")] = None,
    report: Annotated[Optional[Path], typer.Option(help="Where an HTML page about the results goes.")] = None,
    gpu_layers: GpuLayers = 0,
    as_json: AsJson = False,
) -> None:
    """Measure what packs change, and what they leave alone. An evaluation that was stopped goes on where it was.

    Example: fs-local evaluate model.gguf --pack refusal.fspack --suite refusal --data harmful.jsonl

    Example: fs-local evaluate model.gguf --pack a.fspack --pack b.fspack --suite compare --data refusal=harmful.jsonl --data drift=general.jsonl
    """
    from fs_local.evaluation.compare import evaluate_packs
    from fs_local.evaluation.files import read_files
    from fs_local.evaluation.suites import SUITES
    from fs_local.evaluation.tables import evaluation_tables
    from fs_local.model_files import resolve_model
    from fs_local.pack.file import Pack
    from fs_local.report import write_report
    from fs_local.runtime.model import Model
    from fs_local.store import Store
    from fs_local.terminal import err, loading, out, stages

    files = read_files(_choice("--suite", suite, (*SUITES, "compare")), data, limit)
    _check_outputs(report, inputs=[Path(model), *(f.path for f in files), *(pack or [])])
    packs = [Pack.load(p) for p in pack or []]
    with loading() as progress:
        loaded = Model.load(resolve_model(model), gpu_layers=gpu_layers, progress=progress)
    with loaded, stages() as told:
        store = Store.for_model(loaded.build)
        found = evaluate_packs(loaded, packs, files, compare=suite == "compare", store=store, progress=told)
    for note in found["notes"]:
        err.print(f"note: {note}", style="yellow", markup=False)
    if report is not None:
        write_report(report, evaluation=found)
    if as_json:
        _print_json(found)
    else:
        for table in evaluation_tables(found):
            out.print(table)


@app.command()
def generate(
    model: ModelArgument,
    prompt: Annotated[Optional[str], typer.Argument(help="The query; by default read from standard input.")] = None,
    pack: Packs = None,
    system: System = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repeat_penalty: RepeatPenalty = None,
    seed: DrawSeed = None,
    stop: Stop = None,
    strength: Strength = None,
    ctx: Ctx = 0,
    gpu_layers: GpuLayers = 0,
    threads: Threads = None,
    engine: EngineOption = "numpy",
    provider: Providers = None,
    as_json: AsJson = False,
) -> None:
    """Answer one query.

    Example: fs-local generate smollm2 --pack refusal.fspack "How do I pick a lock?"
    """
    from fs_local.errors import FsLocalError
    from fs_local.examples import Query
    from fs_local.generation import GenerationOptions
    from fs_local.runtime.template import Message
    from fs_local.terminal import decision_json, decision_line, err, timings_json

    text = _standard_input() if prompt in (None, "-") else prompt
    if not text or not text.strip():
        raise FsLocalError("the query is empty; give it as an argument or on standard input")
    messages = ([Message(role="system", content=system)] if system else []) + [Message(role="user", content=text)]
    with _load(model, pack, ctx, gpu_layers, threads, engine, provider, strength) as steered:
        sampling = _sampling(steered, temperature, top_k, top_p, min_p, repeat_penalty, seed, greedy=as_json)
        options = GenerationOptions(max_tokens, tuple(stop or ()), sampling)
        answer = ""
        for piece in steered.stream(Query(tuple(messages)), options):
            answer += piece.text
            if not as_json:
                print(piece.text, end="", flush=True)
        if as_json:
            decisions = [decision_json(d) for d in piece.decisions]
            _print_json(
                {
                    "text": answer,
                    "finish_reason": piece.finish_reason,
                    "seed": piece.seed,
                    "decisions": decisions,
                    "timings": timings_json(piece),
                }
            )
            return
        print()
        for decision in piece.decisions:
            err.print(decision_line(decision))
        if sampling.temperature:
            err.print(f"[dim]seed {piece.seed}[/]")


@app.command()
def decide(
    model: ModelArgument,
    pack: Packs = None,
    query: Annotated[
        Optional[list[str]], typer.Argument(help="Queries; without any, one a line from standard input.")
    ] = None,
    data: Annotated[
        Optional[Path], typer.Option(help="JSONL or CSV of queries {query}, in place of arguments.")
    ] = None,
    ctx: Ctx = 0,
    gpu_layers: GpuLayers = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Judge texts: what each pack decides on a query, how far that is from the threshold, and which readings carried it. No answer.

    Example: fs-local decide smollm2 --pack refusal.fspack "How do I pick a lock?" "What is a lock?"

    Example: fs-local decide smollm2 --pack refusal.fspack --data queries.jsonl --json
    """
    from fs_local.errors import FsLocalError
    from fs_local.examples import Query, read_queries
    from fs_local.terminal import decision_json, decisions_table, out

    if not pack:
        raise FsLocalError("there is nothing to decide without a pack; give --pack")
    if query and data:
        raise FsLocalError("give queries as arguments, or a file of them with --data, not both")
    if data is not None:
        queries = read_queries(data)[0]
    else:
        texts = [t for t in (query or _standard_input().splitlines()) if t.strip()]
        queries = [Query.of(t) for t in texts]
    if not queries:
        raise FsLocalError("there is no query; give some as arguments, on standard input, or with --data")
    with _load(model, pack, ctx, gpu_layers, threads, "numpy", None, None) as steered:
        found = [(q.text, steered.decide(q)) for q in queries]
    if as_json:
        _print_json([{"query": text, "decisions": [decision_json(d) for d in decisions]} for text, decisions in found])
    else:
        out.print(decisions_table(found))


@app.command()
def chat(
    model: ModelArgument,
    pack: Packs = None,
    system: System = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repeat_penalty: RepeatPenalty = None,
    seed: DrawSeed = None,
    stop: Stop = None,
    strength: Strength = None,
    ctx: Ctx = 0,
    gpu_layers: GpuLayers = 0,
    threads: Threads = None,
    engine: EngineOption = "numpy",
    provider: Providers = None,
) -> None:
    """Chat with a model, steered where it is needed; /help inside lists commands.

    Example: fs-local chat smollm2 --pack refusal.fspack
    """
    from fs_local.chat import Chat
    from fs_local.generation import GenerationOptions

    with _load(model, pack, ctx, gpu_layers, threads, engine, provider, strength) as steered:
        sampling = _sampling(steered, temperature, top_k, top_p, min_p, repeat_penalty, seed)
        Chat(steered, GenerationOptions(max_tokens, tuple(stop or ()), sampling), system).run()


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A steering pack, or vectors of any format that convert reads.")],
    as_json: AsJson = False,
) -> None:
    """Show what a pack is, what it was fitted on, and how it did there; or what vectors of another tool are.

    Example: fs-local inspect refusal.fspack
    """
    from dataclasses import asdict

    from converters.inspection import About
    from converters.inspection import inspect as inspect_file
    from fs_local.terminal import facts, out, pack_summary

    found = inspect_file(path)
    if isinstance(found, About):
        if as_json:
            _print_json(asdict(found))
        else:
            out.print(facts(path.name, found.rows()))
        return
    found.engine("onnx")  # its graph is checked too
    if as_json:
        _print_json({"bytes": path.stat().st_size, **found.manifest.model_dump()})
    else:
        out.print(pack_summary(found, path.stat().st_size))


@app.command()
def convert(
    source: Annotated[Optional[Path], typer.Argument(metavar="SRC", help="Vectors or a pack, of any format.")] = None,
    target: Annotated[Optional[Path], typer.Argument(metavar="DST", help="What to write.")] = None,
    to: Annotated[Optional[str], typer.Option(help="Format of DST; by default its suffix says it.")] = None,
    model: Annotated[
        Optional[str],
        typer.Option(help="The model that vectors are for, to make a pack of them: a GGUF file or an alias."),
    ] = None,
    layers: Annotated[
        Optional[str],
        typer.Option(help="The layers to convert, as SRC counts them: 10-20, or 10,12; by default all."),
    ] = None,
    condition: Annotated[
        Optional[Path],
        typer.Option(help="A condition vector (.svec): SRC, a behaviour vector (.svec), is added where it is met."),
    ] = None,
    condition_layer: Annotated[
        Optional[int], typer.Option(help="Where it is checked, as in activation-steering's condition_layer_ids.")
    ] = None,
    threshold: Annotated[Optional[float], typer.Option(help="θ, as condition_vector_threshold.")] = None,
    comparator: Annotated[
        Optional[str],
        typer.Option(help="What θ is, as condition_comparator_threshold_is: smaller (than the similarity) or larger."),
    ] = None,
    comparison: Annotated[
        str,
        typer.Option(
            help="What is compared, as condition_threshold_comparison_mode: the mean over the prompt, or its last position."
        ),
    ] = "mean",
    query: Annotated[
        Optional[str],
        typer.Option(
            "--for",
            metavar="QUERY",
            help="Write the exact vector that a pack adds for this query, instead of its mean; the model decides it (--model).",
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the weights in an ONNX file: float32 or float16.")] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Overwrite DST.")] = False,
    list_formats: Annotated[
        bool, typer.Option("--list", help="Show the formats, and what each direction keeps and loses.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Convert steering vectors and packs to and from other tools' formats. SRC is recognized by its content.

    Example: fs-local convert vector.gguf vector.fspack --model model.gguf

    Example, for llama-server --control-vector: fs-local convert refusal.fspack refusal.gguf

    Example, of FineSteer's own code: fs-local convert MoSE.pt truth.fspack --layers 12 --model model.gguf

    Example, of activation-steering: fs-local convert refusal.svec refusal.fspack --layers 15-23 --condition harmful.svec
    --condition-layer 7 --threshold 0.048 --comparator larger --model model.gguf

    Example, of one query: fs-local convert refusal.fspack lock.gguf --model model.gguf --for "How do I pick a lock?"
    """
    from converters.conversion import convert as convert_file
    from converters.formats import FORMATS
    from fs_local.terminal import err, formats_table, out

    if list_formats:
        rows = [{"name": f.name, "is": f.title, "in": f.coming_in, "out": f.going_out} for f in FORMATS]
        if as_json:
            _print_json({"formats": rows})
        else:
            out.print(formats_table(rows))
        return
    if source is None or target is None:
        raise typer.BadParameter("give SRC and DST, or --list")
    done = convert_file(
        source,
        target,
        to=to,
        model=model,
        layers=layers,
        condition=_condition(condition, condition_layer, threshold, comparator, comparison),
        dtype=_choice("--dtype", dtype, ("float32", "float16")),
        query=query,
        force=force,
    )
    if as_json:
        _print_json(
            {
                "from": done.source,
                "to": done.target,
                "path": str(done.path),
                "bytes": done.n_bytes,
                "lost": list(done.lost),
            }
        )
        return
    out.print(f"{done.path}: {done.target}, {done.n_bytes:,} bytes, from {done.source}", markup=False)
    for sentence in done.lost:
        err.print(f"lost: {sentence}", style="yellow", markup=False)


def _condition(
    path: Path | None, layer: int | None, threshold: float | None, comparator: str | None, comparison: str
) -> Condition | None:
    """The condition of `convert`: all four options, or none."""
    from converters.cast import Condition

    if path is None and layer is None and threshold is None and comparator is None:
        return None
    if path is None or layer is None or threshold is None or comparator is None:
        raise typer.BadParameter("give --condition, --condition-layer, --threshold and --comparator together")
    return Condition(
        path,
        layer,
        threshold,
        _choice("--comparator", comparator, ("larger", "smaller")),
        _choice("--comparison", comparison, ("mean", "last")),
    )


lesson_app = typer.Typer(
    help="Lessons: named sets of examples that grow out of corrections in the page.", no_args_is_help=True
)
app.add_typer(lesson_app, name="lesson")


@lesson_app.command("list")
def lesson_list(as_json: AsJson = False) -> None:
    """List the lessons that are kept on this machine."""
    from dataclasses import asdict

    from fs_local.database import Database
    from fs_local.lessons import Lessons
    from fs_local.terminal import lessons_table, out

    found = Lessons(Database()).all()
    if as_json:
        _print_json({"lessons": [asdict(summary) for summary in found]})
    else:
        out.print(lessons_table(found))


@lesson_app.command("show")
def lesson_show(name: LessonName, as_json: AsJson = False) -> None:
    """Show a lesson's rows, what contradicts itself in them, and what is missing for a good fit."""
    from fs_local.database import Database
    from fs_local.lessons import Lessons, contradictions, missing
    from fs_local.terminal import err, lesson_table, out

    rows = Lessons(Database()).rows(name)
    said = [*contradictions(rows), *missing(rows)]
    if as_json:
        _print_json({"name": name, "rows": [row.as_dict() for row in rows], "notes": said})
        return
    out.print(lesson_table(rows))
    for sentence in said:
        err.print(f"note: {sentence}", style="yellow", markup=False)


@lesson_app.command("import")
def lesson_import(
    name: LessonName,
    file: Annotated[Path, typer.Argument(help="JSONL or CSV, of pairs for example.")],
    kind: Annotated[
        Optional[str], typer.Option(help="pair, ir or general: what rows are that don't say it themselves.")
    ] = None,
) -> None:
    """Add a file's rows to a lesson, which is made if it is not there.

    Example: fs-local lesson import tone pairs.jsonl
    """
    from fs_local.database import Database
    from fs_local.errors import DataError
    from fs_local.lessons import KINDS, Lessons, read_lesson
    from fs_local.terminal import out

    given = None if kind is None else _choice("--kind", kind, KINDS)
    try:
        rows = read_lesson(file, file.read_bytes(), given)
    except OSError as error:
        raise DataError(f"{file} can't be read: {error.strerror}") from error
    lessons = Lessons(Database())
    if name not in [summary.name for summary in lessons.all()]:
        lessons.create(name)
    lessons.add(name, rows)
    out.print(f"{name}: {len(rows)} rows more", markup=False, highlight=False)


@lesson_app.command("export")
def lesson_export(name: LessonName) -> None:
    """Print a lesson as JSONL, for files of examples or for lesson import elsewhere."""
    from fs_local.database import Database
    from fs_local.lessons import Lessons, lesson_text

    print(lesson_text(Lessons(Database()).rows(name)), end="")


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models on this machine that Ollama, LM Studio, Hugging Face, GPT4All or llama.cpp downloaded. Each name is a MODEL.

    Example: fs-local models
    """
    from dataclasses import asdict

    from fs_local.model_files import list_models
    from fs_local.terminal import models_table, out

    found = list_models()
    if as_json:
        _print_json({"models": [{**asdict(m), "path": str(m.path)} for m in found]})
    else:
        out.print(models_table(found))


@app.command()
def serve(
    model: ModelArgument,
    pack: Packs = None,
    host: Annotated[str, typer.Option(help="Address; another than this machine's own needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")] = 8080,
    api_key: Annotated[
        Optional[str],
        typer.Option(
            envvar="FS_LOCAL_API_KEY",
            help="Asked of all clients. Others on this machine can read options: set the variable instead.",
        ),
    ] = None,
    admin_key: Annotated[
        Optional[str],
        typer.Option(envvar="FS_LOCAL_ADMIN_KEY", help="Asked of those who change packs; set the variable instead."),
    ] = None,
    allow_host: Annotated[
        Optional[list[str]], typer.Option(help="A name that the server may be called by. May be given several times.")
    ] = None,
    allow_origin: Annotated[
        Optional[list[str]],
        typer.Option(help="A web page that may call, as https://example.org. May be given several times."),
    ] = None,
    idle: Annotated[
        Optional[float], typer.Option(min=1, help="Seconds without a request after which the model is unloaded.")
    ] = None,
    ctx: Ctx = 0,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Answers that are generated side by side.")] = 8,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more get a 503.")] = 64,
    gpu_layers: GpuLayers = 0,
    threads: Threads = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Show the page in the browser when the model is loaded.")
    ] = False,
) -> None:
    """Serve a steered model over HTTP, as OpenAI's and Ollama's clients speak it, with a page for people at its address.

    Example: fs-local serve smollm2 --pack refusal.fspack
    """
    import webbrowser

    from fs_local.model_files import resolve_model, served_name
    from fs_local.server.run import open_backend, serve_forever
    from fs_local.server.settings import ServerSettings
    from fs_local.terminal import err, serving_lines

    settings = ServerSettings(
        host, port, api_key or None, admin_key or None, tuple(allow_host or ()), tuple(allow_origin or ())
    )
    backend = open_backend(
        served_name(model),
        resolve_model(model),
        pack or [],
        idle=idle,
        gpu_layers=gpu_layers,
        n_ctx=ctx,
        n_seq=parallel,
        n_threads=threads,
        max_waiting=queue,
    )

    def ready(address: str) -> None:
        err.print(serving_lines(address, backend.names()), highlight=False)
        if open_page:
            webbrowser.open(address)

    serve_forever(backend, settings, ready)


@app.command()
def doctor(
    model: Annotated[Optional[str], typer.Argument(help="A model to test the hooks on.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine and installation can do, and test the hooks.

    Example: fs-local doctor smollm2
    """
    from fs_local.doctor import diagnose
    from fs_local.terminal import diagnosis_table, out

    found = diagnose(model)
    if as_json:
        _print_json(found.as_dict())
    else:
        out.print(diagnosis_table(found))
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def bench(
    model: ModelArgument,
    pack: Annotated[
        Optional[Path], typer.Option("--pack", "-p", help="A steering pack; by default a synthetic one.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="For each comparison; more narrow the spread.")] = 5.0,
    pairs: Annotated[int, typer.Option(min=2, help="For each comparison at least, however long that takes.")] = 2,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Instead, how time and memory of capture and fit grow with the data.")
    ] = False,
    report: Annotated[Optional[Path], typer.Option(help="With --scaling: where an HTML page of it goes.")] = None,
    peers: Annotated[
        Optional[Path],
        typer.Option(
            metavar="PYTHON",
            help="Compare with other tools instead: plain llama-cpp-python, and repeng as installed for this Python.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what steering costs on this machine, against llama.cpp alone. Some three minutes with a small model.

    Example: fs-local bench smollm2

    Example, for figures to quote: fs-local bench smollm2 --pairs 15 --seconds 30

    Example: fs-local bench smollm2 --scaling --report scaling.html

    Example with repeng (pip install repeng accelerate psutil): fs-local bench smollm2 --peers ~/repeng/bin/python
    """
    if peers is not None:
        if pack is not None or scaling or report is not None:
            raise typer.BadParameter("--peers takes no --pack, --scaling or --report")
        _bench_peers(model, peers, as_json)
        return
    from fs_local.benchmark import bench as measure
    from fs_local.benchmark import measure_scaling
    from fs_local.benchmark.tables import bench_table, scaling_tables
    from fs_local.benchmark.turns import Budget
    from fs_local.errors import FsLocalError
    from fs_local.report import write_report
    from fs_local.terminal import out, stages

    if scaling:
        if pack is not None:
            raise FsLocalError("--scaling measures capture and fit, which take no pack; leave out --pack")
        _check_outputs(report, inputs=[Path(model)])
        with stages() as progress:
            grown = measure_scaling(model, progress)
        if report is not None:
            write_report(report, scaling=grown.as_dict())
        if as_json:
            _print_json(grown.as_dict())
        else:
            for table in scaling_tables(grown):
                out.print(table)
        return
    if report is not None:
        raise FsLocalError("--report is a page of --scaling; give both, or use --json")
    with stages() as progress:
        found = measure(model, pack, Budget(seconds, pairs), progress)
    if as_json:
        _print_json(found.as_dict())
    else:
        out.print(bench_table(found))


def _bench_peers(model: str, repeng_python: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from fs_local.benchmark.peers import bench_peers
    from fs_local.benchmark.tables import peers_table
    from fs_local.terminal import out, stages

    with stages() as progress:
        found = bench_peers(model, repeng_python, progress)
    if as_json:
        _print_json({"peers": [asdict(p) for p in found]})
    else:
        out.print(peers_table(found))


def _standard_input() -> str:
    from fs_local.errors import DataError

    try:
        return sys.stdin.read().rstrip("\n")
    except UnicodeDecodeError as error:
        raise DataError("standard input is not UTF-8 text; convert it, for example with iconv") from error


def _check_outputs(*outputs: Path | None, inputs: Sequence[Path | None] = ()) -> None:
    """Before anything long begins: every file that will be written has a folder, is none itself, and is not one that is read."""
    from fs_local.errors import PackError

    taken = [path for path in inputs if path is not None]
    for path in outputs:
        if path is None:
            continue
        if not path.parent.is_dir():
            raise PackError(f"{path} can't be written: there is no folder {path.parent}")
        if path.is_dir():
            raise PackError(f"{path} is a folder; name the file to be written in it")
        if any(path.resolve() == other.resolve() for other in taken):
            raise PackError(f"{path} would be overwritten, and is given for something else too; name another file")
        taken.append(path)


def _load(
    model: str,
    packs: list[Path] | None,
    ctx: int,
    gpu_layers: int,
    threads: int | None,
    engine: str,
    providers: list[str] | None,
    strength: float | None,
) -> SteeredModel:
    from fs_local.steered_model import SteeredModel
    from fs_local.terminal import err, loading

    with loading() as progress:
        steered = SteeredModel.load(
            model,
            packs or [],
            n_ctx=ctx,
            gpu_layers=gpu_layers,
            n_threads=threads,
            engine=_choice("--engine", engine, ("numpy", "onnx")),
            providers=providers,
            progress=progress,
        )
    if strength is not None:
        steered.set_strength(strength)
    for note in steered.notes:
        err.print(f"note: {note}", style="yellow", markup=False)
    return steered


def _sampling(
    steered: SteeredModel,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repeat_penalty: float | None,
    seed: int | None,
    *,
    greedy: bool = False,
) -> Sampling:
    """What the options say, and the model's file where they say nothing; greedy where that is wanted and no temperature is given."""
    import dataclasses
    import secrets

    from fs_local.engine import Sampling

    given = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repeat_penalty": repeat_penalty,
    }
    usual = Sampling.greedy() if greedy and temperature is None else Sampling.for_model(steered.model)
    return dataclasses.replace(
        usual,
        **{name: value for name, value in given.items() if value is not None},
        seed=secrets.randbits(32) if seed is None else seed,
    )


def _number_or_auto(option: str, text: str, kind: type[int] | type[float]) -> Any:
    if text == "auto":
        return None
    try:
        return kind(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor auto", param_hint=option) from None


def _numbers_or_auto(option: str, text: str) -> tuple[int, ...] | None:
    return None if text == "auto" else tuple(_number_or_auto(option, part, int) for part in text.split(","))


def _choice(option: str, text: str, choices: tuple[str, ...], auto: bool = False) -> Any:
    if auto and text == "auto":
        return None
    if text not in choices:
        raise typer.BadParameter(
            f"{text!r} is not one of {', '.join(choices + (('auto',) if auto else ()))}", param_hint=option
        )
    return text


def _print_json(value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    print(text.encode("utf-8", "backslashreplace").decode())  # a file's name need not be UTF-8


def main() -> None:
    """Runs a command; what a person can mend is one sentence and exit code 1, Ctrl-C is 130."""
    import warnings

    from fs_local.errors import FsLocalError, ResumeWarning
    from fs_local.printable import printable

    def show(message: Warning | str, category: type[Warning], *_where: Any, **_more: Any) -> None:
        if issubclass(category, ResumeWarning):  # what others warn of is not the user's to mend
            print(f"note: {message}", file=sys.stderr)

    warnings.showwarning = show
    try:
        app()
    except FsLocalError as error:
        print(f"fs-local: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:  # such as a name that is too long, or a folder that may not be searched
        print(f"fs-local: {error.filename or 'a file'} can't be used: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("fs-local: stopped", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
