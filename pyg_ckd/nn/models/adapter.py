"""Any PyG model as a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.data.inputs import RATES, EdgeType
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.base import AnyView, Backbone, Graph, mean_row
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View, as_views


class AdaptedBackbone(Backbone):
    """A module with ``forward(x_dict, edge_index) -> (user, item)`` as a backbone.

    Interventions act from outside: in a view, the features of every modality that is not factual are replaced with
    their mean over items before the module sees them. Each distinct view is one call of the module.

    Args:
        module: The module. It is called with ``x_dict``, from modality to features ``[I, d_m]``, and ``edge_index``,
            the interactions (user row, item row), int64 ``[2, E]``; it returns user ``[U, D]`` and item ``[I, D]``
            embeddings.
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.

    Raises:
        InputError: At the first call, if the module returns anything else.
    """

    def __init__(self, module: nn.Module, num_users: int, num_items: int, feature_dims: Mapping[str, int]) -> None:
        super().__init__(num_users, num_items, feature_dims)
        self.module = module

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        """Return the graph as it is: the module does with it what it likes."""
        return dict(edge_index_dict)

    def outputs(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[AnyView],
        n_id_dict: Mapping[str, Tensor] | None = None,
    ) -> list[Output]:
        """Call the module once for every distinct view."""
        edge_index = edge_index_dict[RATES]
        if isinstance(edge_index, Adjacency) or n_id_dict is not None:
            raise InputError("an adapted module takes the plain interactions [2, E] of the whole graph")
        factual = as_views(views, self.modalities)
        out: dict[View, Output] = {}
        for view in dict.fromkeys(factual):
            x_dict = {m: features[m] if m in view else mean_row(features[m]).expand_as(features[m]) for m in features}
            out[view] = self._check(self.module(x_dict, edge_index))
        return [out[view] for view in factual]

    def _check(self, result: object) -> Embeddings:
        expected = f"expected a pair (user [{self.num_users}, D], item [{self.num_items}, D])"
        name = type(self.module).__name__
        if not isinstance(result, tuple) or len(result) != 2 or not all(isinstance(x, Tensor) for x in result):
            raise InputError(f"{name}.forward returned {type(result).__name__}, {expected}")
        user, item = result
        shapes = (self.num_users, self.num_items)
        if user.dim() != 2 or item.dim() != 2 or (user.size(0), item.size(0)) != shapes or user.size(1) != item.size(1):
            raise InputError(f"{name}.forward returned shapes {tuple(user.shape)} and {tuple(item.shape)}, {expected}")
        return Embeddings(user, item)


def as_backbone(model: nn.Module, data: HeteroData) -> Backbone:
    """Return ``model`` itself if it is a backbone, else the same module adapted to one.

    Args:
        model: A backbone, or any module with ``forward(x_dict, edge_index) -> (user, item)``.
        data: The graph, read for its sizes.
    """
    if isinstance(model, Backbone):
        return model
    dims = {m: data["item"][m].size(1) for m in data.modalities}
    return AdaptedBackbone(model, data["user"].num_nodes, data["item"].num_nodes, dims)
