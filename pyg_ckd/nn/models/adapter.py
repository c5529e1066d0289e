"""Any PyG model as a student."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.data.inputs import RATES, EdgeType, check_graph, initialise_lazy
from pyg_ckd.data.modules import (
    MeanFeatures,
    changed_in_place,
    check_forward,
    checked_tables,
    module_views,
    takes_node_ids,
)
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.models.base import AnyView, Backbone, Graph
from pyg_ckd.nn.models.inputs import check_present
from pyg_ckd.nn.models.reach import parameters_by_modality
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.scoring.blocks import Block, BlockEmbeddings, Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import as_views
from pyg_ckd.wrappers import unwrap


class AdaptedBackbone(Backbone):
    """Adapts any module with ``forward(x_dict, edge_index) -> (user, item)`` to a backbone.

    Interventions act from outside: in a view, the features of every modality that is not factual are replaced with
    their mean over items before the module sees them. Each distinct view is one call of the module.

    On sampled neighbourhoods, a module with a third argument ``n_id_dict`` gets the features of the subgraph's items,
    the interactions by the row numbers of the subgraph, and the row numbers of its users and items in the whole graph,
    under ``"user"`` and ``"item"``. It returns the embeddings of these users and items. Any other module gets the
    interactions of the subgraph by the row numbers of the whole graph, and returns the embeddings of all users and
    items. Interactions have no weights. A module that normalises by degrees uses those of the subgraph, as with PyG's
    own loaders. So even if all neighbours are kept, only means over the neighbours of a node are the same as in the
    whole graph.

    Args:
        module: The module. It is called with ``x_dict``, from modality to features ``[I, d_m]``, and ``edge_index``,
            the interactions (user row, item row), int64 ``[2, E]``; it returns user ``[U, D]`` and item ``[I, D]``
            embeddings.
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        modality_parameters: Which parameters of the module belong to a modality alone, by dotted names of submodules or
            parameters, *e.g.*, ``{"visual": ["visual_encoder", "preference_visual"]}``; all others are shared.
            (default: :obj:`None`, found by following gradients, see :attr:`modality_parameters`)

    Raises:
        InputError: If the module takes other arguments, or ``modality_parameters`` names an unknown modality, something
            that the module does not have, or a parameter twice; at the first call, if the module returns anything else
            than two tables.
    """

    sampled = True
    learnt_users = False  # A module may know users by features of its own.

    _found_among: list[tuple[str, bool]] | None = None

    strategies: ClassVar[frozenset[str]] = frozenset({"ddp"})

    def __init__(
        self,
        module: nn.Module,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        modality_parameters: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(num_users, num_items, feature_dims)
        self.module, self._sizes = unwrap(module), (num_users, num_items)
        check_forward(self.module)
        self._groups = None if modality_parameters is None else self._named(modality_parameters)
        self._mean = MeanFeatures()

    @property
    def modality_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of the module that belong to one modality alone, by modality; all others are shared.

        If the constructor was not given them, :meth:`prepare` finds them with one forward pass of the module, the first
        time that it is called and whenever the module has other parameters than before. A parameter belongs to a
        modality if everything that it is first combined with depends on the features of that modality and on no others.
        For example, a layer that sees only images belongs to the images; a layer that all modalities go through, and a
        table that is returned as it is, are shared. So are parameters that are frozen, until :meth:`prepare` is called
        after they no longer are. Before :meth:`prepare` has been called, parameters are found by their names as in any
        backbone, which is an error if the module has no :class:`~torch.nn.ModuleDict` or
        :class:`~torch.nn.ParameterDict` whose keys are modalities.

        Raises:
            InputError: If it is not known yet.
        """
        parameters = dict(self.module.named_parameters())
        if self._groups is None or (self._found_among and [name for name, _ in self._found_among] != [*parameters]):
            by_name = super().modality_parameters
            if not any(by_name.values()):
                raise InputError(
                    f"modality_parameters: not known yet which parameters of {type(self.module).__name__} belong to a "
                    "modality; call prepare(features, graphs) first, or name them in as_backbone(module, data, "
                    "modality_parameters=...)"
                )
            return by_name
        return {m: [parameters[name] for name in names] for m, names in self._groups.items()}

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        """Return the graph unchanged; the module processes it itself.

        The first call finds out which parameters belong to a modality, if the constructor was not given them. It takes
        one forward pass of a copy of the module, which changes no buffer and draws no random number. If the module
        cannot be copied or does not take features that require gradients, a warning says so and all parameters are
        shared. If it reads features of a modality without a gradient, as under :func:`torch.no_grad`, a warning says
        so as well.

        Args:
            features: As in :meth:`Backbone.prepare`.
            edge_index_dict: The graph.
        """
        edge_index = edge_index_dict[RATES]
        among = [(name, p.requires_grad) for name, p in self.module.named_parameters()]
        known = self._groups is not None and self._found_among in (None, among)
        if not known and features.keys() >= set(self.modalities) and not isinstance(edge_index, Adjacency):
            own = {m: features[m] for m in self.modalities}
            name = type(self.module).__name__

            def call(module: nn.Module, x: dict[str, Tensor]) -> Embeddings:
                return checked_tables(module(x, edge_index), name, self._sizes)

            try:
                self._groups, hidden = parameters_by_modality(self.module, call, own)
                if hidden:
                    warnings.warn(
                        f"modality_parameters: {name} reads features of {', '.join(hidden)} without a gradient (detach "
                        "or no_grad), so that parameters of this kind cannot be found; name those of every modality in "
                        "as_backbone(module, data, modality_parameters=...)",
                        stacklevel=2,
                    )
            except (RuntimeError, TypeError) as error:
                if "used in an in-place operation" in str(error):
                    raise InputError(changed_in_place(name, self.modalities)) from error
                self._groups = {m: [] for m in self.modalities}
                warnings.warn(
                    f"modality_parameters: could not follow the gradients of {type(self.module).__name__} "
                    f"({str(error).splitlines()[0]}), so that all its parameters are shared; name those of a modality "
                    "in as_backbone(module, data, modality_parameters=...)",
                    stacklevel=2,
                )
            self._found_among = among
        return dict(edge_index_dict)

    def fixed_graphs(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        run: Callable[[Mapping[EdgeType, Any]], Any],
    ) -> dict[EdgeType, Any]:
        """Return all graphs but the interactions, as they are: the module prepares none."""
        return {kind: graph for kind, graph in edge_index_dict.items() if kind != RATES}

    def _named(self, prefixes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Return the names of the parameters below prefixes, by modality."""
        names = [name for name, _ in self.module.named_parameters()]
        owner: dict[str, str] = {}
        for m, own in prefixes.items():
            if m not in self.modalities:
                raise unknown_name("modality of modality_parameters", m, self.modalities)
            for prefix in [own] if isinstance(own, str) else own:
                found = [name for name in names if f"{name}.".startswith(f"{prefix}.")]
                if not found:
                    parts = {".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2)}
                    raise unknown_name(f"submodule or parameter of modality_parameters[{m!r}]", prefix, parts)
                for name in found:
                    if owner.setdefault(name, m) != m:
                        raise InputError(
                            f"modality_parameters: found {name} below both {owner[name]!r} and {m!r}, expected it "
                            "below one of them, or below none if they share it"
                        )
        return {m: [name for name in names if owner.get(name) == m] for m in self.modalities}

    def outputs(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[AnyView],
        n_id_dict: Mapping[str, Tensor] | None = None,
    ) -> list[Output]:
        """Call the module once for every distinct view."""
        edge_index = edge_index_dict[RATES]
        if isinstance(edge_index, Adjacency):
            raise InputError("an adapted module takes plain interactions [2, E]")
        check_present(features, self.modalities)
        # A module may concatenate them in the order in which they come.
        features = self.as_parameters({m: features[m] for m in self.modalities})
        views = as_views(views, self.modalities)
        if n_id_dict is None:
            return [*module_views(self.module, features, edge_index, views, self._sizes)]
        if not takes_node_ids(self.module):
            raise InputError(
                f"{type(self.module).__name__}.forward: found no argument n_id_dict, expected one beside x_dict and "
                "edge_index to compute the rows of a subgraph alone"
            )
        sizes = (n_id_dict["user"].numel(), n_id_dict["item"].numel())
        here = {m: x.index_select(0, n_id_dict["item"]) for m, x in features.items()}
        means = {m: self._mean(m, x) for m, x in features.items()}
        with self.draws():
            found = module_views(self.module, here, edge_index, views, sizes, n_id_dict, means)
        parts = []
        for out in found:
            parts.append(BlockEmbeddings([Block(*out)]))
            parts[-1].n_id_dict = n_id_dict
        return [*parts]


def as_backbone(
    model: nn.Module, data: HeteroData, modality_parameters: Mapping[str, Sequence[str]] | None = None
) -> Backbone:
    """Return ``model`` itself if it is a backbone, else the same module adapted to one.

    Modules wrapped by :func:`torch.compile`, data parallelism or lightning-fabric are unwrapped, and lazy parameters
    are initialised.

    Args:
        model: A backbone, or any module with ``forward(x_dict, edge_index) -> (user, item)``.
        data: The graph, read for its sizes and to initialise lazy parameters.
        modality_parameters: Which parameters of a module belong to a modality alone, see :class:`AdaptedBackbone`.

    Raises:
        InputError: If ``modality_parameters`` does not fit the module, or ``model`` is a backbone, which knows its own,
            or an objective around one.
    """
    model = unwrap(model)
    if isinstance(model, Backbone) and modality_parameters is not None:
        raise InputError(
            f"modality_parameters: {type(model).__name__} is a backbone, which knows its own, expected none"
        )
    check_graph(data)
    if isinstance(getattr(model, "student", None), Backbone) and hasattr(model, "forward_views"):
        raise InputError(
            f"model: found {type(model).__name__}, which trains a backbone, expected the backbone itself; pass its "
            ".student"
        )
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model: found {type(model).__name__}, expected a backbone or a module with forward(x_dict, edge_index) -> "
            "(user, item)"
        )
    dims = {m: data["item"][m].size(1) for m in data.modalities}
    sizes = (data["user"].num_nodes, data["item"].num_nodes)
    backbone = model if isinstance(model, Backbone) else AdaptedBackbone(model, *sizes, dims, modality_parameters)
    initialise_lazy(backbone, data)
    return backbone
