"""What all backbones share: sizes, the prepared graph, interventions, and how views are computed together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.capturing import Capturing
from pyg_ckd.data.inputs import RATES, EdgeType, check_graph
from pyg_ckd.data.mapped import file_of
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.edges import EdgeGraph, as_edges
from pyg_ckd.nn.loss import bpr_loss, l2_from_norm
from pyg_ckd.nn.models.cosine import cosine_rows
from pyg_ckd.nn.models.inputs import Inputs, check_features, check_finite, interactions_in
from pyg_ckd.nn.models.inputs import mean_row as mean_row
from pyg_ckd.nn.models.parts import check_modalities as check_modalities
from pyg_ckd.nn.models.parts import check_names
from pyg_ckd.nn.models.parts import check_size as check_size
from pyg_ckd.nn.models.parts import reset_linear_layers as reset_linear_layers
from pyg_ckd.nn.models.reach import parameters_by_name
from pyg_ckd.nn.models.rows import in_whole_graph as in_whole_graph
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.options import record_options
from pyg_ckd.scoring.blocks import Block, BlockEmbeddings, Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.tracing import as_it_is, exporting
from pyg_ckd.scoring.views import View, as_views
from pyg_ckd.wrappers import unwrapped_state

SIZES = ("num_users", "num_items", "feature_dims")
AnyView = Collection[str] | str | None
Graph = Tensor | Adjacency
B = TypeVar("B", bound="Backbone")


class Backbone(Capturing, nn.Module):
    r"""A recommender that maps ``(features, graph, view)`` to :class:`~pyg_ckd.data.Embeddings`.

    A backbone holds parameters only. Users are nodes ``0 .. U - 1`` and items ``U .. U + I - 1`` of its graph.

    In a view, every modality that is not factual is *intervened* on: each item's features are replaced with the mean
    over items and each user's preference vector with the mean over users. Id embeddings are never intervened on.

    Args:
        num_users: Number of users ``U``.
        num_items: Number of items ``I``.
        feature_dims: Feature width :math:`d_m` of every modality, in order.

    Raises:
        InputError: If a size is not positive, or ``feature_dims`` is no mapping from names that modules can have.
    """

    normalization: str = "sym"
    self_loops: bool = False
    uses_features: ClassVar[bool] = True
    """Whether features reach the embeddings or the losses; if not, there is no modality to balance."""
    views_differ: ClassVar[bool] = True
    """Whether views rank differently; if not, features enter the losses alone and views cannot be compared."""
    pairwise: ClassVar[bool] = True
    """Whether the main loss is BPR, of margins between pairs of items, in the term ``bpr``."""
    steered: ClassVar[str] = "steps"
    """When scores depend on trained parameters of single modalities: in all ``"steps"``, in the first step of
    ``"epochs"``, or ``"never"``. A subclass that does not say is found out in the first step."""
    users_of: ClassVar[Any] = None
    """How users follow from their items where they have no rows of their own: a static method ``(item, row, member,
    size) -> [size, D]`` of the item table ``[I, D]``, rows of users and of their items (int64 ``[E]``) and a number."""
    learnt_users: ClassVar[bool] = True
    """Whether nothing is known of users without training interactions: all of a user is in rows that are learnt."""
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp"})
    """How several processes can share a training, see :class:`~pyg_ckd.training.Trainer`. A subclass that does not say
    has ``"ddp"`` alone, or with losses or a penalty of its own nothing: means over triples can be shared out, others
    cannot. One that names ``"users"`` reads users through :meth:`Inputs.mean_of_users` and the graph alone."""
    user_rows: ClassVar[frozenset[str]] = frozenset()
    """Parameters and buffers whose rows are users, by what stands before the first dot of their names."""
    column_dims: ClassVar[Mapping[str, int | None]] = {}
    """The dimension of every parameter, by what stands before the first dot of its name, along which columns of the
    embeddings lie that ``"columns"`` shares out; of :obj:`None`, as of a bias, the first process has all of it."""
    projected: Sequence[str] = ()
    """Modalities of whose features a pass reads linear maps (:class:`torch.nn.Linear`) and means alone: each of several
    processes can have those of some items, see :class:`~pyg_ckd.training.Trainer`. A subclass says so anew."""
    is_part = False
    """Whether this process has a part of the tables alone, until a training by several ends."""
    sampled: ClassVar[bool] = False
    """Whether rows depend on others through sums along edges alone, as sampling needs; a subclass says so anew."""
    shuffle: ClassVar[str] = "whole"
    """How the trainer shuffles an epoch unless told otherwise, see :class:`~pyg_ckd.data.TripletSampler`."""
    bpr_negatives: ClassVar[int] = 1
    """Negatives of an interaction that the trainer draws for BPR unless told otherwise. With ``num_neighbors`` it draws
    one, for every negative adds a neighbourhood to the step. A subclass of LightGCN that does not say has one."""
    num_hops: int | None = None
    """How many edges away the nodes are that a row depends on; :obj:`None` if unknown."""
    sparse_rows = False
    """Whether tables get sparse gradients in a sampled subgraph; the trainer sets it in its steps."""
    draws: Callable[[], AbstractContextManager[None]] = nullcontext
    """The block that a pass runs in; the trainer sets one in which each of several processes draws its own numbers."""
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Best options on validation data, by ``model``, ``trainer``, ``plain``, ``teacher`` and ``distillation``."""

    def __init__(self, num_users: int, num_items: int, feature_dims: Mapping[str, int]) -> None:
        super().__init__()
        check_names(feature_dims)
        for name, size in {"num_users": num_users, "num_items": num_items, **feature_dims}.items():
            check_size(name, size)
        self.num_users, self.num_items, self.feature_dims = num_users, num_items, dict(feature_dims)
        self.options: dict[str, Any] = {}  # Filled in by the constructor's wrapper, see __init_subclass__.

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let every constructor record its options, defaults included: they decide about results and checkpoints."""
        super().__init_subclass__(**kwargs)
        cls.sampled = cls.__dict__.get("sampled", False)
        cls.projected = cls.__dict__.get("projected", ())
        record_options(cls, SIZES, checked=True)
        if "strategies" not in cls.__dict__:  # How its base class computes says nothing about how it does.
            own = {"losses", "penalty", "outputs"} & cls.__dict__.keys()
            cls.strategies = frozenset() if own else cls.strategies & {"ddp"}

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in order."""
        return tuple(self.feature_dims)

    @property
    def reads_rows(self) -> bool:
        """Whether a step reads, casts and moves only the features of its own items, so that files can stay mapped."""
        return False

    @property
    def modality_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that belong to one modality alone, by modality; all others are shared.

        A parameter belongs to a modality if it is under the modality's name in a :class:`~torch.nn.ModuleDict` or
        :class:`~torch.nn.ParameterDict` whose keys are modalities, anywhere in the backbone.
        """
        return parameters_by_name(self, self.modalities)

    @classmethod
    def from_data(cls: type[B], data: HeteroData, **options: Any) -> B:
        """Build a backbone for a graph.

        Args:
            data: The graph, read for the number of users, items and features only.
            **options: Further arguments of the constructor.
        """
        check_graph(data)
        dims = {m: data["item"][m].size(1) for m in data.modalities}
        return cls(data["user"].num_nodes, data["item"].num_nodes, dims, **options)

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        """Normalise the graph once, so that no step has to; a prepared graph is returned as it is.

        Backbones with further graphs, computed from features or from co-occurrence, add those that are missing here.

        Args:
            features: From modality to the full feature matrix ``[I, d_m]``.
            edge_index_dict: Interactions ``[2, E]`` under ``('user', 'rates', 'item')`` and any further graph.

        Returns:
            The same dict with an :class:`~pyg_ckd.nn.Adjacency` instead of the interactions.
        """
        return {**edge_index_dict, RATES: self._adjacency(edge_index_dict)}

    def fixed_graphs(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        run: Callable[[Mapping[EdgeType, Any]], Any],
    ) -> dict[EdgeType, Any]:
        """Return all graphs but the interactions as they are after a pass, for :func:`torch.export.export` to record.

        Args:
            features: As in :meth:`prepare`.
            edge_index_dict: As in :meth:`prepare`.
            run: Runs the pass on prepared graphs: some neighbours are found, and some weights solved, when asked for.
        """
        graphs = self.prepare(features, edge_index_dict)
        run(graphs)
        return {kind: as_edges(graph) for kind, graph in graphs.items() if kind != RATES}

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Return the graphs that the steps of the next epoch train on; here the prepared ones.

        Backbones that sample or learn a graph once per epoch override it. Randomness comes from PyTorch's generators.

        Args:
            features: As in :meth:`prepare`.
            graphs: What :meth:`prepare` returned.
        """
        return dict(graphs)

    def as_parameters(self, features: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return features in the floating-point type of the parameters; those that have it already are not copied.

        Features in files are not converted if :attr:`reads_rows`.

        Args:
            features: From modality to feature matrix.
        """
        dtype = next((p.dtype for p in self.parameters()), None)
        if dtype is None or all(x.dtype == dtype for x in features.values()):
            return features
        return {m: x if self.reads_rows and file_of(x) else x.to(dtype) for m, x in features.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Load weights, including those saved by a compiled or otherwise wrapped backbone."""
        return super().load_state_dict(unwrapped_state(state_dict, self.state_dict().keys()), *args, **options)

    def _adjacency(
        self, edge_index_dict: Mapping[EdgeType, Graph], n_id_dict: Mapping[str, Tensor] | None = None
    ) -> Adjacency:
        graph, settings = interactions_in(edge_index_dict), (self.normalization, self.self_loops)
        dtype = next((p.dtype for p in self.parameters()), torch.get_default_dtype())
        if isinstance(graph, Adjacency):
            graph.check_prepared(f"{type(self).__name__}, {RATES}", settings, dtype)
            return graph
        sizes = (self.num_users, self.num_items)
        if n_id_dict is not None:
            sizes = (n_id_dict["user"].numel(), n_id_dict["item"].numel())
        kind = EdgeGraph if exporting() else Adjacency
        graph = kind.from_interactions(graph, *sizes, *settings, dtype=dtype)
        graph.prepared_for = settings
        return graph

    def forward(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        view: AnyView = None,
        n_id_dict: Mapping[str, Tensor] | None = None,
    ) -> Embeddings:
        """Compute the embeddings of one view.

        Args:
            features: From modality to the full feature matrix ``[I, d_m]``.
            edge_index_dict: The graph, prepared or not.
            view: Modalities that stay factual; :obj:`None` means all.
            n_id_dict: Row numbers of the users and items of a sampled subgraph, under ``'user'`` and ``'item'``. The
                indices of the graph are then those of the subgraph; means are still taken over all items and users.

        Returns:
            Embeddings of all users and items, or of those in ``n_id_dict``.

        Raises:
            InputError: If the view, the graph or the features cannot be used. Shapes of features are not checked where
                the graph is prepared.
        """
        return self.forward_views(features, edge_index_dict, [view], n_id_dict)[0]

    def forward_views(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[AnyView],
        n_id_dict: Mapping[str, Tensor] | None = None,
    ) -> list[Embeddings]:
        """Compute the embeddings of several views and share between them what they have in common.

        Args:
            features: As in :meth:`forward`.
            edge_index_dict: As in :meth:`forward`.
            views: The views; the results come in their order.
            n_id_dict: As in :meth:`forward`.
        """
        return [out.dense() for out in self.outputs(features, edge_index_dict, views, n_id_dict)]

    @as_it_is
    def outputs(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[AnyView],
        n_id_dict: Mapping[str, Tensor] | None = None,
    ) -> list[Output]:
        """Compute the views as :meth:`forward_views` does, in the form from which margins are cheapest to compute.

        Args:
            features, edge_index_dict, views, n_id_dict: As in :meth:`forward_views`.
        """
        graph = interactions_in(edge_index_dict)
        if self.uses_features:
            check_finite(features, self.feature_dims)
            if (features or self.views_differ) and n_id_dict is None and not isinstance(graph, Adjacency):
                # Steps of a training come with a prepared graph, or with a subgraph.
                check_features(features, self.feature_dims, self.num_items)
        factual, features = as_views(views, self.modalities), self.as_parameters(features)
        distinct = list(dict.fromkeys(factual))
        if n_id_dict is None:
            graphs = self.prepare(features, edge_index_dict)
        else:
            graphs = {**edge_index_dict, RATES: self._adjacency(edge_index_dict, n_id_dict)}
        inputs = Inputs(features, graphs, n_id_dict or {}, {}, self.sparse_rows)
        with self.draws():
            out = dict(zip(distinct, self._encoded(distinct, inputs), strict=True))
        for view, computed in out.items():
            if type(computed) is Embeddings:
                out[view] = BlockEmbeddings([Block(*computed)])  # Remembers what it has read.
            if n_id_dict is not None:
                cast(BlockEmbeddings, out[view]).n_id_dict = n_id_dict
        return [out[view] for view in factual]

    def _encoded(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        return self.encode(views, inputs)  # Some backbones go another way where tables are large.

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Compute distinct views.

        Args:
            views: The views, each once.
            inputs: What to compute them from.
        """
        raise TypeError(f"{type(self).__name__} must derive from EarlyFusion or LateFusion")

    def losses(
        self, out: Output, batch: TripletBatch, features: Mapping[str, Tensor], view: View, bpr_eps: float = 0.0
    ) -> dict[str, Tensor]:
        """Return the loss terms with which the backbone trains on a view; here BPR.

        Backbones with auxiliary losses add named terms, weighted as in the total loss. A mean over the training triples
        is weighted by ``batch.weight``.

        Args:
            out: The output of the trained view, as :meth:`outputs` returns it.
            batch: The triples, by the row numbers of ``out``: those of the subgraph if ``out`` was computed on one.
            features: From modality to the full feature matrix ``[I, d_m]``.
            view: The trained view.
            bpr_eps: See :func:`~pyg_ckd.nn.bpr_loss`.
        """
        return {"bpr": bpr_loss(out.margin(batch.user, batch.positive, batch.negative), bpr_eps, batch.weight)}

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        """Return the L2 penalty of a batch; here on the rows of the embeddings that the batch scores with.

        Args:
            out: The output of the trained view.
            batch: The triples, as in :meth:`losses`.
        """
        return l2_from_norm(out.squared_norm(batch.user, batch.positive, batch.negative), batch.user.numel())

    def split(self, x: Tensor, n_id_dict: Mapping[str, Tensor]) -> Embeddings:
        """Cut node embeddings ``[N, D]`` into those of users and of items."""
        users = n_id_dict["user"].numel() if "user" in n_id_dict else self.num_users
        return Embeddings(*x.split([users, x.size(0) - users]))  # Its gradient is one concatenation.


class LateFusion(Backbone):
    """Base of backbones with one branch per modality, fused after propagation.

    A subclass defines :meth:`branch` and :meth:`fuse`. Each branch is computed at most twice for any number of views:
    once with the modality factual and once intervened on.
    """

    cosine: float | None = None
    """Scale of scores that are cosines, see :func:`~pyg_ckd.nn.models.cosine.cosine_rows`; :obj:`None` for products."""

    def branch(self, modality: str, feature: Tensor, inputs: Inputs, factual: bool) -> Embeddings:
        """Compute the branch of one modality.

        Args:
            modality: Name of the modality.
            feature: Its features ``[I, d_m]``, or their mean ``[1, d_m]`` if they are intervened on.
            inputs: What the pass runs on.
            factual: Whether the modality is factual; if not, its user preferences are replaced with their mean too.
        """
        raise TypeError(f"{type(self).__name__} defines no branch")

    def fuse(self, view: View, branches: Mapping[str, Embeddings], inputs: Inputs) -> Output:
        """Fuse the branches of one view, given in the order of the modalities."""
        raise TypeError(f"{type(self).__name__} defines no fusion")

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Compute every branch that the views need once and fuse them for each view."""
        branches = self.branches(views, inputs)
        return [self.fuse(view, {m: branches[m, m in view] for m in self.modalities}, inputs) for view in views]

    def branches(self, views: Sequence[View], inputs: Inputs) -> dict[tuple[str, bool], Embeddings]:
        """Return every branch that the views need, by modality and whether it is factual."""
        branches = {}
        for m in self.modalities:
            for factual in sorted({m in view for view in views}):
                feature = inputs.take_items(inputs.features[m]) if factual else inputs.mean_feature(m)
                branch = self.branch(m, feature, inputs, factual)
                branches[m, factual] = branch if self.cosine is None else cosine_rows(branch, self.cosine)
        return branches


class EarlyFusion(Backbone):
    """Base of backbones that fuse the modalities before or during propagation and propagate one stream.

    If propagation treats all columns in the same way, a subclass defines :meth:`ego` and :meth:`propagate`. The views
    are stacked along the feature axis and propagated together, with one sparse product per layer for any number of
    views. Other subclasses override :meth:`encode`, and compute there once what several views have in common.
    """

    def ego(self, view: View, inputs: Inputs) -> Tensor:
        """Return the fused input ``[N, D]`` of one view."""
        raise TypeError(f"{type(self).__name__} defines no input")

    def propagate(self, x: Tensor, graph: Adjacency) -> Tensor:
        """Propagate node embeddings ``[N, V * D]`` of ``V`` stacked views."""
        raise TypeError(f"{type(self).__name__} defines no propagation")

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Stack the views and propagate them together."""
        x = torch.cat([self.ego(view, inputs) for view in views], dim=1)
        out = self.propagate(x, inputs.graph).chunk(len(views), dim=1)
        return [self.split(x, inputs.n_id_dict) for x in out]
