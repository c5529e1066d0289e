"""The graph cut by users: every process has some users, their rows of every table, and their interactions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.inputs import RATES, EdgeType, unpack
from pyg_ckd.data.mapped import file_of
from pyg_ckd.data.modules import dtype_of, reads_rows
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.build_graph import index_type, interactions_of
from pyg_ckd.nn.feature_part import FeaturePart
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.nn.user_part import UserPart
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.neighbourhood import Scorer
from pyg_ckd.scoring.tables import Tables
from pyg_ckd.training.layouts.base import Layout
from pyg_ckd.training.layouts.elementwise import ELEMENTWISE
from pyg_ckd.training.layouts.rows import UserRows
from pyg_ckd.training.warm_start import table_dims

LOGGER = logging.getLogger("pyg_ckd.training")


class Users(Layout):
    r"""Every process has some users and all items.

    Users are cut into runs of about as many interactions. A process has their rows of every table with the state of the
    optimizer, the graph of their interactions, their rows of the teachers, and the triples of a batch whose user it
    has. Items, projections and layers are on all processes, and so are all interactions, from which the batches are
    drawn, unless every process draws from its own, see :class:`~pyg_ckd.training.own_batches.OwnBatches`. A product
    with the graph adds the rows of items up over processes, forward and backward; all else is computed where the user
    is. See :class:`~pyg_ckd.nn.user_part.UserPart`.

    With :math:`U` users, :math:`I` items and :math:`P` processes, a process has :math:`(U / P + I) / (U + I)` of the
    tables and :math:`1 / P` of the graph. A step sums :math:`2 L + 1` tables of all items for every stream of :math:`L`
    layers.

    With ``cut_features`` a process has the features of :math:`I / P` items, too, of the modalities of
    :attr:`Backbone.projected <pyg_ckd.nn.models.base.Backbone.projected>`; a step then gathers their projections. See
    :class:`~pyg_ckd.nn.feature_part.FeaturePart`.
    """

    name = "users"
    rows: UserRows
    interactions: Tensor | None = None
    """Interactions of own users (user, numbered from zero; item), int32 ``[2, E_k]`` where that suffices, if
    :attr:`draws_own`."""
    draws_own: torch.device | None = None
    """Where the process works that draws from the interactions of its own users alone, while those of all users stay
    where they are; :obj:`None` if it draws from all."""

    def refuses(self, objective: Objective) -> str:
        """Refuse fewer users than processes, and what looks at the validation part by itself, which is of all users."""
        number, size = objective.student.num_users, self.processes.size
        if number < size:
            return f"{number} users for {size} processes, expected one at least for each; take fewer processes"
        for name in ("before_training", "before_validation"):
            if getattr(type(objective), name) is not getattr(Objective, name):
                return f"{objective.name}, whose {name} looks at users of all processes, expected strategy='ddp'"
        return ""

    def unpack(
        self, data: HeteroData, device: torch.device, objective: Objective, interactions: bool = True
    ) -> tuple[dict[str, Tensor], dict[EdgeType, Any]]:
        """Return the features of own items alone of the modalities that can be cut, if they are to be."""
        if not self.cut_features:
            return super().unpack(data, device, objective, interactions)
        student, by_rows, num_items = objective.student, reads_rows(objective), data["item"].num_nodes
        projected = student.projected if student.uses_features else student.modalities
        in_files = [m for m in data.modalities if by_rows and file_of(data["item"][m]) is not None]
        whole = [m for m in data.modalities if m not in projected and m not in in_files]
        if whole and self.processes.first:
            LOGGER.warning(
                "cut_features: %s reads features of %s otherwise than through a linear map: every process has those of "
                "all items",
                type(student).__name__,
                ", ".join(map(repr, whole)),
            )
        own = FeaturePart.block(num_items, self.processes)
        cut = {m: own for m in data.modalities if m in projected and m not in in_files}
        features, edges = unpack(data, device, dtype_of(objective), by_rows, cut, interactions)
        parts = {m: cast(Tensor, FeaturePart(m, features[m], num_items, self.processes)) for m in cut}
        return features | parts, edges

    def cut(
        self, objective: Objective, features: dict[str, Tensor], edges: dict[EdgeType, Any]
    ) -> tuple[dict[str, Tensor], dict[EdgeType, Any]]:
        """Leave this process the rows of its users, and return the graph of their interactions."""
        student, user = objective.student, edges[RATES][0]
        size, num_users, num_items = self.processes.size, student.num_users, student.num_items
        other = [kind for kind in edges if kind != RATES and "user" in (kind[0], kind[-1])]
        if other:
            raise InputError(
                f"strategy: found 'users' and a graph {other[0]} whose edges lead from the users of one process to "
                "those of another, expected interactions and graphs of items; take strategy='ddp'"
            )
        self.rows = rows = UserRows.balanced(user, num_users, size, self.processes.rank)
        self._check_declared(student)
        names = set()
        for module, name, full_name in list(_user_tables(objective)):
            table = getattr(module, name)
            names.add(full_name)
            if table.size(0) != num_users:  # Cut under another name.
                continue
            own = table.detach()[rows.first : rows.last].clone()
            if isinstance(table, nn.Parameter):
                table.data, table.grad = own, None
            else:
                setattr(module, name, own)
        self.cut_names = frozenset(names)
        student.is_part = True
        self._set_users(objective, rows.own)
        device = user.device if self.draws_own is None else self.draws_own
        objective.to(device)
        narrow = torch.int64 if self.draws_own is None else index_type(0, max(rows.own, num_items))
        interactions = interactions_of(edges[RATES], rows.first, rows.last, narrow).to(device)
        if self.draws_own is not None:
            self.interactions = interactions
        settings = (student.normalization, student.self_loops)
        dtype = dtype_of(objective) or torch.get_default_dtype()
        sizes = (rows.own, num_items, num_users)
        graph = UserPart.of(interactions, sizes, self.processes, *settings, dtype=dtype)
        return features, objective.prepare(features, {**edges, RATES: graph})

    def join(self, objective: Objective) -> None:
        """Give every process the rows of all users, in the memory of the host."""
        for module, name, _ in list(_user_tables(objective)):
            table = getattr(module, name)
            if table.size(0) != self.rows.own:
                continue
            whole = self.processes.gather_rows(table.detach()).cpu()
            if isinstance(table, nn.Parameter):
                table.grad = None
                table.data = whole
            else:
                setattr(module, name, whole)
        self._set_users(objective, self.rows.all)
        objective.student.is_part = False

    def share(self, batch: TripletBatch) -> tuple[TripletBatch, float]:
        """Return the triples and random triples of own users; if the batch is a share of its own already, itself."""
        if batch.drawn_apart:
            return batch, batch.user.numel() / max(1, batch.whole_size)
        chosen, random = self._mine(batch.user), self._mine(batch.random_user)
        shared = batch.shared(chosen, random, self.processes, self.rows.first)
        return shared, chosen.numel() / max(1, batch.user.numel())

    def _mine(self, user: Tensor) -> Tensor:
        return ((user >= self.rows.first) & (user < self.rows.last)).nonzero().view(-1)

    def shared_parameters(self, objective: Objective) -> list[nn.Parameter]:
        """Return the parameters without rows of users."""
        own = {id(getattr(module, name)) for module, name, _ in _user_tables(objective)}
        return [p for p in super().shared_parameters(objective) if id(p) not in own]

    def check_steps(self, optimizer: torch.optim.Optimizer, scales: bool) -> None:
        """Refuse optimizers that look at tables as a whole, and scales of losses, which processes would part over."""
        if type(optimizer) not in ELEMENTWISE:
            names = ", ".join(dict.fromkeys(kind.__name__ for kind in ELEMENTWISE))
            raise InputError(
                f"optimizer: found {type(optimizer).__name__} for strategy='users', expected one that moves every "
                f"number by its own gradients ({names}); or take strategy='ddp'"
            )
        if scales:
            raise InputError(
                "precision: found '16-mixed' for strategy='users', whose processes would scale losses differently, "
                "expected '32-true' or 'bf16-mixed'; or take strategy='ddp'"
            )

    def whole_tables(self, embeddings: Embeddings) -> Embeddings:
        """Return the rows of all users beside the items."""
        return Embeddings(self.processes.gather_rows(embeddings.user), embeddings.item)

    def tables_of(self, embeddings: Embeddings, users: Tensor) -> Embeddings | Scorer:
        """Return the rows of these users alone beside the items."""
        mine = users[(users >= self.rows.first) & (users < self.rows.last)] - self.rows.first
        rows = embeddings.user.index_select(0, mine.to(embeddings.user.device))
        tables = Embeddings(self.processes.gather_rows(rows), embeddings.item)
        return Tables(tables, (users.numel(), embeddings.item.size(0)), users)

    def _set_users(self, objective: Objective, number: int) -> None:
        for module in objective.modules():
            if isinstance(module, Backbone):
                module.num_users = number
        self._own = {id(getattr(module, name)) for module, name, _ in _user_tables(objective)}

    def _check_declared(self, student: Backbone) -> None:
        """Refuse a backbone that does not know which of its tables have a row for every user."""
        dims = table_dims(student)
        found = set() if dims is None else {name for name, kinds in dims.items() if kinds.get(0) == "user"}
        said = {name for name in student.state_dict() if name.partition(".")[0] in student.user_rows}
        if dims is not None and found != said:
            raise InputError(
                f"{type(student).__name__}.user_rows: found {sorted(said)}, expected {sorted(found)}, which have a row "
                "for every user"
            )


def _user_tables(objective: Objective) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield module, name and whole name of every parameter and buffer whose rows are users."""
    for prefix, module in objective.named_modules():
        if isinstance(module, Backbone):
            declared = set(module.user_rows)
        elif isinstance(module, Objective):
            declared = {name for name, kind in module.own_rows.items() if kind == "user"}
        else:
            continue
        for path in module.state_dict():
            if path.partition(".")[0] in declared:
                owner, _, name = path.rpartition(".")
                yield module.get_submodule(owner), name, f"{prefix}.{path}" if prefix else path
