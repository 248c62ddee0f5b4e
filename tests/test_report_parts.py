"""Pages of several evaluations, and of many files: who is ahead, and what opens gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fs_local.report import write_report
from tests.test_report import Page, evaluation_data, figure, rendered


def test_several_parts_begin_with_who_is_ahead(tmp_path: Path) -> None:
    def row(pack: str, budget: float, effect: float, lead: dict[str, float] | None = None) -> dict[str, Any]:
        at = {"strength": 1.0, "drift": budget / 2, "effect": figure(effect), "lead": lead}
        return {"task": "refusal on a", "budget": budget, "pack": pack, **at}

    def part(title: str, *leads: float) -> dict[str, Any]:
        rivals = [row(f"rival {i}", b, 0.5, figure(lead)) for b in (0.01, 0.05) for i, lead in enumerate(leads)]
        ours = [row("finesteer", b, 0.8) for b in (0.01, 0.05)]
        return {**evaluation_data(), "title": title, "budgets": [*ours, *rivals]}

    path = tmp_path / "report.html"
    write_report(path, evaluations=[part("first model", 0.3, -0.3), part("second model", 0.03)])
    page = Page(path.read_text(encoding="utf-8"))
    assert page.texts.count("ahead") == 1 + 2  # the legend, and both budgets
    assert page.texts.count("behind") == 1 + 2
    assert {"#part-0", "#part-1"} == {value for name, value in page.attributes if name == "href"}
    assert {"part-0", "part-1"} <= {value for name, value in page.attributes if name == "id"}
    assert any(t.startswith("0.8 − 0.5 = 0.3") for t in page.texts)
    write_report(path, evaluations=[part("alone", 0.3)])
    assert "Who is ahead" not in path.read_text(encoding="utf-8")


def test_openings_of_all_files_stand_in_one_table(tmp_path: Path) -> None:
    def opening(file: str, pack: str, opened: float, mean: float) -> dict[str, Any]:
        figures = {"opened": figure(opened), "opening": figure(mean)}
        return {
            "suite": "opening",
            "rows": 8,
            "file": file,
            "pack": pack,
            "method": "m",
            "strength": 1.0,
            "figures": figures,
        }

    packs = [("unsteered", 0.0, 0.0), ("hard", 0.625, 0.625), ("soft", 0.75, 0.3125)]
    results = [opening(f"kind {i}", *pack) for i in range(5) for pack in packs]
    page, without = (
        rendered(tmp_path / "report.html", None, {**evaluation_data(), "results": some})[1] for some in (results, [])
    )
    assert page.tags.count("table") == without.tags.count("table") + 1
    assert [page.texts.count(f"kind {i}") for i in range(5)] == [1] * 5
    assert page.texts.count("mean opening 0.312") == 5
    assert "unsteered" not in page.texts


def test_only_a_protocol_knows_its_code(tmp_path: Path) -> None:
    for about, rows in (({}, 0), ({"code": "0123456789ab"}, 1)):
        _, page = rendered(tmp_path / "report.html", None, {**evaluation_data(), **about})
        assert page.texts.count("code") == rows
