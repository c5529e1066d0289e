"""Any PyG model as a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.data.inputs import RATES, EdgeType, initialise_lazy
from pyg_ckd.data.modules import module_views
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.base import AnyView, Backbone, Graph
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import as_views
from pyg_ckd.wrappers import unwrap


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
        self.module, self._sizes = unwrap(module), (num_users, num_items)

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
        views = as_views(views, self.modalities)
        return [*module_views(self.module, self.as_parameters(features), edge_index, views, self._sizes)]


def as_backbone(model: nn.Module, data: HeteroData) -> Backbone:
    """Return ``model`` itself if it is a backbone, else the same module adapted to one.

    What :func:`torch.compile`, data parallelism or lightning-fabric have wrapped is unwrapped, and lazy parameters get
    their shapes.

    Args:
        model: A backbone, or any module with ``forward(x_dict, edge_index) -> (user, item)``.
        data: The graph, read for its sizes and to initialise lazy parameters.
    """
    model = unwrap(model)
    dims = {m: data["item"][m].size(1) for m in data.modalities}
    sizes = (data["user"].num_nodes, data["item"].num_nodes)
    backbone = model if isinstance(model, Backbone) else AdaptedBackbone(model, *sizes, dims)
    initialise_lazy(backbone, data)
    return backbone
