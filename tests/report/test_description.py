"""A described data set on the terminal and as a page, also of data that the builder refuses."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from pyg_ckd.cli import main
from pyg_ckd.data import describe_data
from pyg_ckd.datasets import load, synthetic_multimodal, write_npz
from pyg_ckd.evaluation import write_description
from pyg_ckd.report.description import _number
from pyg_ckd.report.plots import degree_distribution


@pytest.fixture
def flawed(tmp_path):
    """Write a folder with duplicates, leakage, features that are not finite, and an awkward name."""
    folder = tmp_path / "a <b> & c"
    folder.mkdir()
    users, items = np.divmod(np.arange(0, 600, 2), 30)
    frame = pd.DataFrame(
        {"user": users, "item": items, "split": np.resize(["train", "train", "val", "test"], users.size)}
    )
    pd.concat([frame, frame[:5], frame[:2].assign(split="test")]).to_csv(folder / "interactions.csv", index=False)
    x = np.random.default_rng(0).normal(size=(30, 4))
    np.save(folder / "text.npy", x)
    x[3] = np.nan
    np.save(folder / "visual.npy", 1000 * x)
    return folder


class Page(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.loaded, self.text = [], ""
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("out", ["page.html", "folder"])
def test_flaws_for_which_training_refuses_the_data_are_shown(flawed, out, tmp_path, capsys):
    assert main(["data", "describe", str(flawed), "--out", str(tmp_path / out)]) == 0
    shown = capsys.readouterr().out
    file = tmp_path / out if out.endswith(".html") else tmp_path / out / "description.html"
    assert shown.rstrip().endswith(str(file))
    page = Page(file.read_text(encoding="utf-8"))
    assert page.loaded
    assert all(source.startswith("data:image/png;base64,") for source in page.loaded)
    for text in (" ".join(shown.split()), page.text):
        for line in (
            "train repeats",
            "leakage: test shares 2 of its",
            "not finite: visual: NaN or infinite in 1 of 30",
        ):
            assert line in text, line
    assert "The data set" in page.text
    assert "a <b> & c" in page.text
    assert main(["train", "--data", str(flawed), "--out", str(tmp_path / "run"), "--backbone", "VBPR"]) == 2


def test_features_near_the_limit_of_their_type_are_described(tmp_path, capsys):
    data = synthetic_multimodal(60, 40, 600, transform="none")
    large, few = data.modalities[:2]
    data["item"][large] = 1e38 * data["item"][large].sign()
    data["item"][few][0] = 3e38
    assert write_description(tmp_path / "x.html", describe_data(data)).exists()
    assert _number(float("nan")) == "–"
    assert [_number(float("inf")), _number(1e4)] == ["inf", "10,000"]


def test_page_and_terminal_show_the_same_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    data = synthetic_multimodal(60, 40, 600, transform="none")
    write_npz(data, tmp_path / "data.npz")
    assert main(["data", "describe", str(tmp_path / "data.npz"), "--out", str(tmp_path / "x.html")]) == 0
    shown = capsys.readouterr().out
    cells = re.findall(r"<td[^>]*>([^<]+)<", (tmp_path / "x.html").read_text(encoding="utf-8"))
    assert len(cells) > 60
    assert [cell for cell in map(unescape, cells) if cell not in shown] == []


def test_the_word_synthetic_and_options_of_the_reader_are_accepted(capsys):
    options = "{num_users: 60, num_items: 40, num_interactions: 600}"
    assert main(["data", "describe", "synthetic", "--sample", "20", "--k", "2", "--data_options", options]) == 0
    assert "synthetic (seed 0)" in capsys.readouterr().out
    assert main(["data", "describe", "synthetic", "--sample", "0"]) == 2
    assert "sample" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    options = "{num_users: 60, num_items: 40, num_interactions: 600}"
    args = ["data", "describe", "synthetic", "--data_options", options, "--out", str(tmp_path / "file" / "x.html")]
    assert main(args) == 2
    assert re.fullmatch(r"pyg-ckd: error: out .*: cannot be written .*\n", capsys.readouterr().err)


def test_a_clean_data_set_says_so(tmp_path):
    data = synthetic_multimodal(60, 40, 900, transform="none")
    description = describe_data(data)
    assert not description.warnings
    assert "Nothing about this data set" in write_description(tmp_path, description).read_text(encoding="utf-8")


def test_degrees_are_drawn_as_shares_of_at_least_so_many():
    figure = degree_distribution({"user": np.array([1, 1, 4]), "item": np.array([0, 2, 2, 2])})
    lines = [ax.lines[0].get_xydata().tolist() for ax in figure.axes]
    assert lines == [[[1, 1], [4, pytest.approx(1 / 3)]], [[2, 0.75]]]
    assert {(ax.get_xscale(), ax.get_yscale()) for ax in figure.axes} == {("log", "log")}


def test_one_modality_and_no_held_out_part_are_described(tmp_path):
    pd.DataFrame({"user": [0, 0, 1], "item": [0, 1, 1], "split": "train"}).to_csv(tmp_path / "interactions.csv")
    np.save(tmp_path / "visual.npy", np.eye(2))
    description = describe_data(load(tmp_path, "none", strict=False))
    text = write_description(tmp_path / "x.html", description).read_text(encoding="utf-8")
    assert "Agreement" not in text
    assert "splits:" in text


def test_features_in_the_rows_of_other_items_are_found(tmp_path, capsys):
    data = synthetic_multimodal(2000, 200, 40000, transform="none")
    with pytest.warns(UserWarning, match="written without"):
        write_npz(data, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    arrays["visual"] = np.random.default_rng(0).permutation(arrays["visual"])
    np.savez(tmp_path / "b.npz", **arrays)
    assert main(["data", "describe", str(tmp_path / "a.npz")]) == 0
    said = capsys.readouterr().out
    assert "Ranking by one modality alone" in said
    assert "silent features" not in said
    assert main(["data", "describe", str(tmp_path / "b.npz"), "--out", str(tmp_path / "b.html")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "silent features: visual: rank no better than shuffled ones" in said
    assert "check that row i belongs to item i" in said
    page = (tmp_path / "b.html").read_text(encoding="utf-8")
    assert "visual: rank no better than shuffled ones" in page
    assert "textual: rank no better than shuffled ones" not in page
