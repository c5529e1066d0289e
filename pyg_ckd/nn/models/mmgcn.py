"""MMGCN for any number of modalities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pyg_ckd.arguments import as_integer
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.memory import returned_memory
from pyg_ckd.nn.bounded import RowBlock, empty_table, is_large, row_blocks
from pyg_ckd.nn.conv.mmgcn_conv import MMGCNConv
from pyg_ckd.nn.models.base import Inputs, LateFusion, check_modalities, check_size
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.nn.rows import GraphRows, is_as_written, selections_of
from pyg_ckd.scoring.blocks import Block, BlockEmbeddings, Combination, Output, with_sparse_gradient
from pyg_ckd.scoring.embeddings import DetailedEmbeddings, Embeddings
from pyg_ckd.scoring.late import LateBlock, Selection, Selections
from pyg_ckd.scoring.views import View

FUSIONS = ("sum", "mean")
TABLES = ("branch", "branches", "fuse", "split", "_layers", "_branch", "_run")
"""What computes tables of all nodes. Where a subclass changes some of it, the last layer runs for all rows."""


class MMGCN(LateFusion):
    r"""One graph network per modality, added up.

    From `"MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation of Micro-video"
    <https://doi.org/10.1145/3343031.3351034>`_. With :math:`\mathbf{P}_m` the users' preferences for modality ``m``,

    .. math::
        \mathbf{X}_m^{(0)} = \nu \left( \left[ \mathbf{P}_m ; \mathbf{F}_m \mathbf{W}_m^\top + \mathbf{b}_m \right]
        \right), \qquad \mathbf{X}_m^{(l+1)} = \textrm{MMGCNConv} \left( \mathbf{X}_m^{(l)}, \mathbf{E} \right), \qquad
        \mathbf{X} = \sum_m \mathbf{X}_m^{(L)}

    where :math:`\nu` divides rows by their length and all modalities share the id embeddings :math:`\mathbf{E}`. Late
    fusion: the branches meet after the last layer. In a view, the branch of a modality that is intervened on runs on
    mean features and mean preferences, so that it still carries the id embeddings.

    The published implementations train neither preferences nor ids; here both are parameters like all others. The
    paper's own code is ``combine="concat", fusion="mean"`` with ``latent_dims`` for the visual modality only; the code
    of the distillation paper is ``latent_dims=64, combine="add", self_loops=True, message_bias=True, fusion="mean"``.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        feature_dims: Feature width of every modality, in order.
        embedding_dim: Width of the embeddings.
        num_layers: Number of layers :math:`L`.
        latent_dims: Width that features are projected to before the first layer: one number for all modalities, a dict
            for some of them (the others enter as they are, without :math:`\mathbf{W}_m`), or :obj:`None` for none.
        combine: ``"add"`` or ``"concat"``, both from the paper, see :class:`~pyg_ckd.nn.MMGCNConv`.
        self_loops: Whether a node is among its own neighbours.
        message_bias: Whether the map of the messages has a bias.
        fusion: ``"sum"`` as in the paper, or ``"mean"`` as in both published implementations.
        recompute: Whether the backward pass runs the layers again instead of keeping what they computed: the same
            numbers in less memory and more time.

    Raises:
        InputError: If a size is not positive, there is no modality, or a name is unknown.
    """

    capturable = True
    normalization = "mean"
    strategies: ClassVar[frozenset[str]] = frozenset({"users", "ddp"})
    user_rows: ClassVar[frozenset[str]] = frozenset({"user_embedding", "preference"})
    sampled = True
    recommended: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trainer": {"lr": 3e-4, "batch_size": 8192, "patience": 400},
        "plain": {"l2": 0.03},
        "teacher": {"l2": 0.03},
        "distillation": {"l2": 0.03, "distillation_weight": 0.1},
    }

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Mapping[str, int],
        embedding_dim: int = 64,
        num_layers: int = 3,
        latent_dims: int | dict[str, int] | None = 64,
        combine: str = "add",
        self_loops: bool = False,
        message_bias: bool = False,
        fusion: str = "sum",
        recompute: bool = False,
    ) -> None:
        check_modalities(feature_dims)
        super().__init__(num_users, num_items, feature_dims)
        check_size("embedding_dim", embedding_dim)
        check_size("num_layers", num_layers)
        if fusion not in FUSIONS:
            raise unknown_name("fusion", fusion, FUSIONS)
        self.fusion, self.self_loops, self.recompute = fusion, self_loops, recompute
        self.num_layers = num_layers
        latent = _latent_dims(latent_dims, feature_dims)
        widths = {m: latent.get(m, d) for m, d in feature_dims.items()}
        self.user_embedding = nn.Parameter(torch.empty(num_users, embedding_dim))
        self.item_embedding = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.preference = nn.ParameterDict({m: torch.empty(num_users, d) for m, d in widths.items()})
        self.project = nn.ModuleDict(
            {m: nn.Linear(d, latent[m]) if m in latent else nn.Identity() for m, d in feature_dims.items()}
        )
        self.convs = nn.ModuleDict(
            {
                m: nn.ModuleList(
                    MMGCNConv(d if layer == 0 else embedding_dim, embedding_dim, combine, self_loops, message_bias)
                    for layer in range(num_layers)
                )
                for m, d in widths.items()
            }
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for table in (self.user_embedding, self.item_embedding, *self.preference.values()):
            nn.init.xavier_normal_(table)
        for lin in self.project.values():
            if isinstance(lin, nn.Linear):
                lin.reset_parameters()
        for m in self.modalities:
            for conv in self._layers(m):
                conv.reset_parameters()

    @property
    def projected(self) -> Sequence[str]:  # type: ignore[override]
        """Those with a width in ``latent_dims``."""
        return [m for m in self.modalities if isinstance(self.project[m], nn.Linear)]

    def encode(self, views: Sequence[View], inputs: Inputs) -> Sequence[Output]:
        """Run the branches; in training on the CPU, their last layer runs for the rows that are read.

        Without gradients and with large tables they run layer by layer over blocks of rows.
        """
        if self._goes_by_blocks(inputs):
            with returned_memory():
                return self._by_blocks(views, inputs)
        num_users = inputs.take_users(self.user_embedding).size(0)
        late = self.num_layers > 1 and self.cosine is None and not self._spares and self._is_as_written()
        selections = selections_of(inputs.graph, num_users) if late else None
        if selections is None:
            return super().encode(views, inputs)
        ids = inputs.once("id_embedding", lambda: self._id_embedding(inputs))
        branches = {
            (m, factual): _Branch(self._layers(m), self._start(m, inputs, factual, ids), ids, inputs.graph, num_users)
            for m in self.modalities
            for factual in sorted({m in view for view in views})
        }
        return [
            self._late(view, {m: branches[m, m in view] for m in self.modalities}, inputs, selections) for view in views
        ]

    def _is_as_written(self) -> bool:
        """Whether tables are computed as here, and their last layers have no hooks."""
        if not is_as_written(self, MMGCN, TABLES):
            return False
        last = [self._layers(m)[-1] for m in self.modalities]
        return all(type(conv) is MMGCNConv for conv in last) and is_as_written(self, MMGCN, (), last)

    def _late(
        self, view: View, branches: Mapping[str, _Branch], inputs: Inputs, selections: Selections
    ) -> BlockEmbeddings:
        def add(parts: Mapping[str, Embeddings]) -> Embeddings:
            return cast(Embeddings, self.fuse(view, parts, inputs))

        def tables() -> Embeddings:
            return add({m: branch.all() for m, branch in branches.items()})

        def rows(found: Selection) -> Embeddings:
            return add({m: branch.rows(found) for m, branch in branches.items()})

        return BlockEmbeddings([LateBlock(tables, rows, selections)])

    def _layers(self, modality: str) -> list[MMGCNConv]:
        return [cast(MMGCNConv, conv) for conv in cast(nn.ModuleList, self.convs[modality])]

    def _start(self, modality: str, inputs: Inputs, factual: bool, ids: Tensor) -> Tensor:
        """Run all layers of a branch but the last."""
        feature = inputs.take_items(inputs.features[modality]) if factual else inputs.mean_feature(modality)
        x = self._first_layer(modality, feature, inputs, factual, ids)
        for conv in self._layers(modality)[1:-1]:
            x = conv(x, inputs.graph, ids)
        return x

    def _goes_by_blocks(self, inputs: Inputs) -> bool:
        """Whether tables are large, nothing needs a gradient, and all layers are those that are written here."""
        graph = inputs.graph
        if inputs.n_id_dict or not is_large(graph, self.user_embedding.size(1)) or self.cosine is not None:
            return False
        prepared = graph.prepared_for is not None and graph.dtype == self.user_embedding.dtype
        if not prepared or torch.is_autocast_enabled(graph.weight.device.type):
            return False
        convs = [conv for m in self.modalities for conv in self._layers(m)]
        first = ("_first_layer", "_first_of_constants")
        written = is_as_written(self, MMGCN, (*TABLES, *first), self.children())
        return written and all(type(conv) is MMGCNConv for conv in convs)

    def _by_blocks(self, views: Sequence[View], inputs: Inputs) -> list[Embeddings]:
        """Compute the views; beside their tables there are two of a running branch, and what a block of rows takes."""
        graph, width = inputs.graph, self.user_embedding.size(1)
        widest = max(width, *(conv.lin_self.in_channels for m in self.modalities for conv in self._layers(m)))
        blocks = row_blocks(graph, self.num_users, widest)
        out = {view: empty_table(graph.weight, graph.num_nodes, width) for view in views}
        for number, m in enumerate(self.modalities):
            for factual in sorted({m in view for view in views}):
                tables = [out[view] for view in views if (m in view) == factual]
                for block, x in self._branch_by_blocks(m, factual, inputs, blocks):
                    for table in tables:
                        table[block.nodes] = x if number == 0 else table[block.nodes] + x
        if self.fusion == "mean":
            for table in out.values():
                table /= len(self.modalities)
        return [self.split(table, {}) for table in out.values()]

    def _branch_by_blocks(
        self, modality: str, factual: bool, inputs: Inputs, blocks: Sequence[RowBlock]
    ) -> Iterator[tuple[RowBlock, Tensor]]:
        """Yield the rows of a branch block by block; of its layers there are the input and the output of one."""
        first, *others = self._layers(modality)
        if factual:
            rows = self._rows_of_table(first, self._input_by_blocks(modality, inputs, blocks))
        else:
            rows = self._rows_of_constants(first, modality, inputs)
        for conv in others:
            x = empty_table(inputs.graph.weight, inputs.graph.num_nodes, first.out_channels)
            for block in blocks:
                x[block.nodes] = rows(block)
            rows = self._rows_of_table(conv, x)
        for block in blocks:
            yield block, rows(block)

    def _input_by_blocks(self, modality: str, inputs: Inputs, blocks: Sequence[RowBlock]) -> Tensor:
        """Return what enters the first layer of a factual branch, ``[N, d]``."""
        tables = (self.preference[modality], inputs.features[modality])
        x = empty_table(inputs.graph.weight, inputs.graph.num_nodes, tables[0].size(1))
        for block in blocks:
            x[block.nodes] = self._input(modality, block.side, tables[block.side][block.rows])
        return x

    def _rows_of_table(self, conv: MMGCNConv, x: Tensor) -> Callable[[RowBlock], Tensor]:
        def rows(block: RowBlock) -> Tensor:
            return conv.from_means(block.matmul(x), block.linked, x[block.nodes], self._ids_of(block))

        return rows

    def _rows_of_constants(self, conv: MMGCNConv, modality: str, inputs: Inputs) -> Callable[[RowBlock], Tensor]:
        means = inputs.mean_of_users(self.preference[modality]), self._mean_feature(modality, inputs)
        x = torch.cat([self._input(modality, side, mean) for side, mean in enumerate(means)])
        spread, message, own = self._constants(conv, x, inputs.graph, self.num_users)

        def rows(block: RowBlock) -> Tensor:
            h = F.leaky_relu_(spread[block.nodes] @ message)
            return conv.merge(h, own[block.side] + self._ids_of(block))

        return rows

    def _ids_of(self, block: RowBlock) -> Tensor:
        return (self.user_embedding, self.item_embedding)[block.side][block.rows]

    @property
    def num_hops(self) -> int:  # type: ignore[override]
        """The number of layers."""
        return len(cast(nn.ModuleList, next(iter(self.convs.values()))))

    def branch(self, modality: str, feature: Tensor, inputs: Inputs, factual: bool) -> Embeddings:
        """Run the graph network of a modality."""
        id_embedding = inputs.once("id_embedding", lambda: self._id_embedding(inputs))
        x = self._run(self._branch, modality, feature, inputs, factual, id_embedding)
        if not self._spares:
            return self.split(x, inputs.n_id_dict)
        x = with_sparse_gradient(x)
        return DetailedEmbeddings(*self.split(x, inputs.n_id_dict), {"nodes": x})

    def _branch(self, modality: str, feature: Tensor, inputs: Inputs, factual: bool, id_embedding: Tensor) -> Tensor:
        x = self._run(self._first_layer, modality, feature, inputs, factual, id_embedding)
        for conv in self._layers(modality)[1:]:
            x = self._run(conv, x, inputs.graph, id_embedding)
        return x

    def _first_layer(
        self, modality: str, feature: Tensor, inputs: Inputs, factual: bool, id_embedding: Tensor
    ) -> Tensor:
        preference = self.preference[modality]
        preference = inputs.take_users(preference) if factual else inputs.mean_of_users(preference)
        conv = self._layers(modality)[0]
        feature = feature if factual else self._mean_feature(modality, inputs)
        x = torch.cat([self._input(modality, side, rows) for side, rows in enumerate((preference, feature))])
        if factual:
            return conv(x, inputs.graph, id_embedding)
        return self._first_of_constants(conv, x, inputs, id_embedding)

    def _input(self, modality: str, side: int, rows: Tensor) -> Tensor:
        """Return rows of what enters the first layer, given preferences (side 0) or features (side 1)."""
        return F.normalize(self.project[modality](rows) if side else rows)

    def _mean_feature(self, modality: str, inputs: Inputs) -> Tensor:
        return inputs.mean_feature(modality, beyond_rounding=modality not in self.projected)

    def _id_embedding(self, inputs: Inputs) -> Tensor:
        return torch.cat([inputs.take_users(self.user_embedding), inputs.take_items(self.item_embedding)])

    @property
    def _spares(self) -> bool:
        """Whether memory is spared for a backward pass."""
        return self.recompute and torch.is_grad_enabled()

    def _run(self, layer: Callable[..., Tensor], *args: Any) -> Tensor:
        if self._spares:
            return cast(Tensor, checkpoint(layer, *args, use_reentrant=False, preserve_rng_state=False))
        return layer(*args)

    def _first_of_constants(self, conv: MMGCNConv, x: Tensor, inputs: Inputs, id_embedding: Tensor) -> Tensor:
        """Run a layer on one row for all users and one for all items, ``[2, D]``, without propagating them."""
        ids = self.split(id_embedding, inputs.n_id_dict)
        spread, message, own = self._constants(conv, x, inputs.graph, ids.user.size(0))
        h = F.leaky_relu_(spread @ message)
        return conv.merge(h, torch.cat([own[0] + ids.user, own[1] + ids.item]))

    def _constants(self, conv: MMGCNConv, x: Tensor, graph: Adjacency, num_users: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a layer makes of one row for all users and one for all items.

        That is how the two spread over the nodes ``[N, 2]``, their messages ``[2, d]``, and the two rows themselves
        before ids are added, ``[2, D]``.
        """
        spread = graph.constant(("spread", num_users), None, lambda: graph.matmul(graph.sides(num_users)))
        return spread, conv.lin_neighbor(x), F.leaky_relu(conv.lin_self(x))

    def fuse(self, view: View, branches: Mapping[str, Embeddings], inputs: Inputs) -> Output:
        """Add the branches up, or average them."""
        if self._spares:  # Only the rows that are read, so that no view has tables, nor their gradients.
            nodes = [cast(DetailedEmbeddings, branch).parts["nodes"] for branch in branches.values()]
            num_users = next(iter(branches.values())).user.size(0)
            mean = self.fusion != "sum"
            items = Combination(nodes, num_users, nodes[0].size(0) - num_users, mean)
            return BlockEmbeddings([Block(Combination(nodes, 0, num_users, mean), items)])
        user = reduce(torch.add, (branch.user for branch in branches.values()))
        item = reduce(torch.add, (branch.item for branch in branches.values()))
        if self.fusion == "sum":
            return Embeddings(user, item)
        return Embeddings(user / len(branches), item / len(branches))


class _Branch:
    """A branch whose last layer is still to be run.

    Args:
        layers: Its layers.
        x: What enters the last one, ``[N, D]``.
        ids: Id embeddings ``[N, D]``.
        graph: The graph.
        num_users: Number of users, the first nodes of the graph.
    """

    def __init__(self, layers: Sequence[MMGCNConv], x: Tensor, ids: Tensor, graph: Adjacency, num_users: int) -> None:
        self._conv, self._x, self._ids, self._graph, self._num_users = layers[-1], x, ids, graph, num_users
        self._all: Embeddings | None = None
        self._rows: dict[int, tuple[Selection, Embeddings]] = {}

    def all(self) -> Embeddings:
        """Return the output for all nodes."""
        if self._all is None:
            x = self._conv(self._x, self._graph, self._ids)
            self._all = Embeddings(*x.split([self._num_users, x.size(0) - self._num_users]))
        return self._all

    def rows(self, found: Selection) -> Embeddings:
        """Return the output for a selection."""
        if id(found) not in self._rows:
            rows = GraphRows.of(self._graph, found)
            ids = found.once("ids", lambda: self._ids.index_select(0, rows.nodes))
            neighbours, own = rows.read(self._x)
            x = self._conv.from_means(neighbours, rows.linked, own, ids)
            self._rows[id(found)] = found, found.split(x)  # Held: the key is an id.
        return self._rows[id(found)][1]


def _latent_dims(latent_dims: int | dict[str, int] | None, feature_dims: Mapping[str, int]) -> dict[str, int]:
    if latent_dims is None:
        return {}
    chosen = latent_dims if isinstance(latent_dims, dict) else dict.fromkeys(feature_dims, latent_dims)
    for name, width in chosen.items():
        if name not in feature_dims:
            raise unknown_name("modality", name, feature_dims)
        if as_integer(width, f"latent_dims of {name!r}") < 1:
            raise InputError(f"latent_dims: found {width} for {name!r}, expected a positive width")
    return dict(chosen)
