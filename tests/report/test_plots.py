import io
import itertools
import subprocess
import sys
import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread

from pyg_ckd.errors import InputError
from pyg_ckd.report.axes import short_names, spread
from pyg_ckd.report.labels import shortened
from pyg_ckd.report.plots import (
    PALETTE,
    contender_curves,
    effect_bars,
    effects_over_time,
    learning_curves,
    metric_bars,
    modality_colors,
    teacher_shares,
)
from pyg_ckd.report.theme import DARK, LIGHT
from pyg_ckd.study.results import Gap, gaps
from tests.report import many
from tests.report.study import TEACHERS, history, study

NAMES = ("visual", "textual", "acoustic", "tags")


def pixels(figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return imread(buffer)


def texts(figure) -> str:
    parts = [text.get_text() for ax in figure.axes for text in ax.texts]
    return " ".join(parts + [label.get_text() for ax in figure.axes for label in ax.get_yticklabels()])


def bold(figure) -> list[str]:
    return [t.get_text() for ax in figure.axes for t in ax.texts if t.get_fontweight() == "bold"]


def curves(num: int, theme=LIGHT):
    names = NAMES[:num]
    levels = {m: TEACHERS[m] for m in names}
    return learning_curves({"plain": history("plain", names), "mine": history("ckd", names)}, levels, theme=theme)


@pytest.mark.parametrize(("num", "panels"), [(1, 2), (2, 2), (3, 2), (4, 8)])
def test_up_to_three_modalities_share_a_panel_and_more_get_a_row_each(num, panels):
    figure = curves(num)
    assert len(figure.axes) == panels
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == ["plain", "mine"]
    assert pixels(figure).std() > 0.01


def drawn_points(ax, color) -> list[tuple[float, float]]:
    """Return the points of all solid curves of a colour: the part up to the kept epoch."""
    lines = [line for line in ax.lines if to_hex(line.get_color()) == color and line.get_linestyle() == "-"]
    return [tuple(point) for line in lines if len(line.get_xdata()) > 1 for point in line.get_xydata()]


def test_epochs_without_evaluation_are_skipped_and_curves_hold_the_numbers_up_to_the_kept_epoch():
    plain = history("plain", NAMES[:2], every=5)
    ax = learning_curves({"plain": plain}, {"visual": 0.06, "textual": 0.07}, kept={"plain": 50}).axes[0]
    for m, color in modality_colors(NAMES[:2]).items():
        expected = plain[f"val/{m}/recall@20"].dropna()
        assert drawn_points(ax, color) == list(expected.loc[:50].items())
        pale = to_hex(LIGHT.mixed(color, 0.62))
        assert drawn_points(ax, pale) == list(expected.loc[50:].items())


def frame_with(values: dict, index=(1, 2, 3)) -> pd.DataFrame:
    return pd.DataFrame(values, index=list(index))


def test_labels_are_those_of_the_kept_epoch_which_is_marked():
    frame = frame_with({"val/recall@20": [0.1, 0.3, 0.2], "val/a/recall@20": [0.02, 0.05, 0.09]})
    written = texts(learning_curves({"x": frame}, {"a": 0.1}))  # The best epoch is the second one.
    assert "kept: epoch 2" in written
    assert "gap 0.0500 (50 %)" in written
    assert "0.3000" in written
    written = texts(learning_curves({"x": frame}, {"a": 0.1}, kept={"x": 3}))
    assert "kept: epoch 3" in written
    assert "gap 0.0100 (90 %)" in written
    assert "0.2000" in written
    assert "ahead by 0.0300" in texts(learning_curves({"x": frame}, {"a": 0.02}))


def test_the_kept_epoch_is_a_line_at_its_place():
    frame = history("plain", NAMES[:1])
    ax = learning_curves({"x": frame}, {"visual": 0.06}, kept={"x": 42}).axes[0]
    assert [42.0, 42.0] in [list(line.get_xdata()) for line in ax.lines]
    for ax in effects_over_time(history("ckd", NAMES[:2]), NAMES[:2], 42).axes:
        assert [42.0, 42.0] in [list(line.get_xdata()) for line in ax.lines]


def test_a_missing_teacher_a_missing_view_and_a_single_epoch_are_drawn():
    frame = frame_with({"val/recall@20": [0.1], "val/a/recall@20": [0.05]}, [1])
    assert "0.0500" in texts(learning_curves({"x": frame}, {"a": float("nan"), "b": 0.1}))


def test_no_history_at_all_is_refused():
    with pytest.raises(InputError, match="no history"):
        learning_curves({"x": pd.DataFrame()}, {"a": 0.1})


def test_every_contender_has_a_panel_with_the_value_of_its_kept_epoch():
    frames = {name: frame_with({"val/recall@20": [0.1, top, 0.2]}) for name, top in (("plain", 0.3), ("a.B", 0.4))}
    figure = contender_curves(frames, kept={"plain": 3}, notes={"a.B": "not converged"})
    found = {ax.get_title(loc="left"): texts_of(ax) for ax in figure.axes}
    assert found == {"plain": "0.2000\nepoch 3", "B": "0.4000\nepoch 2\nnot converged"}


def texts_of(ax) -> str:
    return " ".join(text.get_text() for text in ax.texts)


@pytest.mark.parametrize("kept", [40, None])
def test_effects_and_weights_are_labelled_with_their_value_at_the_kept_epoch(kept):
    frame = history("ckd", NAMES[:3])
    written = texts(effects_over_time(frame, NAMES[:3], kept))
    for m in NAMES[:3]:
        for kind in ("effect", "weight"):
            assert f"{m}  {frame[f'{kind}/{m}'].loc[kept or frame.index[-1]]:.2f}" in written


def test_a_strategy_that_reports_weights_alone_has_one_panel():
    frame = history("ckd", NAMES[:2]).drop(columns=[f"effect/{m}" for m in NAMES[:2]])
    assert len(effects_over_time(frame, NAMES[:2]).axes) == 1


def test_effects_without_any_value_are_an_empty_plot():
    frame = pd.DataFrame({"effect/a": [np.nan], "weight/a": [np.nan]}, index=[1])
    assert pixels(effects_over_time(frame, ["a"])).size


def test_effect_bars_show_mean_and_interval_and_a_dash_for_nan():
    row = {"mean": 0.5, "low": 0.25, "high": 0.75}
    figure = effect_bars({"plain": {"a": row, "b": {"mean": float("nan")}, "c": {"mean": -0.1}}})
    ax = figure.axes[0]
    assert [list(line.get_xdata()) for line in ax.lines] == [[0.25, 0.75]]
    assert [text.get_text() for ax in figure.axes for text in ax.texts] == ["0.500", "–", "−0.100"]


def test_effect_bars_are_shares_of_the_lead_for_every_contender_where_they_are_known():
    results = many.study()
    figure = effect_bars(results["effects"], many.MODALITIES)
    for ax, m in zip(figure.axes, many.MODALITIES, strict=True):
        expected = [results["effects"][name][m]["share"] for name in many.CONTENDERS]
        assert [bar.get_width() for bar in ax.patches] == pytest.approx(expected)
        assert [text.get_text() for text in ax.texts] == [f"{100 * share:.0f} %" for share in expected]


def test_bars_of_views_are_shares_of_the_teacher_with_the_best_in_bold():
    rows = gaps(many.study())
    figure = teacher_shares(rows)
    for ax, m in zip(figure.axes, many.MODALITIES, strict=True):
        assert [bar.get_width() for bar in ax.patches] == pytest.approx([r.reach for r in rows if r.modality == m])
        assert [1.0, 1.0] in [list(line.get_xdata()) for line in ax.lines]
    assert len(bold(figure)) == 3
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(many.CONTENDERS)


def test_no_label_of_a_view_lies_on_its_teachers_line():
    figure = teacher_shares([Gap(n, "m", 0.05, view, 0.1) for n, view in (("plain", 0.05), ("a", 0.097))])
    assert all(text.xy[0] > 1.0 for text in figure.axes[0].texts)


def test_metric_bars_have_a_bar_per_run_and_the_best_in_bold_whoever_it_is():
    results = many.study()
    figure = metric_bars(results)
    mine = np.array([run["test"]["recall@20"] for run in results["runs"] if run["name"] == "mine"])
    assert len(figure.axes[0].patches) == 12
    assert figure.axes[0].patches[-1].get_width() == pytest.approx(mine.mean())
    assert bold(figure) == [f"{mine.mean():.4f} ± {mine.std(ddof=1):.4f} *†"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[-1] == "mine, winner"
    assert "multitask, not converged" in names
    for run in results["runs"]:
        if run["name"] == "ease":
            run["test"]["recall@20"] = 0.5
    assert bold(metric_bars(results)) == ["0.5000"]
    assert len(metric_bars(study()).axes[0].patches) == 7


def test_colours_follow_the_order_of_the_modalities_in_every_plot():
    assert modality_colors(["a", "b"]) == {"a": PALETTE[0], "b": PALETTE[1]}
    figure = effect_bars({"mine": {"b": {"mean": 1.0}}}, ["a", "b"])
    assert to_hex(figure.axes[0].patches[0].get_facecolor()) == PALETTE[1]
    assert len(modality_colors([str(i) for i in range(30)])) == 30


def test_dark_plots_are_dark_and_light_ones_light():
    for theme, low, high in ((LIGHT, 0.9, 1.0), (DARK, 0.0, 0.2)):
        assert low <= np.median(pixels(curves(2, theme))[..., :3]) <= high


def test_names_with_dollar_signs_are_not_read_as_mathematics():
    name = r"$\bad$"
    frame = frame_with({"val/recall@20": [0.1, 0.2], f"val/{name}/recall@20": [0.02, 0.05]}, [1, 2])
    assert pixels(learning_curves({name: frame}, {name: 0.1})).size
    assert pixels(contender_curves({name: frame}, notes={name: name})).size
    assert pixels(effect_bars({name: {name: {"mean": 1.0}}})).size
    assert pixels(teacher_shares([Gap(name, name, 0.1, 0.1, 0.2)])).size


def test_names_lose_the_path_of_their_package_as_far_as_they_stay_different():
    assert short_names(["plain", "a.b.Mine", "a.Other", "b.Other"]) == ["plain", "Mine", "a.Other", "b.Other"]


@pytest.mark.parametrize("most", [12, 24, 44])
def test_long_names_lose_their_middle_and_stay_different(most):
    long = "a_very_long_modality_name_that_goes_on_and_on"
    names = ["plain", long, long.replace("name", "word"), long.replace("name", "kind"), f"{long}_2", long]
    found = shortened(names, most)
    assert found[0] == "plain"
    assert all(len(text) <= most for text in found)
    assert len(set(found)) == len(set(names))
    assert found[1] == found[5]
    assert found[1][: most // 2] == long[: most // 2]
    assert found[1].endswith(long[-(most - most // 2 - 1) :])
    assert shortened(names, 46) == [*names[:4], shortened(names, 46)[4], long]
    assert short_names([f"my_pkg.{'Mine' * 30}", "plain"], 12)[0] == "MineMi…eMine"


@pytest.mark.parametrize("length", [60, 200])
def test_panels_keep_their_place_beside_long_names(length):
    names = [f"{m}{m[0] * (length - len(m))}" for m in NAMES]
    rows = [Gap(f"{c}-{'n' * length}", m, 0.1, 0.1, 0.2) for c in ("a", "b") for m in names]
    frames = {f"{c}-{'n' * length}": history("ckd", NAMES[:2]) for c in "abcde"}
    for figure in (teacher_shares(rows), contender_curves(frames)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.draw_without_rendering()
        panels = [ax for ax in figure.axes if ax.get_visible()]
        boxes = [
            ax.title.get_window_extent() if ax.get_title() else ax._left_title.get_window_extent() for ax in panels
        ]
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)
        assert all(ax.get_position().width > 0.09 for ax in panels)


def test_a_modality_without_a_teacher_above_zero_does_not_change_the_colours_of_others():
    rows = [Gap(c, m, 0.1, 0.1, 0.2) for c in ("plain", "a") for m in NAMES[1:3]]
    figure = teacher_shares(rows, modalities=NAMES)
    colors = [to_hex(ax.patches[1].get_facecolor()) for ax in figure.axes]
    assert colors == [modality_colors(NAMES)[m] for m in NAMES[1:3]]


def test_names_with_dots_that_are_no_paths_stay_as_they_are():
    names = ["plain", "ckd-0.1", "ckd-0.5", "v1.2", ".hidden", "end.", "my_pkg.Mine"]
    assert short_names(names) == [*names[:-1], "Mine"]


def test_labels_are_moved_apart_and_stay_in_the_panel():
    places = spread([0.5, 0.5, 0.95, 0.99], [0.2] * 4, 0.0, 1.0)
    assert all(b - a >= 0.2 - 1e-12 for a, b in itertools.pairwise(places))
    assert places[-1] <= 0.9 + 1e-12
    assert spread([0.2, 0.8], [0.1, 0.1], 0.0, 1.0) == [0.2, 0.8]


def test_plotting_leaves_matplotlib_as_it_was():
    before = dict(mpl.rcParams)
    pixels(curves(2))
    assert dict(mpl.rcParams) == before


def test_importing_the_report_does_not_import_matplotlib():
    code = "import sys, pyg_ckd.report.report; print('matplotlib' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
