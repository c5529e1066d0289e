"""Reading results of format 2, and of format 1 as older versions wrote it."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from pyg_ckd.errors import InputError
from pyg_ckd.files import write_json
from pyg_ckd.study.findings import verdict
from pyg_ckd.study.formats import current_results, load_results
from pyg_ckd.study.results import (
    Gap,
    best_runs,
    best_views,
    comparison,
    gaps,
    headline_metric,
    main_metrics,
    marks,
    metric_names,
    not_converged,
    p_holm,
    render_console_table,
    results_table,
    run_names,
    strongest_baseline,
    winner_name,
)
from pyg_ckd.study.text import counted, duration, joined, p_text, percent, show
from tests.report import many
from tests.report.study import study as old_study

NAMES = ["popularity", "item-knn", "ease", "lightgcn", "teacher:visual", "teacher:textual", "teacher:acoustic"]
NAMES += ["plain", "ckd", "multitask", "ensemble", "mine"]


def shown(results, width=220) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(render_console_table(results))
    return console.file.getvalue()


def test_runs_come_as_baselines_teachers_and_contenders_each_in_the_order_of_the_study():
    results = many.study()
    assert run_names(results) == NAMES
    results["runs"].reverse()
    assert run_names(results) == NAMES
    results["contenders"][1:] = results["contenders"][:0:-1]
    assert run_names(results)[-4:] == ["mine", "ensemble", "multitask", "ckd"]


def test_numbers_are_shown_beside_a_name_that_is_wider_than_the_terminal():
    results = many.study(contenders=("plain", "q" * 200, "mine"))
    text = shown(results, width=100)
    for metric in ("recall@20", "ndcg@20"):
        assert metric in text
    for name in ("plain", "q" * 200, "mine"):
        assert show(results_table(results).loc[name, ("recall@20", "mean")]) in text
    assert text.count("q") == 200


def test_results_table_has_mean_deviation_and_number_of_seeds():
    results = many.study()
    table = results_table(results)
    assert list(table.index) == NAMES
    for name in NAMES:
        seeds = pd.Series([run["test"]["ndcg@20"] for run in results["runs"] if run["name"] == name])
        deviation = seeds.std() if len(seeds) > 1 else 0.0
        assert tuple(table.loc[name, "ndcg@20"]) == pytest.approx((seeds.mean(), deviation, len(seeds)))
    assert list(dict.fromkeys(table.columns.get_level_values(0)))[:3] == ["recall@10", "recall@20", "ndcg@10"]


def test_a_metric_that_a_run_lacks_is_nan_in_the_table():
    results = many.study()
    del results["runs"][0]["test"]["ndcg@20"]
    assert results_table(results).loc["popularity", "ndcg@20"].isna().tolist() == [True, True, False]


def test_the_terminal_table_says_the_same_numbers_marks_differences_and_names_the_winner():
    results = many.study()
    text, table = shown(results), results_table(results)
    for name in table.index:
        assert f"{table.loc[name, ('recall@20', 'mean')]:.4f}" in text
    lines = [line.strip("│ ").split("│")[0].strip() for line in text.splitlines()]
    assert lines[lines.index("mine") + 1] == "(winner)"
    assert lines[lines.index("multitask") + 1] == "(not converged)"
    row = next(line for line in text.splitlines() if "│ mine" in line)
    assert "0.0809*† ±0.0005" in row
    assert "over users" in text
    assert "over seeds" in text


def test_a_narrow_terminal_shows_whole_names_and_all_digits():
    text = shown(many.study(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    for word in ("Teacher: acoustic", "multitask", "(not converged)", "0.0356"):
        assert word in text
    assert "…" not in text


def test_gap_is_teacher_minus_view_and_its_closed_share():
    gap = Gap("mine", "m", plain=0.04, view=0.07, teacher=0.08)
    assert (gap.before, gap.after, gap.closed) == pytest.approx((0.04, 0.01, 0.75))
    assert (gap.reach_plain, gap.reach) == pytest.approx((0.5, 0.875))
    assert np.isnan(Gap("mine", "m", plain=0.09, view=0.1, teacher=0.08).closed)
    assert np.isnan(Gap("mine", "m", plain=0.0, view=0.0, teacher=0.0).reach)


def test_every_contender_has_a_gap_to_every_teacher():
    results = many.study()
    rows = gaps(results)
    assert [(row.contender, row.modality) for row in rows] == [(n, m) for n in many.CONTENDERS for m in many.MODALITIES]
    views = [r["views"]["acoustic"]["recall@20"] for r in results["runs"] if r["name"] == "mine"]
    teachers = [r["test"]["recall@20"] for r in results["runs"] if r["name"] == "teacher:acoustic"]
    assert rows[-1].after == pytest.approx(np.mean(teachers) - np.mean(views))


def test_the_best_view_is_the_highest_as_tables_show_it():
    rows = [Gap(n, "m", 0.1, view, 0.2) for n, view in (("a", 0.11), ("b", 0.12001), ("c", 0.12004))]
    assert best_views(rows) == {"m": {"b", "c"}}
    assert best_views(rows[1:]) == {"m": set()}


def test_winner_and_strongest_baseline_are_those_of_the_validation_part():
    results = many.study()
    for run in results["runs"]:
        if run["name"] in ("multitask", "lightgcn"):
            run["val"]["recall@20"] = 0.5
    del results["winner"]
    results = current_results(results)
    assert winner_name(results) == "multitask"
    assert strongest_baseline(results) == "lightgcn"
    assert strongest_baseline(results, among=["ease", "popularity"]) == "ease"
    assert results["winner"]["val"] == 0.5
    assert strongest_baseline(many.study(baselines=())) is None


def test_marks_are_about_the_corrected_p_value():
    results = many.study()
    users, seeds = (comparison(results, "mine", "plain", "recall@20", over) for over in ("users", "seeds"))
    assert marks(results, "mine", "recall@20") == "*†"
    users["p_holm"] = 0.06
    assert users["p_value"] < 0.05
    assert marks(results, "mine", "recall@20") == "†"
    seeds["p_holm"] = 0.06
    assert marks(results, "mine", "recall@20") == ""
    assert math.isnan(p_holm(None))


def test_the_story_is_told_with_the_monitored_metric():
    results = many.study()
    for run in results["runs"]:
        run["test"]["map@5"] = 0.5 * run["test"]["recall@20"]
    assert "map@5" in main_metrics(results | {"monitor": "map@5"})
    assert "map@5" not in main_metrics(results)
    assert headline_metric(results | {"monitor": "map@50"}) == metric_names(results)[0]
    assert headline_metric(results) == "recall@20"


def test_no_run_is_best_where_all_look_the_same():
    table = results_table(many.study())
    assert best_runs(table, "coverage@20") == set()
    assert best_runs(table, "recall@20") == {"mine"}


def test_a_file_of_format_1_is_converted_when_it_is_read(tmp_path):
    old = old_study()
    old["effects_ckd"] = {"visual": {"mean": 0.5}}
    before = copy.deepcopy(old)
    write_json(tmp_path / "results.json", old)
    results = load_results(tmp_path)
    assert old == before
    assert results["format"] == 2
    assert load_results(tmp_path / "results.json") == results
    assert [entry["name"] for entry in results["contenders"]] == ["plain", "ckd"]
    assert results["contenders"][1]["options"] == old["settings"]["distillation"]
    assert results["baselines"] == ["popularity", "lightgcn"]
    assert {run["kind"] for run in results["runs"]} == {"baseline", "teacher", "contender"}
    assert results["effects"] == {"plain": old["effects"], "ckd": {"visual": {"mean": 0.5}}}
    assert results["effects_split"] == "val"
    assert "effects_ckd" not in results
    assert [test["p_holm"] for test in results["comparisons"]] == [test["p_value"] for test in old["comparisons"]]
    values = [run["val"]["recall@20"] for run in old["runs"] if run["name"] == "ckd"]
    assert (results["winner"]["name"], results["winner"]["val"]) == ("ckd", pytest.approx(np.mean(values)))
    assert current_results(results) == results
    assert list(results_table(old).index)[-2:] == ["plain", "ckd"]
    assert "(winner)" in shown(old)


def test_an_old_run_whose_best_epoch_was_its_last_possible_one_had_not_converged():
    old = old_study()
    last = next(run for run in old["runs"] if run["name"] == "plain")
    last["best_epoch"] = old["settings"]["trainer"]["max_epochs"]
    results = current_results(old)
    assert not_converged(results, "plain") == (1, 3)
    assert not_converged(results, "ckd") == (0, 3)
    assert not_converged(results, "popularity") == (0, 1)


def test_what_is_not_a_study_is_refused(tmp_path):
    for bad, pattern in [
        ({}, "runs"),
        ({"runs": [{"name": "ckd"}]}, "'test'"),
        ({"format": 3, "runs": []}, "format 3, expected 1 or 2"),
        ({"format": 2, "runs": [{"name": "a", "test": {}, "kind": "other"}]}, "kind 'other'"),
        (None, "results: found NoneType, expected the dict .* read it with load_results"),
        ([], "results: found list"),
        ("study", "results: found str"),
        ({"runs": "ckd"}, "no list 'runs'"),
        ({"runs": [None]}, r"runs\[0\] is NoneType, expected a dict with 'name' and 'test'"),
        ({"runs": [{"name": "a", "test": None}]}, r"runs\[0\] has NoneType as 'test'"),
        ({"runs": [{"name": 3, "test": {}}]}, r"runs\[0\] has int as 'name'"),
    ]:
        with pytest.raises(InputError, match=pattern):
            results_table(bad)
        with pytest.raises(InputError, match=pattern):
            verdict(bad)
    with pytest.raises(InputError, match=r"results.json: found no results of a study, expected the folder"):
        load_results(tmp_path)


def test_numbers_are_written_for_people():
    assert show(-0.00001) == "0.0000"
    assert show(-0.00001, sign=True) == show(0.00001, sign=True) == "0.0000"
    assert show(-0.0123, 3) == "−0.012"
    assert show(math.nan) == "–"
    assert percent(0.1234, 1, sign=True) == "+12.3 %"
    assert [p_text(value) for value in (0.0001, 0.0123, 0.5)] == ["p < 0.001", "p = 0.012", "p = 0.50"]
    assert [counted(1, "seeds"), counted(9412, "users")] == ["1 seed", "9,412 users"]
    assert [joined(["a"]), joined(["a", "b"]), joined(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [duration(12.34), duration(300), duration(7500)] == ["12.3 seconds", "5 min", "2 h 05 min"]
