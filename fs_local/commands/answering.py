"""What generate, chat and decide have in common: the options, and the steered model that they describe."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_local.commands.options import (
    Ctx,
    DrawSeed,
    EvaluatorOption,
    MaxTokens,
    MinP,
    Providers,
    RepeatPenalty,
    Stop,
    Strength,
    System,
    Temperature,
    Threads,
    TopK,
    TopP,
)
from fs_local.commands.placing import Placing

if TYPE_CHECKING:
    from fs_local.engine import Sampling
    from fs_local.generation import GenerationOptions
    from fs_local.steered_model import SteeredModel


@dataclass(frozen=True)
class Loading(Placing):
    """How a model and its packs are loaded."""

    strength: Strength = None
    ctx: Ctx = 0
    threads: Threads = None
    evaluator: EvaluatorOption = "numpy"
    provider: Providers = None

    def load(self, model: str, packs: list[Path] | None) -> SteeredModel:
        """The model with these packs; notes about them go to standard error."""
        from fs_local.steered_model import SteeredModel
        from fs_local.terminal import err, loading

        with loading() as progress:
            steered = SteeredModel.load(
                model,
                packs or [],
                n_ctx=self.ctx,
                placement=self.placement,
                n_threads=self.threads,
                evaluator=self.evaluator,
                providers=self.provider,
                progress=progress,
            )
        if self.strength is not None:
            steered.set_strength(self.strength)
        for note in steered.notes:
            err.print(f"note: {note}", style="yellow", markup=False)
        return steered


@dataclass(frozen=True)
class Answering:
    """How answers are drawn, and where they end."""

    system: System = None
    max_tokens: MaxTokens = 512
    temperature: Temperature = None
    top_k: TopK = None
    top_p: TopP = None
    min_p: MinP = None
    repeat_penalty: RepeatPenalty = None
    seed: DrawSeed = None
    stop: Stop = None

    def sampling(self, steered: SteeredModel, *, greedy: bool = False) -> Sampling:
        """What the options say, and the model's file where they say nothing; greedy where that is wanted and no temperature is given."""
        import secrets

        from fs_local.engine import Sampling

        names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")
        usual = Sampling.greedy() if greedy and self.temperature is None else Sampling.for_model(steered.model)
        return dataclasses.replace(
            usual,
            **{name: value for name in names if (value := getattr(self, name)) is not None},
            seed=secrets.randbits(32) if self.seed is None else self.seed,
        )

    def until(self, sampling: Sampling) -> GenerationOptions:
        """Answers drawn so, up to where the options end them."""
        from fs_local.generation import GenerationOptions

        return GenerationOptions(self.max_tokens, tuple(self.stop or ()), sampling)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command for typer, which knows no groups of options: where the command takes a dataclass, this takes its fields."""
    hints: dict[str, Any] = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        options = typing.get_type_hints(groups[parameter.name], include_extras=True)
        parameters += [
            inspect.Parameter(field.name, parameter.kind, default=field.default, annotation=options[field.name])
            for field in dataclasses.fields(groups[parameter.name])
        ]

    @wraps(command)
    def flat(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
        command(**given)

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat
