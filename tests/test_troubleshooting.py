"""The messages on the page about troubles are those that the library raises."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd import Objective, Trainer, evaluate
from pyg_ckd.cli import main
from pyg_ckd.data import build_data
from pyg_ckd.datasets import load, synthetic_multimodal
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.serving import Recommender
from pyg_ckd.training.model import save_model

PAGE = Path(__file__).parent.parent / "docs" / "guides" / "troubleshooting.md"
SHOWN = dict(re.findall(r"^## (.+)\n\n```text\n(.+)\n```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE))
ITEMS = ["B0", "B1", "B2", "B3"]


def shop(seed: int = 0) -> HeteroData:
    return synthetic_multimodal(num_users=60, num_items=40, num_interactions=600, seed=seed)


def built(users: list[str], items: list[str], broken: bool = False) -> None:
    visual = pd.DataFrame(np.eye(4), index=ITEMS)
    if broken:
        visual.iloc[1, 2] = np.nan
    build_data(pd.DataFrame({"user": users, "item": items}), {"visual": visual})


def read(folder: str, **columns: list) -> None:
    Path(folder).mkdir()
    pd.DataFrame(columns).to_csv(f"{folder}/interactions.csv", index=False)
    pd.DataFrame({"item": ITEMS}).to_csv(f"{folder}/items.csv", index=False)
    np.save(f"{folder}/visual.npy", np.eye(4))
    load(folder)


def of_other_data() -> None:
    save_model("model.pt", VBPR.from_data(shop()), shop())
    Recommender.load("model.pt", shop(seed=1))


def of_other_settings() -> None:
    data = shop()
    for lr in (0.001, 0.1):
        Trainer(max_epochs=1, lr=lr, checkpoint_dir="run", progress=False).fit(VBPR.from_data(data), data)


def cut() -> None:
    data = shop().subgraph({"user": torch.arange(30), "item": torch.arange(20)})
    evaluate(VBPR.from_data(data), data, k=5)


def without_test() -> None:
    data = build_data(torch.tensor([[0, 1], [0, 1]]), {"visual": torch.eye(2)})
    evaluate(VBPR.from_data(data), data, split="test", k=1)


def diverged() -> None:
    Trainer(max_epochs=1, progress=False).fit(Objective(VBPR.from_data(shop()), l2=3e38), shop())


RAISED: dict[str, Callable[[], object]] = {
    "Items that have no row in the features": lambda: built(["u1", "u1", "u2", "u2"], ["B0", "B1", "B2", "B7"]),
    "Duplicate interactions": lambda: built(["u1", "u1", "u2", "u1"], ["B0", "B1", "B2", "B0"]),
    "Features that are not finite": lambda: built(["u1", "u1", "u2"], ["B0", "B1", "B2"], broken=True),
    "A column that is missing": lambda: read("shop", user=["u1"], product=["B0"]),
    "A model of other data": of_other_data,
    "A run of other settings": of_other_settings,
    "A graph that was cut": cut,
    "A part without interactions": without_test,
    "Training diverged": diverged,
}
WARNED = {"Ratings that are not used": lambda: read("rated", user=[1, 1, 2, 2], item=ITEMS, rating=[5, 1, 4, 2])}
PRINTED = {"An option that does not exist": ["train", "--data", "synthetic", "--trainer.max_epoch", "3", "--out", "x"]}


def test_the_page_shows_eleven_messages_and_all_are_tried_here() -> None:
    assert len(SHOWN) == 11
    assert SHOWN.keys() == {*RAISED, *WARNED, *PRINTED}


@pytest.mark.parametrize("title", RAISED)
def test_a_message_is_raised_as_it_is_shown(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        RAISED[title]()
    assert str(caught.value) == SHOWN[title]


@pytest.mark.parametrize("title", WARNED)
def test_a_warning_is_given_as_it_is_shown(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="is not used") as caught:
        WARNED[title]()
    assert SHOWN[title] in [str(warning.message) for warning in caught]


@pytest.mark.parametrize("title", PRINTED)
def test_a_line_is_printed_as_it_is_shown(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(PRINTED[title]) == 2
    assert capsys.readouterr().err == f"pyg-ckd: error: {SHOWN[title]}\n"
