"""What one forward pass of a backbone runs on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyg_ckd.data.inputs import RATES, EdgeType
from pyg_ckd.data.mapped import check_all_finite, file_of, mean_of_rows
from pyg_ckd.errors import InputError
from pyg_ckd.nn.feature_part import FeaturePart
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.nn.subgraph import Subgraph
from pyg_ckd.scoring.blocks import take_rows
from pyg_ckd.scoring.tracing import exporting

ROUNDING = 64
"""Rounding of so many units in the last place of a row's length is what a mean may be without being anything."""


class Inputs(NamedTuple):
    """What one forward pass runs on.

    Attributes:
        features: From modality to the full feature matrix ``[I, d_m]``.
        graphs: The prepared graphs by edge type.
        n_id_dict: Row numbers of the users and items of a sampled subgraph, or empty.
        shared: Results that branches share with each other, by name; see :meth:`once`.
        sparse: Whether tables get sparse gradients if a subgraph reads only some of their rows.
        frugal: Whether the pass saves memory: it keeps no tables of all nodes for later passes.
    """

    features: Mapping[str, Tensor]
    graphs: Mapping[EdgeType, Any]
    n_id_dict: Mapping[str, Tensor]
    shared: dict[str, Tensor] | None = None
    sparse: bool = False
    frugal: bool = False

    def once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Return the result of ``compute``, the same tensor for all branches of a pass."""
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
        """Return the result of ``compute`` on a modality's features, computed once per run if these are constant."""
        x = self.features[modality]
        if x.requires_grad:
            return compute(x)
        graph = self.graph.whole if isinstance(self.graph, Subgraph) else self.graph
        return graph.constant((name, modality), x, compute)

    def mean_feature(self, modality: str, beyond_rounding: bool = False) -> Tensor:
        """Return the mean of a modality's features over all items, ``[1, d_m]``, in the type of the graph.

        Args:
            modality: The modality.
            beyond_rounding: Whether a mean that is only rounding error, as with standardized features, is returned as
                zero. This is for layers that first scale a row to length one.
        """
        if beyond_rounding:
            mean = self.of_features("mean beyond rounding", modality, mean_beyond_rounding)
        else:
            mean = self.of_features("mean", modality, mean_of_rows)
        return mean.to(self.graph.dtype)  # That of the parameters; means of half precision are summed in another.

    def mean_of_users(self, x: Tensor) -> Tensor:
        """Return the mean over all users, ``[1, D]``, even if each of several processes has only some of them.

        In sampled training, it is the mean at the start of the epoch, without gradient, so that no step reads or writes
        the rows of all users.

        Args:
            x: A table of all users, or of those of this process, ``[U, D]``.
        """
        graph = self.graphs.get(RATES)
        if isinstance(graph, Subgraph):
            return graph.mean_over_all(x, mean_row)
        sums = getattr(graph, "sums", None)
        return mean_row(x) if sums is None else sums.mean_of_users(x)

    def to_users(self, row: Tensor, num_users: int) -> Tensor:
        """Return one row ``[1, D]`` for all users, or for those of the subgraph."""
        return spread(row, self.n_id_dict.get("user"), num_users)

    def to_items(self, row: Tensor, num_items: int) -> Tensor:
        """Return one row ``[1, D]`` for all items, or for those of the subgraph."""
        return spread(row, self.n_id_dict.get("item"), num_items)

    def take_users(self, x: Tensor) -> Tensor:
        """Return the rows of the subgraph's users, or all of them."""
        return take(x, self.n_id_dict.get("user"), self.sparse)

    def take_items(self, x: Tensor) -> Tensor:
        """Return the rows of the subgraph's items, or all of them."""
        return take(x, self.n_id_dict.get("item"), self.sparse)


def spread(row: Tensor, index: Tensor | None, size: int) -> Tensor:
    """Return one row for all nodes of a kind, or for those of a subgraph, without a copy.

    Args:
        row: The row ``[1, D]``.
        index: Row numbers of the subgraph's nodes, or :obj:`None` for all.
        size: Number of all nodes of the kind.
    """
    return row.expand(size if index is None else index.numel(), -1)


def interactions_in(edge_index_dict: Any) -> Any:
    """Return the interactions among the graphs of a pass.

    Args:
        edge_index_dict: From edge type to graph.

    Raises:
        InputError: If it is no mapping, or has none.
    """
    found = type(edge_index_dict).__name__
    if isinstance(edge_index_dict, Mapping):
        if RATES in edge_index_dict:
            return edge_index_dict[RATES]
        found = f"graphs {', '.join(map(str, edge_index_dict)) or 'of no type'}"
    raise InputError(
        f"edge_index_dict: found {found}, expected a dict with the interactions under {RATES}; pass "
        f"{{{RATES}: edge_index}}, or data.edge_index_dict"
    )


def check_finite(features: Any, names: Collection[str]) -> None:
    """Refuse matrices of features in memory that are not finite; each is looked through once, and files when opened.

    Nothing is said of features with gradients, which change in every step.

    Args:
        features: From modality to feature matrix; other shapes than matrices are left to :func:`check_features`.
        names: The modalities that are read.

    Raises:
        InputError: If a value is not finite, or features are no tensors by modality.
    """
    if not isinstance(features, Mapping):
        raise InputError(
            f"features: found {type(features).__name__}, expected a dict from modality to features [I, d_m]; pass "
            "{m: data['item'][m] for m in data.modalities}"
        )
    for m, x in features.items():
        if isinstance(x, FeaturePart):
            continue  # One process alone must not stop.
        if not isinstance(x, Tensor):
            raise InputError(
                f"features of {m!r}: found {type(x).__name__}, expected a tensor; convert it with torch.as_tensor"
            )
        if m not in names or x.dim() != 2 or x.layout != torch.strided or x.requires_grad:
            continue
        if file_of(x) is None and not exporting():
            check_all_finite(x, m)


def check_present(features: Mapping[str, Tensor], names: Collection[str]) -> None:
    """Refuse features that lack a modality.

    Args:
        features: From modality to feature matrix ``[I, d_m]``.
        names: The modalities that are read.

    Raises:
        InputError: If a modality is missing.
    """
    for m in names:
        if m not in features:
            raise InputError(f"features: found none of modality {m!r}, only of {', '.join(features) or 'nothing'}")


def check_features(features: Mapping[str, Tensor], feature_dims: Mapping[str, int], num_items: int) -> None:
    """Refuse features of other shapes, and those that are not finite; a matrix is looked through once.

    Args:
        features: From modality to feature matrix ``[I, d_m]``.
        feature_dims: Feature width of every modality.
        num_items: Number of items ``I``.

    Raises:
        InputError: If a modality is missing, a shape is another, or a value is not finite; or if a memory-mapped file
            was written to since it was opened.
    """
    check_present(features, feature_dims)
    for m, width in feature_dims.items():
        x, file = features[m], file_of(features[m])
        where = f"features of {m!r}" if file is None else f"{file}: features of {m!r}"
        if x.shape != (num_items, width):
            raise InputError(f"{where}: found shape {list(x.shape)}, expected [{num_items}, {width}]")
        if x.layout == torch.strided and not exporting():
            check_all_finite(x, m)


def mean_row(x: Tensor) -> Tensor:
    """Return the intervention do(X = mean): the mean over rows, ``[1, D]``."""
    return x.mean(dim=0, keepdim=True)


def mean_beyond_rounding(x: Tensor) -> Tensor:
    """Return the mean of rows, ``[1, d]``; zero if rounding explains its length.

    Args:
        x: The matrix ``[N, d]``.
    """
    mean = mean_of_rows(x)
    return mean * (mean.norm() > ROUNDING * torch.finfo(mean.dtype).eps * x.norm(dim=1).mean())


def take(x: Tensor, index: Tensor | None, sparse: bool = False) -> Tensor:
    """Return the rows of a sampled subgraph, or all of them.

    Args:
        x: The table ``[N, ...]``.
        index: Row numbers, or :obj:`None` for all.
        sparse: Whether a table that is a parameter gets a sparse gradient.
    """
    if index is None:
        return x
    index = index.to(x.device)
    return take_rows(x, index) if sparse and x.is_leaf and x.requires_grad else x.index_select(0, index)
