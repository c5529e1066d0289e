"""The example of planted truth makes its runs once, and its table says what was planted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from examples import planted
from pyg_ckd.files import read_json


def records(*views: float, joint: tuple[float, ...] = ()) -> list[dict]:
    values = joint or views
    return [
        {"views": {"visual": 0.5, "textual": view}, "joint": value, "seconds": 1.0}
        for view, value in zip(views, values, strict=True)
    ]


def test_the_table_tells_how_much_of_the_gap_is_closed_and_in_how_many_catalogues() -> None:
    found = {
        planted.TEACHER: records(0.5, 0.6),
        "plain": records(0.3, 0.4, joint=(0.7, 0.8)),
        "mla": records(0.35, 0.45, joint=(0.7, 0.8)),
        "ckd": records(0.5, 0.45, joint=(0.8, 0.9)),
    }
    lines = list(planted.table(found))
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in lines}
    assert cells["**ckd**"][2:4] == ["62%", "1/2"]
    assert cells["mla"][2:4] == ["25%", "0/2"]
    assert cells["**ckd**"][6] == "+13.3%"
    assert lines.index(next(x for x in lines if "ckd" in x)) < lines.index(next(x for x in lines if "mla" in x))
    assert len({line.count("|") for line in lines}) == 1


def test_runs_are_made_once_and_refused_with_other_settings(tmp_path, monkeypatch, capsys) -> None:
    small = {"num_users": 40, "num_items": 40, "num_interactions": 400}
    for values, changes in ((planted.CATALOGUE, small), (planted.TRAINER, {"max_epochs": 2, "extend": 1})):
        for name, value in changes.items():
            monkeypatch.setitem(values, name, value)
    asked = ["--contenders", "multitask:weight=0.5", "--seeds", "0", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["planted", *asked])
    planted.main()
    first = capsys.readouterr().out
    file = Path(tmp_path, "multitask-weight=0.5-test-1.json")
    assert read_json(file)["settings"]["options"] == {"l2": 0.03, "weight": 0.5}
    before = file.stat().st_mtime_ns
    planted.main()
    assert capsys.readouterr().out == first
    assert file.stat().st_mtime_ns == before
    monkeypatch.setitem(planted.TRAINER, "lr", 0.02)
    with pytest.raises(SystemExit):
        planted.main()
    assert "a run of other settings; choose another --out" in capsys.readouterr().err
