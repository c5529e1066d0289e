"""The guides run from top to bottom as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from pyg_ckd.cli import main
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.datasets.conversion import READERS
from pyg_ckd.nn import VBPR
from pyg_ckd.training import teachers as teachers_module
from tests.balance.test_nothing_to_act_on import STEERING

FOLDER = Path(__file__).parent.parent / "docs" / "guides"
PAGES = sorted(path.name for path in FOLDER.glob("*.md"))


def text(page: str) -> str:
    return (FOLDER / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and content of every block of code."""
    return re.findall(r"```(\w+)\n(.*?)```", text(page), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_a_guide_runs_block_by_block(
    page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(teachers_module, "get_home_dir", lambda: str(tmp_path / "home"))
    space: dict[str, object] = {"__name__": "guide"}  # Blocks go on from those before them, as a reader does.
    for language, content in blocks(page):
        if language == "python":
            exec(content, space)
        elif language != "text":  # What is printed, or what would install something.
            for line in content.splitlines():
                program, *arguments = shlex.split(line)
                assert (language, program) == ("sh", "pyg-ckd")
                assert main(arguments) == 0, capsys.readouterr().err


def test_each_of_the_three_ways_in_takes_ten_lines() -> None:
    ways = [content for language, content in blocks("bring_your_own_data.md") if language == "python"][:3]
    for content in ways:
        assert len([line for line in content.splitlines() if line and "import" not in line]) <= 10


def test_the_table_of_readers_names_functions_that_there_are() -> None:
    named = re.findall(r"`(read_\w+)`", text("bring_your_own_data.md"))
    assert set(named) == {reader.__name__ for reader in READERS.values()}


def test_the_table_of_refusals_names_the_strategies_that_refuse_a_backbone() -> None:
    rows = {row.split("|")[1].strip(): row for row in text("strategies.md").splitlines() if row.startswith("| `")}
    assert set(re.findall(r"`([\w-]+)`", rows["`FREEDOM`"])[1:]) == STEERING | {"udi"}
    assert set(re.findall(r"`([\w-]+)`", rows["`LATTICE`, `MICRO`"])[2:]) == {"reconboost", "udi"}


def test_the_strategy_of_the_guide_compares_modalities_without_the_ids(make_data) -> None:
    (content,) = (content for _, content in blocks("strategies.md") if "class HelpTheWeak" in content)
    space: dict[str, object] = {"__name__": "guide"}
    exec(content.split("\ndata = ")[0], space)
    data = make_data()
    features, graph = unpack(data)
    user, item = data[RATES].edge_index
    nothing = torch.zeros(0, dtype=torch.int64)
    batch = TripletBatch(user, item, (item + 1) % data["item"].num_nodes, nothing, nothing, nothing)
    found = []
    for scale in (0.0, 5.0):
        torch.manual_seed(0)
        model = VBPR.from_data(data, embedding_dim=4)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in ("user_embedding", "item_embedding", "item_bias"):
                    p.mul_(scale)
        objective = space["HelpTheWeak"](model)  # type: ignore[operator]
        objective.loss(features, graph, batch)
        found.append(objective.right - 1)
    assert found[0].tolist() == pytest.approx(found[1].tolist(), abs=1e-6)
    assert found[0][0] != found[0][1]
