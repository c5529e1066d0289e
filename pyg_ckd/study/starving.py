"""Sentences about modalities: which have no content, which starve, and of which that cannot be told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pyg_ckd.evaluation.scaling import better_as_given
from pyg_ckd.study.formats import PLAIN
from pyg_ckd.study.results import Gap, content_alone, gaps, modality_names, winner_name, without_content
from pyg_ckd.study.text import joined, number, p_text, percent, show

STARVING = 0.9
"""A modality starves if its view of the plain student reaches less than this share of its teacher."""


def modality_lines(results: Mapping[str, Any], metric: str) -> list[str]:
    """Return what is said of the modalities.

    Args:
        results: The results in format 2.
        metric: The metric that the story is told with.
    """
    none = without_content(results)
    rows = [row for row in gaps(results, metric) if row.modality not in none]
    return _nothing_to_learn(results, none) + _balance(results, metric, rows, none)


def scaling_lines(results: Mapping[str, Any]) -> list[str]:
    """Return which modalities rank better by their features as given than standardized.

    Args:
        results: The results in format 2.
    """
    content = results.get("content")
    scaling = content.get("scaling") if isinstance(content, Mapping) else None
    names = ("given", "standardized", "p_value")
    rows = scaling.items() if isinstance(scaling, Mapping) else ()
    known = {m: {name: number(row.get(name)) for name in names} for m, row in rows if isinstance(row, Mapping)}
    chosen = better_as_given(known)
    if not chosen or not isinstance(content, Mapping):
        return []
    values = joined([f"{m} {show(row['given'])} and {show(row['standardized'])}" for m, row in chosen.items()])
    return [
        f"the features of {joined(list(chosen))} rank better as given than standardized (alone on validation, "
        f"{content.get('metric', 'recall')}: {values}): train with --transform l2 or none in another folder."
    ]


def _nothing_to_learn(results: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return what is said of modalities whose features are alike for all items."""
    if not names:
        return []
    verb, them = ("has", "it") if len(names) == 1 else ("have", "them")
    so = "nothing to balance" if len(modality_names(results)) < len(names) + 2 else f"nothing to learn from {them}"
    return [f"{joined(names)} {verb} no content that tells items apart, so there is {so}."]


def _balance(results: Mapping[str, Any], metric: str, rows: Sequence[Gap], none: Sequence[str]) -> list[str]:
    found = [row for row in rows if not math.isnan(row.reach)]
    every = sorted((row for row in found if row.contender == PLAIN), key=lambda row: row.reach)
    if not every and all(math.isnan(row.teacher) for row in rows):
        return []
    if every and len(modality_names(results)) == 1:
        return [f"There is one modality only, {every[0].modality}: nothing is there to balance."]
    alone, known = content_alone(results), [row.modality for row in every]
    unknown = _unknown([m for m in modality_names(results) if m not in known and m not in none])
    short = [row for row in every if row.reach < STARVING and row.modality in alone]
    silent = [row for row in short if alone[row.modality].silent]
    unclear = [row for row in short if alone[row.modality].unclear]
    others = [row for row in every if row not in silent and row not in unclear]
    lines = [*unknown, *_starving(results, metric, others, found, bool(unclear))]
    return [*lines, *_silent(results, silent, found), *_unclear(results, unclear, found)]


def _unknown(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    verb = "starves" if len(names) == 1 else "starve"
    return [f"Whether {joined(names)} {verb} is unknown, for no teacher above 0 is there to compare with."]


def _silent(results: Mapping[str, Any], rows: Sequence[Gap], found: Sequence[Gap]) -> list[str]:
    """Return what is said of modalities that are short of their teachers, but whose features say nothing alone."""
    if not rows:
        return []
    alone, winner = content_alone(results), _of_winner(results, found)
    who = joined([_short(row, winner) for row in rows])
    values = joined(
        [f"{show(alone[row.modality].recall)} against {show(alone[row.modality].shuffled)}" for row in rows]
    )
    return [
        f"{who} {'is short of its teacher' if len(rows) == 1 else 'are short of their teachers'}, but the features "
        f"alone rank no better than shuffled ones ({results['content'].get('metric', 'recall')} on validation "
        f"{values}), so there may be nothing to learn from them."
    ]


def _unclear(results: Mapping[str, Any], rows: Sequence[Gap], found: Sequence[Gap]) -> list[str]:
    """Return what is said of modalities that are short of their teachers, and whose features may be noise."""
    if not rows:
        return []
    alone, winner = content_alone(results), _of_winner(results, found)
    who = joined([_short(row, winner) for row in rows])
    short, whose = ("is short of its teacher", "its") if len(rows) == 1 else ("are short of their teachers", "their")
    values = joined([p_text(alone[row.modality].p_value) for row in rows])
    return [f"{who} {short}, but whether {whose} features say anything cannot be told ({values})."]


def _of_winner(results: Mapping[str, Any], found: Sequence[Gap]) -> dict[str, Gap]:
    return {row.modality: row for row in found if row.contender == winner_name(results) != PLAIN}


def _starving(
    results: Mapping[str, Any], metric: str, rows: Sequence[Gap], found: Sequence[Gap], unclear: bool = False
) -> list[str]:
    """Return who starves among modalities from the one that is furthest behind its teacher to the one that is least."""
    if not rows:
        return []
    worst = rows[0]
    if worst.reach >= STARVING:
        names = modality_names(results)
        known = not unclear and sum(row.contender == PLAIN for row in found) == len(names)
        every = "every modality" if len(rows) == len(names) else "every other modality"
        who = worst.modality if len(rows) == 1 else every
        return [
            f"{'No modality' if known else 'No other modality'} starves: {who} reaches at least "
            f"{percent(worst.reach)} of its teacher's test {metric} in {PLAIN}."
        ]
    winner = _of_winner(results, found)
    after = f" ({percent(winner[worst.modality].reach)} in {winner_name(results)})" if worst.modality in winner else ""
    others = [_short(row, winner) for row in rows[1:] if row.reach < STARVING]
    more = f"; short as well: {joined(others)}" if others else ""
    return [
        f"{worst.modality} starves: its view of {PLAIN} reaches {percent(worst.reach)} of its teacher's test "
        f"{metric}{after}{more}."
    ]


def _short(row: Gap, winner: Mapping[str, Gap]) -> str:
    after = (
        f", {percent(winner[row.modality].reach)} in {winner[row.modality].contender}" if row.modality in winner else ""
    )
    return f"{row.modality} ({percent(row.reach)}{after})"
