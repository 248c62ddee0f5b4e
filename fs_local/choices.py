"""What some options may be, by name: the command line, protocols, fits and packs share these. Nothing is imported here, so that `--help` stays quick."""

from __future__ import annotations

from typing import Literal

FitMethod = Literal["finesteer", "caa", "repe", "cast", "alphasteer", "adasteer", "dsas", "ridge", "random"]
"""What a fit can make."""
ExpertForm = Literal["mixture", "ridge", "mean"]
"""What FineSteer's experts may be, where a fit may choose: the mixture, a ridge map in its place, or one vector."""
FitGate = Literal["quantile", "logistic", "soft", "open"]
Scope = Literal["all", "turn", "prompt", "generation"]
"""`all`: every position, prompt and generation. `turn`: from the current turn on: what comes before its user message stays unsteered.
`prompt`: the prompt, and nothing that is generated. `generation`: from the last prompt token on, which predicts the first generated one."""
EvaluatorName = Literal["numpy", "onnx"]
SuiteName = Literal[
    "opening",
    "truthfulqa",
    "open-answers",
    "preference",
    "refusal",
    "over-refusal",
    "exact-match",
    "drift",
]
