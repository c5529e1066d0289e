"""The report as a browser gets it: one file, all parts, nothing loaded, readable by everybody."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

import pyg_ckd.report
from pyg_ckd.errors import InputError
from pyg_ckd.report import labels, write_report
from pyg_ckd.report import report as module
from pyg_ckd.report.style import STYLE
from pyg_ckd.report.theme import DARK, LIGHT
from pyg_ckd.study.findings import verdict
from tests.report import many
from tests.report.page import Page
from tests.report.study import histories as old_histories
from tests.report.study import study as old_study

PLOTS = {"learning_curves.png", "contenders.png", "effects.png", "effect_bars.png", "gaps.png", "results.png"}
PLOTS |= {"records.png"}
SMALL = {"modalities": ("visual", "textual"), "seeds": (0,), "contenders": ("plain", "mine")}


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    """Draw coarse pictures: most tests are about words."""
    monkeypatch.setattr(module, "DPI", 30)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a report with everything."""
    folder = tmp_path_factory.mktemp("report")
    results = many.study()
    assert write_report(folder, results, many.histories(results)) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def text(whole) -> str:
    return (whole / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def read(folder, results, frames=None) -> Page:
    return Page(write_report(folder, results, frames or {}).read_text(encoding="utf-8"))


def small(**changes) -> dict:
    return many.study(**(SMALL | changes))


def test_sections_come_in_the_order_of_the_story(text, page):
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        "Who wins, and what it is worth",
        "Results on the test split",
        "How the views grow",
        "Each modality alone, against its teacher",
        "Which modality each model uses",
        "What each strategy did",
        "What it costs",
        "Cold and warm items",
        "The data",
        "How it was run",
    ]
    assert page.text.index("starves") < page.text.index("Who wins")
    assert "MMGCN on synthetic (seed 7)" in page.text


def test_the_verdict_stands_at_the_top_with_warnings_before_it(text, page):
    for line in verdict(many.study()):
        assert line.partition(": ")[2] in page.text
    assert '<div class="verdict alarm" role="alert">' in text
    assert page.text.index("Warning:") < page.text.index("starves")
    assert "<strong>What to do:</strong> deploy mine." in text


def test_the_page_loads_nothing_and_runs_nothing(text, page):
    assert len(page.links) == 2 * len(PLOTS)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_plots_are_files_with_something_on_them(whole):
    assert {path.name for path in whole.iterdir()} == {*PLOTS, "report.html"}
    assert all(imread(whole / name)[..., :3].std() > 0.01 for name in PLOTS)


def test_plots_are_fine_enough_for_print(tmp_path, monkeypatch):
    monkeypatch.undo()
    results = small() | {"effects": {}}
    write_report(tmp_path, results, {})
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "results.png", "gaps.png"}
    assert imread(tmp_path / "results.png").shape[1] == 2000


def test_every_picture_has_one_for_dark_screens_and_says_in_numbers_what_is_to_be_seen(text, page):
    assert text.count('<source media="screen and (prefers-color-scheme: dark)" srcset="data:image/png') == len(PLOTS)
    assert len(page.alts) == len(PLOTS)
    saved = many.study()
    for name in ("ease", "mine"):
        values = [run["test"]["recall@20"] for run in saved["runs"] if run["name"] == name]
        assert f"{np.mean(values):.4f}" in page.alts[0]
    first = {run["name"]: run for run in saved["runs"] if run["seed"] == 0}
    assert f"plain, kept epoch {first['plain']['best_epoch']}: all modalities" in page.alts[1]
    assert f"at {first['teacher:acoustic']['val']['recall@20']:.4f}" in page.alts[1]
    assert all(name in page.alts[2] for name in ("plain", "ckd", "multitask", "mine"))
    assert "acoustic: plain 62 %" in page.alts[3]
    assert re.search(r"acoustic: plain \d+ %, ckd \d+ %", page.alts[4])
    assert re.search(r"visual \d\.\d\d", page.alts[5])


def test_tables_and_pictures_scroll_by_keyboard_under_names_of_their_own(page):
    frames = [attrs for tag, attrs in page.elements if tag == "div" and attrs.get("class") == "wide"]
    assert len(frames) == len(page.tables) + len(PLOTS)
    assert all(frame["tabindex"] == "0" and frame["role"] == "region" for frame in frames)
    labels = [frame["aria-label"] for frame in frames]
    assert len(set(labels)) == len(labels)
    assert set(page.tables) <= set(labels)
    titles = [attrs for tag, attrs in page.elements if tag == "th"]
    assert len(titles) > 100
    assert {attrs["scope"] for attrs in titles} == {"col", "row", "colgroup", "rowgroup"}


def test_rows_of_titles_cover_all_columns(page):
    for caption, rows in page.tables.items():
        widths = {len(row) for row in rows if len(row) > 1}
        body = max(widths)
        for row in rows:
            assert len(row) == 1 or len(row) == body or caption.startswith(("Contenders:", "Views")), (caption, row)


def luminance(color: str) -> float:
    parts = [int(color.lstrip("#")[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("place", [0, 1], ids=["light", "dark"])
def test_colours_of_text_have_the_contrast_that_accessibility_asks_for(place):
    block = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)[place]
    colors = dict(re.findall(r"--([a-z]+): (#[0-9a-f]+);", block))
    colors = {k: "#" + "".join(c * 2 for c in v[1:]) if len(v) == 4 else v for k, v in colors.items()}
    for name in ("ink", "muted"):
        assert contrast(colors[name], colors["paper"]) >= 4.5
    assert contrast(colors["ink"], colors["calm"]) >= 4.5
    for name in ("ink", "alarm"):
        assert contrast(colors[name], colors["warm"]) >= 4.5
    theme = (LIGHT, DARK)[place]
    assert theme.paper == colors["paper"]
    for color in theme.palette:
        assert contrast(mpl.colors.to_hex(theme.text(color)), theme.paper) >= 4.5
        assert contrast(color, theme.paper) >= 2.7
    assert contrast(theme.muted, theme.paper) >= 4.5


def test_dark_screens_paper_and_phones_have_rules_of_their_own():
    assert "@media screen and (prefers-color-scheme: dark)" in STYLE
    printed = STYLE.partition("@media print")[2]
    assert "details::details-content { content-visibility: visible;" in printed
    assert ".wide { overflow: visible; }" in printed
    assert "@media screen and (max-width: 640px)" in STYLE


def test_curves_are_about_the_kept_epoch_of_the_run_not_the_last(tmp_path):
    results = small()
    frames = many.histories(results)
    frame = frames["mine", 0]
    record = next(run for run in results["runs"] if run["name"] == "mine")
    page = read(tmp_path, results, frames)
    kept, last = frame.loc[record["best_epoch"]], frame.iloc[-1]
    curve = next(alt for alt in page.alts if alt.startswith("Curves of validation"))
    assert f"kept epoch {record['best_epoch']}: all modalities {kept['val/recall@20']:.4f}" in curve
    assert f"{last['val/recall@20']:.4f}" not in curve
    teacher = next(run for run in results["runs"] if run["name"] == "teacher:visual")["val"]["recall@20"]
    view = kept["val/visual/recall@20"]
    assert f"visual alone {view:.4f}, gap {teacher - view:.4f} ({100 * view / teacher:.0f} %)" in curve
    effects = next(alt for alt in page.alts if alt.startswith("Curves of mine"))
    assert f"visual {kept['effect/visual']:.2f}" in effects


def test_relative_effects_are_shares_of_the_mean_lead_not_means_of_ratios(tmp_path):
    results = small()
    results["effects"]["plain"]["visual"] |= {"share": 0.772, "ratio": 0.970}
    page = read(tmp_path, results)
    table = page.tables["Effects of every modality on every contender's model, validation part"]
    assert table[0][1] == "share of the lead"
    assert table[2][:2] == ["visual", "77.2 %"]
    assert "0.970" not in page.text
    assert "97.0" not in page.text
    assert "interactions of the validation part" in page.text
    assert "interactions of the test part" in read(tmp_path, results | {"effects_split": "test"}).text


def test_runs_that_had_not_converged_are_called_that_wherever_they_are_shown(page):
    seen = 0
    for caption, rows in page.tables.items():
        named = [row[0] for row in rows if row[0].startswith("multitask")]
        if caption == "Every run with its end":
            assert sorted(named) == ["multitask", "multitask", "multitask not converged"]
        else:
            assert all(name.endswith("not converged (1 of 3)") for name in named), caption
            seen += len(named)
    assert seen >= 8


def test_twelve_contenders_and_four_modalities_have_a_report(tmp_path):
    names = ("plain", "ckd", "multitask", "ensemble", "my_pkg.a.Mine", "my_pkg.b.Mine", *(f"c{i}" for i in range(6)))
    results = many.study(("visual", "textual", "acoustic", "tags"), (0,), names)
    page = read(tmp_path, results, many.histories(results))
    rows = page.tables["Contenders and their options"][1:]
    assert [row[0].partition(" ")[0] for row in rows] == list(names)
    assert {path.name for path in tmp_path.iterdir()} == {*PLOTS, "report.html"}


def test_a_contender_is_treated_alike_under_any_name(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_shown", lambda plot, path: f"{plot.title} {plot.alt} {plot.caption}")
    results = many.study(("visual", "textual"), (0,), ("plain", "ckd"))
    frames = many.histories(results)
    other = many.renamed(results, {"ckd": "fox"})
    renamed = {("fox" if name == "ckd" else name, seed): frame for (name, seed), frame in frames.items()}
    for data, found, folder in ((results, frames, "a"), (other, renamed, "b")):
        write_report(tmp_path / folder, data, found)
    first, second = ((tmp_path / f / "report.html").read_text(encoding="utf-8") for f in ("a", "b"))
    assert "fox" in second
    assert second.replace("fox", "ckd") == first


STORY = ("results.py", "findings.py", "advice.py", "differences.py", "saturation.py", "starving.py", "text.py")


def test_nothing_in_the_report_knows_a_contender_but_plain():
    folder = Path(pyg_ckd.report.__file__).parent
    files = [
        *folder.glob("*.py"),
        *(folder.parent / "study" / name for name in STORY),
    ]
    assert len(files) > 10
    for file in files:
        code = file.read_text(encoding="utf-8").replace("pyg_ckd", "").replace("pyg-ckd", "")
        assert not re.search(r"ckd|distil|multitask|ensemble", code, flags=re.IGNORECASE), file.name


def test_hostile_names_are_text(tmp_path):
    evil = '<script>alert("x")</script>'
    results = small()
    results["data"]["source"] = evil
    results["settings"][evil] = {"<b>": evil}
    results["versions"]["<img src=x>"] = "'\"><img src=y>"
    results["runs"].append({"name": evil, "seed": 0, "test": {"recall@20": 0.01}})
    results["data"]["modalities"][evil] = {"dim": 3, "coverage": 1.0}
    results["effects"]["plain"][evil] = {"mean": 0.1, "share": 0.1}
    results["left_out"][evil] = evil
    page = read(tmp_path, results, many.histories(small()))
    assert "script" not in page.tags
    assert page.tags.count("img") == len(PLOTS) - 1
    assert page.text.count(evil) >= 8


def test_modalities_have_what_their_features_rank_alone(tmp_path, page):
    rows = page.tables["Ranking by one modality alone"]
    assert rows[1:3] == [["visual", "0.0300", "0.0100", "< 0.001"], ["textual", "0.0200", "0.0100", "< 0.001"]]
    older = read(tmp_path, many.study() | {"content": None})
    assert "Ranking by one modality alone" not in older.tables


def test_baselines_that_were_left_out_are_named_with_the_reason(page):
    assert "EASE with content was left out: 5,631 items and 1,024 columns need 2.1 GiB" in page.text


def test_one_modality_and_one_contender_still_have_a_report(tmp_path):
    results = many.study(("visual",), (0,), ("plain",), ()) | {"comparisons": []}
    page = read(tmp_path, results, many.histories(results))
    assert {path.name for path in tmp_path.iterdir()} == {
        "learning_curves.png",
        "gaps.png",
        "report.html",
        "results.png",
    }
    assert "One seed" in page.text
    assert "±" not in page.text


@pytest.mark.parametrize(
    "part",
    [
        *("data", "settings", "versions", "effects", "comparisons", "duration_seconds", "contenders", "winner"),
        *("left_out", "content", "effects_split", "monitor", "started"),
    ],
)
def test_any_part_may_be_missing(tmp_path, part):
    results = small()
    del results[part]
    read(tmp_path, results, many.histories(small()) if part in ("data", "winner") else {})


@pytest.mark.parametrize("name", ["popularity", "lightgcn", "teacher:visual", "plain", "mine"])
def test_any_run_may_be_missing(tmp_path, name):
    results = small()
    results["runs"] = [run for run in results["runs"] if run["name"] != name]
    read(tmp_path, results, many.histories(results))


def test_a_study_without_runs_has_a_page_that_says_so(tmp_path):
    assert "no run yet" in read(tmp_path, {"runs": []}).text


def test_what_could_not_be_measured_is_a_dash(tmp_path):
    results = small()
    results["effects"]["mine"]["visual"] = {"mean": float("nan"), "low": None, "high": None, "share": None}
    page = read(tmp_path, results)
    rows = page.tables["Effects of every modality on every contender's model, validation part"]
    assert [row[1:] for row in rows if row[0] == "visual"][1] == ["–"] * 7
    assert not re.search(r"\b(nan|None)\b", page.text)


def test_what_is_not_a_study_is_refused(tmp_path):
    for bad, pattern in [
        ({}, "runs"),
        ({"runs": [{"name": "ckd"}]}, "'test'"),
        ({"format": 3, "runs": []}, "format 3"),
    ]:
        with pytest.raises(InputError, match=pattern):
            write_report(tmp_path, bad, {})
    assert not list(tmp_path.iterdir())


def test_a_study_of_format_1_still_opens(tmp_path):
    results = old_study()
    page = read(tmp_path, results, old_histories())
    assert {path.name for path in tmp_path.iterdir()} == {*PLOTS, "report.html"} - {"contenders.png"}
    for name in ("popularity", "lightgcn", "teacher:visual", "plain", "ckd"):
        values = [run["test"]["recall@20"] for run in results["runs"] if run["name"] == name]
        assert f"{np.mean(values):.4f}" in page.text
    assert "ckd winner" in page.text
    assert "share of the lead" not in page.text  # Nobody measured it then.


def test_the_picture_over_epochs_says_what_its_strategy_records(tmp_path):
    results = small()
    entry = next(entry for entry in results["contenders"] if entry["name"] == "mine")
    entry["reports"] = {"weight": "weight of the modality's own loss"}
    frames = {key: frame for key, frame in many.histories(results).items() if key[0] == "mine"}
    frames = {key: frame.drop(columns=[c for c in frame if c.startswith("effect/")]) for key, frame in frames.items()}
    text = read(tmp_path, results, frames).text
    assert "While mine trains, seed 0. What it records of every modality: weight: weight of the modality's own" in text
    assert "joint decision relative" not in text


def named(old: str, new: str) -> dict:
    """Return a small study with another name of a modality."""
    found = json.loads(json.dumps(small()).replace(f'"{old}"', json.dumps(new)).replace(f":{old}", f":{new}"))
    return dict(found)


def test_letters_that_no_font_has_are_said_once(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "FALLBACKS", ())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_report(tmp_path, named("visual", "\u89c6\u89c9"), {})
    said = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    assert len(said) == 1
    assert said[0].startswith("report: found no font with \u89c6\u89c9, which pictures show as boxes; install one")


def test_letters_are_taken_from_another_font_that_is_installed(tmp_path, monkeypatch):
    usual, symbols = labels._letters(""), labels._letters("STIXNonUnicode")  # Matplotlib brings both.
    letter = min(letter for letter in symbols - usual if letter.isprintable() or ord(letter) > 0xE000)
    monkeypatch.setattr(labels, "FALLBACKS", ("no such font", "STIXNonUnicode"))
    monkeypatch.setattr(labels, "_is_shown", lambda letter: True)  # Those of this font have no meaning of their own.
    assert labels.fonts_for([f"a{letter}"]) == (["STIXNonUnicode"], "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(tmp_path, named("visual", f"a{letter}"), {})
    assert labels.fonts_for(["plain"]) == ([], "")
