"""Ranking metrics that a user brings: metric objects of PyG and plain functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.metrics.link_pred import LinkPredMetric, LinkPredMetricData

from pyg_ckd.arguments import as_integer
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.metrics import NO_ITEM, parse_metric, without_empty_slots

Metric = str | Callable[..., Any]
"""Name of a metric, a metric object of PyG such as ``LinkPredRecall(k=20)``, or a function; see :class:`CustomMetric`.
"""
DEFAULT_CUTOFF = 20
WITHOUT_ORDER = ("recall", "precision", "hit")
"""Metrics in which the order of the items in a list does not count."""
SMALLER = 5
"""The cut-off to go down to from larger ones."""
MOST_LEFT = 1.5
"""How many times as many items as the cut-off have to be ranked for such a metric to tell rankings apart."""


class CustomMetric:
    """Wraps a metric object of PyG, or a function, for the evaluation.

    A function is called as ``function(ranked, labels)``: ``ranked`` holds the recommended items of every user, best
    first, int64 ``[U, K]``, with ``-1`` where a user has no further candidate, and ``labels`` the pairs (row of
    ``ranked``, item to be found), int64 ``[2, P]``. Both are copies of its own. It returns a number, or one for every
    user, ``[U]``.

    Metrics of PyG that look at whole lists, not at one user's hits, such as
    :class:`~torch_geometric.metrics.LinkPredDiversity`, are computed over the users whose list has no empty slot.

    Args:
        given: The metric object or the function.

    Attributes:
        name: The class of the object with its cut-off, ``LinkPredRecall@20``, or the name of the function.
        k: The cut-off of the object, or the attribute ``k`` of the function; :obj:`None` if it has none.

    Raises:
        InputError: If it is neither, needs weights of interactions, or its cut-off is no number from 1 on.
    """

    def __init__(self, given: Any) -> None:
        if inspect.isclass(given) or not callable(given):
            found = f"the class {given.__name__}" if inspect.isclass(given) else type(given).__name__
            raise InputError(
                f"metric: found {found}, expected a name such as 'recall', a metric object such as "
                "LinkPredRecall(k=20), or a function of (ranked, labels)"
            )
        if getattr(given, "weighted", False):
            raise InputError(f"metric: found {given}, which needs weights of interactions, expected one without")
        self._given = given
        self._is_object = all(callable(getattr(given, name, None)) for name in ("update", "compute", "reset"))
        name, k = type(given).__name__ if self._is_object else _name(given), getattr(given, "k", None)
        self.k: int | None = None if k is None else as_integer(k, f"metric {name}: k", least=1)
        self.name = f"{name}@{self.k}" if self._is_object else name
        self.higher_is_better = getattr(given, "higher_is_better", None) is not False

    def settings(self) -> str:
        """Return what tells the metric apart from others."""
        if self._is_object:
            return repr(self._given)
        return f"{getattr(self._given, '__module__', '')}.{self.name}{'' if self.k is None else f'@{self.k}'}"

    def __call__(self, ranked: Tensor, labels: Tensor) -> Tensor:
        """Return the metric, a scalar or one value for every user ``[U]``.

        Args:
            ranked: The recommended items of each user, best first, ``-1`` in empty slots, int64 ``[U, K]``.
            labels: The positives (row of ``ranked``, item), int64 ``[2, P]``.

        Raises:
            InputError: If it raises, or returns anything else than numbers.
        """
        try:
            ranked = ranked if self.k is None else ranked[:, : self.k]
            found = self._value(ranked.clone(), labels.clone())  # What it is given is its own, also to write into.
            value = torch.as_tensor(found, dtype=torch.float64).detach().cpu()
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"metric {self.name}: raised {type(error).__name__} ({reason}); mend it") from error
        if value.dim() and value.shape != (ranked.size(0),):
            raise InputError(
                f"metric {self.name}: found shape {list(value.shape)}, expected a number or [{ranked.size(0)}], one "
                "for every user"
            )
        return value.to(torch.get_default_dtype()) if value.dim() else value

    def _value(self, ranked: Tensor, labels: Tensor) -> Any:
        if isinstance(self._given, LinkPredMetric):  # Its value for every user; its own state is left alone.
            data = LinkPredMetricData(without_empty_slots(ranked, labels), labels)
            return self._given._compute(data).nan_to_num(0.0)
        if not self._is_object:
            return self._given(ranked, labels)
        full = (ranked != NO_ITEM).all(dim=1)
        kept = full[labels[0]]
        row = full.cumsum(0) - 1
        self._given.reset()
        self._given.update(ranked[full], torch.stack([row[labels[0, kept]], labels[1, kept]]))
        value = self._given.compute()
        self._given.reset()
        return value


def as_monitor(given: Metric) -> tuple[str, Metric, int]:
    """Return the name of a monitored metric, the metric as an evaluator takes it, and its cut-off.

    Args:
        given: A name with cut-off such as ``"recall@20"``, a metric object of PyG or a function; a function without an
            attribute ``k`` gets lists of 20 items.

    Raises:
        InputError: If it is none of these, or a metric that is better the smaller it is.
    """
    if isinstance(given, str):
        name, cutoff = parse_metric(given)
        return given, name, cutoff
    metric = CustomMetric(given)
    if not metric.higher_is_better:
        raise InputError(f"monitor: found {metric.name}, expected a metric that is better the larger it is")
    return metric.name, given, metric.k or DEFAULT_CUTOFF


def check_monitor(name: str, metric: Any, cutoff: int, num_items: int) -> None:
    """Refuse a monitored metric that ranks more items than there are.

    Args:
        name: Its name in the record.
        metric: The metric, by its name or as an object.
        cutoff: Its cut-off.
        num_items: Number of items.

    Raises:
        InputError: If it is larger than the number of items.
    """
    if cutoff > num_items:
        small = min(5, num_items)
        mend = f"monitor='{metric}@{small}'" if isinstance(metric, str) else f"the attribute k = {small}"
        raise InputError(
            f"monitor: found {name!r} with the cut-off {cutoff} for {num_items} items, expected a cut-off of at most "
            f"{num_items}, such as {mend}"
        )


def smaller(cutoff: int, left: int | None = None) -> int:
    """Return the cut-off to choose where one is too large; 0 if none is smaller.

    Args:
        cutoff: The one that is too large.
        left: How many items can be ranked. (default: :obj:`None`, unknown)
    """
    k = SMALLER if cutoff > SMALLER else cutoff // 2
    return k if left is None else min(k, max(1, left // 2))


def hardly_differs(name: str, metric: Any, cutoff: int, left: Tensor) -> str:
    """Return a warning of a monitored metric in which rankings hardly differ; nothing if there is no such reason.

    That is the case if a list holds most of what can be ranked for most users, and its order does not count.

    Args:
        name: Its name in the record.
        metric: The metric, by its name or as an object.
        cutoff: Its cut-off.
        left: How many items can be ranked for every validation user, integers ``[users]``.
    """
    most = int(MOST_LEFT * cutoff)
    few, small = int((left <= most).sum()), smaller(cutoff, int(left.double().median()))
    if not isinstance(metric, str) or metric not in WITHOUT_ORDER or 2 * few <= left.numel() or not small:
        return ""
    return (
        f"monitor {name}: {few} of {left.numel()} validation users have at most {most} items to rank, so that almost "
        "any ranking is as good as another, and the best epoch is chosen by chance; choose a smaller cut-off, such as "
        f"{metric}@{small} (--trainer.monitor {metric}@{small})"
    )


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__
