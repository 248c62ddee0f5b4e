"""Options that several commands have, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from fs_local.choices import EvaluatorName

ModelArgument = Annotated[
    str,
    typer.Argument(help="A GGUF file, an alias (smollm2), or a name that fs-local models lists (ollama:llama3.2:1b)."),
]
Packs = Annotated[
    Optional[list[Path]], typer.Option("--pack", "-p", help="A steering pack; may be given several times.")
]
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
OpenWraps = Annotated[
    bool,
    typer.Option(
        "--open-wraps",
        help="Open the gate for IR queries in wraps (code to complete, tables, scenes) even if it then opens for harmless ones in wraps too.",
    ),
]
Strength = Annotated[Optional[float], typer.Option(help="λ in place of the packs' own.")]
EvaluatorOption = Annotated[EvaluatorName, typer.Option("--evaluator", help="What evaluates decisions: numpy or onnx.")]
Providers = Annotated[
    Optional[list[str]], typer.Option("--provider", help="ONNX Runtime execution provider; may be given several times.")
]
