"""The rows of a prepared graph that a step reads: products for these rows alone, forward and backward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from scipy.sparse import csr_matrix as scipy_csr
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from pyg_ckd.nn.propagation import Adjacency, _PowerMean, _product
from pyg_ckd.scoring.history import Sums
from pyg_ckd.scoring.late import Selection, Selections
from pyg_ckd.scoring.sparse import csr_matrix
from pyg_ckd.scoring.tracing import Recording, exporting


def selections_of(graph: Adjacency, num_users: int) -> Selections | None:
    """Return the selections of a pass, or :obj:`None` where all rows are computed.

    That is outside of training, on other devices than the CPU (which rows there are would have to be waited for), and
    where the graph is of another kind.

    Args:
        graph: The graph.
        num_users: Number of users, the first nodes of the graph.
    """
    cpu = torch.is_grad_enabled() and not exporting() and type(graph) is Adjacency and graph.weight.device.type == "cpu"
    if not cpu or graph.dtype not in (torch.float32, torch.float64):
        return None
    return Selections(num_users, graph.num_nodes - num_users)


def is_as_written(model: nn.Module, cls: type, methods: Iterable[str], layers: Iterable[nn.Module] = ()) -> bool:
    """Return whether rows may take the place of tables: what computes a model's tables is that of a class.

    Args:
        model: The model.
        cls: The class that computes rows too.
        methods: Names of the methods on the way to its tables.
        layers: Layers on that way that are called for tables alone. They and their parts may have no hooks.
    """
    changed = any(name in vars(model) or getattr(type(model), name) is not getattr(cls, name) for name in methods)
    return not changed and not any(_is_hooked(part) for layer in layers for part in layer.modules())


def _is_hooked(layer: nn.Module) -> bool:
    """Return whether a call of a layer runs more than its class says: hooks, another ``forward``, computed weights."""
    found = vars(layer)
    return (
        "forward" in found
        or is_parametrized(layer)
        or any(hooks for name, hooks in found.items() if name.endswith("_hooks") and "state_dict" not in name)
    )


class GraphRows:
    r"""Some rows :math:`\mathbf{A}_S` of a graph, and the columns of its transpose.

    Args:
        graph: The graph.
        nodes: Row numbers in ascending order, int64 ``[S]``.

    Attributes:
        nodes: The row numbers.
        matrix: CSR matrix ``[S, N]``.
        transposed: Its transpose in CSR, ``[N, S]``.
        linked: 1 for nodes that receive from others and 0 for others, ``[S, 1]``.
    """

    def __init__(self, graph: Adjacency, nodes: Tensor) -> None:
        self.graph, self.nodes = graph, nodes
        self.matrix, self.transposed = _cut(graph, nodes)
        self.linked = (self.matrix.crow_indices().diff() > 0).to(graph.dtype).unsqueeze(-1)

    @classmethod
    def of(cls, graph: Adjacency, selection: Selection) -> GraphRows:
        """Return the rows of a selection, cut once for all that read it.

        Args:
            graph: The graph.
            selection: Users and items.
        """
        nodes = torch.cat([selection.user, selection.item + selection.num_users])
        return selection.once(("rows", id(graph)), lambda: cls(graph, nodes))  # The result holds the graph.

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`\mathbf{A}_S \mathbf{x}` and :math:`\mathbf{x}_S`, ``[S, D]`` each.

        Args:
            x: Node embeddings ``[N, D]``.
        """
        with torch.autocast(x.device.type, enabled=False):
            neighbours, own = _Read.apply(x.to(self.graph.dtype), self)
        return neighbours, own.to(x.dtype)

    def mean_of_powers(self, x: Tensor, num_powers: int) -> Tensor:
        """Return the rows of :meth:`Adjacency.mean_of_powers`, ``[S, D]``.

        Args:
            x: Node embeddings ``[N, D]``.
            num_powers: Number of layers, zero or more.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.graph.dtype).contiguous()
            return _RowsOfPowerMean.apply(x, self, num_powers) if num_powers else x.index_select(0, self.nodes)


class LateSums(Sums):
    """Sums of the rows of what users have met, of those users alone that a step asks for where these are few.

    Args:
        graph: The matrix of users and items, see :meth:`Adjacency.to_users`.
        row: Rows of items ``[I, D]``.
        selections: The selections of the pass, or :obj:`None` to compute the sums of all users.
    """

    def __init__(self, graph: Adjacency, row: Tensor, selections: Selections | None) -> None:
        self.num_users = graph.num_nodes
        self._graph, self._row, self._selections = graph, row, selections
        self._recording = Recording()
        self._table: Tensor | None = None
        self._rows: dict[int, Tensor] = {}

    @property
    def table(self) -> Tensor:
        """The sums of all users, ``[U, D]``."""
        if self._table is None:
            self._table = self._product(self._graph)
        return self._table

    def of(self, user: Tensor) -> tuple[Tensor, Tensor]:
        """Return sums of all or some users ``[n, D]``, and where those of given users stand among them, int64 ``[B]``.

        Args:
            user: Row numbers of users, int64 ``[B]``.
        """
        late = self._selections if self._table is None else None
        selection = None if late is None else late.of_users(user)
        if selection is None:
            return self.table, user
        if id(selection) not in self._rows:  # Held by the selections.
            graph = selection.once("members", lambda: Adjacency(*_cut(self._graph, selection.user)))
            self._rows[id(selection)] = self._product(graph)
        return self._rows[id(selection)], selection.user_places(user)

    def _product(self, graph: Adjacency) -> Tensor:
        """Return a product in the modes in which the sums were asked for, whoever reads them first."""
        with self._recording.again():
            return graph.matmul(self._row)


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: GraphRows) -> tuple[Tensor, Tensor]:
        ctx.rows = rows
        return _product(rows.matrix, x), x.index_select(0, rows.nodes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        neighbours, own = grads
        grad = _product(ctx.rows.transposed, neighbours.contiguous())
        return grad.index_add_(0, ctx.rows.nodes, own), None


class _RowsOfPowerMean(torch.autograd.Function):
    """As :class:`_PowerMean`, where the last product forward and the first one backward are of the rows alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: GraphRows, num_powers: int) -> Tensor:
        ctx.rows, ctx.num_powers = rows, num_powers
        total = _PowerMean.sum(x, x, rows.graph.matrix, num_powers - 1)
        return _product(rows.matrix, total, x.index_select(0, rows.nodes)).div_(num_powers + 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        rows, grad = ctx.rows, grads[0] / (ctx.num_powers + 1)
        total = _product(rows.transposed, grad).index_add_(0, rows.nodes, grad)
        buffers = [total, torch.empty_like(total) if ctx.num_powers > 1 else total]
        for power in range(1, ctx.num_powers):
            total = _product(rows.graph.transposed, total, out=buffers[power % 2]).index_add_(0, rows.nodes, grad)
        return total, None, None


def _cut(graph: Adjacency, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Return some rows of a graph's matrix, CSR ``[S, N]``, and their transpose in CSR."""
    whole = graph.matrix
    parts = (whole.values().numpy(), whole.col_indices().numpy(), whole.crow_indices().numpy())
    rows = scipy_csr(parts, shape=tuple(whole.shape))[nodes.numpy()]
    return _as_torch(rows, rows.shape), _as_torch(rows.tocsc(), rows.shape[::-1])


def _as_torch(matrix: Any, size: tuple[int, int]) -> Tensor:
    crow, col, value = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    return csr_matrix(crow, col, value, *size)
