"""Weights of triples: what a sampler or a strategy may give, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import View


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
