"""The search for knobs makes its runs once, on validation parts, and recommends what is ahead everywhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from examples import knobs
from pyg_ckd.balance.discovery import strategies
from pyg_ckd.files import read_json
from pyg_ckd.nn import VBPR


def test_a_setting_is_recommended_that_is_ahead_in_every_column_and_in_the_mean() -> None:
    one = {"a": {"0": 1.0, "1": 1.0}, "a:x=1": {"0": 1.1, "1": 0.98}, "a:x=2": {"0": 1.2}, "b": {"0": 1.0}}
    other = {"a": {"0": 2.0}, "a:x=1": {"0": 2.02}, "a:x=2": {"0": 1.99}, "b": {"0": 1.0}}
    assert knobs.chosen({"one": one, "other": other}) == {"a": "a:x=1"}
    assert knobs.chosen({"one": one}) == {"a": "a:x=2"}
    assert knobs.chosen({"one": {"a": {"0": 1.0}, "a:x=1": {"0": 1.009}}}) == {}
    assert knobs.chosen({"one": one, "other": {"a": other["a"], "a:x=2": {"0": 2.5}}}) == {"a": "a:x=2"}
    lines = list(knobs.table({"one": one, "other": other}))
    assert len({line.count("|") for line in lines}) == 1
    assert "| a:x=1 | +4.0 % (2) | +1.0 % (1) | +2.5 % | yes |" in lines


def test_settings_are_halfway_to_the_ends_of_every_knob_whatever_is_recommended(monkeypatch) -> None:
    expected = ["elimrec", "elimrec:weight=0.1"]  # 1.7 is too close to the default, 1.
    assert list(knobs.variants("elimrec", VBPR)) == expected
    assert list(knobs.variants("modality-dropout", VBPR))[1:] == [
        "modality-dropout:rate=0.2",
        "modality-dropout:rate=0.5",
    ]
    monkeypatch.setattr(strategies()["elimrec"], "recommended", {"weight": 0.1})
    assert list(knobs.variants("elimrec", VBPR)) == expected
    assert "weight" not in knobs.with_defaults("elimrec", VBPR)[1]
    assert knobs.with_defaults("elimrec:weight=0.1", VBPR)[1]["weight"] == 0.1
    monkeypatch.setattr(strategies()["cml"], "recommended", {"weight": 3.0})
    assert "weight" not in knobs.with_defaults("cml:view_weight=0.1", VBPR)[1]


def test_runs_are_made_once_and_refused_with_another_budget(tmp_path, monkeypatch, capsys) -> None:
    asked = ["knobs", "--backbone", "VBPR", "--settings", "plain", "ckd", "ckd:distillation_weight=0.1"]
    asked += ["--out", str(tmp_path / "out"), "--teachers", str(tmp_path / "teachers"), "--max-epochs"]
    monkeypatch.setattr(sys, "argv", [*asked, "1"])
    knobs.main()
    first, file = capsys.readouterr().out, Path(tmp_path, "out", "synthetic-VBPR.json")
    assert first.count("(seed 0): 0.") == 3
    assert set(read_json(file)["runs"]) == {"plain", "ckd", "ckd:distillation_weight=0.1"}
    knobs.main()
    again = capsys.readouterr().out
    assert first.endswith(again)
    assert "(seed 0)" not in again
    monkeypatch.setattr(sys, "argv", ["knobs", "--show", str(file)])
    knobs.main()
    assert capsys.readouterr().out == again
    monkeypatch.setattr(sys, "argv", [*asked, "2"])
    with pytest.raises(SystemExit):
        knobs.main()
    assert "runs of other settings or another --max-epochs; choose another --out" in capsys.readouterr().err
