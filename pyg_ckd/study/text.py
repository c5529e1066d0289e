"""Numbers as a person reads them: the same in tables, plots, sentences and on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

DASH = "–"
NAN = float("nan")


def number(value: Any) -> float:
    """Return a number, :obj:`nan` for what is missing: JSON has ``null`` for it."""
    return NAN if value is None else float(value)


def show(value: float, digits: int = 4, sign: bool = False) -> str:
    """Return a number as text with a true minus sign; a dash for :obj:`nan`."""
    if math.isnan(value):
        return DASH
    rounded = round(value, digits) + 0.0  # Adding zero takes the sign off a negative zero.
    return f"{rounded:{'+' if sign and rounded else ''}.{digits}f}".replace("-", "−")


def percent(value: float, digits: int = 0, sign: bool = False) -> str:
    """Return a share as text; a dash for :obj:`nan`."""
    return DASH if math.isnan(value) else f"{show(100 * value, digits, sign)} %"


def p_number(value: float) -> str:
    """Return a p-value without its letter: ``0.003``, ``< 0.001``; a dash for :obj:`nan`."""
    if math.isnan(value):
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def p_text(value: float) -> str:
    """Return a p-value as text: ``p = 0.003``, ``p < 0.001``."""
    text = p_number(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def spread_text(mean: float, std: float, num: int) -> str:
    """Return a mean with its deviation over seeds, without it if there is one seed only."""
    return f"{show(mean)} ± {show(std)}" if num > 1 and not math.isnan(mean) else show(mean)


def duration(seconds: float) -> str:
    """Return how long something took: ``12.3 seconds``, ``5 min``, ``2 h 05 min``; a dash for :obj:`nan`."""
    if math.isnan(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} seconds"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def amount(value: Any) -> str:
    """Return a count with commas, anything else as it is."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def joined(parts: Sequence[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def counted(num: int, word: str) -> str:
    """Return ``1 seed``, ``3 seeds``, ``9,412 users``: the word is given in the plural."""
    return f"{num:,} {word if num != 1 else word.removesuffix('s')}"
