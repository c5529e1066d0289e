"""What the pages about the backbones say is what the code has, and what they show runs."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.cli import DESCRIPTIONS, backbones, fusion_of
from pyg_ckd.data.inputs import EdgeType, unpack
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.nn import Backbone
from pyg_ckd.nn.structure import LEARNING

FOLDER = Path(__file__).parent.parent / "docs" / "backbones"
PAGES = sorted(path.name for path in FOLDER.glob("*.md"))
MODELS = [name for name in PAGES if name != "README.md"]
SECTIONS = (
    "Equation",
    "Place",
    "What a view means",
    "Own losses and penalty",
    "Cost",
    "Differences from the published code",
    "Options",
    "Source",
)
SIZES = {"self", "num_users", "num_items", "feature_dims"}


def text(page: str) -> str:
    return (FOLDER / page).read_text(encoding="utf-8")


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text(page), flags=re.DOTALL)


def classes(page: str) -> list[str]:
    """Return the names in the title of a page."""
    return text(page).splitlines()[0].removeprefix("# ").split(" and ")


def table(page: str, first: str) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table whose first column has a name."""
    found = re.search(rf"^\| {first} \|(.+\n)+", text(page), flags=re.MULTILINE)
    assert found is not None
    rows = re.findall(r"^\|(.*)\|$", found[0], flags=re.MULTILINE)
    head, _, *body = ([cell.strip() for cell in row.split("|")] for row in rows)
    return head, body


@pytest.fixture(scope="module", name="data")
def _data() -> HeteroData:
    return synthetic_multimodal(num_users=60, num_items=40, num_interactions=600)


def test_every_backbone_has_a_page_and_every_page_backbones() -> None:
    named = [name for page in MODELS for name in classes(page)]
    assert sorted(named) == sorted(backbones())


@pytest.mark.parametrize("page", MODELS)
def test_a_page_has_all_sections_and_stays_short(page: str) -> None:
    found = re.findall(r"^\*\*(.+?)\.\*\*", text(page), flags=re.MULTILINE)
    assert tuple(found) == SECTIONS
    assert 30 <= len(text(page).splitlines()) <= 70


@pytest.mark.parametrize("page", MODELS)
def test_options_are_those_of_the_constructor_with_their_defaults(page: str) -> None:
    head, rows = table(page, "option")
    for column, title in enumerate(head):
        if not title.startswith("default"):
            continue
        name = title.removeprefix("default, ").strip("`") if "," in title else classes(page)[0]
        written = {row[0].strip("`"): ast.literal_eval(row[column].strip("`")) for row in rows if row[column] != "–"}
        parameters = inspect.signature(backbones()[name].__init__).parameters
        assert written == {key: value.default for key, value in parameters.items() if key not in SIZES}
    assert sum(title.startswith("default") for title in head) == len(classes(page))


@pytest.mark.parametrize("page", MODELS)
def test_a_page_names_the_link_of_the_docstring(page: str) -> None:
    documented = re.findall(r"<(https://[^>]+)>`_", backbones()[classes(page)[0]].__doc__ or "")
    source = text(page).rpartition("**Source.**")[2]
    assert re.findall(r"<(https://[^>]+)>", source) == documented


@pytest.mark.parametrize(("page", "number"), [(page, n) for page in PAGES for n in range(len(snippets(page)))])
def test_a_snippet_trains_for_one_epoch(
    page: str, number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    snippet = snippets(page)[number]
    assert "max_epochs=1)" in snippet.replace(", track_views=False", "")
    assert any(f"{name}.from_data(" in snippet for name in classes(page))
    exec(snippet, {})
    assert capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_every_page_shows_a_snippet() -> None:
    assert [page for page in MODELS if len(snippets(page)) != 1] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_a_page_names_exist(page: str) -> None:
    assert set(re.findall(r"pyg-ckd (\w+)", text(page))) <= DESCRIPTIONS.keys()


def test_the_index_links_every_backbone_to_its_page() -> None:
    cells = [re.fullmatch(r"\[`(\w+)`\]\((\w+\.md)\)", row[0]) for row in table("README.md", "backbone")[1]]
    rows = [match.groups() for match in cells if match]
    assert sorted(rows) == sorted((name, page) for page in MODELS for name in classes(page))


@pytest.mark.parametrize("row", table("README.md", "backbone")[1], ids=lambda row: row[0].split("`")[1])
def test_the_index_says_of_a_backbone_what_it_does(row: list[str], data: HeteroData) -> None:
    cls = backbones()[row[0].split("`")[1]]
    model = cls.from_data(data)
    features, edges = unpack(data)
    graphs = model.prepare(features, edges)
    kinds = {f"{source}-{target}" for source, _, target in graphs if source == target}
    assert row[1] == fusion_of(cls)
    assert set(re.findall(r"user-user|item-item", row[2])) == kinds
    assert ("learned" in row[2]) == (LEARNING in graphs)
    written = set(re.findall(r"`([\w/]+)`", row[3])) | ({"bpr"} if "no BPR" not in row[3] else set())
    assert written == losses(model, features, graphs)
    assert ("no ids" in row[4]) == (not hasattr(model, "user_embedding"))


def losses(model: Backbone, features: dict[str, Tensor], graphs: dict[EdgeType, Any]) -> set[str]:
    """Return the names of a backbone's losses, with ``m`` for the modality."""
    some, none = torch.arange(8), torch.zeros(0, dtype=torch.int64)
    batch = TripletBatch(some, some, some + 8, none, none, none)
    (out,) = model.outputs(features, graphs, [None])
    names = model.losses(out, batch, features, frozenset(model.modalities))
    return {re.sub(rf"/({'|'.join(model.modalities)})$", "/m", name) for name in names}
