"""Values of knobs that no trial can have, found before a search begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, islice, product
from typing import Any

from torch_geometric.data import HeteroData

from pyg_ckd.balance.ranking import check_ranking
from pyg_ckd.errors import InputError
from pyg_ckd.nn import Backbone
from pyg_ckd.study.contenders import Contender, check_options, check_warmup
from pyg_ckd.study.knobs import Knob, default_of, turned
from pyg_ckd.training import Trainer

COMBINATIONS = 256
"""Combinations with other knobs that are tried at most, to find one in which a value is accepted."""


def check_space(
    name: str, base: Contender, backbone: type[Backbone], space: Mapping[str, Knob], data: HeteroData
) -> None:
    """Refuse defaults that cannot be trained, and values that cannot be beside any values of the other knobs.

    Of a range, both ends are tried. Values that are refused beside some values of other knobs alone are accepted: the
    trials with such a combination fail.

    Args:
        name: Name of the contender.
        base: The contender with all its options.
        backbone: Class of the model.
        space: Its knobs.
        data: The graph.

    Raises:
        InputError: If there is one; the message names contender, knob and value.
    """

    def refusal(values: Mapping[str, Any]) -> str:
        return _refusal(turned(base, values), backbone, data)

    wrong = refusal({})
    if wrong:
        raise InputError(f"{name}: {wrong}")
    usual = {knob: default_of(knob, base, backbone) for knob in space}
    for knob, one in space.items():
        others = {n: _candidates(other, usual[n]) for n, other in space.items() if n != knob}
        apart = [n for n, values in others.items() if values[0] != usual[n]]
        known = all(space[n].values for n in others)  # Of a range, values between its ends are not tried.
        for value in one.ends:
            wrong = refusal({knob: value})
            if wrong or apart:  # Trials after the first one have values of the search alone.
                wrong = _beside_all(knob, value, others, wrong, known, refusal)
            if wrong:
                raise InputError(f"{name}: knob {knob} at {value}: {wrong}")


def _beside_all(
    knob: str,
    value: Any,
    others: Mapping[str, Sequence[Any]],
    alone: str,
    known: bool,
    refusal: Callable[[Mapping[str, Any]], str],
) -> str:
    """Return why a value is refused beside all values of the other knobs, nothing if there may be some.

    Args:
        knob: The knob.
        value: The value.
        others: The values of the other knobs.
        alone: Why it is refused beside the defaults, or nothing.
        known: Whether these are all values of the other knobs.
        refusal: Returns why a combination is refused, or nothing.
    """
    first = ""
    for values in islice(_combinations(others), COMBINATIONS):
        found = refusal({knob: value, **values})
        if not found:
            return ""
        first = first or found
    if alone or not known or math.prod(map(len, others.values())) > COMBINATIONS:
        return alone
    return f"found no values of the other knobs ({', '.join(others)}) that go with it: {first}"


def _combinations(others: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the values of knobs together, first those in which few knobs are away from their defaults."""
    usual = {knob: values[0] for knob, values in others.items()}
    for number in range(len(others) + 1):
        for knobs in combinations(others, number):
            for values in product(*(others[knob][1:] for knob in knobs)):
                yield {**usual, **dict(zip(knobs, values, strict=True))}


def _candidates(knob: Knob, usual: Any) -> list[Any]:
    """Return values of a knob, first what is nearest to its default."""
    return list(dict.fromkeys([knob.nearest(usual), *knob.ends]))


def _refusal(contender: Contender, backbone: type[Backbone], data: HeteroData) -> str:
    """Return why a contender cannot be trained, nothing if it can."""
    try:
        trainer = Trainer(**contender.trainer)
        if contender.strategy.trains:
            check_ranking(backbone, trainer.options.ranking)
            check_warmup(data, contender.trainer)
        check_options(backbone, data, {}, contender)
    except InputError as error:
        return str(error)
    return ""
