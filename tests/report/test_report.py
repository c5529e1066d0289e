import copy
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from rich.console import Console

from pyg_ckd.errors import InputError
from pyg_ckd.report.report import render_console_table, results_table, verdict, write_report
from pyg_ckd.study.results import Gap, gaps, headline_metric, main_metrics, metric_names
from tests.report.study import histories, metrics, study

PLOTS = ("learning_curves.png", "effects.png", "effect_bars.png", "results.png")


class Page(HTMLParser):
    """Collects what a browser would show and load, and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href", "srcset")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace("\N{NO-BREAK SPACE}", " ").split())


def read(folder, results, frames=None) -> tuple[str, Page]:
    path = write_report(folder, results, {} if frames is None else frames)
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def without(results: dict, *names: str) -> dict:
    results["runs"] = [run for run in results["runs"] if run["name"] not in names]
    return results


def set_test(results: dict, name: str, recall: float) -> dict:
    for run in results["runs"]:
        if run["name"] == name:
            run["test"] = metrics(recall)
    return results


def test_every_number_of_the_results_table_is_on_the_page(tmp_path):
    results = study()
    _, page = read(tmp_path, results, histories())
    for name in ("popularity", "lightgcn", "teacher:visual", "plain", "ckd"):
        for metric in metrics(1.0, cold=False):
            values = [run["test"][metric] for run in results["runs"] if run["name"] == name]
            assert f"{np.mean(values):.4f}" in page.text
            if len(values) > 1:
                assert f"± {np.std(values, ddof=1):.4f}" in page.text
    for line in verdict(results):
        assert line in page.text


def test_sections_come_in_the_order_of_the_story(tmp_path):
    text, page = read(tmp_path, study(), histories())
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert [title.split()[0] for title in titles] == ["Results", "How", "Each", "Which", "Cold", "The", "How"]
    assert page.text.index("is starving") < page.text.index("Results on the test split")
    assert "MMGCN on synthetic (seed 7)" in page.text


def test_the_page_loads_nothing_and_runs_nothing(tmp_path):
    text, page = read(tmp_path, study(), histories())
    assert len(page.links) == 4
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_plots_are_files_with_something_on_them(tmp_path):
    read(tmp_path, study(), histories())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*PLOTS, "report.html"])
    for name in PLOTS:
        image = imread(tmp_path / name)[..., :3]
        assert image.shape[1] == 2000
        assert image.std() > 0.01


def test_the_story_is_told_with_the_monitored_metric(tmp_path):
    results = study()
    for run in results["runs"]:
        run["test"]["map@5"] = 0.5 * run["test"]["recall@20"]
    lines = verdict(results | {"monitor": "map@5"})
    assert any("the joint map@5" in line for line in lines)
    assert not any("recall@20" in line for line in lines)
    assert "map@5" in main_metrics(results | {"monitor": "map@5"})
    assert "map@5" not in main_metrics(results)
    assert headline_metric(results | {"monitor": "map@50"}) == metric_names(results)[0]
    assert headline_metric(results) == "recall@20"


def test_hostile_names_are_text(tmp_path):
    evil = '<script>alert("x")</script>'
    results = study()
    results["data"]["source"] = evil
    results["settings"][evil] = {"<b>": evil}
    results["versions"]["<img src=x>"] = "'\"><img src=y>"
    results["runs"].append({"name": evil, "seed": 0, "test": metrics(0.01)})
    results["data"]["modalities"][evil] = {"dim": 3, "coverage": 1.0}
    results["effects"][evil] = {"mean": 0.1}
    _, page = read(tmp_path, results, histories())
    assert "script" not in page.tags
    assert page.tags.count("img") == 4
    assert page.text.count(evil) >= 6


def test_one_modality_has_no_shares_of_distillation_and_still_a_report(tmp_path):
    results = without(study(("visual",), seeds=(0,)), "ckd") | {"effects": {}, "comparisons": []}
    _, page = read(tmp_path, results, {("plain", 0): histories(("visual",))["plain", 0]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learning_curves.png", "report.html", "results.png"]
    assert "One seed" in page.text
    assert "±" not in page.text.replace("± one standard deviation", "")


@pytest.mark.parametrize("part", ["data", "settings", "versions", "effects", "comparisons", "duration_seconds"])
def test_any_part_may_be_missing(tmp_path, part):
    results = study()
    del results[part]
    read(tmp_path, results, histories())


@pytest.mark.parametrize("name", ["popularity", "lightgcn", "teacher:visual", "plain", "ckd"])
def test_any_run_may_be_missing(tmp_path, name):
    read(tmp_path, without(study(), name))


def test_a_study_without_runs_has_a_page_that_says_so(tmp_path):
    _, page = read(tmp_path, {"runs": []})
    assert "no run yet" in page.text


def test_effects_that_could_not_be_measured_are_dashes(tmp_path):
    results = study(("visual", "textual"))
    results["effects"]["visual"] = {"mean": float("nan"), "low": None, "high": None, "ratio": float("nan")}
    text, _ = read(tmp_path, results)
    row = next(row for row in re.findall(r"<tr>.*?</tr>", text) if "visual</th>" in row and "–" in row)
    assert re.findall(r"<td>(.*?)</td>", row) == ["–"] * 5
    assert "nan" not in text.replace("tabular-nums", "").split("<body>")[1].split("base64")[0]


def test_what_is_not_a_study_is_refused(tmp_path):
    for bad, pattern in [
        ({}, "runs"),
        ({"runs": [{"name": "ckd"}]}, "'test'"),
        ({"format": 2, "runs": []}, "format 2"),
    ]:
        with pytest.raises(InputError, match=pattern):
            write_report(tmp_path, bad, {})
    assert not list(tmp_path.iterdir())


def test_results_table_has_mean_deviation_and_number_of_seeds():
    results = study()
    table = results_table(results)
    seeds = pd.Series([run["test"]["ndcg@20"] for run in results["runs"] if run["name"] == "ckd"])
    names = ["popularity", "lightgcn", "teacher:visual", "teacher:textual", "teacher:acoustic", "plain", "ckd"]
    assert list(table.index) == names
    assert tuple(table.loc["ckd", "ndcg@20"]) == pytest.approx((seeds.mean(), seeds.std(), 3))
    assert tuple(table.loc["popularity", "recall@20"]) == pytest.approx((0.0281, 0.0, 1))
    assert list(dict.fromkeys(table.columns.get_level_values(0)))[:3] == ["recall@10", "recall@20", "ndcg@10"]


def test_a_metric_that_a_run_lacks_is_nan_in_the_table():
    results = study()
    del results["runs"][0]["test"]["ndcg@20"]
    assert results_table(results).loc["popularity", "ndcg@20"].isna().tolist() == [True, True, False]


def test_the_terminal_table_says_the_same_numbers():
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(render_console_table(study()))
    shown, table = console.file.getvalue(), results_table(study())
    for name in table.index:
        assert f"{table.loc[name, ('recall@20', 'mean')]:.4f}" in shown


def test_gap_is_teacher_minus_view_and_its_closed_share():
    gap = Gap("m", plain=0.04, ckd=0.07, teacher=0.08)
    assert (gap.before, gap.after, gap.closed) == pytest.approx((0.04, 0.01, 0.75))
    assert (gap.reach_plain, gap.reach_ckd) == pytest.approx((0.5, 0.875))
    assert np.isnan(Gap("m", plain=0.09, ckd=0.1, teacher=0.08).closed)
    assert np.isnan(Gap("m", plain=0.0, ckd=0.0, teacher=0.0).reach_plain)
    assert [gap.modality for gap in gaps(study())] == ["visual", "textual", "acoustic"]


def constructed(reach: dict, ckd_reach: dict, joint=(0.070, 0.081), p_value=0.003, difference=0.011) -> dict:
    views = {"plain": reach, "ckd": ckd_reach}
    runs = [{"name": f"teacher:{m}", "test": {"recall@20": 0.05}} for m in reach]
    for name, value in zip(views, joint, strict=True):
        seen = {m: {"recall@20": 0.05 * share} for m, share in views[name].items()}
        runs.append({"name": name, "test": {"recall@20": value}, "views": seen})
    test = {"a": "ckd", "b": "plain", "metric": "recall@20", "over": "users", "difference": difference}
    return {"runs": runs, "comparisons": [test | {"p_value": p_value, "num": 500}]}


def test_verdict_names_the_starving_modality_and_what_distillation_does():
    lines = verdict(constructed({"visual": 0.97, "acoustic": 0.62}, {"visual": 0.98, "acoustic": 0.91}))
    assert lines[:2] == [
        "acoustic is starving: its view of the plain student reaches 62 % of its teacher's recall@20; CKD lifts it to "
        "91 %.",
        "CKD lifts the joint recall@20 from 0.0700 to 0.0810 (+15.7 %, p = 0.003 over 500 users).",
    ]


def test_verdict_lists_further_modalities_and_says_if_ckd_lowers_one():
    lines = verdict(constructed({"a": 0.5, "b": 0.7, "c": 0.95}, {"a": 0.4, "b": 0.9, "c": 0.95}))
    assert "CKD lowers it to 40 %" in lines[0]
    assert lines[1] == "Short of its teacher as well: b (70 %, with CKD 90 %)."


def test_verdict_says_if_nothing_starves():
    lines = verdict(constructed({"a": 0.95, "b": 1.02}, {"a": 0.95, "b": 1.0}))
    assert lines[0].startswith("No modality is starving: every modality reaches at least 95 %")


def test_verdict_does_not_balance_a_single_modality():
    assert verdict(constructed({"a": 0.5}, {"a": 0.5}))[0] == "One modality only, a: there is nothing to balance."


def test_verdict_is_honest_about_chance_harm_and_untested_differences():
    reach = {"a": 0.95, "b": 0.99}
    assert "no clear difference" in verdict(constructed(reach, reach, p_value=0.3))[1]
    # A test whose difference points the other way is not about the printed numbers.
    assert "no clear difference" in verdict(constructed(reach, reach, difference=-0.01))[1]
    harm = verdict(constructed(reach, reach, joint=(0.08, 0.07), difference=-0.01))
    assert (
        harm[0] == "Warning: CKD lowers the joint recall@20 from 0.0800 to 0.0700 (−12.5 %, p = 0.003 over 500 users)."
    )
    untested = constructed(reach, reach) | {"comparisons": []}
    assert "not tested for chance" in verdict(untested)[1]


def test_verdict_says_if_seeds_do_not_confirm_what_users_show():
    results = constructed({"a": 0.95, "b": 1.0}, {"a": 0.95, "b": 1.0})
    results["comparisons"].append(results["comparisons"][0] | {"over": "seeds", "p_value": 0.2, "num": 3})
    assert verdict(results)[1].endswith("Between seeds it is not certain (p = 0.20 over 3 seeds).")


def test_a_model_below_popularity_is_a_prominent_warning(tmp_path):
    results = set_test(study(), "plain", 0.02)
    lines = verdict(results)
    assert lines[0].startswith("Warning: recommending the most popular items to everybody reaches recall@20 0.0281")
    assert "Plain (0.0200) does not beat that" in lines[0]
    text, page = read(tmp_path, results)
    assert '<div class="verdict alarm" role="alert">' in text
    assert page.text.index("Warning") < page.text.index("is starving")


def test_content_that_does_not_beat_lightgcn_is_a_warning():
    lines = verdict(set_test(study(), "plain", 0.05))
    assert "LightGCN, which sees no content at all" in lines[0]


def test_verdict_changes_nothing_and_has_an_answer_without_runs():
    results = study()
    before = copy.deepcopy(results)
    verdict(results)
    assert results == before
    assert verdict({"runs": []}) == [
        "Nothing to compare yet: the study holds no plain student next to teachers or CKD."
    ]
