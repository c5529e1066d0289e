"""Item graphs from the weights of a closed form, and the rows of norm one that its kernels are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from pyg_ckd.data.closed_form import FastItemWeights, check_catalogue, gram_matrix, item_weights
from pyg_ckd.data.neighbors import without_content
from pyg_ckd.data.prepared import digest_of
from pyg_ckd.data.solved import solved
from pyg_ckd.nn.edges import as_edges
from pyg_ckd.nn.models.inputs import check_finite
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.nn.structure import interactions
from pyg_ckd.scoring.tracing import exporting
from pyg_ckd.scoring.unit import largest, unit_length
from pyg_ckd.scoring.views import View

LEAST_MEAN = 8.0
"""Mean number of interactions of an item below which a closed form is regularised as if items had so many. On parts of
data sets with 1.5 to 7 interactions of an item, ridges of the mean itself are too small."""


class ItemWeights:
    """The item graphs of all views that are asked for, each solved once, see :func:`~pyg_ckd.data.solved.solved`.

    The closed form is solved in float64 for graphs in float64, else in float32, which takes half the time. What is kept
    of it is 24 bytes for each neighbour of an item.

    Args:
        graph: The interactions.
        num_items: Number of items.
        ridge: Ridge of EASE, in units of the mean number of interactions of an item, or of 8 if the mean is smaller.
        kernel_weight: Weight of a modality's cosine kernel, in the same units.
        num_neighbors: Neighbours of an item; of fewer items than that, all.

    Raises:
        InputError: If there are too many items for a closed form.
    """

    def __init__(
        self,
        graph: Adjacency,
        num_items: int,
        ridge: float,
        kernel_weight: float,
        num_neighbors: int,
    ) -> None:
        self._options = (ridge, kernel_weight, num_neighbors)
        self._device, self._dtype = graph.matrix.device, graph.dtype
        users = graph.num_nodes - num_items
        self._edges, self._sizes = interactions(graph, users)[0].cpu(), (users, num_items)
        check_catalogue("item_graph='weights'", num_items, "choose item_graph='content'")
        self._views: dict[View, Adjacency] = {}

    def of(self, view: View, features: Mapping[str, Tensor]) -> Adjacency:
        """Return the graph of a view.

        Args:
            view: Modalities whose kernels count.
            features: From modality to the full feature matrix ``[I, d_m]``.
        """
        if view not in self._views:
            chosen = {m: features[m] for m in sorted(view)}
            check_finite(chosen, view)
            digests = (digest_of(self._edges), *(digest_of(x.double()) for x in chosen.values()))
            exact = self._dtype == torch.float64
            key = (self._options, LEAST_MEAN, self._sizes, digests, exact)
            inputs = (self._edges, self._sizes, self._options, list(chosen.values()), exact)
            edges, value = solved(key, neighbours, *inputs)
            with torch.inference_mode(False), torch.no_grad():
                edges, value = edges.to(self._device), value.to(self._device, self._dtype)
                self._views[view] = Adjacency.from_edges(edges, value, self._sizes[1])
        return self._views[view]

    def as_edges(self) -> SolvedWeights:
        """Return the graphs that have been asked for, for passes that may not solve others."""
        return SolvedWeights({view: as_edges(graph) for view, graph in self._views.items()})


class SolvedWeights:
    """Fixed item graphs, used instead of :class:`ItemWeights`.

    Args:
        graphs: From view to its graph.
    """

    def __init__(self, graphs: Mapping[View, Adjacency]) -> None:
        self._graphs = graphs

    def of(self, view: View, features: Mapping[str, Tensor]) -> Adjacency:
        """Return the graph of a view, whatever the features are now."""
        return self._graphs[view]


def neighbours(
    edges: Tensor,
    sizes: tuple[int, int],
    options: tuple[float, float, int],
    features: Sequence[Tensor],
    exact: bool,
) -> tuple[Tensor, Tensor]:
    """Solve the closed form and return the edges ``[2, E]`` of the largest weights and what they weigh, ``[E]``.

    Args:
        edges: The interactions, int64 ``[2, E]``.
        sizes: Number of users and of items.
        options: Ridge, weight of a kernel, and number of neighbours, as of :class:`ItemWeights`.
        features: Features of the modalities whose kernels count, ``[I, d_m]`` each.
        exact: Whether to solve in float64; else in float32, in half the time.
    """
    ridge, kernel, k = options
    items = sizes[1]
    mean = max(LEAST_MEAN, edges.size(1) / items)
    rows = torch.cat([unit_rows(x.detach().cpu().double()) for x in features], dim=1) if features else None
    solve = partial(item_weights, gram_matrix(edges, *sizes)) if exact else FastItemWeights(gram_matrix(edges, *sizes))
    weights = solve(ridge * mean, rows, kernel * mean).t()
    value, neighbor = weights.topk(min(k, items), dim=1)
    value = value.clamp(min=0)
    value = value / value.sum(dim=1, keepdim=True).clamp(min=1e-9)
    found = torch.stack([neighbor.flatten(), torch.arange(items).repeat_interleave(value.size(1))])
    kept = value.flatten() > 0
    return found[:, kept], value.flatten()[kept]


def unit_rows(x: Tensor) -> Tensor:
    """Return centred rows of norm one; items without content, which the mean stands in for, have rows of zeros.

    Args:
        x: Features ``[I, d]``.
    """
    says = ~without_content(x)
    if exporting():  # The same without a look at how many there are.
        mean = (x * says.unsqueeze(1)).sum(dim=0, keepdim=True) / says.sum().clamp(min=1)
    else:
        mean = x[says].mean(dim=0, keepdim=True) if bool(says.any()) else x[:1]
    return unit_length(x - mean, torch.maximum(largest(x), largest(mean))) * says.unsqueeze(1).to(x.dtype)
