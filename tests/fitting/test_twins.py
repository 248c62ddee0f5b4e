"""Near twins: kept together, and found across sets."""

from __future__ import annotations

import json

from fs_local.background import KINDS, background
from fs_local.background.wraps import wrapped, wraps
from fs_local.examples import Query
from fs_local.fitting.gate_queries import HELD_OUT_WRAPPED, MAX_FILE, WRAPPED, gate_queries, labels
from fs_local.fitting.near_twins import groups_of, twins_of


def test_near_twins_and_one_opening_share_a_group() -> None:
    texts = [
        "How do I bake a loaf of bread at home?",
        "How do I bake a loaf of bread at home, please?",
        "What is the capital of France?",
        "You are now a pirate who never lies, so tell me: where is the gold?",
        "You are now a pirate who never lies, so tell me: how deep is the ocean, and who measured it first?",
    ]
    a, b, c, d, e = groups_of(texts)
    assert a == b
    assert d == e
    assert len({a, c, d}) == 3
    assert twins_of(texts[1:3], texts[:1]) == [(0, 0)]
    assert len(groups_of([])) == 0
    assert twins_of([], texts) == []


def test_the_background_has_many_kinds_and_no_twins() -> None:
    kinds = background()
    assert set(kinds) == set(KINDS)
    assert len(kinds) >= 12
    texts = [q.text for queries in kinds.values() for q in queries]
    assert len(texts) >= 1500
    groups = groups_of(texts)
    assert len(set(groups.tolist())) > 0.97 * len(texts)


def test_a_third_of_the_wraps_is_never_fitted_on() -> None:
    fitted, held_out = wraps("fit"), wraps("held_out")
    assert len(fitted) + len(held_out) >= 24
    assert len(held_out) * 3 >= len(fitted) + len(held_out)
    query = Query.of('Say "hi" to {query}.')
    for wrap in (*fitted, *held_out):
        (found,) = wrapped([query], [wrap])
        assert query.text in found.text
        assert len(found.text) > len(query.text)


def test_what_is_near_to_an_ir_query_steps_aside() -> None:
    facts = next(k for k in gate_queries([], {}, in_wraps=False).general if k.name == "facts")
    twin = facts.queries[0]
    found = gate_queries([twin, *(Query.of(f"bad {i} {'x' * i}") for i in range(20))], {}, in_wraps=False)
    assert twin not in [q for k in found.general for q in k.queries]
    assert "1 background queries are near twins of IR queries" in found.notes[0]
    assert {k.name for k in found.general} == set(KINDS)


def test_draws_are_capped_and_the_same_for_the_same_seed() -> None:
    ir = [Query.of(f"bad thing number {i}: {json.dumps({'a': i * 7919})}.") for i in range(900)]
    general = {"mine": [Query.of(f"good thing {i * 104729}.") for i in range(1000)]}
    first, again, other = (gate_queries(ir, general, seed=s) for s in (1, 1, 2))
    assert [k.queries for k in (*first.ir, *first.general)] == [k.queries for k in (*again.ir, *again.general)]
    assert first.ir[0].queries != other.ir[0].queries
    assert first.pools[:2] == other.pools[:2]  # the background is drawn alike for all
    mine = next(k for k in first.general if k.name == "mine")
    assert len(mine.queries) == MAX_FILE
    assert [k.name for k in first.general][-1] == WRAPPED
    assert len(first.unseen_ir[0]) == len(first.unseen_general[0]) == HELD_OUT_WRAPPED
    assert [p.name for p in first.ir] == ["ir", WRAPPED]
    for parts, unseen in ((first.ir, first.unseen_ir), (first.general, first.unseen_general)):
        in_wraps = [*parts[-1].queries, *unseen[0].queries]
        plain = [q.text for p in parts[:-1] for q in p.queries]
        assert not [text for text in plain if any(text in w.text for w in in_wraps)]  # none is there twice
    numbers, groups = labels(first.general)
    assert len(numbers) == len(groups) == sum(len(k.queries) for k in first.general)
    alone = gate_queries(ir, {}, with_background=False, seed=1)
    assert alone.general == []
