"""A model card for people: plain lines and a table for the terminal, and the same in one HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyg_ckd.files import as_path, atomic_path
from pyg_ckd.report.html import facts, page, paragraph, section, table
from pyg_ckd.study.text import DASH, amount, counted, number, show

if TYPE_CHECKING:
    from rich.console import RenderableType

PARTS = {"model": "The model", "data": "The data it knows", "training": "How it was trained", "versions": "Versions"}
SPLITS = {"val": "validation", "test": "test"}


def render_card(card: Mapping[str, Any]) -> RenderableType:
    """Return the card for the terminal; nothing in it is cut off, whatever its width.

    Args:
        card: What :func:`~pyg_ckd.training.card.model_card` returned.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    out: list[RenderableType] = []
    for part, title in PARTS.items():
        lines = _lines(card[part])
        width = max((len(name) for name, _ in lines), default=0)
        out += [Text(title, style="bold")]
        out += [Text(f"  {name:<{width}}  {value}", overflow="fold") for name, value in lines] or [Text("  nothing")]
        out.append(Text())
        if part == "training" and card["metrics"]:
            drawn = Table(title="Metrics", title_justify="left")
            header, rows = _metrics(card["metrics"])
            for place, name in enumerate(header):
                drawn.add_column(name, justify="right" if place else "left", no_wrap=True)
            for row in rows:
                drawn.add_row(*map(Text, row))
            out += [drawn, Text()]
    return Group(*out[:-1])


def write_card(path: str | os.PathLike[str], card: Mapping[str, Any]) -> Path:
    """Write one HTML file without any external resource.

    Args:
        path: The file; its folder is created if need be.
        card: What :func:`~pyg_ckd.training.card.model_card` returned.

    Returns:
        The path of the file.
    """
    target = as_path(path)
    with atomic_path(target) as temporary:
        temporary.write_text(_page(card), encoding="utf-8")
    return target


def _page(card: Mapping[str, Any]) -> str:
    model, data = card["model"], card["data"]
    name = model["module"]["class"].rpartition(".")[2] if "module" in model else model["backbone"]
    objective = card["training"].get("objective")
    lead = [counted(data["users"], "users"), counted(data["items"], "items"), ", ".join(data["modalities"])]
    lead += [f"trained with {objective}"] if objective else []
    header, rows = _metrics(card["metrics"])
    metrics = table("Metrics by split", header, rows) if rows else paragraph("The file holds no metrics.")
    parts = [section("Metrics", metrics)]
    for part, title in PARTS.items():
        values = dict(_lines(card[part]))
        parts.append(section(title, facts(f"Facts: {title[0].lower()}{title[1:]}", values)))
    return page(f"The model {name}", " · ".join(lead), "".join(parts))


def _lines(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return names and texts, nested mappings flattened to dotted names."""
    lines: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += _lines(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            lines.append((f"{prefix}{name}", ", ".join(map(amount, value)) or DASH))
        else:
            text = DASH if value is None or value == "" else str(value)
            counts = isinstance(value, int) and not isinstance(value, bool) and name != "seed"
            lines.append((f"{prefix}{name}", amount(value) if counts else text))
    return lines


def _metrics(metrics: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = ["metric", *(SPLITS.get(split, split) for split in metrics)]
    names = dict.fromkeys(name for values in metrics.values() for name in values)
    cells = [[show(number(values.get(name))) for values in metrics.values()] for name in names]
    return header, [[name, *row] for name, row in zip(names, cells, strict=True)]
