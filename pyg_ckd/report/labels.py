"""Names in pictures: short enough for their place, and in letters that a font has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAR = 44
"""Characters of a name at the left of bars."""
LABEL = 24
"""Characters of a name beside the end of a line."""
LINE = 74
"""Characters of the titles of all panels in a row."""
FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Hiragino Sans",
    "Malgun Gothic",
    "Yu Gothic",
    "Arial Unicode MS",
    "Droid Sans Fallback",
    "Unifont",
)
"""Fonts with Chinese, Japanese or Korean letters, as far as they are installed."""


def shortened(names: Sequence[str], most: int) -> list[str]:
    """Return names with three dots for their middle if they are longer than a limit; different ones stay different.

    Names that differ in the middle alone are numbered.

    Args:
        names: The names.
        most: The limit, at least 8 characters.
    """
    found = {name: name for name in names if len(name) <= most}
    taken = set(found)
    for name in names:
        if name in found:
            continue
        text, number = _cut(name, most), 1
        while text in taken:
            number += 1
            text = _cut(name, most - len(f" ({number})")) + f" ({number})"
        found[name] = text
        taken.add(text)
    return [found[name] for name in names]


def in_columns(columns: int, beside: int = 0) -> int:
    """Return how many characters of a name fit above a panel.

    Args:
        columns: Panels in a row.
        beside: Characters of the title beside the name.
    """
    return max(12, LINE // columns - beside)


def fonts_for(texts: Iterable[str]) -> tuple[list[str], str]:
    """Return fonts for letters that the usual one lacks, and the letters that no installed font has.

    Args:
        texts: All texts.
    """
    lacking = {letter for text in texts for letter in text if _is_shown(letter)} - _letters("")
    fonts = []
    for font in _installed() if lacking else ():
        if lacking & _letters(font):
            fonts.append(font)
            lacking -= _letters(font)
    return fonts, "".join(sorted(lacking))


def add_fonts(figure: Figure, fonts: Sequence[str]) -> Figure:
    """Let all texts of a figure take letters from further fonts, and return it.

    Args:
        figure: The figure.
        fonts: Names of the fonts.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text) if fonts else ():
        assert isinstance(text, Text)
        text.set_fontfamily([*text.get_fontfamily(), *fonts])
    return figure


def _is_shown(letter: str) -> bool:
    return letter.isprintable()


def _cut(name: str, most: int) -> str:
    head = most // 2
    return name if len(name) <= most else f"{name[:head]}…{name[len(name) - (most - head - 1) :]}"


def _installed() -> list[str]:
    from matplotlib.font_manager import fontManager

    known = set(fontManager.get_font_names())
    return [name for name in FALLBACKS if name in known]


@cache
def _letters(font: str) -> frozenset[str]:
    """Return the letters of a font, of the usual one without a name."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    wanted: Any = FontProperties(family=font) if font else FontProperties()
    return frozenset(map(chr, get_font(findfont(wanted)).get_charmap()))
