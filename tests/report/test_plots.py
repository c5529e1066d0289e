import io
import itertools
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread

from pyg_ckd.errors import InputError
from pyg_ckd.report.plots import (
    PALETTE,
    _spread,
    effect_bars,
    effects_over_time,
    learning_curves,
    metric_bars,
    modality_colors,
)
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


def curves(num: int):
    names = NAMES[:num]
    levels = {m: TEACHERS[m] for m in names}
    return learning_curves(history("plain", names), history("ckd", names), levels)


@pytest.mark.parametrize(("num", "panels"), [(1, 2), (2, 2), (3, 2), (4, 8)])
def test_up_to_three_modalities_share_a_panel_and_more_get_a_row_each(num, panels):
    figure = curves(num)
    assert len(figure.axes) == panels
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == ["Plain training", "With CKD"]
    assert pixels(figure).std() > 0.01


def test_epochs_without_evaluation_are_skipped_and_curves_hold_the_numbers():
    plain = history("plain", NAMES[:2], every=5)
    figure = learning_curves(plain, None, {"visual": 0.06, "textual": 0.07})
    drawn = {to_hex(line.get_color()): line for line in figure.axes[0].lines if len(line.get_xdata()) > 2}
    for m, color in modality_colors(NAMES[:2]).items():
        expected = plain[f"val/{m}/recall@20"].dropna()
        assert list(drawn[color].get_xdata()) == list(expected.index)
        assert list(drawn[color].get_ydata()) == list(expected)


def test_the_final_gap_is_written_and_an_overtaken_teacher_is_said():
    frame = pd.DataFrame({"val/recall@20": [0.1, 0.2], "val/a/recall@20": [0.02, 0.05]}, index=[1, 2])
    assert "gap 0.0500 (50 %)" in texts(learning_curves(frame, frame, {"a": 0.1}))
    assert "ahead by 0.0300" in texts(learning_curves(frame, frame, {"a": 0.02}))


def test_a_missing_teacher_a_missing_view_and_a_single_epoch_are_drawn():
    frame = pd.DataFrame({"val/recall@20": [0.1], "val/a/recall@20": [0.05]}, index=[1])
    assert "0.0500" in texts(learning_curves(frame, None, {"a": float("nan"), "b": 0.1}))


def test_no_history_at_all_is_refused():
    with pytest.raises(InputError, match="no history"):
        learning_curves(None, pd.DataFrame(), {"a": 0.1})


def test_effects_and_weights_end_with_their_last_value():
    frame = history("ckd", NAMES[:3])
    written = texts(effects_over_time(frame, NAMES[:3]))
    for m in NAMES[:3]:
        assert f"{m}  {frame[f'effect/{m}'].iloc[-1]:.2f}" in written
        assert f"{m}  {frame[f'weight/{m}'].iloc[-1]:.2f}" in written


def test_effects_without_any_value_are_an_empty_plot():
    frame = pd.DataFrame({"effect/a": [np.nan], "weight/a": [np.nan]}, index=[1])
    assert pixels(effects_over_time(frame, ["a"])).size


def test_effect_bars_show_mean_and_interval_and_a_dash_for_nan():
    figure = effect_bars(
        {"a": {"mean": 0.5, "low": 0.25, "high": 0.75}, "b": {"mean": float("nan")}, "c": {"mean": -0.1}}
    )
    assert "0.5000   [0.2500, 0.7500]" in texts(figure)
    assert {"–", "−0.1000"} <= {text.get_text() for text in figure.axes[0].texts}


def test_metric_bars_have_a_bar_per_run_with_the_mean_over_seeds():
    results = study()
    figure = metric_bars(results)
    ckd = np.array([run["test"]["recall@20"] for run in results["runs"] if run["name"] == "ckd"])
    assert len(figure.axes[0].patches) == 7
    assert figure.axes[0].patches[-1].get_width() == pytest.approx(ckd.mean())
    assert f"{ckd.mean():.4f} ± {ckd.std(ddof=1):.4f}" in texts(figure)


def test_colours_follow_the_order_of_the_modalities_in_every_plot():
    assert modality_colors(["a", "b"]) == {"a": PALETTE[0], "b": PALETTE[1]}
    figure = effect_bars({"b": {"mean": 1.0}}, ["a", "b"])
    assert to_hex(figure.axes[0].patches[0].get_facecolor()) == PALETTE[1]
    assert len(modality_colors([str(i) for i in range(30)])) == 30


def test_names_with_dollar_signs_are_not_read_as_mathematics():
    frame = pd.DataFrame({"val/recall@20": [0.1, 0.2], r"val/$\bad$/recall@20": [0.02, 0.05]}, index=[1, 2])
    assert pixels(learning_curves(frame, frame, {r"$\bad$": 0.1})).size
    assert pixels(effect_bars({r"$\bad$": {"mean": 1.0}})).size


def test_labels_are_moved_apart_and_stay_in_the_panel():
    places = _spread([0.5, 0.5, 0.95, 0.99], [0.2] * 4, 0.0, 1.0)
    assert all(b - a >= 0.2 - 1e-12 for a, b in itertools.pairwise(places))
    assert places[-1] <= 0.9 + 1e-12
    assert _spread([0.2, 0.8], [0.1, 0.1], 0.0, 1.0) == [0.2, 0.8]


def test_plotting_leaves_matplotlib_as_it_was():
    before = dict(mpl.rcParams)
    pixels(curves(2))
    assert dict(mpl.rcParams) == before


def test_importing_the_report_does_not_import_matplotlib():
    code = "import sys, pyg_ckd.report.report; print('matplotlib' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
