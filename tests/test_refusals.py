"""Refusals: told from answers, and pairs for queries that should be refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fs_local.errors import DataError
from fs_local.examples import Query
from fs_local.fitting.files import read_examples
from fs_local.fitting.trials import effect_of
from fs_local.refusals import is_refusal, refusal_pairs


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m sorry, that is not something to do.", True),
        ("AS AN AI, my purpose is another.", True),
        ("Sure, here is how you can do that.", False),
        ("As an aid to memory, this illegal move is called castling.", False),
        ("_Sorry_, no.", True),
        ("", False),
    ],
)
def test_keywords(answer: str, refuses: bool) -> None:
    assert is_refusal(answer) == refuses


def test_every_pair_has_every_opening() -> None:
    pairs = refusal_pairs([Query.of(f"query {i}") for i in range(8)])
    assert {(len(p.preferred), len(p.undesired)) for p in pairs} == {(2, 2)}
    assert len({(p.preferred, p.undesired) for p in pairs}) == 1
    assert effect_of(pairs) == "refusal"


def test_openings_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "openings.json"
    path.write_text(json.dumps({"preferred": ["Let me check."], "undesired": ["It is 42."]}))
    (pair,) = refusal_pairs([Query.of("q")], path)
    assert (pair.preferred, pair.undesired) == (("Let me check.",), ("It is 42.",))
    assert effect_of([pair]) == "preference"


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not JSON"), ("[]", "`preferred`"), ('{"preferred": ["a"], "undesired": []}', "`undesired`"), (None, "can't be read"),
     (json.dumps({"preferred": ["a"] * 17}), "at most 16")],
)  # fmt: skip
def test_openings_that_can_not_be_used_say_so(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "openings.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        refusal_pairs([Query.of("q")], path)


def test_examples_from_ir_queries_alone(tmp_path: Path) -> None:
    ir, general = tmp_path / "ir.jsonl", tmp_path / "general.jsonl"
    ir.write_text("".join(json.dumps({"query": f"bad {i}"}) + "\n" for i in range(300)))
    general.write_text('{"query": "good"}\n')
    found = read_examples(None, [ir], [general, general])
    assert (len(found.pairs), len(found.ir), found.n_general, found.refusing) == (200, 300, 2, True)
    assert list(found.general) == ["general", "general 2"]  # a file each is a kind
    assert [p.query for p in found.pairs] == [p.query for p in read_examples(None, [ir], [general]).pairs]
    with pytest.raises(DataError, match="--pairs, or --ir"):
        read_examples(None, [], [general])
