"""What strategies recorded, in the report: every number found again by plain loops, and nothing known by name."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyg_ckd.report import report as module
from pyg_ckd.report import write_report
from pyg_ckd.report.records import drawn_panels, happens, kinds_of, record_curves, records, records_words
from tests.report import many
from tests.report.page import Page

CAPTION = "What every strategy recorded while it trained"
TAUGHT = {"visual": "textual", "textual": "textual", "acoustic": "visual"}
STAGE = 20
MEANING = "epochs in which the row's teacher taught the column's modality"


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    monkeypatch.setattr(module, "DPI", 30)


def teaching():
    """A study in which a stranger's strategy says who taught whom in a first stage, and further things."""
    results = many.study()
    frames = many.histories(results)
    for (name, _), frame in frames.items():
        if name == "mine":
            for teacher in TAUGHT:
                for m, chosen in TAUGHT.items():
                    frame[f"teaches/{teacher}/{m}"] = np.where(frame.index <= STAGE, float(teacher == chosen), np.nan)
            frame["stage"] = 1.0 + (frame.index > STAGE)
            frame["keep/ids"] = 0.25
    next(c for c in results["contenders"] if c["name"] == "mine")["reports"] = {"teaches": MEANING}
    return results, frames


def kept_value(results, frames, name, column):
    """The last value up to the kept epoch of the first seed, and the first value of all, by a loop."""
    best = next(run["best_epoch"] for run in results["runs"] if (run["name"], run["seed"]) == (name, 0))
    last = first = math.nan
    for epoch, value in frames[name, 0][column].items():
        if not math.isnan(value):
            first = value if math.isnan(first) else first
            last = value if epoch <= best else last
    return last, first


def text(pair):
    last, first = (f"{value:.3f}" for value in pair)
    return last if last == first else f"{last} from {first}"


def test_every_number_of_the_table_is_found_again_by_a_loop(tmp_path):
    results, frames = teaching()
    page = Page(write_report(tmp_path, results, frames).read_text(encoding="utf-8"))
    rows = page.tables[CAPTION]
    names = list(many.MODALITIES)
    assert rows[0] == ["record", "what it is", *names, "of no modality"]
    expected = []
    for name in ("ckd", "mine"):
        expected.append([f"{name}, winner" if name == "mine" else name])
        for kind in ("effect", "weight"):
            cells = [text(kept_value(results, frames, name, f"{kind}/{m}")) for m in names]
            expected.append([kind, "–", *cells, "–"])
    for teacher in names:
        cells = [f"{STAGE if TAUGHT[m] == teacher else 0} of {STAGE} epochs" for m in names]
        expected.append([f"teaches: {teacher}", MEANING, *cells, "–"])
    expected.append(["stage", "–", "–", "–", "–", text(kept_value(results, frames, "mine", "stage"))])
    expected.append(["keep: ids", "–", "–", "–", "–", "0.250"])
    assert rows[1:] == expected


def test_the_picture_says_in_numbers_who_taught_whom(tmp_path):
    results, frames = teaching()
    page = Page(write_report(tmp_path, results, frames).read_text(encoding="utf-8"))
    (alt,) = (alt for alt in page.alts if alt.startswith("What strategies recorded"))
    for m, teacher in TAUGHT.items():
        assert f"{teacher} to {m} {STAGE} of {STAGE} epochs" in alt
    assert f"ckd, weight: visual {kept_value(results, frames, 'ckd', 'weight/visual')[0]:.3f}" in alt
    assert alt == records_words(records(results, frames))
    assert (tmp_path / "records.png").exists()


def test_the_picture_holds_the_curves_and_names_who_teaches():
    results, frames = teaching()
    found = records(results, frames)
    assert drawn_panels(found) == [
        *((name, kind) for name in ("ckd", "mine") for kind in ("effect", "weight")),
        ("mine", "teaches"),
    ]
    figure = record_curves(found, many.MODALITIES)
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes if ax.get_visible()}
    assert list(panels) == ["ckd: effect", "ckd: weight", "mine: effect", "mine: weight", "mine: teaches"]
    solid = [line.get_xydata() for line in panels["ckd: weight"].lines if len(line.get_xdata()) > 2]
    points = {tuple(point) for line in solid for point in line}
    assert points >= set(frames["ckd", 0]["weight/acoustic"].items())
    pairs = panels["mine: teaches"]
    assert [label.get_text() for label in pairs.get_yticklabels()] == list(TAUGHT)
    assert [t.get_text().strip() for t in pairs.texts] == list(TAUGHT.values())
    assert {(bar.get_x(), bar.get_width()) for bar in pairs.patches} == {(0.5, STAGE)}


def test_a_teacher_that_changes_has_a_bar_for_every_stretch():
    results, frames = teaching()
    frame = frames["mine", 0]
    frame.loc[5:6, ["teaches/visual/acoustic", "teaches/textual/acoustic"]] = [0.0, 1.0]
    figure = record_curves(records(results, frames), many.MODALITIES)
    (pairs,) = (ax for ax in figure.axes if ax.get_title(loc="left") == "mine: teaches")
    bars = [(t.get_text().strip(), bar.get_width()) for t, bar in zip(pairs.texts, pairs.patches, strict=True)]
    assert bars[2:] == [("visual", 4), ("textual", 2), ("visual", STAGE - 6)]


def test_columns_are_told_apart_by_their_names_alone():
    frame = teaching()[1]["mine", 0]
    kinds = kinds_of(frame, many.MODALITIES)
    assert list(kinds) == ["effect", "weight", "teaches", "stage", "keep"]
    assert kinds["weight"][""]["visual"] == "weight/visual"
    assert kinds["teaches"]["textual"]["visual"] == "teaches/textual/visual"
    assert kinds["stage"] == {"": {"": "stage"}}
    assert kinds["keep"] == {"ids": {"": "keep/ids"}}
    frame["nothing/visual"] = math.nan
    assert "nothing" not in kinds_of(frame, many.MODALITIES)


def test_a_kind_happens_if_it_is_zero_and_one_and_nothing_else():
    results, frames = teaching()
    frames["mine", 0]["flat/visual"] = 1.0
    one = records(results, frames)["mine"]
    assert [kind for kind in one.kinds if happens(one, kind)] == ["teaches"]


def test_a_study_without_records_has_no_such_section(tmp_path):
    results = many.study(contenders=("plain", "multitask"))
    page = Page(write_report(tmp_path, results, many.histories(results)).read_text(encoding="utf-8"))
    assert CAPTION not in page.tables
    assert "What each strategy did" not in page.text
    assert not (tmp_path / "records.png").exists()


def test_many_panels_unfold_on_a_click(tmp_path, monkeypatch):
    results, frames = teaching()
    page = Page(write_report(tmp_path, results, frames).read_text(encoding="utf-8"))
    assert "Over epochs" not in page.text
    monkeypatch.setattr("pyg_ckd.report.records.MOST_OPEN", 4)
    page = Page(write_report(tmp_path, results, frames).read_text(encoding="utf-8"))
    assert "Over epochs" in page.text


@pytest.mark.parametrize("value", ["tensor(0.5)", [1.0], None], ids=["text", "list", "none"])
def test_a_column_without_numbers_is_left_out(value, tmp_path):
    results, frames = teaching()
    for name, seed in frames:
        if name == "mine":
            frames[name, seed]["odd/visual"] = [value] * len(frames[name, seed])
    page = Page(write_report(tmp_path, results, frames).read_text(encoding="utf-8"))
    assert "weight" in [row[0] for row in page.tables[CAPTION]]
    assert "odd" not in [row[0] for row in page.tables[CAPTION]]
