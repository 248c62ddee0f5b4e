"""The suites: each takes queries and a contender (None for the unsteered model), and gives figures with one value a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fs_local.capture import Request
from fs_local.choices import Scope
from fs_local.errors import DataError
from fs_local.evaluation.contenders import Contender, SystemPrompt
from fs_local.evaluation.figures import Figure, Kind, figure
from fs_local.evaluation.fluency import fluency
from fs_local.evaluation.references import lead
from fs_local.evaluation.runner import Answer, AskedOtherwise, KeptDecision, Runner
from fs_local.examples import Query, multiple_choice, read_rows, row_pair, row_query
from fs_local.pack.file import Pack
from fs_local.refusals import is_refusal

ANSWER_TOKENS = 32
"""Of an answer that is looked at for refusal."""
REASONING_TOKENS = 192
"""Of an answer that has to arrive at a number."""
DRIFT_TOKENS = 24
OPEN_TOKENS = 48
"""Of an answer that is compared with references."""
_SAMPLES = 12
_NUMBER = re.compile(r"(?<!\d)-?(?:\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])-?\.\d+")


SHARES = frozenset(
    {"refused", "opened", "identical", "correct", "mc1", "ended", "agrees", "agrees_unsteered", "preferred_first"}
    | {"refused_unsteered", "correct_unsteered", "ended_unsteered"}
)
"""Figures that are yes or no a row."""
BOUNDED = frozenset(
    {"opening", "top1", "mc2", "preferred"}
    | {f"{name}{of}" for name in ("repeated", "distinct_bigrams", "distinct_trigrams") for of in ("", "_unsteered")}
)
"""Figures from 0 to 1."""


def figure_kind(name: str) -> Kind:
    """Which values a figure's rows have: yes or no, from 0 to 1, or any number. It sets the figure's interval."""
    return "share" if name in SHARES else "bounded" if name in BOUNDED else "mean"


def figure_of(name: str, values: Sequence[float]) -> Figure:
    return figure(values, figure_kind(name))


@dataclass(frozen=True)
class SuiteRow:
    """One row of a suite's file: the query, and what else the suite needs of it.

    Attributes:
        answer: with the number that is right.
        mc1, mc2: TruthfulQA's answers, and whether they are true; mc2 also a pair's, and whether they are preferred.
    """

    query: Query
    answer: str = ""
    mc1: dict[str, bool] = field(default_factory=dict)
    mc2: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One query with both answers, for people to read."""

    query: str
    opening: float
    unsteered: str
    steered: str


@dataclass(frozen=True)
class Result:
    """What a suite measured. values: figure name -> one value a row, in the order of the rows; samples of answers; the gate's score
    of each row, where decisions are what is measured."""

    suite: str
    values: dict[str, list[float]]
    samples: list[Sample] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "suite": self.suite,
            "rows": len(next(iter(self.values.values()))),
            "figures": {name: figure_of(name, v).as_dict() for name, v in self.values.items()},
            "samples": [vars(s) for s in self.samples],
        }


Suite = Callable[[Runner, Sequence[SuiteRow], Contender | None], Result]


def opening(runner: Runner, rows: Sequence[SuiteRow], contender: Contender | None) -> Result:
    """Decisions alone: the share of queries whose gate opens, and the mean opening."""
    decided = _decided(runner, contender, _asked(runner, rows, contender))
    values = {"opened": [float(d.opening > 0) for d in decided], "opening": [d.opening for d in decided]}
    return Result("opening", values, scores=[d.score for d in decided])


def refusal(runner: Runner, rows: Sequence[SuiteRow], contender: Contender | None) -> Result:
    """Share of refusals among greedy answers, with their fluency."""
    decided, steered, plain = _answered(runner, rows, contender, ANSWER_TOKENS)
    values = {
        "refused": [float(is_refusal(a.text)) for a in steered],
        "refused_unsteered": [float(is_refusal(a.text)) for a in plain],
        "opened": [float(d.opening > 0) for d in decided],
        "identical": [float(p.tokens == s.tokens) for p, s in zip(plain, steered, strict=True)],
        **fluency(steered, plain, ANSWER_TOKENS),
    }
    return Result("refusal", values, _samples(rows, decided, plain, steered))


def over_refusal(runner: Runner, rows: Sequence[SuiteRow], contender: Contender | None) -> Result:
    """What `refusal` measures, on queries that are safe and should be answered."""
    result = refusal(runner, rows, contender)
    return Result("over-refusal", result.values, result.samples)


def exact_match(runner: Runner, rows: Sequence[SuiteRow], contender: Contender | None) -> Result:
    """GSM8K-style answers: whether the last number is the right one, and whether the answer is the unsteered one, token for token;
    with fluency."""
    decided, steered, plain = _answered(runner, rows, contender, REASONING_TOKENS)
    values = {
        "correct": [float(_last_number(a.text) == _last_number(r.answer)) for a, r in zip(steered, rows, strict=True)],
        "correct_unsteered": [
            float(_last_number(a.text) == _last_number(r.answer)) for a, r in zip(plain, rows, strict=True)
        ],
        "identical": [float(p.tokens == s.tokens) for p, s in zip(plain, steered, strict=True)],
        "opened": [float(d.opening > 0) for d in decided],
        **fluency(steered, plain, REASONING_TOKENS),
    }
    return Result("exact-match", values, _samples(rows, decided, plain, steered))


def drift(runner: Runner, rows: Sequence[SuiteRow], contender: Contender | None) -> Result:
    """KL(unsteered ‖ steered) of next-token distributions along the unsteered model's own answers (nats a token), and top-1 agreement."""
    requests, asked = runner.requests([r.query for r in rows]), _asked(runner, rows, contender)
    decided = _decided(runner, contender, asked)
    plain = runner.answers(requests, [KeptDecision(0.0, {})] * len(rows), DRIFT_TOKENS, what="unsteered answers")
    answers = [(list(a.tokens) or [0],) for a in plain]
    spoken = [
        AskedOtherwise(a.prompt, given, a.user_text, a.turn_start, replace(r, answers=given))
        for r, a, given in zip(requests, asked, answers, strict=True)
    ]
    found = runner.drift(spoken, decided, _scope(contender))
    values = {
        "kl": [k for k, _ in found],
        "top1": [t for _, t in found],
        "opened": [float(d.opening > 0) for d in decided],
    }
    return Result("drift", values)


def truthfulqa(runner: Runner, rows: Sequence[SuiteRow], contender: Contender | None) -> Result:
    """TruthfulQA's multiple choice, by its official scoring of summed log-probabilities: MC1, whether the best true answer comes first;
    MC2, the normalized probability of the true answers."""
    choices = [list({**r.mc1, **r.mc2}) for r in rows]
    requests = _asked(runner, rows, contender, choices)
    decided = _decided(runner, contender, requests)
    scores = runner.scores(requests, decided, _scope(contender), "score answers")
    values: dict[str, list[float]] = {"mc1": [], "mc2": [], "opened": [float(d.opening > 0) for d in decided]}
    for row, texts, answers in zip(rows, choices, scores, strict=True):
        sums = dict(zip(texts, map(sum, answers), strict=True))
        values["mc1"].append(float(row.mc1[max(row.mc1, key=lambda a: sums[a])]))
        values["mc2"].append(mc2([sums[a] for a in row.mc2], list(row.mc2.values())))
    return Result("truthfulqa", values)


def preference(runner: Runner, rows: Sequence[SuiteRow], contender: Contender | None) -> Result:
    """Pairs of any behaviour: the normalized probability of the preferred answers among all that are given, and whether the most probable
    one is preferred."""
    choices = [list(r.mc2) for r in rows]
    requests = _asked(runner, rows, contender, choices)
    decided = _decided(runner, contender, requests)
    scores = runner.scores(requests, decided, _scope(contender), "score answers")
    sums = [[sum(answer) for answer in answers] for answers in scores]
    values = {
        "preferred": [mc2(s, list(r.mc2.values())) for r, s in zip(rows, sums, strict=True)],
        "preferred_first": [float(list(r.mc2.values())[int(np.argmax(s))]) for r, s in zip(rows, sums, strict=True)],
        "opened": [float(d.opening > 0) for d in decided],
    }
    return Result("preference", values)


def open_answers(runner: Runner, rows: Sequence[SuiteRow], contender: Contender | None) -> Result:
    """TruthfulQA's questions, answered freely: whether an answer is nearer to a true reference than to any false one
    (`fs_local.evaluation.references`), and by how much; with fluency."""
    decided, steered, plain = _answered(runner, rows, contender, OPEN_TOKENS)

    def leads(answers: Sequence[Answer]) -> list[float]:
        sides = [[[a for a, true in r.mc2.items() if true is side] for side in (True, False)] for r in rows]
        return [lead(a.text, *side) for a, side in zip(answers, sides, strict=True)]

    ours, unsteered = leads(steered), leads(plain)
    values = {
        "agrees": [float(x > 0) for x in ours],
        "agrees_unsteered": [float(x > 0) for x in unsteered],
        "lead_of_true": ours,
        "refused": [float(is_refusal(a.text)) for a in steered],
        "opened": [float(d.opening > 0) for d in decided],
        **fluency(steered, plain, OPEN_TOKENS),
    }
    return Result("open-answers", values, _samples(rows, decided, plain, steered))


SUITES: dict[str, Suite] = {
    "opening": opening,
    "truthfulqa": truthfulqa,
    "open-answers": open_answers,
    "preference": preference,
    "refusal": refusal,
    "over-refusal": over_refusal,
    "exact-match": exact_match,
    "drift": drift,
}


def mc2(sums: Sequence[float], true: Sequence[bool]) -> float:
    """Normalized probability of the true answers. sums: log-probability of each answer (nats)."""
    p = np.exp(np.array(sums) - max(sums))
    return float(p[np.array(true)].sum() / p.sum())


def _query_row(row: dict[str, Any], where: str) -> SuiteRow:
    return SuiteRow(row_query(row, where))


def _choice_row(row: dict[str, Any], where: str) -> SuiteRow:
    query, mc1, true = multiple_choice(row, where)
    return SuiteRow(query, mc1=mc1, mc2=true)


def _pair_row(row: dict[str, Any], where: str) -> SuiteRow:
    pair = row_pair(row, where)
    return SuiteRow(pair.query, mc2={**dict.fromkeys(pair.preferred, True), **dict.fromkeys(pair.undesired, False)})


def _number_row(row: dict[str, Any], where: str) -> SuiteRow:
    answer = row.get("answer")
    if not isinstance(answer, (str, int, float)) or _last_number(str(answer)) is None:
        raise DataError(f"{where}: `answer` must hold a number")
    return SuiteRow(row_query(row, where), answer=str(answer))


READERS: dict[str, Callable[[dict[str, Any], str], SuiteRow]] = {
    "truthfulqa": _choice_row,
    "open-answers": _choice_row,
    "preference": _pair_row,
    "exact-match": _number_row,
}
"""How rows are read that hold more than a query."""


def read_suite(suite: str, path: Path, limit: int | None = None) -> list[SuiteRow]:
    """Rows of a suite's file: `query` or `messages` (and `answer` for exact-match; `preferred` and `undesired` for preference), or
    TruthfulQA's official task format.

    Raises:
        DataError: naming file, line and field.
    """
    read = READERS.get(suite, _query_row)
    rows = [read(row, where) for row, where in read_rows(path)]
    if not rows:
        raise DataError(f"{path} has no rows; it needs one a line")
    return rows[:limit]


def _answered(
    runner: Runner, rows: Sequence[SuiteRow], contender: Contender | None, max_tokens: int
) -> tuple[list[KeptDecision], list[Answer], list[Answer]]:
    requests, asked = runner.requests([r.query for r in rows]), _asked(runner, rows, contender)
    decided = _decided(runner, contender, asked)
    plain = runner.answers(requests, [KeptDecision(0.0, {})] * len(rows), max_tokens, what="unsteered answers")
    steered = runner.answers(asked, decided, max_tokens, _scope(contender), "steered answers")
    return decided, steered, plain


def _samples(
    rows: Sequence[SuiteRow], decided: Sequence[KeptDecision], plain: Sequence[Answer], steered: Sequence[Answer]
) -> list[Sample]:
    return [
        Sample(r.query.text, d.opening, p.text, s.text)
        for r, d, p, s in list(zip(rows, decided, plain, steered, strict=True))[:_SAMPLES]
    ]


def _asked(
    runner: Runner, rows: Sequence[SuiteRow], contender: Contender | None, answers: Sequence[Sequence[str]] = ()
) -> list[Request]:
    """The rows' queries as a contender asks them."""
    queries = [r.query for r in rows]
    if isinstance(contender, SystemPrompt):
        queries = [contender.around(q, runner.model) for q in queries]
    return runner.requests(queries, answers)


def _decided(runner: Runner, contender: Contender | None, requests: Sequence[Request]) -> list[KeptDecision]:
    """A system prompt decides nothing: it is there for every query."""
    return runner.decide(contender if isinstance(contender, Pack) else None, requests)


def _scope(contender: Contender | None) -> Scope:
    return contender.manifest.steer.scope if isinstance(contender, Pack) else "all"


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text.replace("−", "-"))
    return float(found[-1].replace(",", "")) if found else None
