"""The steering of a request, the decisions in its answer, and packs that an admin changes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.conftest import Served
from tests.server.fake_engine import pack_file
from tests.server.serving import chat, client, serving
from tests.server.test_openai import events


def steering(served: Served, text: str = "do harm", headers: dict[str, str] | None = None, **more: Any) -> Any:
    answer = served.http.post("/v1/chat/completions", json=chat(text, **more), headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json().get("steering")


def test_decisions_are_in_the_answer(served: Served) -> None:
    found = steering(served)
    assert found["applied"]
    assert [d["pack"] for d in found["decisions"]] == ["refusal", "truthful"]
    first = found["decisions"][0]
    assert (first["open"], first["opening"], first["strength"], first["layers"]) == (True, 1.0, 1.5, [3])
    assert first["digest"].startswith("sha256:")
    assert "weights" not in first
    assert not steering(served, "hello")["applied"]
    assert "carried" not in first
    full = steering(served, steering={"explain": "full"})["decisions"][0]
    assert full["weights"] == [0.75, 0.25]
    assert full["carried"] == [{"layer": 3, "reading": "last", "part": 0.5}]
    assert steering(served, steering={"explain": "none"}) is None


def test_the_first_chunk_has_the_steering(served: Served) -> None:
    found = events(served.http.post("/v1/chat/completions", json=chat("do harm", stream=True)).text)
    assert found[0]["steering"]["applied"]
    assert not any("steering" in chunk for chunk in found[1:])


@pytest.mark.parametrize(
    ("more", "headers"),
    [
        ({"steering": {"mode": "off"}}, {}),
        ({}, {"X-Steering": "off"}),
        ({"model": "fake:unsteered"}, {}),
        ({"model": "fake:unsteered", "steering": {"mode": "auto"}}, {}),
    ],
)
def test_any_of_three_places_turns_it_off(served: Served, more: dict[str, Any], headers: dict[str, str]) -> None:
    assert steering(served, headers=headers, **more) == {"applied": False, "decisions": []}
    assert not served.engine.requests[-1].steer.enabled


def test_packs_of_one_request(served: Served) -> None:
    use = {"refusal": {"strength": -0.5}, "truthful": {"enabled": False}}
    found = steering(served, steering={"packs": use, "exact": True})
    assert [(d["pack"], d["strength"]) for d in found["decisions"]] == [("refusal", -0.5)]
    assert served.engine.requests[-1].steer.exact
    assert [d["pack"] for d in steering(served, model="fake:truthful")["decisions"]] == ["truthful"]
    assert [d["strength"] for d in steering(served)["decisions"]] == [1.5, 1.5], "another request's is its own"


@pytest.mark.parametrize(
    ("more", "headers"),
    [
        ({"steering": {"packs": {"nope": {}}}}, {}),
        ({"steering": {"packs": {"../../etc/passwd": {}}}}, {}),
        ({"steering": {"packs": {"refusal": {"strength": 1e6}}}}, {}),
        ({"steering": {"packs": {"refusal": {"strength": "1"}}}}, {}),
        ({"steering": {"mode": "on"}}, {}),
        ({"steering": {"vector": [1.0]}}, {}),
        ({"steering": []}, {}),
        ({}, {"X-Steering": "maybe"}),
    ],
)
def test_what_is_not_steering_is_a_400(served: Served, more: dict[str, Any], headers: dict[str, str]) -> None:
    assert served.http.post("/v1/chat/completions", json=chat(**more), headers=headers).status_code == 400


def test_decide_without_answering(served: Served) -> None:
    found = served.http.post("/v1/steering/decide", json={"input": ["hello", "do harm"]}).json()
    assert [d["applied"] for d in found["data"]] == [False, True]
    messages = [{"role": "user", "content": "harm"}]
    one = served.http.post(
        "/v1/steering/decide", json={"messages": messages, "steering": {"packs": {"refusal": {"enabled": False}}}}
    )
    assert [d["pack"] for d in one.json()["data"][0]["decisions"]] == ["truthful"]
    refused: list[dict[str, Any]] = [
        {},
        {"input": "a", "messages": messages},
        {"input": []},
        {"input": ["a"] * 1000},
        {"input": 5},
    ]
    for wrong in refused:
        assert served.http.post("/v1/steering/decide", json=wrong).status_code == 400


def test_compare_gives_both_answers_with_one_seed(served: Served) -> None:
    found = served.http.post("/v1/steering/compare", json=chat("do harm")).json()
    assert found["steering"]["applied"]
    assert found["steered"]["message"]["content"] == found["unsteered"]["message"]["content"] == "do harm"
    steered, unsteered = served.engine.requests[-2:]
    assert (steered.steer.enabled, unsteered.steer.enabled) == (True, False)
    assert steered.sampling.seed == unsteered.sampling.seed is not None
    chunks = events(served.http.post("/v1/steering/compare", json=chat("do harm", stream=True)).text)
    for side in ("steered", "unsteered"):
        assert "".join(c["delta"] for c in chunks if c["side"] == side) == "do harm"
    assert [c["side"] for c in chunks if "steering" in c] == ["steered"]
    assert served.http.post("/v1/steering/compare", json=chat(n=2)).status_code == 400


def test_an_admin_changes_what_all_get(served: Served) -> None:
    shown = served.http.get("/v1/steering/packs").json()["data"]
    assert [(p["name"], p["strength"], p["enabled"]) for p in shown] == [
        ("refusal", 1.5, True),
        ("truthful", 1.5, True),
    ]
    changed = served.http.patch("/v1/steering/packs/refusal", json={"strength": 0.25})
    assert (changed.json()["strength"], changed.json()["fitted_strength"]) == (0.25, 1.5)
    assert steering(served)["decisions"][0]["strength"] == 0.25
    served.http.patch("/v1/steering/packs/refusal", json={"enabled": False})
    assert [d["pack"] for d in steering(served)["decisions"]] == ["truthful"]
    asked_for = chat(steering={"packs": {"refusal": {"enabled": True}}})
    assert served.http.post("/v1/chat/completions", json=asked_for).status_code == 400
    for wrong in ({"strength": 1e9}, {"strength": "1"}, {"enabled": 1}, {"name": "x"}):
        assert served.http.patch("/v1/steering/packs/refusal", json=wrong).status_code == 400
    assert served.http.patch("/v1/steering/packs/nope", json={}).status_code == 404


def test_a_pack_that_changed_on_disk_is_reloaded(served: Served) -> None:
    path, before = served.packs["refusal"], served.http.get("/v1/steering/packs").json()["data"][0]
    pack_file(path.parent, "refusal", strength=0.75)
    after = served.http.post("/v1/steering/packs/refusal/reload", json={}).json()
    assert (after["strength"], before["strength"]) == (0.75, 1.5)
    assert after["digest"] != before["digest"]
    assert (
        steering(served)["decisions"][0] | {"strength": 0.75, "digest": after["digest"]}
        == steering(served)["decisions"][0]
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "another name"])
def test_a_damaged_pack_changes_nothing(served: Served, damage: str) -> None:
    path, before = served.packs["refusal"], served.http.get("/v1/steering/packs").json()
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        path.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(served.packs["truthful"].read_bytes())
    answer = served.http.post("/v1/steering/packs/refusal/reload", json={})
    assert answer.status_code == 409
    assert str(path.parent) not in answer.text, "no paths in errors"
    assert served.http.get("/v1/steering/packs").json() == before
    assert [d["pack"] for d in steering(served)["decisions"]] == ["refusal", "truthful"]


def test_what_an_admin_set_survives_an_unload(tmp_path: Any) -> None:
    import time

    from tests.server.serving import fake_backend

    backend, engines = fake_backend(tmp_path, [pack_file(tmp_path)], idle=0.2)
    with serving(backend) as server, client(server) as http:
        http.patch("/v1/steering/packs/refusal", json={"strength": 0.5})
        deadline = time.monotonic() + 10
        while http.get("/health").json()["loaded"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert engines[0].closed
        found = http.post("/v1/chat/completions", json=chat("do harm")).json()
        assert found["steering"]["decisions"][0]["strength"] == 0.5
        assert len(engines) == 2
