"""The colours of the plots, on white and on dark paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# Okabe and Ito's colours, told apart by every kind of colour vision, without those too pale for lines on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#b0528b", "#c98a00", "#3a9bd0", "#7a5195", "#8c6d46")
INK, MUTED, FAINT, GRID = "#1c1f24", "#5f6873", "#aab2bb", "#e6e9ed"


class Theme(NamedTuple):
    """The colours of a plot.

    Attributes:
        paper: The background.
        ink: Text and what matters most.
        muted: Axes' text and what is compared with.
        faint: The rest.
        grid: Lines of the grid.
        palette: Colours of the modalities.
        dark: Whether the background is dark.
    """

    paper: str
    ink: str
    muted: str
    faint: str
    grid: str
    palette: tuple[str, ...]
    dark: bool

    def mixed(self, color: str, share: float, other: str | None = None) -> tuple[float, float, float]:
        """Return a colour with a share of another one, by default of the paper."""
        from matplotlib.colors import to_rgb

        pairs = zip(to_rgb(color), to_rgb(self.paper if other is None else other), strict=True)
        red, green, blue = ((1 - share) * a + share * b for a, b in pairs)
        return red, green, blue

    def text(self, color: str) -> tuple[float, float, float]:
        """Return a colour in which small text can be read."""
        return self.mixed(color, 0.25, "white" if self.dark else "black")


LIGHT = Theme("#ffffff", INK, MUTED, FAINT, GRID, PALETTE, dark=False)
DARK = Theme(
    paper="#14171b",
    ink="#e8ebee",
    muted="#a9b2bc",
    faint="#5b6570",
    grid="#2b3138",
    palette=("#4aa8e0", "#f08a3c", "#2cbf95", "#dd8cba", "#e3b341", "#86c5ee", "#b497d6", "#c6a57c"),
    dark=True,
)


def modality_colors(modalities: Sequence[str], theme: Theme = LIGHT) -> dict[str, str]:
    """Return the colour of every modality, the same in all plots that name them in the same order."""
    return {m: theme.palette[i % len(theme.palette)] for i, m in enumerate(modalities)}
