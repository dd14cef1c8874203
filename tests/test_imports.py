"""The rules of who may import whom, and what may be loaded by it."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "transforms": {"transforms"},
    "pipeline": {"pipeline", "transforms"},
    "reader": {"reader", "transforms"},
}
COMMAND_LINE = "predecode.pipeline.cli"
"""The only module that may import the reader too, and only inside a function."""

LINES_AT_MOST = 400


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("predecode", *parts)).removesuffix(".__init__")


MODULES = {module_name(path): path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))}


def imported(path: Path, *, also_in_functions: bool) -> Iterator[str]:
    """Names of the predecode modules that a file imports."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("predecode."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("predecode"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)
        elif also_in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_towards_transforms(name: str) -> None:
    found = {other.split(".")[1] for other in imported(MODULES[name], also_in_functions=name != COMMAND_LINE)}
    assert found <= MAY_IMPORT[name.split(".")[1]]


def test_no_import_cycles() -> None:
    graph = {name: set(imported(path, also_in_functions=False)) - {name} for name, path in MODULES.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_short(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= LINES_AT_MOST


@pytest.mark.parametrize(
    ("folders", "forbidden"),
    [
        (("reader",), ("apache_beam", "tensorstore", "torchcodec")),
        (("pipeline", "transforms"), ("torch", "torchcodec")),
    ],
)
def test_importing_loads_nothing_heavy(folders: tuple[str, ...], forbidden: tuple[str, ...]) -> None:
    names = [name for name in MODULES if name.split(".")[1] in folders and not name.endswith(".__main__")]
    assert_loads_none_of(names, forbidden)


def test_a_job_loads_tensorstore_only_for_its_sources() -> None:
    assert_loads_none_of(["predecode.pipeline.job"], ("tensorstore",))


def assert_loads_none_of(names: Sequence[str], forbidden: Sequence[str]) -> None:
    code = f"import sys, {', '.join(names)}; print(*(name for name in {forbidden} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()
