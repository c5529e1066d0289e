"""The normalised user-item graph and its product with node embeddings, forward and backward, in one home."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex

from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.build_graph import bipartite_pattern, index_type, symmetric_weights
from pyg_ckd.nn.edge_products import _EdgeDot, _WeightedProduct
from pyg_ckd.nn.item_sums import ItemSums
from pyg_ckd.nn.pages import paged_product as _product
from pyg_ckd.scoring.sparse import csr_matrix, row_starts

NORMALIZATIONS = ("sym", "mean", "none")


def plain_edges(graph: Any, sizes: tuple[int, int], name: str) -> Tensor:
    """Return the edges of a graph that was given as an edge index, int64 ``[2, E]``.

    Args:
        graph: A tensor or :class:`torch_geometric.EdgeIndex`.
        sizes: How many nodes the two rows number.
        name: What the graph is, for messages.

    Raises:
        InputError: If it is none of the two, has another shape or type, or names a node that does not exist.
    """
    edges = graph.as_tensor() if isinstance(graph, EdgeIndex) else graph
    dense = isinstance(edges, Tensor) and edges.layout == torch.strided
    integers = dense and not (edges.is_floating_point() or edges.is_complex() or edges.dtype == torch.bool)
    if not integers or edges.dim() != 2 or edges.size(0) != 2:
        found = f"{edges.dtype} of shape {list(edges.shape)}" if dense else type(graph).__name__
        sparse = isinstance(graph, Tensor) and not dense
        raise InputError(
            f"{name}: found {'a sparse ' if sparse else ''}{found}, expected an edge index, int64 [2, E]"
            + ("; torch_geometric.utils.to_edge_index makes one of it" if sparse else "")
        )
    edges = edges.long()
    if edges.numel():
        first, last = (bound.tolist() for bound in edges.aminmax(dim=1))
        for row, size, low, high in zip(("first", "second"), sizes, first, last, strict=True):
            if low < 0 or high >= size:
                raise InputError(f"{name}: found nodes {low} to {high} in the {row} row, expected 0 to {size - 1}")
    return edges


class _PowerMean(torch.autograd.Function):
    r"""Mean of the products with the matrix's powers, by Horner's rule; two buffers whatever the number of powers."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, matrix: Tensor, transposed: Tensor, num_powers: int, sums: ItemSums | None
    ) -> Tensor:
        ctx.transposed, ctx.num_powers, ctx.sums = transposed, num_powers, sums
        own = x if sums is None else sums.once(x)
        return _PowerMean.sum(x, own, matrix, num_powers, sums).div_(num_powers + 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        grad, sums = grads[0].contiguous(), ctx.sums
        whole = grad if sums is None else sums.add_up(grad.clone())
        total = _PowerMean.sum(whole, grad, ctx.transposed, ctx.num_powers, sums, shared=True)
        return total.div_(ctx.num_powers + 1), None, None, None, None

    @staticmethod
    def sum(
        x: Tensor, own: Tensor, matrix: Tensor, num_powers: int, sums: ItemSums | None = None, shared: bool = False
    ) -> Tensor:
        """Return the sum ``x + A (x + A (x + ...))`` of ``x, A x, ..., A^L x``.

        Where processes have parts of the matrix, ``own`` is a part of ``x``, and the result may stay one (``shared``).
        """
        total, buffers = x, [torch.empty_like(x) for _ in range(min(num_powers, 2))]
        for power in range(num_powers):
            total = _product(matrix, total, own, out=buffers[power % 2])
            if sums is not None and not (shared and power == num_powers - 1):
                sums.add_up(total)
        return total


class _SparseProduct(torch.autograd.Function):
    """``matrix @ x`` whose backward pass uses a stored transpose.

    PyTorch's own backward pass for CSR converts the matrix at every step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transposed: Tensor, sums: ItemSums | None) -> Tensor:
        ctx.transposed, ctx.sums = transposed, sums
        out = _product(matrix, x)
        return out if sums is None else sums.add_up(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        grad = grads[0].contiguous() if ctx.sums is None else ctx.sums.add_up(grads[0].contiguous().clone())
        return _product(ctx.transposed, grad), None, None, None


class Adjacency:
    r"""A weighted graph, kept ready for products in both directions.

    The graph of users and items has users first and items after them; item-item and user-user graphs have nodes of one
    kind.

    It is built once per run and passed to the layers instead of ``edge_index``.

    Args:
        matrix: Square sparse CSR matrix ``[N, N]``; row ``i`` holds the weights of the messages that ``i`` receives.
        transposed: Its transpose in CSR; a symmetric matrix is passed twice at no cost.

    Attributes:
        prepared_for: Settings of the backbone that prepared the graph, if one did, such as ``(normalization,
            self_loops)``; a backbone of other settings refuses it.
    """

    sums: ItemSums | None = None
    """Sums rows of items over processes that have the interactions of some users each; :obj:`None` of a whole graph."""

    def __init__(self, matrix: Tensor, transposed: Tensor) -> None:
        self.matrix, self.transposed = matrix, transposed
        self.prepared_for: tuple[Any, ...] | None = None
        self._constants: dict[tuple[Any, ...], tuple[Tensor, Tensor | None, int]] = {}
        self._edge_index: Tensor | None = None
        self._transposition: tuple[Tensor, Tensor, Tensor] | None = None
        self._to_users: dict[int, Adjacency] = {}

    def check_prepared(self, name: object, settings: tuple[Any, ...], dtype: torch.dtype) -> None:
        """Refuse a graph that was prepared with other settings, or in single where double precision is needed.

        Args:
            name: What the graph is, for the message.
            settings: What :attr:`prepared_for` should be; a graph that no backbone prepared is welcome.
            dtype: Type of the parameters.

        Raises:
            InputError: If settings differ, or one type is single precision and the other double.
        """
        if self.prepared_for not in (None, settings):
            raise InputError(
                f"{name}: found a graph prepared with {self.prepared_for}, expected {settings}; pass the interactions "
                "or what this model's own prepare returns"
            )
        if {self.dtype, dtype} == {torch.float32, torch.float64}:
            raise InputError(
                f"{name}: found a graph prepared in {self.dtype}, expected {dtype} as the parameters have; call "
                "prepare again"
            )

    @classmethod
    @torch.inference_mode(False)
    def from_interactions(
        cls,
        edge_index: Tensor,
        num_users: int,
        num_items: int,
        normalization: str = "sym",
        self_loops: bool = False,
        eps: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> Adjacency:
        r"""Normalise the bipartite graph of users and items.

        With :math:`\mathbf{A}` the symmetric 0/1 matrix of interactions (plus the identity with ``self_loops``) and
        :math:`\mathbf{D}` the diagonal of its row sums plus ``eps``, the result is
        :math:`\mathbf{D}^{-1/2} \mathbf{A} \mathbf{D}^{-1/2}` (``"sym"``),
        :math:`\mathbf{D}^{-1} \mathbf{A}` (``"mean"``)
        or :math:`\mathbf{A}` (``"none"``). Nodes without edges receive nothing. A repeated interaction counts once.

        Args:
            edge_index: Interactions (user row, item row), int64 ``[2, E]``.
            num_users: Number of users ``U``.
            num_items: Number of items ``I``; ``N = U + I``.
            normalization: ``"sym"``, ``"mean"`` or ``"none"``.
            self_loops: Whether every node is its own neighbour.
            eps: Added to every degree; only some published implementations do so.
            dtype: Type of the weights.

        Raises:
            InputError: If ``normalization`` is none of the three, or ``edge_index`` is no edge index or names a user or
                item that does not exist.
        """
        if normalization not in NORMALIZATIONS:
            raise unknown_name("normalization", normalization, NORMALIZATIONS)
        edge_index = plain_edges(edge_index, (num_users, num_items), "interactions (user row, item row)")
        crow, col = bipartite_pattern(edge_index, num_users, num_items, self_loops)
        count = crow.diff()
        scale = (count.to(dtype) + eps).pow(-0.5 if normalization == "sym" else -1.0)

        def build(value: Tensor) -> Tensor:
            return csr_matrix(crow, col, value, num_users + num_items)

        if normalization == "mean":  # The pattern is symmetric, so the transpose swaps the two scales only.
            return cls(build(scale.repeat_interleave(count)), build(scale.index_select(0, col)))
        value = symmetric_weights(crow, col, scale) if normalization == "sym" else torch.ones_like(col, dtype=dtype)
        matrix = build(value)
        return cls(matrix, matrix)

    @classmethod
    @torch.inference_mode(False)
    def from_edges(cls, edge_index: Tensor, weight: Tensor, num_nodes: int) -> Adjacency:
        """Build any directed graph with given weights.

        Args:
            edge_index: Edges (source row, target row), int64 ``[2, E]``, each at most once.
            weight: Weight of every edge, ``[E]``; taken without gradient, see :meth:`matmul` for weights with one.
            num_nodes: Number of nodes ``N``.

        Raises:
            InputError: If ``edge_index`` is no edge index or names a node that does not exist.
        """
        edge_index = plain_edges(edge_index, (num_nodes, num_nodes), "edges (source row, target row)")

        def build(row: Tensor, col: Tensor) -> Tensor:
            order = (row * num_nodes + col).argsort()
            crow = row_starts(torch.bincount(row, minlength=num_nodes))
            index = index_type(row.numel(), num_nodes)
            return csr_matrix(crow.to(index), col[order].to(index), weight.detach()[order], num_nodes)

        source, target = edge_index
        return cls(build(target, source), build(source, target))

    @property
    def edge_index(self) -> Tensor:
        """Edges (source row, target row), int64 ``[2, E]``, sorted by target and then by source."""
        if self._edge_index is None:
            with torch.inference_mode(False):
                self._edge_index = self._edges()
        return self._edge_index

    def _edges(self) -> Tensor:
        crow, col = self.matrix.crow_indices().long(), self.matrix.col_indices().long()
        target = torch.repeat_interleave(torch.arange(crow.numel() - 1, device=col.device), crow.diff())
        return torch.stack([col, target])

    @property
    def weight(self) -> Tensor:
        """Weight of every edge, in the order of :attr:`edge_index`, ``[E]``."""
        return self.matrix.values()

    def transposition(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return row pointers and columns of the transposed matrix and where its values stand in :attr:`weight`."""
        if self._transposition is None:
            source, target = self.edge_index
            with torch.inference_mode(False):
                order = (source * self.num_nodes + target).argsort()
            self._transposition = (self.transposed.crow_indices(), self.transposed.col_indices(), order)
        return self._transposition

    @property
    def num_nodes(self) -> int:
        """Number of nodes ``N``."""
        return self.matrix.size(0)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.matrix.dtype

    def sides(self, num_users: int) -> Tensor:
        """Return ones in the first column for users and in the second for items, ``[N, 2]``.

        The output of a layer for it shows how one row for all users and one for all items spread over the graph.

        Args:
            num_users: Number of users, the first nodes of the graph.
        """
        is_item = torch.arange(self.num_nodes, device=self.matrix.device) >= num_users
        return torch.stack([~is_item, is_item], dim=1).to(self.dtype)

    def constant(self, name: tuple[Any, ...], x: Tensor | None, compute: Callable[..., Tensor]) -> Tensor:
        """Return ``compute(x)``, computed once for as long as the graph lives and ``x`` stays as it is.

        What depends only on graph and features is the same in every step of a run. A change that PyTorch does not see,
        such as one of an array that shares the memory, is not noticed.

        Args:
            name: What is computed; different results have different names. Only the latest input is remembered.
            x: The input, without gradient; :obj:`None` where the graph alone decides and ``compute`` takes nothing.
            compute: The function.
        """
        if x is not None and x.is_inference():
            return compute(x)
        if not self.knows(name, x):
            with torch.inference_mode(False), torch.no_grad():
                self._constants[name] = (compute() if x is None else compute(x), x, 0 if x is None else x._version)
        return self._constants[name][0]

    def knows(self, name: tuple[Any, ...], x: Tensor | None) -> bool:
        """Return whether :meth:`constant` has the result.

        Args:
            name: As there.
            x: As there.
        """
        if name not in self._constants or (x is not None and x.is_inference()):
            return False
        _, of, version = self._constants[name]
        return of is x and version == (0 if x is None else x._version)

    def matmul(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return for every node the weighted sum of its neighbours' rows, ``[N, D]``.

        Args:
            x: Node embeddings ``[N, D]``. Under autocast they are brought to the type of the weights.
            weight: Other weights than the graph's, in the order of :attr:`edge_index`, ``[E]``; they get gradients.
        """
        with torch.autocast(x.device.type, enabled=False):
            if weight is not None:
                return _WeightedProduct.apply(x.to(self.dtype), weight.to(self.dtype), self)
            return _SparseProduct.apply(x.to(self.dtype), self.matrix, self.transposed, self.sums)

    def mean_of_powers(self, x: Tensor, num_powers: int) -> Tensor:
        r"""Return :math:`\frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{A}^l \mathbf{x}`, the mean over LightGCN's layers.

        Args:
            x: Node embeddings ``[N, D]``. Under autocast they are brought to the type of the weights.
            num_powers: Number of layers :math:`L`, zero or more.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.dtype).contiguous()
            if num_powers == 0:
                return x
            return _PowerMean.apply(x, self.matrix, self.transposed, num_powers, self.sums)

    def dot(self, target: Tensor, source: Tensor) -> Tensor:
        """Return for every edge, in the order of :attr:`edge_index`, the inner product of its two rows, ``[E]``.

        Args:
            target: Rows of the nodes as targets ``[N, D]``.
            source: Rows of the nodes as sources ``[N, D]``.
        """
        with torch.autocast(target.device.type, enabled=False):
            return _EdgeDot.apply(target.to(self.dtype), source.to(self.dtype), self)

    def to_users(self, num_users: int) -> Adjacency:
        """Return the half of the graph in which users receive from items, a matrix ``[U, I]`` that is cut out once.

        Its sources are numbered as items, its targets as users.

        Args:
            num_users: Number of users ``U``, the first nodes of the graph.
        """
        if num_users not in self._to_users:
            with torch.inference_mode(False):
                self._to_users[num_users] = self._cut(num_users)
        return self._to_users[num_users]

    def _cut(self, num_users: int) -> Adjacency:
        size = (num_users, self.num_nodes - num_users)
        crow, col = self.matrix.crow_indices(), self.matrix.col_indices()
        end = int(crow[num_users])
        matrix = csr_matrix(crow[: num_users + 1], col[:end] - num_users, self.weight[:end], *size)
        crow, col = self.transposed.crow_indices(), self.transposed.col_indices()
        start = int(crow[num_users])
        transposed = csr_matrix(crow[num_users:] - start, col[start:], self.transposed.values()[start:], *size[::-1])
        return Adjacency(matrix, transposed)
