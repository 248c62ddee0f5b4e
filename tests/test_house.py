"""The house: which module may import which, what stands at the top, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 400
AT_THE_TOP = {"LICENSE", "README.md", "cli.py", "converters", "fs_local", "pyproject.toml", "tests"}
LEFT_BEHIND = {"build", "fs_local.egg-info", "__pycache__"}  # by pip and Python, and not in the repository


def modules(root: Path) -> dict[str, Path]:
    """All modules of a tree by name."""
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if not any(part.startswith(".") or part in LEFT_BEHIND for part in parts):
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, names: set[str]) -> set[str]:
    """What a file imports anywhere in it, in functions and for type checkers too: modules of `names`, and others as they are written."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & names) | ({node.module} if inner - names else set())
    return found


@cache
def graph(root: Path) -> dict[str, set[str]]:
    """Every module of a tree, and what it imports."""
    found = modules(root)
    return {name: imports(path, set(found)) for name, path in found.items()}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """The modules of one circle of imports; none where there is none."""
    try:
        TopologicalSorter({name: found & set(arrows) - {name} for name, found in arrows.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def reached(arrows: dict[str, set[str]], package: str) -> set[str]:
    """All that the modules of a package import, by way of others too."""
    found: set[str] = set()
    ahead = [name for name in arrows if f"{name}.".startswith(f"{package}.")]
    while ahead:
        for name in arrows.get(ahead.pop(), set()) - found:
            found.add(name)
            ahead.append(name)
    return found


def test_no_imports_go_in_a_circle() -> None:
    assert circle(graph(ROOT)) == []


def test_a_circle_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("from b import x\n")
    (tmp_path / "b.py").write_text("import c\n")
    (tmp_path / "c.py").write_text("def late():\n    from a import y\n")
    assert set(circle(graph(tmp_path))) == {"a", "b", "c"}


@pytest.mark.parametrize("package", ["fs_local.method", "fs_local.pack"])
def test_mathematics_and_packs_know_no_llama_cpp(package: str) -> None:
    found = reached(graph(ROOT), package)
    assert "numpy" in found
    assert not [name for name in found if name.startswith(("llama_cpp", "fs_local.runtime", "fs_local.engine"))]


def test_the_server_asks_the_engine_alone() -> None:
    arrows = graph(ROOT)
    for name in arrows:
        if name.startswith("fs_local.server."):
            assert not [found for found in arrows[name] if found.startswith(("llama_cpp", "numpy"))], name
    code = "import sys, fs_local.server.app, fs_local.server.run; sys.exit('llama_cpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_only_the_runtime_and_a_comparison_touch_llama_cpp() -> None:
    arrows = graph(ROOT)
    touching = {name for name in arrows if any(found.startswith("llama_cpp") for found in arrows[name])}
    assert {name for name in touching if not name.startswith("tests.")} == {
        "fs_local.runtime.library",
        "fs_local.benchmark.peers",
    }


def test_nothing_below_the_command_line_imports_it() -> None:
    for name, found in graph(ROOT).items():
        if not name.startswith(("tests.", "fs_local.commands")) and name != "cli":
            assert not [other for other in found if other == "cli" or other.startswith("fs_local.commands")], name


def test_the_top_has_nothing_new() -> None:
    """Add to a folder rather than to the top; what stands there is what a newcomer sees first."""
    there = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - LEFT_BEHIND
    assert there == AT_THE_TOP


def test_no_file_is_too_long_to_read() -> None:
    """Split it by the reasons it has to change."""
    long = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in modules(ROOT).values()
    }
    assert {name: n for name, n in long.items() if n > MOST_LINES} == {}
