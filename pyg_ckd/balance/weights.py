"""What a strategy may give to a step: views, weights of triples and terms, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import View, as_view


@dataclass
class StepWeights:
    """The weights of the main loss in a step, which are found when they are first asked for.

    Attributes:
        out: The output of all views of the step, those of wrappers among them.
        found: Whether the weights have been found.
        weight: Weight of every triple ``[B]``; :obj:`None` if all are 1.
    """

    out: Mapping[View, Output]
    found: bool = False
    weight: Tensor | None = None


@contextmanager
def named_views(source: object, out: Mapping[View, Output], method: str = "views") -> Iterator[None]:
    """Name a view whose output a strategy reads although it did not ask for it.

    Args:
        source: The strategy.
        out: The outputs that it is given.
        method: Where it asks for views, for the message.

    Raises:
        InputError: If its steps end in the :class:`KeyError` of a view that is not in ``out``.
    """
    try:
        yield
    except KeyError as error:
        view = error.args[0] if error.args else None
        if not isinstance(view, Set) or view in out:
            raise
        name = type(source).__name__
        raise InputError(
            f"{name}: found no output of the view {_shown(view)} in this step, expected one of "
            f"{', '.join(map(_shown, out))}; add it to {name}.{method}"
        ) from error


def checked_views(source: object, views: Any, modalities: Sequence[str], method: str = "views") -> list[View]:
    """Return the views that a strategy asks for.

    Args:
        source: The strategy.
        views: What it asks for.
        modalities: The modalities that there are.
        method: Where it asks for them, for messages. In ``views`` there must be one, which is trained.

    Raises:
        InputError: If they are no list, or keys of a dict, of sets of names of modalities.
    """
    where = f"{type(source).__name__}.{method}"
    if callable(views):
        raise InputError(f"{where}: found a method, expected a property; write @property above it")
    if isinstance(views, (str, set, frozenset)) or not isinstance(views, Iterable):
        raise InputError(f"{where}: found {_shown(views)}, expected a list of views, such as [self.view]")
    found = list(views)
    if not found and method == "views":
        raise InputError(f"{where}: found no view, expected at least one, the trained one first; return [self.view]")
    for view in found:
        if view.__hash__ is None:
            raise InputError(
                f"{where}: found {view!r} for a view, expected a frozenset of modalities; write "
                f"frozenset({view!r}), or take it from unimodal_views"
            )
        if not (isinstance(view, frozenset) and view.issubset(modalities)):
            try:
                as_view(view, modalities)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
    return found


def _shown(view: Any) -> str:
    return "{" + ", ".join(sorted(map(str, view))) + "}" if isinstance(view, Set) else repr(view)


def checked_weights(source: str, weights: Any, batch: TripletBatch) -> Tensor:
    """Return weights of triples without gradient.

    Args:
        source: Where they are from, for messages.
        weights: The weights ``[B]``; whether they are negative or infinite is not looked at.
        batch: The triples.

    Raises:
        InputError: If they are no floating-point tensor of one weight per triple.
    """
    if not isinstance(weights, Tensor):
        raise InputError(f"{source}: found {type(weights).__name__}, expected a tensor of weights, one per triple")
    weights = weights.detach()
    if weights.shape != batch.user.shape:
        raise InputError(
            f"{source}: found shape {list(weights.shape)}, expected [{batch.user.numel()}], one weight for every triple"
        )
    if not weights.is_floating_point():
        raise InputError(f"{source}: found {weights.dtype}, expected floating-point numbers")
    return weights


def checked_terms(source: object, terms: Any, method: str = "balance") -> dict[str, Tensor]:
    """Return further loss terms by name.

    Args:
        source: The strategy that they are of.
        terms: What its method returned.
        method: Name of that, for messages.

    Raises:
        InputError: If they are no mapping from names to scalars.
    """
    where = f"{type(source).__name__}.{method}"
    if not isinstance(terms, Mapping):
        raise InputError(f"{where}: found {type(terms).__name__}, expected a dict of loss terms, {{}} for none")
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.dim():
            found = f"shape {list(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
            raise InputError(f"{where}: found {found} for the term {name!r}, expected a tensor without dimensions")
    return dict(terms)
