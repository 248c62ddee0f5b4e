"""Every command and every line of Python in the READMEs is run, in their order, with small files of the names that they give."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.main import get_command

import cli
from fs_local.demo import DATA
from fs_local.pack.file import SUFFIX, Pack
from fs_local.server import run as server_run
from fs_local.server.backend import Backend
from fs_local.server.run import Server, open_backend
from fs_local.server.settings import ServerSettings
from tests.converters.files import (
    directions,
    mose_state,
    write_control_vector,
    write_model,
    write_npz,
    write_svec,
    write_tensors,
)
from tests.server.serving import serving

ROOT = Path(__file__).parents[1]
READMES = sorted(
    p.relative_to(ROOT) for folder in (".", "fs_local", "converters") for p in (ROOT / folder).rglob("README.md")
)
READMES = sorted(
    {p for p in READMES if not any(part.startswith(".") or part in ("build", "tests") for part in p.parts)}
)
OTHERS = {".", "apt-get", "dask", "llama-server", "mypy", "pip", "pytest", "python", "python3", "ruff", "ssh"}
"""Programs that set up or test, which .ci/run and other tests start, and other projects' own."""
LOOKED_AT = {"bench", "demo", "worker"}
"""Commands that take minutes whatever the model, or wait for another machine: their options are looked at, and other tests do the rest."""
ELSEWHERE = {"--cluster", "--rpc"}
"""Options that want other machines: the same."""
QUICK = {"--layer": "3", "--strength": "1"}
"""For fits whose line leaves these open: what a search does is tested in tests/fitting."""
TRUTHFULQA = {"question": "How many legs has a spider?", "mc1_targets": {"Eight.": 1, "Six.": 0}, "mc2_targets": {"Eight.": 1, "Six.": 0}}  # fmt: skip


def blocks(readme: Path, language: str) -> list[str]:
    """The fenced blocks of a README that are in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / readme).read_text(encoding="utf-8"), re.M | re.S)


def commands(readme: Path) -> list[list[str]]:
    """The commands of a README's blocks, in their order, as words."""
    found = []
    for block in blocks(readme, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                found.append(words[:end])
                words = words[end + 1 :]
    return found


def python_blocks(marked: str = "") -> list[tuple[Path, str]]:
    """All blocks of Python: those that import what only one kind of tests has (`openai`), or all others."""
    found = [(readme, block) for readme in READMES for block in blocks(readme, "python")]
    return [
        (readme, b)
        for readme, b in found
        if marked == next((m for m in ("openai", "torch") if f"{m} import" in b or f"import {m}" in b), "")
    ]


@pytest.fixture
def folder(
    tiny_path: Path, tiny_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_background: None
) -> Path:
    """Where the commands are run: an empty folder with a model."""
    (tmp_path / "model.gguf").symlink_to(tiny_path)
    write_model(tmp_path / "llama.gguf", blocks=32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("webbrowser.open", lambda _address: True)
    monkeypatch.setattr(server_run, "serve_forever", serve_until_ready)
    return tmp_path


def serve_until_ready(backend: Backend, settings: ServerSettings, ready: Callable[[str], None]) -> None:
    """Serves at a free port, and stops when the model is loaded."""

    def stop(address: str) -> None:
        ready(address)
        server.should_exit = True

    server = Server(backend, dataclasses.replace(settings, port=0), stop)
    server.serve_until_stopped()


def provide(folder: Path, words: list[str], pack: Pack) -> None:
    """Makes the files that a command reads, as small as it takes them, where no command before it has made them."""
    command, suite = words[0], words[words.index("--suite") + 1] if "--suite" in words else ""
    for option, word in zip(["", *words], words, strict=False):
        label, is_pair, name = word.partition("=")
        path = folder / (name if is_pair else word)
        if path.exists() or option in ("-o", "--output", "--report") or "/" in word or path.suffix == "":
            continue
        if path.suffix == ".jsonl":
            of = label if is_pair and label in SUITES_OF_ROWS else suite
            write_rows(path, of or ("pairs" if option == "--pairs" or command == "lesson" else "query"))
        elif path.suffix == SUFFIX and option in ("--pack", "-p", "inspect", "convert", "gate"):
            dataclasses.replace(pack, manifest=pack.manifest.model_copy(update={"name": path.stem})).save(path)
        elif option in ("convert", "gate", "inspect", "--condition"):
            write_vectors(path)
        elif option == "--states":
            write_states(path)


SUITES_OF_ROWS = ("truthfulqa", "exact-match", "refusal", "over-refusal", "drift")


def write_rows(path: Path, kind: str) -> None:
    source = "unseen_general" if "general" in path.stem or "safe" in path.stem else "unseen_ir"
    queries = (DATA / f"{source}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    if kind == "pairs":
        path.write_text(
            "".join((DATA / "refusal_pairs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:16])
        )
    elif kind == "truthfulqa":
        path.write_text((json.dumps(TRUTHFULQA) + "\n") * 2)
    elif kind == "exact-match":
        path.write_text('{"query": "What is 2 and 2?", "answer": "4"}\n' * 2)
    else:
        path.write_text("".join(queries[:12]))


def write_vectors(path: Path) -> None:
    if path.suffix == ".svec":
        write_svec(path, directions(range(1, 32)))
    elif path.suffix == ".safetensors":
        write_tensors(path, mose_state(d=64))
    else:
        write_control_vector(path, directions(range(1, 6)))


def write_states(path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    kinds = {"pairs": 1.0, "preferred": 2.0, "undesired": 0.0, "general": -1.0}
    write_npz(
        path, {f"{kind}.3": (at + rng.standard_normal((24, 64))).astype(np.float32) for kind, at in kinds.items()}
    )


@pytest.mark.parametrize("readme", [r for r in READMES if commands(r)], ids=str)
def test_every_command_is_run(
    readme: Path, folder: Path, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for program, *words in commands(readme):
        if "=" in program:  # a variable for what follows
            continue
        if program == "curl":
            assert answered(words, folder)
            continue
        if program != "fs-local":
            assert program in OTHERS, f"{program} {' '.join(words)}: say in OTHERS what runs it"
            continue
        words = ["model.gguf" if word == "smollm2" else word for word in words]
        if words[0] in LOOKED_AT or ELSEWHERE & set(words):
            check_options(words)
            continue
        provide(folder, words, tiny_pack)
        if words[0] == "fit":
            quick = {**QUICK, **({} if "--method" in words else {"--residual": "0"})}
            words += [word for option in quick.items() if option[0] not in words for word in option]
        monkeypatch.setattr(sys, "argv", ["fs-local", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO("/bye\n"))
        assert exit_code() == 0, f"{' '.join(words)}: {capsys.readouterr().err}"


def answered(words: list[str], folder: Path) -> bool:
    """Whether a server answers what curl would send: it says of `-d` that it is a form."""
    with serving(open_backend("tiny", folder / "model.gguf", [])) as server:
        url, body = words[0].replace("http://127.0.0.1:8080", server.address), words[words.index("-d") + 1]
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = httpx.post(url, content=body, headers=kind, timeout=60)
        print(answer.text)
        return answer.is_success


def exit_code() -> int:
    """What the command line ends with."""
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def check_options(words: list[str]) -> None:
    """That there is such a command, and that it takes these words."""
    command: Any = get_command(cli.app)
    context = command.make_context("fs-local", list(words))
    name, found, rest = command.resolve_command(context, list(words))
    assert found.make_context(name, list(rest), parent=context)


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_commands_within_sentences_exist(readme: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / readme).read_text(encoding="utf-8"), flags=re.M | re.S)
    app: Any = get_command(cli.app)
    for code in re.findall(r"`fs-local ([a-z][^`]*)`", text):
        name, *rest = code.split()
        assert name in app.commands, code
        known = {option for p in app.commands[name].params for option in (*p.opts, *p.secondary_opts)}
        assert {word for word in rest if word.startswith("--")} <= known, code


@pytest.mark.parametrize(("readme", "block"), python_blocks(), ids=str)
def test_python_is_run(readme: Path, block: str, folder: Path, tiny_pack: Pack) -> None:
    files = [
        node.value
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for name in files:
        if name.endswith((SUFFIX, ".jsonl")):
            provide(folder, ["--pairs" if name == "pairs.jsonl" else "-p", name], tiny_pack)
    exec(compile(block, str(readme), "exec"), {})


@pytest.mark.clients
@pytest.mark.parametrize(("readme", "block"), python_blocks("openai"), ids=str)
def test_clients_are_run(readme: Path, block: str, folder: Path, tiny_pack: Pack) -> None:
    provide(folder, ["-p", "refusal.fspack"], tiny_pack)
    with serving(open_backend("smollm2", folder / "model.gguf", [folder / "refusal.fspack"])) as server:
        exec(block.replace("http://127.0.0.1:8080", server.address), {})


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_links_lead_somewhere(readme: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / readme).read_text(encoding="utf-8")):
        assert link.startswith("http") or (ROOT / readme.parent / link).exists(), link


def test_the_first_page_is_short() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") <= 150


def test_what_sets_up_is_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (line,) = [line for block in blocks(Path("README.md"), "bash") for line in block.splitlines() if "pytest" in line]
    assert line.split("   ")[0].strip() in ci
