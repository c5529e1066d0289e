"""Bars in notebooks, and results as tables that a screen reader can follow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

from pyg_ckd import Trainer, estimate_effects, evaluate
from pyg_ckd.datasets.progress import progress_bar
from pyg_ckd.display import Best, html_table, progress_console
from pyg_ckd.evaluation.ranking import Metrics
from pyg_ckd.nn import VBPR
from pyg_ckd.study import Study, StudySettings, render_console_table


class Table(HTMLParser):
    """What a table says: its caption, the titles of columns and rows, and the cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.caption, self.bold, self.rows, self.scopes, self.inside = "", [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self.scopes.append(dict(attrs).get("scope") or tag)

    def handle_data(self, data: str) -> None:
        if self.inside == "caption":
            self.caption += data
        elif self.inside in ("th", "td", "strong"):
            self.rows[-1][-1] += data
            self.bold += [data] if self.inside == "strong" else []


def check(table: Table) -> None:
    """Every table has a caption, a title for every column and one for every row."""
    width = len(table.rows[0])
    assert table.caption
    assert all(len(row) == width for row in table.rows)
    assert table.scopes[:width] == ["col"] * width
    assert table.scopes[width:] == (["row"] + ["td"] * (width - 1)) * (len(table.rows) - 1)


def test_a_table_escapes_what_it_is_given() -> None:
    text = html_table("<b>", ["a & b", "c"], [["<script>", Best("1 < 2")], ["x", "y"]], ["n > 1"])
    assert "<script>" not in text
    assert "<b>" not in text
    assert "n &gt; 1" in text
    table = Table(text)
    check(table)
    assert table.rows == [["a & b", "c"], ["<script>", "1 < 2"], ["x", "y"]]
    assert table.bold == ["1 < 2"]


def test_metrics_and_effects_are_tables_in_a_notebook(make_data) -> None:
    data = make_data()
    torch.manual_seed(0)
    model = VBPR.from_data(data, embedding_dim=4)
    metrics = evaluate(model, data, k=3)
    table = Table(metrics._repr_html_())
    check(table)
    assert table.rows[1:] == [[name, f"{value:.4f}"] for name, value in metrics.items()]
    assert Table(Metrics()._repr_html_()).rows == [["metric", "value"]]
    report = estimate_effects(model, data, k=3, num_bootstrap=5)
    table = Table(report._repr_html_())
    check(table)
    assert [row[0] for row in table.rows] == ["modality", *report.table.index]
    assert table.rows[0][1:] == list(report.table.columns)
    assert table.rows[1][1] == f"{report.table.iloc[0]['effect']:.4f}"
    assert f"{report.recall:.4f}" in table.caption


def test_a_study_is_its_table_in_a_notebook(make_data, tmp_path) -> None:
    data = make_data()
    trainer = {"max_epochs": 1, "monitor": "recall@3", "progress": False, "device": "cpu"}
    settings = StudySettings(model={"embedding_dim": 4}, trainer=trainer, k=(3,))
    study = Study(data, VBPR, tmp_path / "study", settings, contenders=["plain"], baselines=["popularity"])
    before = Table(study._repr_html_())
    check(before)
    assert before.rows[1][0] == "plain"
    assert "nothing has been run" in before.caption
    results = study.run()
    table = Table(results._repr_html_())
    check(table)
    assert {"Popularity", "plain"} <= {row[0].split("\n")[0] for row in table.rows}
    console = render_console_table(results)
    assert table.rows[0] == [str(column.header) for column in console.columns]
    assert [row[1] for row in table.rows[1:]] == [str(cell) for cell in console.columns[1]._cells]
    assert study._repr_html_() == results._repr_html_()
    assert isinstance(results, dict)


@contextmanager
def notebook(monkeypatch: pytest.MonkeyPatch, widgets: bool = True) -> Iterator[list[Any]]:
    """A machine of which rich believes that it is a notebook, and what is displayed there."""
    shown: list[Any] = []

    class Output:
        def __enter__(self) -> Output:
            return self

        def __exit__(self, *args: object) -> None: ...

        def clear_output(self, wait: bool = False) -> None: ...

        def close(self) -> None: ...

    ipython, display, ipywidgets = ModuleType("IPython"), ModuleType("IPython.display"), ModuleType("ipywidgets")
    display.display = lambda *things, **options: shown.extend(things)  # type: ignore[attr-defined]
    ipywidgets.Output = Output  # type: ignore[attr-defined]
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("pyg_ckd.display.find_spec", lambda name: object() if widgets else None)
    for module in (ipython, display, ipywidgets):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield shown


def test_a_training_shows_its_bar_in_a_notebook(monkeypatch, make_data) -> None:
    data = make_data()
    with notebook(monkeypatch) as shown:
        Trainer(max_epochs=1, monitor="recall@3", progress=False).fit(VBPR.from_data(data, embedding_dim=4), data)
        assert not shown
        Trainer(max_epochs=1, monitor="recall@3").fit(VBPR.from_data(data, embedding_dim=4), data)
        assert any("VBPR" in str(getattr(thing, "text", "")) for thing in shown)


def test_downloads_show_their_bar_in_a_notebook(monkeypatch) -> None:
    with notebook(monkeypatch) as shown, progress_bar("reading", 3) as advance:
        advance(1)
    assert any("reading" in str(getattr(thing, "text", "")) for thing in shown)


def test_a_notebook_without_widgets_is_told_what_is_missing(monkeypatch) -> None:
    warns = pytest.warns(UserWarning, match="pip install ipywidgets")
    with notebook(monkeypatch, widgets=False) as shown, warns, progress_bar("reading", 3) as advance:
        advance(1)
    assert not shown


def test_bars_are_shown_on_terminals_alone(monkeypatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: False)
    monkeypatch.setattr(Console, "is_terminal", True)
    assert progress_console() is not None
    monkeypatch.setattr(Console, "is_terminal", False)
    assert progress_console() is None
