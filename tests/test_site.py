"""The documentation names everything that is public, and its links lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import pyg_ckd
from pyg_ckd.balance import Objective, strategies
from pyg_ckd.cli import DESCRIPTIONS
from pyg_ckd.nn import backbones

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
REFERENCE = {path.stem: path.read_text(encoding="utf-8") for path in sorted((DOCS / "reference").glob("*.rst"))}
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "tests" / "golden").rglob("*.md")]
    if "_build" not in path.parts
)
NOT_FOR_READERS = {"index.md", "contributing.md"}
"""What only the site has."""


def modules() -> dict[str, Any]:
    """Return all modules of the package that say what is public."""
    names = [info.name for info in pkgutil.walk_packages(pyg_ckd.__path__, "pyg_ckd.")]
    found = {name: importlib.import_module(name) for name in ["pyg_ckd", *names] if not name.endswith("__main__")}
    return {name: module for name, module in found.items() if hasattr(module, "__all__")}


def thing(name: str) -> Any:
    """Return the object of a dotted name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@lru_cache
def described() -> list[str]:
    """Return all names that have an entry in the reference."""
    found = []
    for text in REFERENCE.values():
        current = ""
        for line in text.splitlines():
            if match := re.fullmatch(r"\.\. currentmodule:: ([\w.]+)", line):
                current = f"{match[1]}."
            elif match := re.fullmatch(r"\.\. py:data:: ([\w.]+)", line) or re.fullmatch(r"   ~(pyg_ckd[\w.]+)", line):
                found.append(match[1] if match[1].startswith("pyg_ckd.") else current + match[1])
            elif current and (match := re.fullmatch(r"   ([\w.]+)", line)):
                found.append(current + match[1])
    return found


def others() -> dict[str, str]:
    """Return further addresses of names, and where they are described."""
    return dict(re.findall(r"^\* ``([\w.]+)``: :obj:`([\w.]+)`$", "\n".join(REFERENCE.values()), flags=re.MULTILINE))


def test_every_public_name_is_in_the_reference() -> None:
    public = {f"{name}.{attribute}" for name, module in modules().items() for attribute in module.__all__}
    assert sorted(public - {*described(), *others()}) == []


def test_strategies_and_backbones_that_are_found_by_themselves_are_in_the_reference() -> None:
    found = {id(thing(name)) for name in described()}
    classes = [cls for cls in {**strategies(), **backbones()}.values() if cls.__module__.startswith("pyg_ckd.")]
    assert len(classes) > 40
    assert [cls.__name__ for cls in classes if cls is not Objective and id(cls) not in found] == []


def test_an_entry_is_there_once_and_names_something_with_a_docstring() -> None:
    assert len(described()) == len(set(described()))
    assert [name for name in described() if not thing(name).__doc__] == []


def test_a_further_address_is_the_same_object() -> None:
    assert others()
    assert [name for name, home in others().items() if thing(name) is not thing(home)] == []
    assert set(others().values()) <= set(described())


def test_the_reference_lists_every_command_as_the_command_line_describes_it() -> None:
    rows = re.findall(r"\* - ``pyg-ckd (\w+)``\n     - (.+)", REFERENCE["cli"])
    assert dict(rows) == DESCRIPTIONS


def test_every_page_of_the_reference_is_in_its_index() -> None:
    listed = re.findall(r"^   (\w+)$", REFERENCE["index"], flags=re.MULTILINE)
    assert sorted(listed) == sorted(REFERENCE.keys() - {"index"})


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


@lru_cache
def anchors(path: Path) -> set[str]:
    """Return the anchors of a page, as GitHub and the site make them."""
    found: dict[str, int] = {}
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for title in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {slug if n == 0 else f"{slug}-{n}" for slug, last in found.items() for n in range(last + 1)}


def links(path: Path) -> list[tuple[Path, str, str]]:
    """Return target, anchor and text of every link of a page to something in the repository."""
    text = without_code(path.read_text(encoding="utf-8"))
    found = [link for link in re.findall(r"\]\(<?([^)>\s]+)>?\)", text) if not re.match(r"\w+:", link)]
    parts = [(link, *link.partition("#")[::2]) for link in found]
    return [(path.parent / file if file else path, anchor, link) for link, file, anchor in parts]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_anchors_that_there_are(path: Path) -> None:
    for target, anchor, link in links(path):
        assert target.exists(), link
        assert not target.is_dir() or path.parent == ROOT, f"{link}: the site shows no folders"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.resolve()), link


def test_every_page_can_be_reached_from_the_index() -> None:
    start = (DOCS / "README.md").resolve()
    seen, todo = {start}, [start]
    while todo:
        for target, _, _ in links(todo.pop()):
            target = target.resolve()
            if target.suffix == ".md" and target.exists() and target not in seen:
                seen.add(target)
                todo.append(target)
    left = [path for path in PAGES if DOCS in path.parents and path.resolve() not in seen]
    assert [path.relative_to(DOCS).as_posix() for path in left if path.name not in NOT_FOR_READERS] == []


def test_every_page_has_one_title() -> None:
    for path in PAGES:
        text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        titles = re.findall(r"^# .+$", text, flags=re.MULTILINE)
        assert len(titles) == (path.name not in NOT_FOR_READERS), path


@pytest.fixture(scope="module", name="formula")
def _formula() -> Any:
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("docs_conf", DOCS / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    return conf.formula


def test_a_formula_of_several_lines_is_one_table(formula: Any) -> None:
    tree = ElementTree.fromstring(formula("a &= b_i\n\nc &= \\Big( d \\Big)", block=True))
    name = "{http://www.w3.org/1998/Math/MathML}"
    (table,) = tree.iter(f"{name}mtable")
    assert [len(row) for row in table] == [2, 2]
    assert [node.text for node in tree.iter(f"{name}mi")] == ["a", "b", "i", "c", "d"]


def test_an_index_stands_beside_a_letter_with_an_accent_not_below_it(formula: Any) -> None:
    tree = ElementTree.fromstring(formula(r"\bar{\mathbf{E}}_{id}", block=False))
    name = "{http://www.w3.org/1998/Math/MathML}"
    (index,) = tree.iter(f"{name}msub")
    assert "".join(index[-1].itertext()).split() == ["i", "d"]
    assert list(tree.iter(f"{name}munder")) == list(tree.iter(f"{name}munderover")) == []


def test_a_formula_that_cannot_be_shown_stops_the_build(formula: Any) -> None:
    from sphinx.errors import ExtensionError

    with pytest.raises(ExtensionError, match="nosuchcommand"):
        formula(r"\nosuchcommand{a}", block=False)
