"""Steered answers over HTTP, against another server of the same model and against the library's own stream."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fs_local.benchmark.figures import (
    Measurement,
    Report,
    Stage,
    measured,
    no_less,
    no_more,
    quartiles,
    second_turn_row,
)
from fs_local.benchmark.http_client import Answered, HttpClient
from fs_local.benchmark.packs import held, steered_layer, synthetic_pack
from fs_local.benchmark.server_process import ServerProcess
from fs_local.benchmark.turns import Budget, Run, alternate
from fs_local.choices import Scope
from fs_local.engine import Engine, Request, Sampling
from fs_local.model_files import resolve_model, served_name
from fs_local.progress import Progress, untold
from fs_local.runtime.model import Model

CLIENTS = (1, 4, 8)
SCOPES: dict[Scope, str] = {
    "turn": "from its message on",  # what comes before is shared by all requests, as an unsteered server shares it
    "all": "its whole prompt",
}
_GOALS = {1: 0.97, 4: 0.95, 8: 0.95}
TOKENS, N_CTX = 64, 8192
SHORT, LONG = 128, 1024
_MILLISECONDS_LATER, _MILLISECONDS_A_TOKEN, _FAIR, _MEGABYTES = 10.0, 0.5, 0.8, 5.0
REQUESTS, SETTLED, MOST_SECONDS = 10_000, 104, 300.0
CLOSED = "closed"
_WORDS = (
    "time year people way day man thing woman life child world school state family group country hand part place case"
)


def bench_serving(
    model: str, against: str | None = None, budget: Budget | None = None, progress: Progress | None = None
) -> Report:
    """Measures `fs-local serve` with one pack a client, all of whose gates are held open, and one whose gate is held closed.

    Args:
        against: address of a server of the same model, unsteered, with the same threads, context and slots; None for no comparison.

    Raises:
        ModelError: as `Model.load`.
        FsLocalError: a server that does not start, or does not answer.
    """
    budget = budget or Budget()
    path = resolve_model(model)
    with tempfile.TemporaryDirectory(prefix="fs-local-") as folder, Model.load(path) as loaded, ExitStack() as stack:
        servers: dict[Scope, ServerProcess] = {}
        for scope in SCOPES:
            packs = write_packs(loaded, Path(folder), scope)
            servers[scope] = stack.enter_context(ServerProcess(path, packs, n_ctx=N_CTX, n_seq=max(CLIENTS)))
        beside = Beside(loaded, served_name(path), servers, against)
        stages: list[Stage] = [
            ("clients", lambda: beside.clients(budget)),
            ("first token", lambda: beside.first_token(budget)),
            ("a token over HTTP", lambda: beside.token(budget)),
            ("second turn", beside.second_turn),
            ("memory", beside.memory),
        ]
        settings = f"{N_CTX} cells, {max(CLIENTS)} at once; against {against or 'nothing'}"
        return measured(loaded, settings, stages, progress or untold)


class Beside:
    """A server that runs, and perhaps another one beside it.

    Args:
        name: of the model at our servers.
        servers: one a scope; what is not measured for each is measured with `all`.
        against: the other's address.
    """

    def __init__(self, model: Model, name: str, servers: Mapping[Scope, ServerProcess], against: str | None) -> None:
        self._model, self._name, self._servers, self._against = model, name, servers, against
        self._never_ends = {str(t): -100 for t in model.end_tokens}

    def clients(self, budget: Budget) -> Iterator[Measurement]:
        """Clients that each stream an answer to a query of their own, at the same time, each steered by another vector."""
        for n in CLIENTS:
            sides = [[self._ours(f":{_open(i)}", scope) for i in range(n)] for scope in SCOPES]
            theirs = [[self._theirs() for _ in range(n)]] if self._against else []
            rounds = self._rounds([*sides, *theirs], budget)
            rates = [[_together(answers) for answers in of] for of in rounds]
            for scope, of_scope in zip(SCOPES, rates, strict=False):
                what = f"{n} client{'s' if n > 1 else ''}, each steered by another vector, {SCOPES[scope]}"
                if self._against:
                    yield no_less(what, of_scope, rates[-1], _GOALS[n], "tokens/s", self._against)
                else:
                    spread = quartiles(of_scope)
                    yield Measurement(what, "", "tokens/s", statistics.median(of_scope), "", None, spread=spread)
        shares = [[min(a.rate for a in answers) / max(a.rate for a in answers) for answers in of] for of in rounds]
        share = statistics.median(shares[0])
        yield Measurement(
            f"slowest over fastest of {n} clients",
            self._against or "",
            "",
            share,
            f"≥ {_FAIR:g}",
            share >= _FAIR,
            statistics.median(shares[-1]) if self._against else None,
            spread=quartiles(shares[0]),
            pairs=len(shares[0]),
        )

    def first_token(self, budget: Budget) -> Iterator[Measurement]:
        """From a request to its first text, after a prompt of which so many tokens are new."""
        ours, theirs = self._ours(f":{CLOSED}"), self._theirs()
        for n in (SHORT, min(LONG, self._model.n_ctx_train // 2)):
            sides = [[ours], [theirs]] if self._against else [[ours]]
            rounds = self._rounds(sides, budget, tokens=1, new=n)
            taken = [[answers[0].first - answers[0].began for answers in of] for of in rounds]
            what = f"first token after {n:,} new tokens, gate closed"
            later = statistics.median(1e3 * (a - b) for a, b in zip(taken[0], taken[-1], strict=True))
            if not self._against:
                spread = quartiles([1e3 * t for t in taken[0]])
                yield Measurement(what, "", "ms", 1e3 * statistics.median(taken[0]), "", None, spread=spread)
            elif n > SHORT:
                yield no_more(what, taken[0], taken[1], 1.02, against=self._against)
            else:
                base = 1e3 * statistics.median(taken[1])
                differences = quartiles([1e3 * (a - b) for a, b in zip(taken[0], taken[1], strict=True)])
                yield Measurement(
                    f"{what}: later by",
                    self._against,
                    "ms",
                    later,
                    f"≤ {_MILLISECONDS_LATER:g}",
                    later <= _MILLISECONDS_LATER,
                    base,
                    spread=differences,
                    pairs=len(taken[0]),
                )

    def token(self, budget: Budget) -> Iterator[Measurement]:
        """What HTTP, JSON and the way between add to a token of a lone stream, over the library's own."""
        base = synthetic_pack(self._model)
        pack = held(base, False, steered_layer(base))
        ours = self._ours(f":{CLOSED}")
        over_http: list[float] = []
        alone: list[float] = []
        sampling = Sampling(temperature=0.0, repeat_penalty=1.0, logit_bias=dict.fromkeys(self._model.end_tokens, -100))
        with Engine(self._model, [pack], n_ctx=N_CTX, n_seq=max(CLIENTS)) as engine:

            def library() -> None:
                prompt = engine.prompt([{"role": "user", "content": self._query(0)}])
                first = 0.0
                with engine.submit(Request(prompt, sampling, max_tokens=TOKENS)) as stream:
                    *_, last = ((first := first or time.perf_counter(), piece)[1] for piece in stream)
                alone.append((time.perf_counter() - first) / (last.generated_tokens - 1))

            def served() -> None:
                over_http.append(ours.chat(self._messages(0), max_tokens=TOKENS, **self._options).seconds_a_token)

            alternate([library, served], budget, warm_up=1)
        added = [1e3 * (a - b) for a, b in zip(over_http[1:], alone[1:], strict=True)]
        median = statistics.median(added)
        yield Measurement(
            "HTTP and JSON a token, over the library's stream",
            "a token of the library",
            "ms",
            median,
            f"≤ {_MILLISECONDS_A_TOKEN:g}",
            median <= _MILLISECONDS_A_TOKEN,
            1e3 * statistics.median(alone[1:]),
            spread=quartiles(added),
            pairs=len(added),
        )

    def second_turn(self) -> Iterator[Measurement]:
        """What the second turn evaluates, whose whole history is sent again: what is new; after a steered turn, all of it."""
        for name, opened, question in (
            (CLOSED, False, "Name three rivers."),
            (_open(0), True, "Tell me of three rivers."),
        ):
            ours = self._ours(f":{name}")
            messages = [{"role": "user", "content": question}]
            first = ours.chat(messages, max_tokens=16)
            messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And three lakes."}]
            second = ours.chat(messages, max_tokens=16)
            turns = self._model.prompt(messages)  # type: ignore[arg-type]
            closing = 2 + (first.tokens == 16)  # what ends the answer before, and its last token if it was cut
            least = len(turns.tokens) if opened else len(turns.tokens) - turns.turn_start + closing
            evaluated = second.prompt_tokens - second.cached_tokens
            yield second_turn_row(
                opened, "its prompt, all of which is steered" if opened else "what is new in it", evaluated, least
            )

    def memory(self) -> Iterator[Measurement]:
        """Short requests from all clients, steered and not, each tenth of which is given up; so many as time allows."""
        after: list[float] = []
        done, at_once = 0, max(CLIENTS)
        for n in (SETTLED, REQUESTS - SETTLED):
            ends = time.monotonic() + MOST_SECONDS
            with ThreadPoolExecutor(at_once) as pool:
                done += sum(
                    pool.map(lambda i, n=n, ends=ends: self._many_requests(i, n // at_once, ends), range(at_once))
                )
            time.sleep(0.5)
            after.append(self._servers["all"].megabytes)
        more = after[1] - after[0]
        yield Measurement(
            f"memory after {done:,} requests, over after {SETTLED}",
            f"after {SETTLED}",
            "MB",
            more,
            f"≤ {_MEGABYTES:g}",
            more <= _MEGABYTES,
            after[0],
        )

    # --- what is asked

    def _ours(self, suffix: str, scope: Scope = "all") -> HttpClient:
        return HttpClient(self._servers[scope].url, self._name + suffix)

    def _theirs(self) -> HttpClient:
        return HttpClient(self._against or self._servers["all"].url)

    @property
    def _options(self) -> dict[str, Any]:
        return {"logit_bias": self._never_ends}

    def _rounds(
        self, sides: Sequence[Sequence[HttpClient]], budget: Budget, tokens: int = TOKENS, new: int = 0
    ) -> list[list[list[Answered]]]:
        """The answers of each round of each side; all sides are asked the same, each in its turn."""
        found: list[list[list[Answered]]] = [[] for _ in sides]
        warm_up, turn = 1, [0] * len(sides)

        def run(side: int) -> None:
            clients = sides[side]
            number = turn[side]
            turn[side] += 1

            def ask(i: int) -> Answered:
                messages = self._messages(1 + i + len(clients) * number, new)
                return clients[i].chat(messages, max_tokens=tokens, **self._options)

            if len(clients) == 1:
                found[side].append([ask(0)])
            else:
                with ThreadPoolExecutor(len(clients)) as pool:
                    found[side].append(list(pool.map(ask, range(len(clients)))))

        runs: list[Run] = [lambda side=side: run(side) for side in range(len(sides))]  # type: ignore[misc]
        alternate(runs, budget, warm_up=warm_up)
        return [of[warm_up:] for of in found]

    def _messages(self, number: int, new: int = 0) -> list[dict[str, str]]:
        return [{"role": "user", "content": self._query(number, new)}]

    def _query(self, number: int, new: int = 0) -> str:
        """A query that was not asked before, and begins as no other one. new: how many tokens of its prompt no other query shares."""
        if not new:
            return f"{number}. Tell me everything about the sea, its tides and its storms."
        rng, words = random.Random(number), _WORDS.split()
        tokens_a_word = len(self._model.tokenize(" ".join(words))) / len(words)
        shared = self._model.prompt([{"role": "user", "content": "."}]).user.start
        text = f"{number}"
        while (n := len(self._model.prompt([{"role": "user", "content": text}]).tokens) - shared) < new:
            text += "".join(f" {rng.choice(words)}" for _ in range(max(1, int(0.9 * (new - n) / tokens_a_word))))
        return text

    def _many_requests(self, client: int, n: int, ends: float) -> int:
        rng, done = random.Random(client), 0
        clients = [self._ours(name) for name in (f":{_open(client)}", f":{CLOSED}", ":unsteered")]
        while done < n and time.monotonic() < ends:
            chosen, messages = rng.choice(clients), self._messages(rng.randrange(1000) + 1000 * client)
            if done % 10 == 9:
                chosen.leave(messages, max_tokens=50)
            else:
                chosen.chat(messages, max_tokens=rng.randint(1, 4))
            done += 1
        for each in clients:
            each.close()
        return done


def _together(answers: Sequence[Answered]) -> float:
    """Tokens a second of all, from the first request to the last end."""
    return sum(a.tokens for a in answers) / (max(a.ended for a in answers) - min(a.began for a in answers))


def _open(client: int) -> str:
    return f"open{client}"


def write_packs(model: Model, folder: Path, scope: Scope = "all") -> list[Path]:
    """A pack a client, whose gate is held open, each with vectors of its own, and one whose gate is held closed."""
    names = {**{_open(i): True for i in range(max(CLIENTS))}, CLOSED: False}
    paths = []
    for seed, (name, opened) in enumerate(names.items()):
        pack = synthetic_pack(model, name, seed, scope)
        paths.append(folder / f"{name}-{scope}.fspack")
        held(pack, opened, steered_layer(pack)).save(paths[-1])
    return paths
