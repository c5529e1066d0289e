"""What one forward pass of a backbone runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from pyg_ckd.data.inputs import RATES, EdgeType
from pyg_ckd.nn.propagation import Adjacency


class Inputs(NamedTuple):
    """What one forward pass runs on.

    Attributes:
        features: From modality to the full feature matrix ``[I, d_m]``.
        graphs: The prepared graphs by edge type.
        n_id_dict: Row numbers of the users and items of a sampled subgraph, or empty.
        shared: What branches have computed for each other, by name; see :meth:`once`.
    """

    features: Mapping[str, Tensor]
    graphs: Mapping[EdgeType, Any]
    n_id_dict: Mapping[str, Tensor]
    shared: dict[str, Tensor] | None = None

    def once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Return what ``compute`` makes, the same tensor for all branches of a pass."""
        if self.shared is None:
            return compute()
        if name not in self.shared:
            self.shared[name] = compute()
        return self.shared[name]

    @property
    def graph(self) -> Adjacency:
        """The prepared graph of users and items."""
        return self.graphs[RATES]

    def of_features(self, name: str, modality: str, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what ``compute`` makes of a modality's features, once per run if these are constant."""
        x = self.features[modality]
        return compute(x) if x.requires_grad else self.graph.constant((name, modality), x, compute)

    def mean_feature(self, modality: str) -> Tensor:
        """Return the mean of a modality's features over all items, ``[1, d_m]``."""
        return self.of_features("mean", modality, mean_row)

    def mean_of_users(self, x: Tensor) -> Tensor:
        """Return the mean over all users, ``[1, D]``, also where each of several processes has some of them.

        Args:
            x: A table of all users, or of those of this process, ``[U, D]``.
        """
        sums = self.graph.sums
        return mean_row(x) if sums is None else sums.mean_of_users(x)

    def take_users(self, x: Tensor) -> Tensor:
        """Return the rows of the subgraph's users, or all of them."""
        return take(x, self.n_id_dict.get("user"))

    def take_items(self, x: Tensor) -> Tensor:
        """Return the rows of the subgraph's items, or all of them."""
        return take(x, self.n_id_dict.get("item"))


def mean_row(x: Tensor) -> Tensor:
    """Return the intervention do(X = mean): the mean over rows, ``[1, D]``."""
    return x.mean(dim=0, keepdim=True)


def take(x: Tensor, index: Tensor | None) -> Tensor:
    """Return the rows of a sampled subgraph, or all of them."""
    return x if index is None else x.index_select(0, index)
