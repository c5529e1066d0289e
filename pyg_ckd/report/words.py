"""What the pictures of the report show, in words and numbers, for those who do not see them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyg_ckd.evaluation.statistics import mean_std
from pyg_ckd.report.axes import value_at
from pyg_ckd.report.curves import EFFECT_KINDS, effect_kinds, gap_text, kept_epoch
from pyg_ckd.report.plots import has_shares
from pyg_ckd.study.results import Gap, run_names, run_title, run_values
from pyg_ckd.study.text import number, percent, show, spread_text

if TYPE_CHECKING:
    import pandas as pd


def curves_words(
    frames: Mapping[str, pd.DataFrame],
    levels: Mapping[str, float],
    metric: str,
    kept: Mapping[str, float | None],
) -> str:
    """Describe :func:`~pyg_ckd.report.curves.learning_curves`."""
    parts = []
    for title, frame in frames.items():
        epoch = kept_epoch(frame, metric, kept.get(title))
        joint = value_at(frame, f"val/{metric}", epoch)
        found = [f"all modalities {show(joint[1])}"] if joint else []
        for m, level in levels.items():
            point = value_at(frame, f"val/{m}/{metric}", epoch)
            if point is not None:
                gap = "" if math.isnan(level) else f", {gap_text(point[1], level)} to its teacher at {show(level)}"
                found.append(f"{m} alone {show(point[1])}{gap}")
        parts.append(f"{title}, {_kept(epoch)}: {'; '.join(found)}." if found else "")
    return " ".join([f"Curves of validation {metric} over epochs.", *filter(None, parts)])


def contender_curves_words(frames: Mapping[str, pd.DataFrame], metric: str, kept: Mapping[str, float | None]) -> str:
    """Describe :func:`~pyg_ckd.report.curves.contender_curves`."""
    parts = []
    for name, frame in frames.items():
        epoch = kept_epoch(frame, metric, kept.get(name))
        point = value_at(frame, f"val/{metric}", epoch)
        if point is not None:
            parts.append(f"{name} {show(point[1])}, {_kept(epoch)}, of {max(frame.index):.0f}")
    return f"Curves of validation {metric} of every contender: {'; '.join(parts)}."


def over_time_words(name: str, frame: pd.DataFrame, modalities: Sequence[str], kept: float | None) -> str:
    """Describe :func:`~pyg_ckd.report.curves.effects_over_time`."""
    parts = []
    for kind in effect_kinds(frame, modalities):
        points = {m: value_at(frame, f"{kind}/{m}", kept) for m in modalities}
        values = ", ".join(f"{m} {show(point[1], 2)}" for m, point in points.items() if point)
        parts.append(f"{EFFECT_KINDS[kind]}: {values}.")
    return " ".join([f"Curves of {name} over epochs; values at the {_kept(kept)}.", *parts])


def bars_words(results: Mapping[str, Any], metric: str) -> str:
    """Describe :func:`~pyg_ckd.report.plots.metric_bars`."""
    values = {name: run_values(results, name, metric) for name in run_names(results)}
    parts = [f"{run_title(name)} {spread_text(*mean_std(v), len(v))}" for name, v in values.items() if v]
    return f"Bars of test {metric}: {', '.join(parts)}."


def shares_words(rows: Sequence[Gap]) -> str:
    """Describe :func:`~pyg_ckd.report.plots.teacher_shares`."""
    parts = []
    for m in dict.fromkeys(row.modality for row in rows):
        found = [f"{row.contender} {percent(row.reach)}" for row in rows if row.modality == m]
        parts.append(f"{m}: {', '.join(found)}.")
    return " ".join(["Bars of the share of its teacher that every view reaches.", *parts])


def effects_words(effects: Mapping[str, Mapping[str, Mapping[str, Any]]], modalities: Sequence[str]) -> str:
    """Describe :func:`~pyg_ckd.report.plots.effect_bars`."""
    shares, parts = has_shares(effects), []
    for m in modalities:
        rows = {name: table[m] for name, table in effects.items() if m in table}
        values = {name: number(row.get("share" if shares else "mean")) for name, row in rows.items()}
        found = [f"{name} {percent(value) if shares else show(value, 3)}" for name, value in values.items()]
        parts += [f"{m}: {', '.join(found)}."] if found else []
    head = "Bars of the effect as a share of the mean lead." if shares else "Bars of the causal effect on the score."
    return " ".join([head, *parts])


def _kept(epoch: float | None) -> str:
    return "kept epoch unknown" if epoch is None else f"kept epoch {epoch:.0f}"
