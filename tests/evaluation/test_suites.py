"""The suites on the real model: scores against llama.cpp one by one, exactness where nothing is steered, and what is kept."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from fs_local.capture import Request
from fs_local.demo import DATA
from fs_local.errors import DataError, PackError
from fs_local.evaluation.budgets import BUDGETS
from fs_local.evaluation.compare import evaluate_packs
from fs_local.evaluation.files import read_files
from fs_local.evaluation.runner import KeptDecision, Runner
from fs_local.evaluation.suites import SUITES, _last_number, mc2, read_suite
from fs_local.evaluation.tables import evaluation_tables
from fs_local.examples import Query
from fs_local.generation import GenerationOptions
from fs_local.pack.file import Pack
from fs_local.runtime.context import Context
from fs_local.runtime.model import Model
from fs_local.steered_model import SteeredModel
from fs_local.store import Store
from tests.packs import synthetic_pack

QUESTIONS = [
    {
        "question": "What is the capital of France?",
        "mc1_targets": {"Paris.": 1, "Lyon.": 0},
        "mc2_targets": {"Paris.": 1, "It is Paris.": 1, "Lyon.": 0, "London, of course.": 0},
    },
    {
        "question": "How many legs has a spider?",
        "mc1_targets": {"Eight.": 1, "Six.": 0},
        "mc2_targets": {"Eight.": 1, "Six.": 0, "Spiders have no legs at all.": 0},
    },
]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    return path


def test_answers_that_share_a_prefix_score_as_they_do_one_by_one(smollm2: Model, questions: Path) -> None:
    runner = Runner(smollm2)
    rows = read_suite("truthfulqa", questions)
    requests = runner.requests([r.query for r in rows], [list({**r.mc1, **r.mc2}) for r in rows])
    # from 64 tokens on, llama.cpp sums in another order: one question at a time stays below that, as one answer alone does
    together = [runner.scores([r], [KeptDecision(0.0, {})])[0] for r in requests]
    assert max(len(r.prompt) + sum(map(len, r.answers)) for r in requests) < 64
    with Context(smollm2, n_ctx=512) as context:
        for request, found in zip(requests, together, strict=True):
            for answer, scores in zip(request.answers, found, strict=True):
                context.clear()
                alone = []
                context.decode(request.prompt, start=0)
                for at, token in enumerate(answer):
                    logits = context.logits().astype(np.float64)
                    alone.append(float(logits[token] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()))
                    context.decode([token], start=len(request.prompt) + at)
                np.testing.assert_allclose(scores, alone, atol=1e-3)


def test_mc2_is_the_share_of_the_true_answers() -> None:
    assert mc2([np.log(0.2), np.log(0.1), np.log(0.1)], [True, False, True]) == pytest.approx(0.75)
    assert mc2([-2000.0, -2001.0], [True, False]) == pytest.approx(1 / (1 + np.exp(-1)))


def test_steered_answers_are_those_of_a_steered_model(tiny: Model, tiny_pack: Pack) -> None:
    rows = read_suite("refusal", DATA / "unseen_ir.jsonl", limit=5)
    found = SUITES["refusal"](Runner(tiny), rows, tiny_pack)
    assert found.samples[0].steered
    with SteeredModel.load(tiny.path, [tiny_pack]) as model:
        alone = [model.generate(r.query, GenerationOptions(max_tokens=32)) for r in rows]
    same = [s.steered == a.text for s, a in zip(found.samples, alone, strict=True)]
    assert np.mean(same) >= 0.6  # rows of a batch differ in their last bits from one row
    assert [s.opening for s in found.samples] == pytest.approx([a.decisions[0].opening for a in alone], abs=1e-3)
    assert all(s.steered != s.unsteered for s in found.samples)


def test_one_query_at_a_time_is_answered_as_by_a_steered_model(tiny: Model, tiny_pack: Pack) -> None:
    rows = read_suite("refusal", DATA / "unseen_ir.jsonl", limit=3)
    with SteeredModel.load(tiny.path, [tiny_pack]) as model:
        for row in rows:
            (together,) = model.generate_many([row.query], GenerationOptions(max_tokens=16))
            assert model.generate(row.query, GenerationOptions(max_tokens=16)).text == together.text


def test_a_closed_gate_changes_nothing(tiny: Model, questions: Path) -> None:
    closed, open_pack = (synthetic_pack(tiny, gate, layer=3, gate_layer=2) for gate in ("closed", "open"))
    files = dict.fromkeys(("over-refusal", "drift"), DATA / "unseen_general.jsonl")
    for suite, path in {**files, "truthfulqa": questions}.items():
        rows = read_suite(suite, path, limit=2)
        # a runner each: one keeps what it has done
        plain, steered, opened = (SUITES[suite](Runner(tiny), rows, pack) for pack in (None, closed, open_pack))
        assert plain.values == steered.values
        assert plain.values != opened.values
        assert set(steered.values["opened"]) == {0.0}
        if suite == "drift":
            assert steered.values["kl"] == [0.0, 0.0]
            assert min(opened.values["kl"]) > 0


def test_openings_are_those_of_the_gate(tiny: Model, tiny_pack: Pack) -> None:
    found = {name: SUITES["opening"](Runner(tiny), read_suite("opening", DATA / f"{name}.jsonl"), tiny_pack).values for name in ("unseen_ir", "unseen_general")}  # fmt: skip
    assert set(found["unseen_ir"]["opened"]) == {1.0}
    assert set(found["unseen_general"]["opened"]) == {0.0}
    assert all(
        (o > 0) == (opened == 1)
        for o, opened in zip(found["unseen_ir"]["opening"], found["unseen_ir"]["opened"], strict=True)
    )


def test_an_open_gate_drifts_and_more_strength_drifts_more(tiny: Model) -> None:
    pack = synthetic_pack(tiny, "open", layer=3, gate_layer=2)
    rows = read_suite("drift", DATA / "unseen_general.jsonl", limit=2)
    runner = Runner(tiny)
    kl = [np.mean(SUITES["drift"](runner, rows, pack.with_strength(s)).values["kl"]) for s in (0.0, 0.2, 0.8)]
    assert kl[0] == 0
    assert 0 < kl[1] < kl[2]


def test_each_row_has_the_drift_of_its_own_steering(tiny: Model) -> None:
    vector = synthetic_pack(tiny, "open", layer=3, gate_layer=2).experts.prototypes[0]
    runner = Runner(tiny)
    queries = [Query.of(text) for text in ("What is two plus two?", "Name a colour.", "How are you?", "Name a fruit.")]
    requests = runner.requests(queries, [["Here is an answer."]] * 4)
    decided = [
        KeptDecision(0.0, {}),
        KeptDecision(1.0, {3: vector}),
        KeptDecision(0.0, {}),
        KeptDecision(0.5, {3: vector / 2}),
    ]
    found = runner.drift(requests, decided)
    assert found[0] == found[2] == (0.0, 1.0)
    for i in (1, 3):
        (alone,) = Runner(tiny).drift([requests[i]], [decided[i]])  # one that has kept nothing
        assert alone[0] > 0
        assert found[i] == pytest.approx(alone, rel=0.1)


def test_closed_rows_are_the_unsteered_ones_in_any_scope(tiny: Model, tmp_path: Path) -> None:
    vector = synthetic_pack(tiny, "open", layer=3, gate_layer=2).experts.prototypes[0]
    path = tmp_path / "kept.sqlite3"

    def n_kept() -> int:
        with sqlite3.connect(path) as db:
            return int(db.execute("select count(*) from result").fetchone()[0])

    runner = Runner(tiny, Store(path))
    requests = runner.requests([Query.of(text) for text in ("What is two plus two?", "Name a colour.")])
    closed, opened = KeptDecision(0.0, {}), KeptDecision(1.0, {3: vector})
    plain = runner.answers(requests, [closed, closed], 4)
    before = n_kept()
    (again, steered), (kept, _) = (
        r.answers(requests, [closed, opened], 4, scope="generation") for r in (Runner(tiny), runner)
    )
    assert again.tokens == plain[0].tokens
    assert again.log_probability == pytest.approx(plain[0].log_probability, abs=1e-3)
    assert steered.tokens != plain[1].tokens
    assert kept == plain[0]
    assert n_kept() == before + 1  # only the open row was evaluated


def test_an_empty_answer_is_as_probable_as_ending_at_once(smollm2: Model) -> None:
    runner = Runner(smollm2)
    (request,) = runner.requests([Query.of("What is the capital of France? Answer with one word.")])
    closed = [KeptDecision(0.0, {})]
    (whole,) = runner.answers([request], closed, 64)
    assert 0 < len(whole.tokens) < 64
    ended = Request(request.prompt + list(whole.tokens))
    (empty,) = runner.answers([ended], closed, 4)
    assert (empty.text, empty.tokens) == ("", ())
    assert -3 < empty.log_probability < 0
    ends = tuple([token] for token in smollm2.end_tokens)
    assert max(runner.scores([Request(ended.prompt, ends)], closed)[0]) == [empty.log_probability]


def test_results_are_kept_without_a_file(tiny: Model) -> None:
    told: list[str] = []
    runner = Runner(tiny, progress=lambda what, _done, _total: told.append(what))
    requests = runner.requests([Query.of("Name a colour.")])
    first = runner.answers(requests, [KeptDecision(0.0, {})], 4, what="once")
    assert runner.answers(requests, [KeptDecision(0.0, {})], 4, what="again") == first
    assert told == ["once"]


def test_generation_scope_starts_at_the_last_prompt_token(tiny: Model) -> None:
    packs = [synthetic_pack(tiny, "open", layer=3, gate_layer=2, scope=s) for s in ("all", "generation")]
    rows = read_suite("drift", DATA / "unseen_general.jsonl", limit=1)
    runner = Runner(tiny)
    both = [SUITES["drift"](runner, rows, p).values["kl"] for p in packs]
    assert both[0] != both[1]


def test_exact_match_reads_the_last_number(smollm2: Model, tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text('{"query": "What is 2 + 2? Answer with a number.", "answer": "so the answer is 4"}\n')
    found = SUITES["exact-match"](Runner(smollm2), read_suite("exact-match", path), None)
    said = _last_number(found.samples[0].steered)
    assert said is not None
    assert found.values["correct"] == [float(said == 4)]
    path.write_text(json.dumps({"query": "What is 2 + 2? Answer with a number.", "answer": str(said)}) + "\n")
    assert SUITES["exact-match"](Runner(smollm2), read_suite("exact-match", path), None).values["correct"] == [1.0]
    path.write_text(json.dumps({"query": "What is 2 + 2? Answer with a number.", "answer": str(said + 1)}) + "\n")
    assert SUITES["exact-match"](Runner(smollm2), read_suite("exact-match", path), None).values["correct"] == [0.0]
    texts = {"5 pens, 3 of them red": 3, "1,234.5": 1234.5, "from 10-12": 12, "it is -7.": -7, "none": None}
    texts |= {"either [5,6]": 6, "a half, .5": 0.5, "it is −3": -3, "0.25 of 1,000,000": 1e6}
    texts |= {"it is...18": 18, "that makes Rs.50": 50, "1,00,000 rupees": 1e5, "of 12345,6": 6}
    assert {text: _last_number(text) for text in texts} == texts


def test_files_and_packs_of_one_name_are_told_apart(tiny: Model, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.jsonl").write_text('{"query": "What is tea?"}\n')
    given = [Path(f"{label}={tmp_path / folder / 'test.jsonl'}") for label, folder in (("ir", "a"), ("general", "b"))]
    assert [f.name for f in read_files("opening", given)] == [str(tmp_path / x / "test.jsonl") for x in "ab"]
    pack = synthetic_pack(tiny, "open", layer=3, gate_layer=2)
    with pytest.raises(PackError, match="two packs are called"):
        evaluate_packs(tiny, [pack, pack], read_files("opening", given))


def test_too_long_rows_are_refused_before_anything_is_evaluated(tiny: Model) -> None:
    rows = [Query.of("What is tea?"), Query.of("tea " * (tiny.n_ctx_train + 1))]
    runner = Runner(tiny)
    requests = runner.requests(rows)
    with pytest.raises(DataError, match=r"row 2 has .* tokens, more than the model's context"):
        runner.answers(requests, [KeptDecision(0.0, {})] * 2, max_tokens=1)


def test_a_stopped_evaluation_goes_on(tiny: Model, tmp_path: Path) -> None:
    rows = read_suite("refusal", DATA / "unseen_ir.jsonl", limit=2)
    whole, half = tmp_path / "results.sqlite3", tmp_path / "half.sqlite3"
    first = SUITES["refusal"](Runner(tiny, Store(whole)), rows, None)
    told: list[str] = []
    runner = Runner(tiny, Store(whole), lambda what, _done, _total: told.append(what))
    assert SUITES["refusal"](runner, rows, None) == first
    assert not told
    # half of it done: the other half comes out as it would have
    shutil.copy(whole, half)
    with sqlite3.connect(half) as db:
        assert db.execute("delete from result where rowid % 2 = 0").rowcount
    assert SUITES["refusal"](Runner(tiny, Store(half)), rows, None) == first


def test_compare_measures_all_packs_and_their_frontier(tiny: Model, questions: Path, tmp_path: Path) -> None:
    ours = synthetic_pack(tiny, "closed", layer=3, gate_layer=2, name="ours")
    theirs = synthetic_pack(tiny, "open", layer=3, gate_layer=2, name="theirs")
    theirs = Pack.of(theirs.manifest.model_copy(update={"method": "caa"}), theirs.gate, theirs.experts)
    general = DATA / "unseen_general.jsonl"
    files = read_files("compare", [Path(f"truthfulqa={questions}"), Path(f"drift={general}")], limit=1)
    found = evaluate_packs(tiny, [ours, theirs], files, compare=True)
    assert len(found["results"]) == 2 * 3
    curves = {name: [p for p in found["frontier"] if p["pack"] == name] for name in ("ours", "theirs")}
    assert [p["strength"] for p in curves["ours"]] == pytest.approx([0.35, 0.7, 1.05, 2.1, 4.2, 8.4])  # it never drifts
    assert curves["theirs"][-1]["drift"]["mean"] >= BUDGETS[-1]
    assert [(b["budget"], b["pack"]) for b in found["budgets"]] == [(x, p) for x in BUDGETS for p in ("ours", "theirs")]
    assert all((b["lead"] is None) == (b["pack"] == "ours") for b in found["budgets"])
    # a closed gate is the unsteered model, however strong
    none = found["results"][0]["figures"]["mc2"]["mean"]
    assert {(b["effect"]["mean"], b["drift"]) for b in found["budgets"] if b["pack"] == "ours"} == {(none, 0.0)}
    assert all(b["drift"] <= b["budget"] for b in found["budgets"])
    # on a quantized model almost nothing is more than nothing: activations are rounded to 8 bits, and some round the other way
    assert 0 <= found["floor"]["drift"]["mean"] < BUDGETS[0]
    assert abs(found["floor"]["tasks"][0]["change"]["mean"]) < 0.05
    assert list(evaluation_tables(found))[-1].row_count == 2
    json.dumps(found)


def test_curves_reach_from_below_the_least_budget_to_above_the_largest(tiny: Model, questions: Path) -> None:
    packs = [
        synthetic_pack(tiny, "open", layer=3, gate_layer=2, name=name).with_strength(strength)
        for name, strength in (("strong", 0.8), ("weak", 0.02))
    ]
    general = DATA / "unseen_general.jsonl"
    files = read_files("compare", [Path(f"truthfulqa={questions}"), Path(f"drift={general}")], limit=1)
    points = evaluate_packs(tiny, packs, files, compare=True)["frontier"]
    strong, weak = ([p for p in points if p["pack"] == name] for name in ("strong", "weak"))
    assert strong[0]["strength"] < 0.4
    assert strong[0]["drift"]["mean"] <= BUDGETS[0] < strong[1]["drift"]["mean"]
    assert weak[-1]["strength"] > 0.03
    assert [p["strength"] for p in weak] == sorted(p["strength"] for p in weak)
    assert weak[-1]["drift"]["mean"] >= BUDGETS[-1] or weak[-1]["strength"] == pytest.approx(0.24)


@pytest.mark.parametrize(
    ("suite", "line", "message"),
    [
        ("refusal", '{"question": "q"}', r"line 1: no `query`"),
        ("exact-match", '{"query": "q", "answer": "none"}', r"line 1: `answer` must hold a number"),
        ("truthfulqa", '{"query": "q"}', r"line 1: no `question`"),
        ("truthfulqa", '{"question": "q", "mc1_targets": {"a": 1}}', r"line 1: `mc1_targets` needs both"),
        ("truthfulqa", '{"question": "q", "mc1_targets": {"a": 2}}', r"line 1: `mc1_targets` must map"),
        ("drift", "", "no rows"),
    ],
)
def test_a_file_in_another_format_says_where(suite: str, line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        read_suite(suite, path)


def test_compare_wants_a_suite_for_each_file() -> None:
    with pytest.raises(DataError, match="SUITE=FILE"):
        read_files("compare", [DATA / "unseen_ir.jsonl"])


@pytest.mark.parametrize("n_figures", [4, 5])
def test_many_figures_of_few_packs_stand_one_a_line(n_figures: int) -> None:
    figures = {f"figure_{i}": {"mean": 0.5, "low": 0.4, "high": 0.6, "rows": 9} for i in range(n_figures)}
    result = {"suite": "refusal", "file": "f.jsonl", "rows": 9, "strength": None, "figures": figures}
    found = {"results": [{**result, "pack": name} for name in ("unsteered", "p")], "auroc": [], "frontier": [], "budgets": [], "floor": None}  # fmt: skip
    (table,) = evaluation_tables(found)
    shape = [str(table.columns[0].header), len(table.columns), table.row_count]
    assert shape == (["pack", 5, 2] if n_figures == 4 else ["figure", 3, 5])
