"""What stands in for the features of an item that lacks a modality (``has_<m>`` is false): the one place for that.

The features are those after the transform, whose statistics come from the items that have the modality. The rows of
these items never change, and what the others held before has no influence.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from pyg_ckd.arguments import as_integer
from pyg_ckd.data import prepared
from pyg_ckd.data.inputs import RATES, check_features, check_kind
from pyg_ckd.data.mapped import file_of
from pyg_ckd.data.neighbors import knn
from pyg_ckd.errors import InputError, unknown_name

Impute = str | Callable[[HeteroData], HeteroData]
GIVEN = "given"

_BLOCK_FLOATS = 2**25  # Sums over the items of all users held at once: 256 MiB in double precision.


def impute_mean(x: Tensor, has: Tensor | None) -> Tensor:
    r"""Replace the rows of items without the modality with the mean row of the items that have it.

    Args:
        x: Features of shape ``[num_items, d]``; rows where ``has`` is :obj:`False` may hold anything, NaN included.
        has: Bool mask ``[num_items]`` with at least one :obj:`True`, or :obj:`None` if all items have the modality.

    Returns:
        A new matrix of the dtype of ``x``, float32 if that holds integers, or ``x`` itself if no row is missing.
    """
    if has is None or bool(has.all()):
        return x
    return torch.where(has.view(-1, 1), x, _mean(x, has))


class Imputation(BaseTransform):
    """Base class of imputations, which fill in missing features of one modality at a time."""

    @abstractmethod
    def rows(self, data: HeteroData, modality: str, has: Tensor) -> Tensor:
        """Return the rows ``[N, d]`` of the items that lack a modality, in the order of the items.

        Args:
            data: The graph.
            modality: The modality.
            has: The items that have it, bool ``[num_items]``; some have it and some do not.
        """

    def new_rows(self, data: HeteroData, modality: str, given: Mapping[str, Tensor], count: int) -> Tensor:
        """Return the rows ``[count, d]`` of new items that lack a modality: the mean of the items that have it.

        Args:
            data: The graph.
            modality: The modality.
            given: The features ``[count, d_m]`` of the new items in other modalities, prepared as those of the graph.
            count: Number of new items.
        """
        x = data["item"][modality]
        has = data["item"].get(f"has_{modality}")
        return (x.double().mean(dim=0).to(x.dtype) if has is None else _mean(x, has)).expand(count, -1)

    def forward(self, data: HeteroData) -> HeteroData:
        """Fill in a shallow copy of ``data``; the matrices of the given graph stay as they are."""
        check_kind(data)
        check_features(data, data.modalities)
        item, filled = data["item"], {}
        records = {m: prepared.current(data, m) for m in data.modalities}
        own = prepared.step_of(self)
        done = {
            m for m, record in records.items() if own and record and record["imputation"] == own and file_of(item[m])
        }
        for m in data.modalities:
            has = item.get(f"has_{m}")
            if m not in done and has is not None and not bool(has.all()):
                item[m] = item[m] if item[m].is_floating_point() else item[m].float()  # Means of integers are none.
                filled[m] = item[m].clone()
                filled[m][~has] = self.rows(data, m, has).to(item[m].dtype)
        item.update(filled)
        for m in data.modalities:
            if m not in done and (record := records[m]) is not None:
                step = own or {"name": "custom", "content": prepared.digest_of(item[m])}
                prepared.keep(data, m, {**record, "imputation": step})
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}()"


class MeanImputation(Imputation):
    """Gives items without a modality the mean of those that have it, which is the intervention do(X_m = mean)."""

    def rows(self, data: HeteroData, modality: str, has: Tensor) -> Tensor:
        """Return the mean for every item."""
        return _mean(data["item"][modality], has).expand(int((~has).sum()), -1)


class ZeroImputation(Imputation):
    """Gives items without a modality zeros, which after standardization are the mean."""

    def rows(self, data: HeteroData, modality: str, has: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(data["item"][modality][~has])

    def new_rows(self, data: HeteroData, modality: str, given: Mapping[str, Tensor], count: int) -> Tensor:
        """Return zeros."""
        x = data["item"][modality]
        return x.new_zeros(count, x.size(1))


class GraphImputation(Imputation):
    r"""Gives items without a modality the average of the items that share users with them in the training part.

    .. math::
        \mathbf{x}_i = \frac{\sum_{u \in \mathcal{N}(i)} \sum_{j \in \mathcal{N}(u), \, j \textrm{ has } m}
        \mathbf{x}_j}{\sum_{u \in \mathcal{N}(i)} | \{ j \in \mathcal{N}(u), \, j \textrm{ has } m \} |}

    An item counts once per shared user. If there is no such item, as for items without training interactions, the mean
    is used.
    """

    def rows(self, data: HeteroData, modality: str, has: Tensor) -> Tensor:
        """Return the averages, summed in double precision."""
        x, known = data["item"][modality], has.cpu().numpy()
        user, item = data[RATES].edge_index.cpu().numpy()
        num_users = data["user"].num_nodes
        place = np.where(known, np.cumsum(known), np.cumsum(~known)) - 1  # The row of an item among those of its kind.
        sizes = {kind: int((known == kind).sum()) for kind in (True, False)}
        rates = {kind: _rates(user, place[item], known[item] == kind, (num_users, sizes[kind])) for kind in sizes}
        count = rates[False].T @ (rates[True] @ np.ones(sizes[True]))
        values = x.detach().cpu().numpy()[known]
        total = np.zeros((sizes[False], x.size(1)))
        width = max(1, _BLOCK_FLOATS // max(num_users, 1))
        for start in range(0, x.size(1), width):
            columns = slice(start, start + width)
            total[:, columns] = rates[False].T @ (rates[True] @ values[:, columns].astype(np.float64))
        average = torch.from_numpy(total / np.maximum(count, 1)[:, None]).to(x)
        return torch.where(torch.from_numpy(count > 0).to(x.device).view(-1, 1), average, _mean(x, has))


class NeighborImputation(Imputation):
    """Gives items without a modality the average of their nearest neighbours in another modality.

    Neighbours are found by cosine similarity among the items that have both modalities. The other modality is the first
    one, in the order of the graph, that the item has and for which there are such items. Items without one get the
    mean.

    Args:
        k: Number of neighbours of an item; all if there are fewer. (default: :obj:`10`)

    Raises:
        InputError: If ``k`` is not positive.
    """

    def __init__(self, k: int = 10) -> None:
        k = as_integer(k, "k")
        if k < 1:
            raise InputError(f"k: found {k}, expected a positive number of neighbours")
        self.k = k

    def rows(self, data: HeteroData, modality: str, has: Tensor) -> Tensor:
        """Return the averages."""
        item = data["item"]
        x = item[modality]
        out, left = _mean(x, has).expand_as(x).clone(), ~has
        for other in data.modalities:
            has_other = item.get(f"has_{other}", torch.ones_like(has))
            both, asking = has & has_other, left & has_other
            if other != modality and bool(both.any()) and bool(asking.any()):
                k = min(self.k, int(both.sum()))
                _, index = knn(item[other][asking], k, among=item[other][both])
                out[asking] = F.embedding_bag(index, x[both], mode="mean")
                left = left & ~has_other
        return out[~has]

    def new_rows(self, data: HeteroData, modality: str, given: Mapping[str, Tensor], count: int) -> Tensor:
        """Return the averages over the neighbours in the first other modality that the new items have."""
        item, x = data["item"], data["item"][modality]
        for other in data.modalities:
            both = torch.ones(x.size(0), dtype=torch.bool, device=x.device)
            for m in (modality, other):
                both &= item.get(f"has_{m}", both)
            if other in given and bool(both.any()):
                k = min(self.k, int(both.sum()))
                _, index = knn(given[other].to(x), k, among=item[other][both])
                return F.embedding_bag(index, x[both], mode="mean")
        return super().new_rows(data, modality, given, count)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(k={self.k})"


_IMPUTATIONS: dict[str, Callable[[], Callable[[HeteroData], HeteroData]]] = {
    "mean": MeanImputation,
    "zero": ZeroImputation,
    "graph": GraphImputation,
    "neighbors": NeighborImputation,
    GIVEN: lambda: lambda data: data,
}


def imputation(name: Impute) -> Callable[[HeteroData], HeteroData]:
    r"""Return an imputation of missing features by its name.

    Args:
        name: ``"mean"`` (:class:`MeanImputation`), ``"zero"`` (:class:`ZeroImputation`), ``"graph"``
            (:class:`GraphImputation`), ``"neighbors"`` (:class:`NeighborImputation`), or ``"given"``: rows stay as they
            are in the source, unless they are not finite or a transform gave them the mean. A callable is returned as
            it is.

    Raises:
        InputError: If no imputation has that name.
    """
    if callable(name):
        return name
    if not isinstance(name, str) or name not in _IMPUTATIONS:
        raise unknown_name("imputation", name, _IMPUTATIONS)
    return _IMPUTATIONS[name]()


def recorded(record: Mapping[str, Any] | None) -> Imputation:
    """Return the imputation of a record of :mod:`pyg_ckd.data.prepared`, by the mean if there is none."""
    known = {cls.__name__: cls for cls in (MeanImputation, ZeroImputation, GraphImputation, NeighborImputation)}
    step = (record or {}).get("imputation") or {}
    return known.get(step.get("name"), MeanImputation)(**step.get("settings", {}))


def _mean(x: Tensor, has: Tensor) -> Tensor:
    """Return the mean row ``[d]`` of the items that have the modality."""
    return x[has].double().mean(dim=0).to(x.dtype if x.is_floating_point() else torch.float32)


def _rates(user: np.ndarray, item: np.ndarray, chosen: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """Return the chosen interactions as a matrix of ones."""
    return csr_array((np.ones(int(chosen.sum())), (user[chosen], item[chosen])), shape=shape)
