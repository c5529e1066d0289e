"""Views: which modalities stay factual and which are intervened on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence, Set
from typing import Any

from pyg_ckd.arguments import shown
from pyg_ckd.errors import InputError, unknown_name

View = frozenset[str]
"""The modalities that stay factual; features and preferences of every other one are replaced with their mean."""

EMPTY: View = frozenset()
"""The view in which every modality is intervened on, so that only the id part of a score is left."""


def as_view(view: Collection[str] | str | None, modalities: Sequence[str]) -> View:
    """Return ``view`` as a set of modalities.

    Args:
        view: The modalities that stay factual: a collection of names, one name (a uni-modal view), or :obj:`None` or
            ``"full"`` for all of them.
        modalities: The modalities that there are.

    Raises:
        InputError: If it is no text and no collection of texts, or a name is not one of ``modalities``.
    """
    if view is None or (isinstance(view, str) and view == "full"):
        return frozenset(modalities)
    try:
        names: list[Any] = [view] if isinstance(view, str) else list(view)
    except TypeError:  # Nothing to go through.
        names = [view]
    if not all(isinstance(name, str) for name in names):
        raise InputError(
            f"view: found {shown(view)}, expected names of modalities such as {list(modalities)[:1]}, or 'full'"
        )
    chosen = frozenset(names)
    for name in sorted(chosen):
        if name not in modalities:
            raise unknown_name("modality", name, modalities)
    return chosen


def as_views(views: Iterable[Collection[str] | str | None] | str | None, modalities: Sequence[str]) -> list[View]:
    """Return views as sets of modalities, in their order.

    Args:
        views: The views, each as in :func:`as_view`. A text, a set of names or :obj:`None` by itself is one view.
        modalities: The modalities that there are.

    Raises:
        InputError: If one is no text and no collection of texts, or a name is not one of ``modalities``.
    """
    several = [views] if isinstance(views, (str, Set)) or not isinstance(views, Iterable) else views
    return [as_view(view, modalities) for view in several]


def unimodal_views(modalities: Sequence[str]) -> dict[str, View]:
    """Return for every modality the view in which it alone is factual."""
    return {m: frozenset([m]) for m in modalities}


def leave_one_out_views(modalities: Sequence[str]) -> dict[str, View]:
    """Return for every modality the view in which all others are factual."""
    return {m: frozenset(modalities) - {m} for m in modalities}


def counterfactual_views(modalities: Sequence[str], empty: bool = False) -> list[View]:
    """Return each view that distillation needs once: full, every uni-modal and every leave-one-out view.

    With two modalities the uni-modal and the leave-one-out views coincide, so that three views are left of five.

    Args:
        modalities: The modalities, in order.
        empty: Whether the empty view, in which only the id part of a score is left, stands at the end. All subsets of
            up to three modalities are there then.
    """
    views = [
        as_view(None, modalities),
        *unimodal_views(modalities).values(),
        *leave_one_out_views(modalities).values(),
        *([EMPTY] if empty else []),
    ]
    return list(dict.fromkeys(views))
