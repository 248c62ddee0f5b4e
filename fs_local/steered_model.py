"""A model with packs: the Python interface.

with SteeredModel.load("smollm2", packs=["refusal.fspack"]) as model:
    for piece in model.stream("How do I pick a lock?"):
        print(piece.text, end="")
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from fs_local.choices import EvaluatorName
from fs_local.conversation import Conversation
from fs_local.engine import Engine, Prompt, Sampling, Steer, Stream
from fs_local.engine.decision import Decision
from fs_local.errors import ContextFullError
from fs_local.examples import Query
from fs_local.generation import Completion, GenerationOptions, steer_of, submit
from fs_local.model_files import resolve_model
from fs_local.pack.file import Pack
from fs_local.progress import Progress
from fs_local.runtime.model import Model
from fs_local.runtime.placement import Placement
from fs_local.steering import check_model

_IN_FLIGHT = 64


class SteeredModel:
    """A model, and packs that steer it. Made by `load`. Usable from several threads: answers are generated side by side.

    Every method that answers takes `steered`: True for all packs, False for the model as it is, or a `Steer` for what is between.

    Attributes:
        notes: what a person should know, for example that a pack was fitted with another quantization.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.notes = [note for p in engine.packs if (note := check_model(p, engine.model))]

    @classmethod
    def load(
        cls,
        model: str | Path,
        packs: Sequence[str | Path | Pack] = (),
        *,
        n_ctx: int = 0,
        placement: Placement | None = None,
        n_threads: int | None = None,
        evaluator: EvaluatorName = "numpy",
        providers: list[str] | None = None,
        progress: Progress | None = None,
    ) -> SteeredModel:
        """Loads a model and its packs.

        Args:
            model: path of a GGUF file, or an alias.
            packs: paths of packs, or packs; each decides with its own gate.
            n_ctx: tokens of context, over all that is answered at once; 0 for 4096, or the model's own if shorter.
            placement: where the model's blocks lie: `Placement(gpu_layers=-1)`, `Placement(workers=("127.0.0.1:50052",))`.
            evaluator, providers: what evaluates decisions: numpy, or ONNX Runtime with execution providers.
            progress: called with how many of 100 parts are loaded.

        Raises:
            ModelError, PackError: a file that can't be used, or packs that do not fit the model.
        """
        loaded = [p if isinstance(p, Pack) else Pack.load(Path(p)) for p in packs]
        opened = Model.load(resolve_model(model), placement=placement, progress=progress)
        try:
            return cls(
                Engine(opened, loaded, n_ctx=n_ctx, n_threads=n_threads, evaluator=evaluator, providers=providers)
            )
        except BaseException:
            opened.close()
            raise

    def generate(
        self, query: str | Query, options: GenerationOptions | None = None, *, steered: bool | Steer = True
    ) -> Completion:
        """The whole answer to one query, with no memory of what was asked before.

        Raises:
            ContextFullError: a query longer than the context.
            EngineFull, EngineClosed: as `Engine.submit`.
        """
        return Completion.of(submit(self._engine, self.prompt(query), options, steered, Sampling.greedy()))

    async def agenerate(
        self, query: str | Query, options: GenerationOptions | None = None, *, steered: bool | Steer = True
    ) -> Completion:
        """`generate`, to be awaited."""
        with submit(self._engine, self.prompt(query), options, steered, Sampling.greedy()) as stream:
            return Completion.of([piece async for piece in stream])

    def stream(
        self,
        query: str | Query | Prompt,
        options: GenerationOptions | None = None,
        *,
        steered: bool | Steer = True,
    ) -> Stream:
        """The answer to one query, piece by piece, with `for` or `async for`. Raises as `generate`, from the iteration."""
        prompt = query if isinstance(query, Prompt) else self.prompt(query)
        return submit(self._engine, prompt, options, steered, Sampling.for_model(self.model))

    def generate_many(
        self, queries: Sequence[str | Query], options: GenerationOptions | None = None, *, steered: bool | Steer = True
    ) -> list[Completion]:
        """The whole answers to many queries, several at once; those that find no room wait for their turn.

        Each query gets the decisions that it would get alone, bit for bit.

        Raises:
            ContextFullError: a query that is longer than the context, by its row, from 1.
        """
        prompts = [self.prompt(q) for q in queries]
        for row, prompt in enumerate(prompts, start=1):
            if len(prompt.tokens) >= self._engine.longest:
                raise ContextFullError(
                    f"row {row} has {len(prompt.tokens)} tokens, and the context {self._engine.longest}, which must hold the answer "
                    "too; shorten it or raise --ctx"
                )
        waiting: deque[Stream] = deque()
        done: list[Completion] = []
        try:
            for prompt in prompts:
                if len(waiting) == _IN_FLIGHT:
                    done.append(Completion.of(waiting.popleft()))
                waiting.append(submit(self._engine, prompt, options, steered, Sampling.greedy()))
            while waiting:
                done.append(Completion.of(waiting.popleft()))
        finally:
            for stream in waiting:
                stream.close()
        return done

    def decide(self, query: str | Query, *, steered: bool | Steer = True) -> list[Decision]:
        """The decisions that a query gets, one a pack, without an answer."""
        return self._engine.decide(self.prompt(query), steer_of(steered))

    def chat(self, system: str | None = None) -> Conversation:
        """A conversation of many turns, which decides anew at each. Any number of them at a time."""
        return Conversation(self._engine, system)

    def prompt(self, query: str | Query) -> Prompt:
        """A query's prompt, by the model's chat template."""
        return self._engine.prompt((Query.of(query) if isinstance(query, str) else query).messages)

    def set_strength(self, strength: float, pack: str | None = None) -> None:
        """Changes λ of one pack by its name, or of all.

        Raises:
            PackError: no pack of that name, or a strength beyond all reason.
        """
        for name in [p.manifest.name for p in self.packs] if pack is None else [pack]:
            self._engine.set_strength(name, strength)

    @property
    def model(self) -> Model:
        return self._engine.model

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def packs(self) -> list[Pack]:
        return self._engine.packs

    def close(self) -> None:
        """Ends what is being answered, and frees context and weights."""
        self._engine.close()
        self.model.close()

    def __enter__(self) -> SteeredModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
