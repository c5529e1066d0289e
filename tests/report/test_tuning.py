"""The report of a search: what was found, by which budget, at what cost, and the line that trains the winner."""

from __future__ import annotations

import pytest

from pyg_ckd.report import report as module
from pyg_ckd.report import write_report
from pyg_ckd.report.tuning import search_curves, search_section
from pyg_ckd.study.findings import verdict
from tests.report import many
from tests.report.page import Page

LINE = "pyg-ckd train --data 'a b.npz' --backbone VBPR --objective mine --trainer.lr 0.02 --out model"


def trial(value, lr, state="complete", so_far=None, **more) -> dict:
    facts = {"best_epoch": 3, "epochs": 5, "steps": 50, "seconds": 2.0, "stopped": "max_epochs"}
    return {"values": {"trainer.lr": lr}, "value": value, "best_so_far": so_far, "state": state, **facts, **more}


def tuned() -> dict:
    """A study with a search of two contenders and LightGCN."""
    results = many.study(modalities=("visual", "textual"), seeds=(0,), contenders=("plain", "mine"))
    plain = [
        trial(0.10, 0.01, so_far=0.10),
        trial(0.08, 0.002, "pruned", 0.10, stopped="pruned after 20 steps", steps=20),
    ]
    mine = [trial(0.09, 0.01, so_far=0.09), trial(0.12, 0.02, so_far=0.12)]
    light = [trial(0.05, 0.005, so_far=0.05), trial(None, 0.02, "failed", 0.05, steps=None, seconds=0.0, epochs=None)]
    about = {"space": {"trainer.lr": "0.001:0.1 (log)"}, "warmup": 10, "budget": 50, "importance": {"trainer.lr": 1.0}}
    results["tuning"] = {
        "trials": 2,
        "seed": 7,
        "metric": "recall@20",
        "contenders": ["plain", "mine"],
        "winner": "mine",
        "baseline": "ease",
        "best": {},
        "baselines": {"ease": {"value": 0.11, "settings": {"ridge": 200.0}}},
        "left_out": {"ease-content": "too <many> items"},
        "searches": [
            {"name": "plain", "kind": "contender", "best": 0, "trials": plain, **about},
            {"name": "mine", "kind": "contender", "best": 1, "trials": mine, **about},
            {"name": "lightgcn", "kind": "baseline", "best": 0, "trials": light, **(about | {"importance": {}})},
        ],
        "command": LINE,
    }
    return results


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DPI", 30)
        return Page(write_report(folder, tuned(), {}).read_text(encoding="utf-8"))


def test_the_best_of_every_contender_stands_beside_its_defaults(page):
    caption = "Best validation recall@20 of every contender and baseline"
    rows = {row[0]: row[1:] for row in page.tables[caption] if len(row) > 1}
    assert rows["plain"] == ["0.1000", "0.1000", "–", "1, its defaults", "trainer.lr = 0.01"]
    assert rows["mine winner"] == ["0.0900", "0.1200", "+33.3 %", "2", "trainer.lr = 0.02"]
    assert rows["EASE strongest baseline"] == ["–", "0.1100", "–", "–", "ridge = 200"]
    assert page.bold[caption] == {("mine winner", "0.1200"), ("EASE strongest baseline", "0.1100")}


def test_cost_and_importance_are_those_of_the_trials(page):
    cost = {row[0]: row[1:] for row in page.tables["Cost of the search"]}
    assert cost["plain"] == ["1", "1", "–", "70", "70 %", "4.0 seconds", "1.00 ×"]
    assert cost["LightGCN"] == ["1", "–", "1", "50", "50 %", "2.0 seconds", "0.50 ×"]
    assert page.tables["Importance of knobs"][1:] == [["plain", "100 %"], ["mine", "100 %"]]
    trials = page.tables["Trials of every contender"]
    assert ["2", "0.0800", "3", "5", "trainer.lr = 0.002", "pruned after 20 steps"] in trials


def test_the_share_of_steps_is_that_of_the_budgets_of_the_trials():
    results = tuned()
    plain, mine, _ = results["tuning"]["searches"]
    for search, wholes in ((plain, (100, 40)), (mine, (100, None))):
        for one, whole in zip(search["trials"], wholes, strict=True):
            one["budget"] = whole
        search["space"] = {**search["space"], "trainer.batch_size": "64, 256"}
    cost = {row[0]: row[1:] for row in Page(search_section(results, "")).tables["Cost of the search"]}
    assert cost["plain"][3:5] == ["70", "50 %"]
    assert cost["mine"][3:5] == ["100", "–"]  # An older search did not say what its trials had.


def test_the_line_that_trains_the_winner_is_there_to_be_copied(page):
    assert LINE in page.text
    assert "EASE with content was left out: too <many> items." in page.text


def note(results: dict) -> str:
    """Return what the section of the search says before its first table."""
    return Page(search_section(results, "")).text.partition("before the test part was read.")[0]


def test_only_those_are_named_that_had_trials():
    results = tuned()
    assert "plain, mine and LightGCN had 2 trials under seed 7, the first with its defaults" in note(results)
    assert "; baselines of a closed form chose their knobs by themselves. mine is the winner" in note(results)
    tuning = results["tuning"]
    tuning["searches"] = tuning["searches"][:2]
    tuning["searches"][0]["trials"] = tuning["searches"][0]["trials"][:1]
    tuning["baselines"] = {}
    text = note(results)
    assert "plain had 1 trial and mine had 2 trials under seed 7, the first with its defaults. mine is" in text
    assert "LightGCN" not in text.partition("winner")[0]


def test_without_a_line_it_says_that_the_winner_is_trained_from_python():
    results = tuned()
    results["tuning"]["command"] = ""
    text = Page(search_section(results, "")).text
    assert "The command line does not know this backbone: train the winner again from Python." in text
    assert "This line trains" not in text


def late(*names: str, longer: str = "") -> dict:
    """A search in which the best trials of some had not converged, nor the runs that these are trained again in."""
    results = tuned()
    for search in results["tuning"]["searches"]:
        for place, one in enumerate(search["trials"]):
            one["converged"] = place != search["best"] or search["name"] not in names
    for run in results["runs"]:
        run["converged"] = run["name"] not in names
    results["tuning"]["longer"] = longer
    return results


def test_best_trials_that_had_not_converged_are_marked():
    rows = Page(search_section(late("mine", "lightgcn"), "")).tables[
        "Best validation recall@20 of every contender and baseline"
    ]
    assert {row[0] for row in rows if "converged" in row[0]} == {"mine winner not converged", "LightGCN not converged"}
    assert "not converged" not in Page(search_section(tuned(), "")).text  # An older search did not say it.


def test_the_verdict_names_best_trials_that_had_not_converged_and_were_not_trained_again():
    results = late("mine", "lightgcn", "plain")
    results["runs"] = [run for run in results["runs"] if run["name"] != "lightgcn"]
    warnings = [line for line in verdict(results) if "converged" in line and line.startswith("Warning: ")]
    assert [line.partition(", so more")[0] for line in warnings] == [
        "Warning: plain and mine had not converged when the epochs were used up",
        "Warning: the best trial of LightGCN had not converged when the epochs were used up",
    ]
    assert not [line for line in verdict(late()) if "converged" in line]


@pytest.mark.parametrize("longer", ["", "pyg-ckd tune --trainer.max_epochs 600 --out tuned-600"])
def test_the_advice_after_a_short_search_is_a_search_in_another_folder(longer):
    advice = "What to do: search again with a larger max_epochs in another folder before choosing, for plain and mine"
    end = f": {longer}" if longer else "."
    assert verdict(late("mine", "plain", longer=longer))[-1] == f"{advice} had not converged{end}"


def test_the_winner_of_a_search_is_that_of_the_best_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DPI", 30)
    results = tuned()
    results["tuning"]["best"] = {"mine": {"value": 0.12}}
    text = Page(write_report(tmp_path, results, {}).read_text(encoding="utf-8")).text
    assert "The winner is the contender with the best trial on the validation part" in text
    assert "mine has the best trial on validation (recall@20 0.1200) and" in text


def test_the_picture_says_in_words_what_it_shows(page):
    (alt,) = [text for text in page.alts if text.startswith("Curves of the best validation")]
    assert "plain from 0.1000 to 0.1000 at trial 1 of 2" in alt
    assert "mine from 0.0900 to 0.1200 at trial 2 of 2" in alt


def test_panels_show_best_values_by_trials_and_pruned_trials_as_open_dots():
    figure = search_curves(tuned())
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes if ax.get_visible()}
    assert list(panels) == ["plain", "mine, winner", "LightGCN"]
    lines = panels["mine, winner"].get_lines()
    assert [list(line.get_ydata()) for line in lines[:3]] == [[0.11, 0.11], [0.10, 0.10], [0.09, 0.12]]
    faces = [line.get_markerfacecolor() for line in panels["plain"].get_lines()[-2:]]
    assert faces[0] != faces[1] == "#ffffff"


def test_a_study_without_a_search_has_no_such_section(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DPI", 30)
    results = tuned()
    del results["tuning"]
    found = Page(write_report(tmp_path, results, {}).read_text(encoding="utf-8"))
    assert "What the search found" not in found.text
    assert not (tmp_path / "search.png").exists()
