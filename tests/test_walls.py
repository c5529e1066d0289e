"""Which room of the package may import which: an arrow that is not drawn here is a mistake."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path

import pytest

import pyg_ckd

ROOT = Path(pyg_ckd.__file__).parent
GROUND = {
    *(
        "arguments",
        "capturing",
        "code",
        "devices",
        "display",
        "errors",
        "files",
        "launching",
        "locks",
        "memory",
        "options",
        "processes",
    ),
    *("versions", "wrappers"),
}
LOWER = {"scoring", "data"}
ARROWS: dict[str, set[str]] = {
    "scoring": set(),
    "data": {"scoring"},
    "datasets": LOWER,
    "nn": LOWER,
    "evaluation": LOWER,
    "balance": {*LOWER, "evaluation", "nn"},
    "training": {*LOWER, "evaluation", "balance", "nn"},
    "serving": {*LOWER, "evaluation", "training"},
    "study": {*LOWER, "evaluation", "balance", "nn", "training"},
    "report": {*LOWER, "study", "evaluation"},
    "cli": {*LOWER, "evaluation", "balance", "nn", "training", "datasets", "serving", "study", "report"},
}
NARROW = {
    ("balance", "nn"): {"nn.models.base", "nn.models.adapter", "nn.loss"},
    ("training", "nn"): {
        *("nn.models.adapter", "nn.models.base", "nn.models.discovery"),
        *("nn.build_graph", "nn.feature_part", "nn.subgraph", "nn.user_part"),
    },
    ("training", "balance"): {"balance.objective", "balance.progress", "balance.discovery"},
    ("report", "evaluation"): {"evaluation.statistics"},
    ("report", "study"): {"study.results", "study.findings", "study.formats", "study.text"},
}
"""Where a room may use only some files of another."""
TOP = {
    *(".ci", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile"),
    *("README.md", "benchmarks", "constraints.txt", "docs", "examples", "pyg_ckd", "pyproject.toml", "setup.cfg"),
    "tests",
}
"""What the repository has at its top."""
FILES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in FILES}


def imports_of(path: Path) -> set[str]:
    """Return the files of the package that a file imports, inside functions and for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: expected absolute imports"
            if (node.module or "").split(".")[0] == "pyg_ckd":
                module = (node.module or "").removeprefix("pyg_ckd").lstrip(".")
                for alias in node.names:
                    inner = f"{module}.{alias.name}".lstrip(".")
                    found.add(inner if inner in NAMES else module)
        elif isinstance(node, ast.Import):
            found |= {
                a.name.removeprefix("pyg_ckd").lstrip(".") for a in node.names if a.name.split(".")[0] == "pyg_ckd"
            }
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    room = name_of(path).split(".")[0]
    if room in ("", "__main__"):
        return  # The public surface gathers from all rooms.
    for module in imports_of(path):
        other = module.split(".")[0]
        if other in GROUND or other in ("", room):
            continue
        assert other in ARROWS.get(room, set()), f"{name_of(path)} imports {module}: {room} may not use {other}"
        if (room, other) in NARROW:
            assert module in NARROW[room, other], f"{name_of(path)} imports {module}, more than it may use of {other}"


def test_every_room_has_its_arrows() -> None:
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ARROWS)


def test_nothing_but_what_belongs_there_is_tracked_at_the_top() -> None:
    top = Path(__file__).parents[1]
    if shutil.which("git") is None or not (top / ".git").exists():
        pytest.skip("no checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=top, capture_output=True, text=True, check=True).stdout
    assert {name.split("/")[0] for name in listed.split("\0") if name} == TOP


def test_files_do_not_import_each_other_in_a_circle() -> None:
    edges = {name: {m for m in imports_of(path) if m in NAMES} for name, path in NAMES.items()}
    packages = {name for name, path in NAMES.items() if path.name == "__init__.py"}
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        state[name] = 1
        for other in sorted(edges[name] - packages):  # A package's __init__ gathers; it is no link of a circle.
            assert state.get(other) != 1, f"circle: {' -> '.join((*trail, name, other))}"
            if other not in state:
                visit(other, (*trail, name))
        state[name] = 2

    for name in sorted(NAMES.keys() - packages):
        if name not in state:
            visit(name, ())


def test_nothing_but_strategies_names_a_concrete_one() -> None:
    """Rooms other than ``balance`` know the seam; only defaults of options and the public surface name a strategy."""
    strategies = {"balance.ckd"}
    for name, path in NAMES.items():
        if name and not name.startswith("balance"):
            assert not imports_of(path) & strategies, name
