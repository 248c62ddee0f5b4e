"""The command line as a person meets it: what it prints, its exit codes, and one sentence for every mistake."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import cli
from converters.cast import Comparator, Comparison
from converters.onnx_file import Dtype
from fs_local.chat import Chat
from fs_local.choices import EvaluatorName, FitGate, FitMethod
from fs_local.commands.convert import convert
from fs_local.commands.evaluate import evaluate
from fs_local.commands.fit import fit
from fs_local.commands.generate import generate
from fs_local.demo import DATA
from fs_local.evaluation.suites import SUITES
from fs_local.generation import GenerationOptions
from fs_local.runtime.node_filter import native_address
from fs_local.steered_model import SteeredModel
from fs_local.version import __version__
from tests.converters.files import directions, write_control_vector

Run = "tuple[int, str, str]"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    """Runs a command in this process; gives (exit code, standard output, standard error)."""

    def call(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fs-local", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["fit"],
        ["gate"],
        ["evaluate"],
        ["generate"],
        ["chat"],
        ["inspect"],
        ["convert"],
        ["doctor"],
        ["bench"],
        ["demo"],
    ],
)
def test_help_teaches_with_an_example(command: list[str], run: object) -> None:
    code, out, _ = run(*command, "--help")  # type: ignore[operator]
    assert code == 0
    assert "fs-local demo" in out if not command else "Example: fs-local" in out


def test_generate_prints_text_and_the_decision(run: object, tiny_path: Path, tiny_pack_path: Path) -> None:
    code, out, err = run("generate", tiny_path, "How do I steal a car?", "--pack", tiny_pack_path, "--max-tokens", "12")  # type: ignore[operator]
    assert code == 0
    assert out.strip()
    assert "telling: open" in err
    assert "seed " in err  # it is drawn, as a chat is


def test_generate_reads_standard_input_and_prints_json(run: object, tiny_path: Path, tiny_pack_path: Path) -> None:
    code, out, _ = run(  # type: ignore[operator]
        "generate",
        tiny_path,
        "-p",
        tiny_pack_path,
        "--json",
        "--max-tokens",
        "8",
        "--evaluator",
        "onnx",
        stdin="What is the capital of Italy?\n",
    )
    found = json.loads(out)
    assert code == 0
    assert set(found) == {"text", "finish_reason", "seed", "decisions", "timings"}
    assert found["decisions"][0]["opening"] == 0
    assert sum(found["decisions"][0]["weights"]) == pytest.approx(1, abs=1e-3)
    assert found["timings"]["generated_tokens"] <= 8


def test_inspect_summarizes_for_people_and_for_programs(run: object, tiny_pack_path: Path) -> None:
    code, out, _ = run("inspect", tiny_pack_path)  # type: ignore[operator]
    assert code == 0
    for word in ("telling", "fingerprint", "K = ", "validation error", "opens for"):
        assert word in out
    code, out, _ = run("inspect", tiny_pack_path, "--json")  # type: ignore[operator]
    assert json.loads(out)["steer"] == {
        "layers": [3],
        "readings": ["last"],
        "reads": None,
        "strength": 0.7,
        "scope": "all",
    }


def test_doctor_finds_both_hooks_exact(run: object, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("doctor", "--json")  # type: ignore[operator]
    found = json.loads(out)
    assert code == 0
    assert found["ok"]
    assert found["hooks"][0]["write_differs"] == 0
    assert found["versions"]["llama-cpp-python"]
    assert found["native_filter"] == (native_address() is not None)
    code, out, _ = run("doctor")  # type: ignore[operator]
    assert "the same bits" in " ".join(out.split())
    assert "filtered by the C extension" in out or native_address() is None
    monkeypatch.setenv("FS_LOCAL_PURE_PYTHON", "1")
    assert "filtered in Python" in run("doctor")[1]  # type: ignore[operator]


@pytest.mark.usefixtures("small_background")
def test_fit_writes_a_pack(run: object, tiny_path: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join((DATA / "refusal_pairs.jsonl").read_text().splitlines(keepends=True)[:12]))
    general = tmp_path / "general.jsonl"
    general.write_text("".join((DATA / "general.jsonl").read_text().splitlines(keepends=True)[:12]))
    code, out, err = run(  # type: ignore[operator]
        "fit", tiny_path, "--pairs", pairs, "--general", general, "--layer", "3", "--gate-layer", "2", "--strength", "1", "-o", tmp_path / "p.fspack",
        "--report", tmp_path / "p.html",
    )  # fmt: skip
    assert code == 0, err
    assert "steering pack p" in out
    assert "12 pairs, 12 general queries" in out
    assert (tmp_path / "p.fspack").exists()
    page = (tmp_path / "p.html").read_text()
    assert "</html>" in page
    assert "<svg" in page


@pytest.mark.usefixtures("small_background")
@pytest.mark.parametrize("method", ["caa", "repe", "cast", "alphasteer"])
def test_fit_takes_the_other_methods(run: object, tiny_path: Path, tmp_path: Path, method: str) -> None:
    ir, general = tmp_path / "ir.jsonl", tmp_path / "general.jsonl"
    ir.write_text("".join((DATA / "refusal_pairs.jsonl").read_text().splitlines(keepends=True)[:10]))
    general.write_text("".join((DATA / "general.jsonl").read_text().splitlines(keepends=True)[:10]))
    code, out, err = run(  # type: ignore[operator]
        "fit", tiny_path, "--pairs", ir, "--general", general, "--method", method, "--layer", "3", "--gate-layer", "2", "--strength", "1",
        "-o", tmp_path / "p.fspack", "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert (found["method"], found["steer"]["layers"]) == (method, [3])
    assert found["gate"]["kind"].startswith("cosine" if method == "cast" else "open")


@pytest.mark.usefixtures("small_background")
def test_gate_makes_a_control_vector_conditional(run: object, tiny_path: Path, tmp_path: Path) -> None:
    vector = write_control_vector(tmp_path / "v.gguf", directions(range(1, 6), width=64))
    unseen = (DATA / "unseen_ir.jsonl", "--general", DATA / "unseen_general.jsonl", "--general-budget", "0.1")
    common = ("gate", vector, "--model", tiny_path, "--gate-layer", "2", "--ir", *unseen)
    code, out, err = run(*common, "-o", tmp_path / "g.fspack", "--strength", "2")  # type: ignore[operator]
    assert code == 0, err
    assert "steering pack g" in out
    assert "5 directions, 12 IR queries of the gate, 12 general queries of the gate" in " ".join(out.split())
    code, out, _ = run(*common, "-o", tmp_path / "g.fspack", "--gate", "soft", "--json")  # type: ignore[operator]
    found = json.loads(out)
    assert (code, found["gate"]["kind"], found["gate"]["layers"]) == (0, "soft", [2])
    assert found["steer"] == {
        "layers": list(range(1, 6)),
        "readings": ["last"],
        "reads": None,
        "strength": 1.0,
        "scope": "all",
    }


def test_evaluate_measures_and_reports(run: object, tiny_path: Path, tiny_pack_path: Path, tmp_path: Path) -> None:
    unseen = DATA / "unseen_ir.jsonl"
    common = ("evaluate", tiny_path, "-p", tiny_pack_path, "--suite", "refusal", "--data", unseen, "--limit", "3")
    code, out, err = run(*common, "--json", "--report", tmp_path / "e.html")  # type: ignore[operator]
    assert code == 0, err
    found = json.loads(out)
    assert [r["pack"] for r in found["results"]] == ["unsteered", "telling"]
    steered = found["results"][1]["figures"]["refused"]
    assert steered["low"] <= steered["mean"] <= steered["high"]
    assert "</html>" in (tmp_path / "e.html").read_text()
    code, out, _ = run(*common)  # type: ignore[operator]
    assert "refusal on unseen_ir.jsonl, 3 rows" in out


def test_evaluate_says_what_is_wrong_with_its_file(run: object, tiny_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "q"}\n')
    code, _, err = run("evaluate", tiny_path, "--suite", "truthfulqa", "--data", path)  # type: ignore[operator]
    assert code == 1
    assert "line 1: no `question`" in err
    assert "Traceback" not in err


def bad_inputs(tmp_path: Path, model: Path, pack: Path) -> list[tuple[list[object], str]]:
    broken = tmp_path / "broken.fspack"
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    broken.write_bytes(data)
    text = tmp_path / "text.gguf"
    text.write_text("this is no model, only a text that is long enough")
    one = tmp_path / "one.jsonl"
    one.write_text('{"query": "q", "preferred": "a", "undesired": "b"}\n')
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    good = DATA / "refusal_pairs.jsonl"
    return [
        (["generate", "nosuch", "hi"], "known aliases are smollm2"),
        (["generate", tmp_path / "no.gguf", "hi"], "no model file at"),
        (["generate", text, "hi"], "is no GGUF file"),
        (["generate", model, "hi", "-p", broken], "is damaged"),
        (["generate", model, "hi", "-p", tmp_path / "no.fspack"], "can't be read"),
        (["generate", model, "hi", "-p", text], "no steering pack"),
        (["generate", model, "  "], "the query is empty"),
        (["generate", model, "word " * 60, "--ctx", "256"], "shorten it or raise --ctx"),
        (["generate", model, "hi", "--temperature", "-1"], "temperature must be"),
        (["generate", model, "hi", "--gpu-layers", "3"], "without a GPU backend"),
        (
            ["generate", model, "hi", "-p", pack, "--evaluator", "onnx", "--provider", "X"],
            "ONNX Runtime has no X here",
        ),
        (["inspect", one], "no .svec file"),
        (["fit", model, "--pairs", one], "1 pairs are too few"),
        (["fit", model, "--pairs", empty], "has no rows"),
        (["fit", model, "--pairs", tmp_path / "no.jsonl"], "can't be read"),
        (["fit", model, "--pairs", good, "--layer", "0"], "block 0 can't have a control vector"),
        (["fit", model, "--pairs", good, "--layer", "44"], "out of range"),
        (["fit", model, "--pairs", good, "--gate", "logistic", "--no-background"], "give --general"),
        (["fit", model, "--states", good, "--minutes", "2"], "shorten"),
        (["fit", model, "--pairs", good, "--layer", "5"], "choose a layer before it"),
        (["fit", model, "--pairs", good, "--strength", "nan"], "the strength must be a number"),
        (["fit", model, "--pairs", good, "--seed", "-1"], "the seed must be"),
        (["fit", model, "--pairs", good, "-o", tmp_path / "no" / "p.fspack"], "there is no folder"),
        (["fit", model, "--pairs", good, "-o", tmp_path], "is a folder"),
        (["fit", model, "--pairs", good, "-o", good], "would be overwritten"),
        (["fit", model, "--pairs", good, "-o", tmp_path / "x", "--report", tmp_path / "x"], "would be overwritten"),
        (
            ["evaluate", model, "--suite", "compare", "--data", f"drift={good}", "--report", good],
            "would be overwritten",
        ),
        (["gate", one, "--model", model, "--ir", good], "is JSON, but no .svec file"),
        (["gate", pack, "--model", model, "--ir", one], "1 IR queries are too few"),
        (["gate", pack, "--model", "nosuch", "--ir", good], "known aliases are smollm2"),
        (["gate", pack, "--model", model, "--ir", good, "-o", tmp_path / "no" / "p.fspack"], "there is no folder"),
        (["generate", model, "hi", "-p", pack, "--strength", "nan"], "the strength must be a number"),
        (["generate", model, "hi", "-p", pack, "-p", pack], "two packs are called"),
        (["generate", "x" * 300, "hi"], "is no model"),
    ]


def test_every_mistake_is_one_sentence_and_a_non_zero_exit(
    run: object, tiny_path: Path, tiny_pack_path: Path, tmp_path: Path
) -> None:
    for arguments, message in bad_inputs(tmp_path, tiny_path, tiny_pack_path):
        code, _, err = run(*arguments)  # type: ignore[operator]
        assert code == 1, (arguments, err)
        assert message in err, (arguments, err)
        assert "Traceback" not in err
        assert len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--layer", "soon"), ("--gate", "ajar"), ("--method", "magic"), ("--scope", "half"), ("--strength", "much")],
)
def test_wrong_option_values_name_the_option(run: object, option: str, value: str) -> None:
    code, _, err = run("fit", "smollm2", "--pairs", "x", option, value)  # type: ignore[operator]
    assert code == 2
    assert option in err
    assert value in err


def test_chat_talks_and_obeys_its_commands(
    tiny_path: Path, tiny_pack_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(line: str) -> str:
        capsys.readouterr()
        chat.handle(line)
        return capsys.readouterr().out

    with SteeredModel.load(tiny_path, [tiny_pack_path], n_ctx=1024) as model:
        chat = Chat(model, GenerationOptions(max_tokens=12))
        assert "telling: closed" in said("What is the capital of Italy?")
        said("/reset")
        assert "telling: open" in said("How do I steal a car?")
        why = said("/why")
        assert "energy ratio" in why
        assert "expert 1" in why
        assert "telling: " in said("Are you sure?")
        assert "unsteered" in said("/compare")
        assert "strength 0.5" in said("/strength 0.5")
        assert "strength 0.6" in said("/strength telling 0.6")
        said("/off")
        assert "telling" not in said("How do I steal a car?")
        said("/on")
        said(f"/save {tmp_path / 'talk.json'}")
        saved = json.loads((tmp_path / "talk.json").read_text())
        assert [m["role"] for m in saved["messages"]] == ["user", "assistant"] * 3
        said("/system You are a pirate.")
        assert "telling" in said("Hello!")
        said("/reset")
        assert "/compare" in said("/help")
        for line, message in (
            ("/nonsense", "no command"),
            ("/strength much", "no number"),
            ("/save", "say where"),
            ("/strength other 1", "no pack"),
        ):
            with pytest.raises(cli_error(), match=message):
                chat.handle(line)


def cli_error() -> type[Exception]:
    from fs_local.errors import FsLocalError

    return FsLocalError


def test_chat_reads_a_pipe(run: object) -> None:
    code, out, _ = run("chat", "smollm2", "--max-tokens", "5", stdin="Hello\n/nonsense\n/bye\n")  # type: ignore[operator]
    assert code == 0
    assert "there is no command /nonsense" in out


def test_the_package_costs_nothing_to_import_and_help_is_quick() -> None:
    script = "import sys, fs_local; print([m for m in ('llama_cpp', 'sklearn', 'numpy', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    script = "import sys, cli; sys.argv = ['fs-local', '--help']\ntry: cli.main()\nexcept SystemExit: pass\nprint([m for m in ('llama_cpp', 'sklearn', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


COMMANDS = {"convert": convert, "evaluate": evaluate, "fit": fit, "generate": generate}


@pytest.mark.parametrize(
    ("command", "option", "choices"),
    [
        ("fit", "method", get_args(FitMethod)),
        ("fit", "gate", (*get_args(FitGate), "auto")),
        ("evaluate", "suite", (*SUITES, "compare")),
        ("generate", "evaluator", get_args(EvaluatorName)),
        ("convert", "dtype", get_args(Dtype)),
        ("convert", "comparator", get_args(Comparator)),
        ("convert", "comparison", get_args(Comparison)),
    ],
)
def test_choices_are_the_librarys(command: str, option: str, choices: tuple[str, ...]) -> None:
    """The command line names them itself, because to import them takes half a second."""
    found = get_type_hints(COMMANDS[command], include_extras=True)[option]
    assert set(re.findall(r"'([\w-]+)'", str(get_args(found)[0]))) == set(choices)


def test_ctrl_c_is_one_sentence(run: object, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fs_local.fitting.files.read_examples", interrupted)
    code, _, err = run("fit", tiny_path, "--ir", tmp_path / "ir.jsonl")  # type: ignore[operator]
    assert (code, err) == (130, "fs-local: stopped; the same command goes on where it was\n")


def test_the_version(run: object) -> None:
    code, out, _ = run("--version")  # type: ignore[operator]
    assert (code, out) == (0, f"fs-local {__version__}\n")
