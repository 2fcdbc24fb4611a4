"""The walls of the house: who imports whom, what is packaged, what the README names."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
HEAVY = {"torch", "transformers", "peft", "trl", "safetensors", "sklearn", "accelerate"}
RUNTIME = sorted([*(ROOT / "sro_edge").glob("*.py"), *(ROOT / "sro_edge/formats").glob("*.py")])


def imports(file: Path, *, deferred: bool = True) -> Iterator[str]:
    """Modules that ``file`` imports; without ``deferred``, only those at import time."""
    tree = ast.parse(file.read_text("utf-8"))
    nodes = list(ast.walk(tree)) if deferred else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file} has a relative import"
            yield node.module


@pytest.mark.parametrize("file", RUNTIME, ids=lambda f: f.name)
def test_the_runtime_imports_no_training_export_or_cli(file: Path) -> None:
    walls = ("sro_edge.training", "sro_edge.export", "sro_edge.cli", "sro_edge.evaluation")
    for module in imports(file):
        assert not module.startswith(walls), f"{file.name} imports {module}"
        assert module.split(".")[0] not in HEAVY, f"{file.name} imports {module}"


@pytest.mark.parametrize("file", sorted((ROOT / "cli").glob("*.py")), ids=lambda f: f.name)
def test_commands_defer_heavy_imports(file: Path) -> None:
    for module in imports(file, deferred=False):
        top = module.split(".")[0]
        assert top not in HEAVY | {"onnxruntime", "llama_cpp", "onnx", "gguf"}, module


@pytest.mark.parametrize("room", ["training", "evaluation"])
def test_training_and_evaluation_do_not_import_cli_or_export(room: str) -> None:
    for file in (ROOT / "sro_edge" / room).glob("*.py"):
        assert not any(m.startswith(("sro_edge.cli", "sro_edge.export")) for m in imports(file))


def test_every_folder_with_code_is_packaged() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    found = {"sro_edge.cli", "sro_edge.export"}
    for file in (ROOT / "sro_edge").rglob("*.py"):
        found.add(".".join(file.parent.relative_to(ROOT).parts))
    assert listed == found


def test_readme_names_every_command() -> None:
    from sro_edge.cli import COMMANDS

    readme = (ROOT / "README.md").read_text("utf-8")
    for name in COMMANDS:
        assert f"sro-edge {name}" in readme, name


def test_version_is_one() -> None:
    import sro_edge

    assert PROJECT["project"]["version"] == sro_edge.__version__
    assert f"## {sro_edge.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
