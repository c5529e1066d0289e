"""Is a difference more than chance? Paired comparisons and spreads for the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyg_ckd.arguments import as_number, shown
from pyg_ckd.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class PairedTest:
    """The comparison of two models on the same users, or on the same seeds.

    Attributes:
        mean_a: Mean of the first model.
        mean_b: Mean of the second model.
        difference: ``mean_a - mean_b``.
        low: Lower end of the confidence interval of the difference.
        high: Upper end of the confidence interval of the difference.
        p_value: Two-sided probability of a difference at least as large if the two models were equally good.
        num: Number of pairs.
    """

    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float
    num: int


def paired_test(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> PairedTest:
    """Compare paired values with a paired t-test.

    The t-test is the better of the two usual choices here. The reported number is a *mean* over users, and the t-test
    is about the mean of the differences, so p-value and interval belong to that number and agree with each other. The
    Wilcoxon signed-rank test is about the pseudo-median of a symmetric, tie-free distribution: recall of a user with
    one or two held-out items is 0, 1/2 or 1, most differences are exactly zero and would be dropped, and the rest are
    ties. With hundreds of users the mean of bounded differences is normal whatever their distribution. With few seeds
    the signed-rank test cannot reach 5 % below six pairs at all (its smallest p-value with three is 1/4), whereas a
    mean over users and items is close enough to normal for a t-test with ``num - 1`` degrees of freedom; it stays wide,
    as it should.

    If all differences are equal, their variance is zero: the p-value is 1 if they are zero up to rounding and 0 if they
    are not, and the interval is the difference itself.

    Args:
        a: Values of the first model, one per user or seed, ``[num]``.
        b: Values of the second model in the same order, ``[num]``. Two pandas series are matched by their index.
        confidence: Level of the interval, between 0 and 1.

    Raises:
        InputError: If the lengths or the users differ, there are fewer than two pairs, a value is no finite number,
            differences overflow, or the level is out of range.
    """
    from scipy import stats

    confidence = as_number(confidence, "confidence")
    if not 0 < confidence < 1:
        raise InputError(f"confidence: found {confidence}, expected a level between 0 and 1, such as 0.95")
    first, second = _finite("a", a), _finite("b", b)
    if first.size != second.size or first.size < 2:
        raise InputError(
            f"paired test: found {first.size} and {second.size} values, expected the same number, two or more: "
            "one value per user (or seed) for each model, in the same order"
        )
    second = _in_order_of(a, b, second)
    with np.errstate(over="ignore", invalid="ignore"):
        num, delta = first.size, first - second
        difference, error = float(delta.mean()), float(delta.std(ddof=1)) / math.sqrt(num)
        means = float(first.mean()), float(second.mean())
    if not all(map(math.isfinite, (difference, error, *means))):
        raise InputError(
            f"paired test: found values up to {max(np.abs(first).max(), np.abs(second).max()):.3g}, whose differences "
            "overflow, expected smaller ones; divide both by the largest"
        )
    # Equal differences leave a rounding error of about one unit in the last place, which is no spread; nor are sums of
    # the same numbers in another order a difference.
    rounding = 4 * np.finfo(np.float64).eps * max(np.abs(first).max(), np.abs(second).max())
    if error <= rounding:
        difference = difference if abs(difference) > rounding else 0.0
        error, p_value = 0.0, float(difference == 0.0)
    else:
        p_value = float(2 * stats.t.sf(abs(difference) / error, num - 1))
    half = float(stats.t.ppf((1 + confidence) / 2, num - 1)) * error
    return PairedTest(*means, difference, difference - half, difference + half, p_value, num)


def holm(p_values: Iterable[float]) -> list[float]:
    """Correct p-values for the number of comparisons by Holm's step-down procedure.

    From `"A Simple Sequentially Rejective Multiple Test Procedure" <https://www.jstor.org/stable/4615733>`_: the
    smallest of :math:`n` p-values is multiplied by :math:`n`, the next one by :math:`n - 1`, and so on; none becomes
    smaller than the one before it, nor larger than 1. If differences with a corrected p-value below 5 % are called
    significant, the probability of any false one in the family is at most 5 %, whatever the dependence between the
    comparisons.

    Args:
        p_values: The p-values of one family, in any order; the index of a pandas series is ignored.

    Returns:
        The corrected p-values in the same order.

    Raises:
        InputError: If a value is no number between 0 and 1.
    """
    if not isinstance(p_values, Iterable):
        raise InputError(
            f"Holm's correction: found {shown(p_values)}, expected the p-values of one family, such as [0.01]"
        )
    p_values = [as_number(value, f"Holm's correction, p_values[{n}]") for n, value in enumerate(p_values)]
    for place, value in enumerate(p_values):
        if not 0 <= value <= 1:
            raise InputError(f"Holm's correction: found {value} at p_values[{place}], expected numbers from 0 to 1")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (``ddof=1``); the deviation of a single value is 0.

    Args:
        values: One value per seed; :obj:`nan` gives :obj:`nan`.

    Raises:
        InputError: If there is no value, or anything but a list of numbers.
    """
    array = _vector("mean and deviation: found ", "", values, "expected one value per seed, such as [0.21, 0.24]")
    if array.size == 0:
        raise InputError("mean and deviation: found no value, expected at least one")
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else 0.0


def _in_order_of(a: Any, b: Any, second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values of ``b`` in the order of the index of ``a``, where both have one."""
    import pandas as pd

    if not isinstance(a, pd.Series) or not isinstance(b, pd.Series) or a.index.equals(b.index):
        return second
    if a.index.is_unique and b.index.is_unique:
        place = b.index.get_indexer(a.index)
        if (place >= 0).all():
            return second[place]
        only = f" ({int((place < 0).sum())} of {a.size} labels in one alone, {a.index[place < 0].tolist()[0]!r} first)"
    else:
        only = " and a label twice"
    raise InputError(
        f"paired test: found series with other indices{only}, expected one value of each for every user (or seed); "
        "take the rows that both have, or compare by position with .to_numpy()"
    )


def _finite(name: str, values: Any) -> NDArray[np.float64]:
    hint = "such as metrics.per_user['recall@20'] of evaluate(..., per_user=True)"
    expected = f"expected one value per user (or seed), {hint}"
    array = _vector("paired test: found ", f" in the place of {name}", values, expected)
    if not np.isfinite(array).all():
        place = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(f"paired test: found {array[place]} at {name}[{place}], expected finite numbers")
    return array


def _vector(found: str, where: str, values: Any, expected: str) -> NDArray[np.float64]:
    """Return numbers as an array ``[num]``, or raise the message of its three parts around what was found."""
    if isinstance(values, Mapping):
        raise InputError(f"{found}{type(values).__name__}{where}, {expected}")
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        given = np.asarray(values)
        if given.dtype.kind not in "biufO" or not given.ndim:
            raise TypeError
        array = given.astype(np.float64)
    except (TypeError, ValueError, RuntimeError):  # PyTorch has the last one for tensors with gradient in a list.
        shown = " ".join(repr(values).split())[:60]
        raise InputError(f"{found}{shown} ({type(values).__name__}){where}, {expected}") from None
    if array.ndim != 1:
        raise InputError(f"{found}values of shape {array.shape}{where}, {expected}")
    return array
