"""LightGCN and its early-fusion multimodal form."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn.bounded import is_large
from pyg_ckd.nn.feature_part import propagated
from pyg_ckd.nn.loss import l2_penalty
from pyg_ckd.nn.models.base import Backbone, EarlyFusion, Inputs, check_modalities, check_size
from pyg_ckd.nn.models.columns import by_columns
from pyg_ckd.nn.models.rows import id_rows
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.nn.rows import GraphRows, is_as_written, selections_of
from pyg_ckd.scoring.blocks import BlockEmbeddings, Output
from pyg_ckd.scoring.column_sums import column_sum
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.late import LateBlock, Selection, Selections
from pyg_ckd.scoring.views import View

NARROW = 4
"""Features up to so many times the width of the embeddings are propagated once per run instead of once per step."""


class LightGCN(EarlyFusion):
    r"""LightGCN, the baseline without modalities.

    From `"LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation"
    <https://arxiv.org/abs/2002.02126>`_.

    .. math::
        \mathbf{X}^{(l+1)} = \mathbf{D}^{-1/2} \mathbf{A} \mathbf{D}^{-1/2} \mathbf{X}^{(l)}, \qquad
        \mathbf{X} = \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{X}^{(l)}

    All views are the same, because there is nothing to intervene on. As in the paper, the L2 penalty acts on the id
    embeddings :math:`\mathbf{X}^{(0)}` of the batch.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: As in every backbone; features are ignored.
        embedding_dim: Width :math:`D` of the embeddings.
        num_layers: Number of layers :math:`L`.

    Raises:
        InputError: If a size is not positive or ``num_layers`` is negative.
    """

    capturable = True
    uses_features = False
    strategies: ClassVar[frozenset[str]] = frozenset({"users", "columns", "ddp"})
    user_rows: ClassVar[frozenset[str]] = frozenset({"user_embedding"})
    column_dims: ClassVar[Mapping[str, int | None]] = {"user_embedding": 1, "item_embedding": 1}
    sampled = True
    bpr_negatives = 4
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "model": {"num_layers": 4},
        "trainer": {"lr": 5e-3},
        "plain": {"l2": 1e-3},
    }

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A model that builds on this one does so in order to use features; it names its own number of negatives."""
        super().__init_subclass__(**kwargs)
        cls.uses_features = True
        if not any("bpr_negatives" in vars(base) for base in cls.__mro__[: cls.__mro__.index(LightGCN)]):
            cls.bpr_negatives = EarlyFusion.bpr_negatives

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int] | None = None,
        embedding_dim: int = 64,
        num_layers: int = 3,
    ) -> None:
        super().__init__(num_users, num_items, feature_dims or {})
        check_size("embedding_dim", embedding_dim)
        check_size("num_layers", num_layers, least=0)
        self.user_embedding = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item_embedding = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.num_layers = num_layers
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        nn.init.xavier_uniform_(self.user_embedding)
        nn.init.xavier_uniform_(self.item_embedding)

    @property
    def num_hops(self) -> int:  # type: ignore[override]
        """The number of layers."""
        return self.num_layers

    def ego(self, view: View, inputs: Inputs) -> Tensor:
        """Return the id embeddings ``[N, D]``."""
        return torch.cat([inputs.take_users(self.user_embedding), inputs.take_items(self.item_embedding)])

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Compute the embeddings that all views share; in training on the CPU, of the rows that are read."""
        x, graph = self.ego(frozenset(), inputs), inputs.graph

        def tables() -> Embeddings:
            return self.split(self.propagate(x, graph), inputs.n_id_dict)

        def rows(found: Selection) -> Embeddings:
            return found.split(GraphRows.of(graph, found).mean_of_powers(x, self.num_layers))

        selections = self._selections(inputs)
        if selections is None:
            return [tables()] * len(views)
        return [BlockEmbeddings([LateBlock(tables, rows, selections)])] * len(views)

    def _encoded(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Compute large tables some columns at a time where nothing needs a gradient and columns are independent."""
        width = self.user_embedding.size(1)
        if not (is_large(inputs.graph, width) and self._goes_by_columns()):
            return self.encode(views, inputs)
        frugal, kinds = inputs._replace(frugal=True), set[type]()

        def compute(part: LightGCN) -> list[Tensor]:
            found = part.encode(views, frugal)
            kinds.update(type(out) for out in found)
            return [x for out in found for x in out.dense()]

        dims = cast(Mapping[str, int], self.column_dims)
        tables = by_columns(self, dims, width, self._num_streams(views), compute)
        if kinds != {Embeddings}:  # A class of somebody's own, which may want more of its outputs than their tables.
            return self.encode(views, inputs)
        return [Embeddings(*pair) for pair in zip(tables[::2], tables[1::2], strict=True)]

    def _goes_by_columns(self) -> bool:
        """Whether the class says that it treats every column by itself, and where the columns of all parameters lie."""
        known = {name for name, dim in self.column_dims.items() if dim is not None}
        said = "columns" in self.strategies and all(name.split(".")[0] in known for name, _ in self.named_parameters())
        return said and self._is_narrowable()

    def _is_narrowable(self) -> bool:
        """Whether a copy of some columns computes what this model does: no method was exchanged, no layer has hooks."""
        changed = any(callable(getattr(type(self), name, None)) for name in vars(self))
        return not (changed or is_parametrized(self)) and is_as_written(self, type(self), (), self.children())

    def _num_streams(self, views: Sequence[View]) -> int:
        """Return how many tables are propagated side by side."""
        return 1

    def propagated_ids(self, inputs: Inputs) -> Tensor:
        """Return the propagated id embeddings ``[N, D]``; large ones without gradients some columns at a time.

        Args:
            inputs: What the pass runs on.
        """

        def compute(part: LightGCN) -> list[Tensor]:
            return [part.propagate(part.ego(frozenset(), inputs), inputs.graph)]

        width = self.user_embedding.size(1)
        as_written = is_as_written(self, LightGCN, ("propagate", "ego")) and self._is_narrowable()
        if not (as_written and is_large(inputs.graph, width)):
            return compute(self)[0]
        return by_columns(self, {"user_embedding": 1, "item_embedding": 1}, width, 1, compute)[0]

    def _selections(self, inputs: Inputs) -> Selections | None:
        """Return the selections of a pass, or :obj:`None` where all rows are computed at once."""
        if not is_as_written(self, LightGCN, ("propagate", "split")):
            return None
        return selections_of(inputs.graph, inputs.take_users(self.user_embedding).size(0))

    def propagate(self, x: Tensor, graph: Adjacency) -> Tensor:
        """Return the mean over layers, as repeated calls of LGConv do, in fewer passes over memory."""
        return graph.mean_of_powers(x, self.num_layers)

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        """Return the L2 penalty on the batch's rows of the id embeddings."""

        def rows_norm() -> Tensor:
            return l2_penalty(*id_rows(out, batch, self.user_embedding, self.item_embedding, self.sparse_rows))

        return column_sum(rows_norm, "penalty", self, *batch[:3])


class _Parts(NamedTuple):
    """Propagated parts of the views, of all nodes or of some.

    Attributes:
        base: What all views share ``[N, D]``.
        ones: Propagated ones for items ``[N, 1]``.
        factual: From modality that not all views have factual to its projected and propagated features ``[N, D]``.
    """

    base: Tensor
    ones: Tensor
    factual: Mapping[str, Tensor]


class EarlyFusionLightGCN(LightGCN):
    r"""LightGCN whose items start from their id embedding plus their fused features.

    .. math::
        \mathbf{x}^{(0)}_u = \mathbf{p}_u, \qquad
        \mathbf{x}^{(0)}_i = \mathbf{q}_i + \sum_{m} \left( \mathbf{W}_m \mathbf{f}^m_i + \mathbf{b}_m \right)

    and propagation as in :class:`LightGCN`. The modalities meet before the first layer, hence early fusion. A modality
    that is intervened on adds the same vector to every item's input.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width :math:`D` of the embeddings.
        num_layers: Number of layers :math:`L`.
        id_embedding: Whether items have the id embedding :math:`\mathbf{q}_i`.

    Raises:
        InputError: If a size is not positive or there is no modality.
    """

    capturable = True
    strategies: ClassVar[frozenset[str]] = frozenset({"users", "columns", "ddp"})
    column_dims: ClassVar[Mapping[str, int | None]] = {**LightGCN.column_dims, "project": 0}
    sampled = True
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "model": {"num_layers": 4},
        "trainer": {"lr": 5e-3},
        "plain": {"l2": 0.01},
        "teacher": {"l2": 0.01},
        "distillation": {"l2": 0.01, "distillation_weight": 0.1},
    }

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        embedding_dim: int = 64,
        num_layers: int = 2,
        id_embedding: bool = True,
    ) -> None:
        check_modalities(feature_dims)
        super().__init__(num_users, num_items, feature_dims, embedding_dim, num_layers)
        self.id_embedding = id_embedding
        if not id_embedding:
            self.item_embedding.requires_grad_(False).zero_()
        self.project = nn.ModuleDict({m: nn.Linear(d, embedding_dim) for m, d in feature_dims.items()})

    def reset_parameters(self) -> None:
        """Draw all parameters anew; without id embeddings, those of the items stay zero."""
        super().reset_parameters()
        if hasattr(self, "project"):  # Not yet while the base class is being built.
            for lin in self.project.values():
                if isinstance(lin, nn.Linear):
                    lin.reset_parameters()
            if not self.id_embedding:
                nn.init.zeros_(self.item_embedding)

    @property
    def projected(self) -> Sequence[str]:  # type: ignore[override]
        """All modalities."""
        return self.modalities

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        r"""Compute the views by linearity: the propagated input is the sum of its propagated parts.

        With :math:`\mathbf{P}` the mean of the adjacency's powers, :math:`\mathbf{P} [\mathbf{0}; \mathbf{F}_m]` is the
        same in every step: narrow features are propagated once per run, wide ones after their projection. A modality
        that is intervened on is its mean row times :math:`\mathbf{P} [\mathbf{0}; \mathbf{1}]`.
        """
        shared = frozenset(self.modalities).intersection(
            *views
        )  # Factual in every view: part of the stream that all have in common.
        others = [m for m in self.modalities if m not in shared]
        wide = [m for m in others if not self._is_narrow(m, inputs)]
        start = self._start(shared, wide, inputs)
        constants = self._constants([m for m in others if m not in wide], inputs)

        def parts(rows: GraphRows | None) -> _Parts:
            x = self.propagate(start, inputs.graph) if rows is None else rows.mean_of_powers(start, self.num_layers)
            base, *projected = x.chunk(1 + len(wide), dim=1)
            found = constants if rows is None else {m: x.index_select(0, rows.nodes) for m, x in constants.items()}
            factual = {m: self._map(m, x) for m, x in found.items() if m}
            return _Parts(base, found[""], factual | dict(zip(wide, projected, strict=True)))

        whole = functools.cache(partial(parts, None))

        def tables(view: View) -> Embeddings:
            return self.split(self._fuse(view, whole(), inputs), inputs.n_id_dict)

        def rows(view: View, found: Selection) -> Embeddings:
            of_rows = found.once("parts", lambda: parts(GraphRows.of(inputs.graph, found)))
            return found.split(self._fuse(view, of_rows, inputs))

        as_written = is_as_written(self, EarlyFusionLightGCN, ("_fuse", "_map"))
        selections = self._selections(inputs) if as_written else None
        if selections is None:
            return [tables(view) for view in views]
        return [BlockEmbeddings([LateBlock(partial(tables, v), partial(rows, v), selections)]) for v in views]

    def _num_streams(self, views: Sequence[View]) -> int:
        """Return the number of the common stream and of one for each modality that not all views have factual."""
        return 1 + len(self.modalities) - len(frozenset(self.modalities).intersection(*views))

    def _start(self, shared: View, wide: Sequence[str], inputs: Inputs) -> Tensor:
        """Return what is propagated in a step: ids and what all views share, and wide features of each modality."""
        user, item = inputs.take_users(self.user_embedding), inputs.take_items(self.item_embedding)
        for m in self.modalities:
            item = item + self._map(m, inputs.take_items(inputs.features[m])) if m in shared else item
        streams = [torch.cat([user, item])]
        for m in wide:
            x = self._map(m, inputs.take_items(inputs.features[m]))
            streams.append(torch.cat([x.new_zeros(user.size(0), x.size(1)), x]))
        return torch.cat(streams, dim=1) if wide else streams[0]

    def _fuse(self, view: View, parts: _Parts, inputs: Inputs) -> Tensor:
        """Add the parts of a view up."""
        base = parts.base
        same = [self.project[m](inputs.mean_feature(m)) for m in self.modalities if m not in view]
        same += [self._bias(m) for m in self.modalities if m in view]
        constant = torch.stack([row.view(1, -1) for row in same]).sum(dim=0).to(base.dtype)
        with torch.autocast(base.device.type, enabled=False):  # Propagated embeddings stay in single precision.
            x = torch.addmm(base, parts.ones, constant)
        for m in self.modalities:
            x = x.add_(parts.factual[m]) if m in view and m in parts.factual else x  # Not needed again by the product.
        return x

    def _constants(self, narrow: Sequence[str], inputs: Inputs) -> dict[str, Tensor]:
        """Return what is propagated once per run: under "" ones for items, and features by modality."""
        graph, num_users = inputs.graph, inputs.take_users(self.user_embedding).size(0)

        def as_items(x: Tensor) -> Tensor:
            return self.propagate(torch.cat([x.new_zeros(num_users, x.size(1)), x]), graph)

        def ones() -> Tensor:
            return as_items(graph.weight.new_ones(graph.num_nodes - num_users, 1))

        found = {"": graph.constant(("items", num_users, self.num_layers), None, ones)}
        for m in narrow:
            spread = partial(propagated, propagate=as_items)
            found[m] = graph.constant(("features", m, self.num_layers), inputs.features[m], spread)
        return found

    def _map(self, modality: str, x: Tensor) -> Tensor:
        """Project features or propagated features, without the bias."""
        return F.linear(x, cast(nn.Linear, self.project[modality]).weight)

    def _bias(self, modality: str) -> Tensor:
        return cast(nn.Linear, self.project[modality]).bias

    def _is_narrow(self, modality: str, inputs: Inputs) -> bool:
        """Whether propagated features are worth keeping: narrow, constant, and of the whole graph."""
        x = inputs.features[modality]
        if inputs.frugal:  # They are wider than the columns of the pass: read where they are there, not made.
            return inputs.graph.knows(("features", modality, self.num_layers), x)
        narrow = x.size(1) <= NARROW * self.user_embedding.size(1)
        return narrow and not x.requires_grad and not inputs.n_id_dict

    def penalty(self, out: Output, batch: TripletBatch) -> Tensor:
        """Return the L2 penalty on the rows of the embeddings that the batch scores with."""
        return Backbone.penalty(self, out, batch)
