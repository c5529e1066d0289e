"""A data set described for people: tables for the terminal, and the same in one HTML file with plots."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyg_ckd.data.describe import SCALES_APART, DataDescription
from pyg_ckd.files import as_path, atomic_path
from pyg_ckd.report.html import Cell, box, facts, figure, page, paragraph, section, table
from pyg_ckd.report.plots import degree_distribution
from pyg_ckd.report.theme import DARK, LIGHT, modality_colors
from pyg_ckd.study.text import DASH, p_number, percent, show

if TYPE_CHECKING:
    from rich.console import RenderableType

FILE = "description.html"
DPI = 200


class Part(NamedTuple):
    """A table with its title and what it means.

    Attributes:
        title: Its title.
        note: What it means.
        header: Column titles.
        rows: Cells; the first of each row is its name.
    """

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]


def render_description(description: DataDescription) -> RenderableType:
    """Return the tables and the warnings for the terminal.

    Args:
        description: What was found.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    lines = [f"{name:<36} {value}" for name, value in _facts(description).items()]
    out: list[RenderableType] = [Text(line, no_wrap=True, overflow="ignore") for line in lines]
    for part in _parts(description):
        drawn = Table(title=part.title, title_justify="left")
        for place, name in enumerate(part.header):
            drawn.add_column(name, justify="right" if place else "left", no_wrap=place == 0)
        for row in part.rows:
            drawn.add_row(*map(Text, row))
        out += [Text(), drawn]
    out.append(Text())
    for line in description.warnings or ["no warning"]:
        head, colon, rest = line.partition(":")
        out.append(Text.assemble((head, "bold"), colon, rest) if colon else Text(line))
    return Group(*out)


def write_description(path: str | os.PathLike[str], description: DataDescription) -> Path:
    """Write one HTML file without any external resource.

    Args:
        path: The file, if its name ends in ``.html``, else the folder for ``description.html``; created if it does not
            exist.
        description: What was found.

    Returns:
        The path of the file.
    """
    place = as_path(path)
    target = place if place.suffix.lower() == ".html" else place / FILE
    with atomic_path(target) as temporary:
        temporary.write_text(_page(description), encoding="utf-8")
    return target


def _page(description: DataDescription) -> str:
    about = description.facts
    splits, degrees, *rest = _parts(description)
    warnings = description.warnings
    content = [
        box(warnings, alarm=True) if warnings else box(["Nothing about this data set calls for attention."]),
        section("The data", facts("Facts about the data", _facts(description))),
        section(splits.title, paragraph(splits.note), table(splits.title, splits.header, splits.rows)),
        section(
            degrees.title,
            paragraph(degrees.note),
            table(degrees.title, degrees.header, degrees.rows),
            _degree_figure(description),
        ),
        *(section(part.title, paragraph(part.note), _colored(part, description)) for part in rest),
    ]
    lead = f"{about['num_users']:,} users · {about['num_items']:,} items · {len(description.modalities)} modalities"
    return page(f"The data set {about['source']}", lead, "".join(content))


def _degree_figure(description: DataDescription) -> str:
    pictures = []
    for theme in (LIGHT, DARK):
        buffer = io.BytesIO()
        degree_distribution(description.degrees, theme).savefig(buffer, format="png", dpi=DPI)
        pictures.append(buffer.getvalue())
    caption = (
        "Which share of users and items has at least so many training interactions. A straight line is a power law: "
        "few have many interactions, most have few."
    )
    parts = []
    for kind, about in description.degree_quantiles().items():
        values = ", ".join(f"{name} {_number(value)}" for name, value in about.items())
        parts.append(f"{kind}s: {values}.")
    alt = " ".join(["Degrees of users and items on logarithmic axes;", *parts])
    return figure("Picture: degrees of users and items", (pictures[0], pictures[1]), alt, caption)


def _colored(part: Part, description: DataDescription) -> str:
    """Return a table whose rows are marked with the colours that modalities have in all reports."""
    colors = modality_colors(list(description.modalities))
    return table(part.title, part.header, [[Cell(row[0], color=colors.get(row[0], "")), *row[1:]] for row in part.rows])


def _facts(description: DataDescription) -> dict[str, str]:
    about = description.facts
    counts = {
        "users": "num_users",
        "items": "num_items",
        "users without training interactions": "cold_users",
        "items without training interactions": "cold_items",
    }
    return {
        "source": about["source"],
        **{title: f"{about[key]:,}" for title, key in counts.items()},
        "density of the training part": f"{100 * about['density']:.3g} %",
        "fingerprint": about["fingerprint"],
    }


def _parts(description: DataDescription) -> list[Part]:
    makers = [_splits_part, _degree_part, _modality_part, _scale_part, _flaw_part]
    makers += [_agreement_part] if description.agreement else []
    makers += [_content_part] if description.content is not None else []
    return [make(description) for make in makers]


def _splits_part(description: DataDescription) -> Part:
    header = ["split", "interactions", "users", "items", "duplicates", "cold users", "cold items"]
    rows = [[name, *(f"{value:,}" for value in about.values())] for name, about in description.splits.items()]
    note = "Cold users and items have no training interaction."
    return Part("Interactions", note, header, rows)


def _degree_part(description: DataDescription) -> Part:
    found = description.degree_quantiles()
    rows = [[f"of {kind}s", *map(_number, about.values())] for kind, about in found.items()]
    note = "How many training interactions users and items have."
    return Part("Degrees", note, ["interactions", *next(iter(found.values()))], rows)


def _modality_part(description: DataDescription) -> Part:
    header = ["modality", "columns", "effective rank", "items that have it"]
    rows = [
        [m, f"{about.dim:,}", f"{about.effective_rank:.1f}", percent(about.coverage, 1)]
        for m, about in description.modalities.items()
    ]
    note = (
        "The effective rank is the number of equally strong directions that are as diverse as the features: far below "
        "the number of columns, most columns repeat what others say."
    )
    return Part("Modalities", note, header, rows)


def _scale_part(description: DataDescription) -> Part:
    levels = ("5 %", "median", "95 %")
    header = ["modality", *(f"{name} {level}" for name in ("norm", "std") for level in levels)]
    rows = [
        [
            m,
            *(
                _number(values[level]) if values else DASH
                for values in (about.row_norm, about.column_std)
                for level in levels
            ),
        ]
        for m, about in description.modalities.items()
    ]
    note = (
        "Quantiles of the norm of the rows and of the standard deviation of the columns, with the features as in the "
        f"source. Modalities whose median norms differ by a factor of {SCALES_APART:.0f} need a transform."
    )
    return Part("Scale of the features", note, header, rows)


def _flaw_part(description: DataDescription) -> Part:
    header = ["modality", "not finite", "only zeros", "identical items", "constant columns", "duplicate columns"]
    rows = [
        [m, *(f"{n:,}" for n in (about.not_finite, about.zeros, about.identical, about.constant, about.repeated))]
        for m, about in description.modalities.items()
    ]
    return Part("Flaws of the features", "Numbers of items (first three) and of columns.", header, rows)


def _agreement_part(description: DataDescription) -> Part:
    header = ["modalities", "overlap", "by chance", "items"]
    rows = [
        [f"{pair.first} and {pair.second}", percent(pair.overlap, 1), percent(pair.chance, 1), f"{pair.items:,}"]
        for pair in description.agreement
    ]
    note = (
        f"Which share of the {description.k} nearest neighbours of an item two modalities have in common, by the "
        "cosine of standardized features. Close to chance, they know different things; close to 100 %, one of them "
        "would do."
    )
    return Part("Agreement between modalities", note, header, rows)


def _content_part(description: DataDescription) -> Part:
    assert description.content is not None
    header = ["modality", "recall", "shuffled", "p", "users"]
    rows = [
        [str(m), show(found["recall"]), show(found["shuffled"]), p_number(found["p_value"]), f"{found['users']:,}"]
        for m, found in description.content.to_dict("index").items()
    ]
    note = (
        f"{description.content.attrs.get('metric', 'recall')} on the validation part, without any training, if items "
        "are ranked by the cosine of their features with the mean of the user's training items, and the same with "
        "shuffled rows of features. Where the difference may be chance (p of 0.05 or more) or the second is higher, "
        "features are noise, constant, in the rows of other items, or tell what cosines do not show."
    )
    return Part("Ranking by one modality alone", note, header, rows)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return DASH if math.isnan(value) else str(value)
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"
