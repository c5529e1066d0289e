"""Full-ranking evaluation: every item is ranked for every user, in blocks, on the device of the embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integers, as_names
from pyg_ckd.data.inputs import RATES, as_tables, held_out
from pyg_ckd.data.inputs import embed as embed
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.evaluation.metrics import LIST_METRICS, NO_ITEM, USER_METRICS, coverage, personalization, user_metrics
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.sparse import row_starts
from pyg_ckd.scoring.views import as_view

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_METRICS = ("recall", "precision", "ndcg", "map", "mrr", "hit")
CANDIDATES = ("all", "cold", "warm")
BLOCK_BYTES = 2**27


class Metrics(dict[str, float]):
    """Results by name, such as ``recall@20`` or ``cold/ndcg@10``; prints as a table.

    Attributes:
        per_user: A row per evaluated user and a column per metric, or :obj:`None`.
    """

    per_user: pd.DataFrame | None = None

    def __str__(self) -> str:
        width = max((len(name) for name in self), default=0)
        return "\n".join(f"{name:<{width}}  {value:.4f}" for name, value in self.items())


class Evaluator:
    """Ranks all items for every user with a held-out interaction, with seen items masked.

    Everything that does not depend on the embeddings is prepared once, so that a run can evaluate after every epoch.

    Args:
        data: The graph.
        split: ``"val"`` or ``"test"``.
        k: Cut-off or cut-offs.
        metrics: One or more names among ``recall``, ``precision``, ``ndcg``, ``map``, ``mrr``, ``hit`` (means over
            users) and ``coverage``, ``personalization`` (properties of all lists).
        mask: Splits whose interactions count as seen and are never recommended; not ``split`` itself, whose items are
            those to be found.
        candidates: Items that are ranked and to be found: ``"all"``, or only those without (``"cold"``) or with
            (``"warm"``) a training interaction, for users who have such an item to be found.

    Raises:
        InputError: If a name is unknown, there is no cut-off or one that is not between 1 and the number of candidates,
            the split is empty (of candidates) or among those of ``mask``.
    """

    def __init__(
        self,
        data: HeteroData,
        split: str = "val",
        k: Sequence[int] | int = (20,),
        metrics: Sequence[str] | str = DEFAULT_METRICS,
        mask: Sequence[str] | str = ("train",),
        candidates: str = "all",
    ) -> None:
        k, mask = as_integers(k, "k"), as_names(mask, "mask")
        metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        if split == "train":
            raise InputError("split: found 'train', expected 'val' or 'test': training items are masked in the ranking")
        if split in mask:
            raise InputError(
                f"mask: found {split!r}, the split that is evaluated, expected other splits such as 'train': the items "
                "to be found would be masked themselves; leave it out of the mask"
            )
        for name in metrics:
            if name not in USER_METRICS and name not in LIST_METRICS:
                raise unknown_name("metric", name, (*USER_METRICS, *LIST_METRICS))
        if candidates not in CANDIDATES:
            raise unknown_name("kind of candidates", candidates, CANDIDATES)
        self.num_users, self.num_items = data["user"].num_nodes, data["item"].num_nodes
        self.cold_items = torch.bincount(held_out(data, "train")[1], minlength=self.num_items) == 0
        among = {"cold": self.cold_items, "warm": ~self.cold_items}.get(candidates)
        self._excluded = None if among is None else ~among
        self._num_candidates = self.num_items if among is None else int(among.sum())
        of = "" if among is None else f"{candidates} "
        if not k:
            raise InputError("k: found none, expected at least one cut-off")
        for cut in k:
            if not 1 <= cut <= self._num_candidates:
                raise InputError(
                    f"k: found {cut}, expected a number between 1 and {self._num_candidates}, the number of {of}items"
                )
        self.k, self.metrics = tuple(sorted(set(k))), metrics
        positives = held_out(data, split)
        positives = positives if among is None else positives[:, among[positives[1]]]
        if positives.size(1) == 0:
            with_items = f" with {of}items" if of else ""
            raise InputError(f"split {split!r}: found no interaction{with_items}, expected at least one to evaluate on")
        self.users, row = torch.unique(positives[0], return_inverse=True)
        self.labels = torch.stack([row, positives[1]])
        self._seen_ptr, self._seen_item = self._seen(data, mask)

    def _seen(self, data: HeteroData, mask: Sequence[str]) -> tuple[Tensor, Tensor]:
        seen = torch.cat([held_out(data, split) for split in mask], dim=1) if mask else self.labels[:, :0]
        position = torch.full((data["user"].num_nodes,), -1, device=seen.device)
        position[self.users] = torch.arange(self.users.numel(), device=seen.device)
        row = position[seen[0]]
        row, order = row[row >= 0].sort(stable=True)
        item = seen[1][position[seen[0]] >= 0][order]
        return row_starts(torch.bincount(row, minlength=self.users.numel())), item

    @torch.no_grad()
    def rank(self, embeddings: Embeddings) -> Tensor:
        """Return the best candidates of every evaluated user, best first, int64 ``[users, max(k)]`` on the CPU.

        Seen items are never among them: a user with fewer candidates than ``max(k)`` has ``-1`` at the end of the list,
        an empty slot that counts as no recommendation in any metric (``precision@k`` still divides by ``k``).

        Args:
            embeddings: The tables to rank with.

        Raises:
            InputError: If an embedding is not finite, or the tables have other sizes than the graph.
        """
        user, item = embeddings
        widths = {(table.dim(), *table.shape[1:]) for table in embeddings}
        if len(widths) > 1 or user.dim() != 2 or (user.size(0), item.size(0)) != (self.num_users, self.num_items):
            raise InputError(
                f"embeddings: found shapes {list(user.shape)} and {list(item.shape)}, expected [{self.num_users}, D] "
                f"and [{self.num_items}, D], a row for every user and item of the graph"
            )
        for name, table in (("user", user), ("item", item)):
            if not torch.isfinite(table).all():
                raise InputError(f"{name} embeddings: found NaN or infinite values, expected finite numbers")
        size = max(1, BLOCK_BYTES // (item.element_size() * self.num_items))
        transposed = item.t().contiguous()
        best = []
        for start in range(0, self.users.numel(), size):
            stop = min(start + size, self.users.numel())
            scores = user[self.users[start:stop].to(user.device)] @ transposed
            ptr = self._seen_ptr[start : stop + 1]
            row = torch.repeat_interleave(torch.arange(stop - start), ptr.diff().cpu())
            seen = self._seen_item[int(ptr[0]) : int(ptr[-1])]
            scores[row.to(scores.device), seen.to(scores.device)] = -math.inf
            if self._excluded is not None:
                scores.masked_fill_(self._excluded.to(scores.device), -math.inf)
            top = scores.topk(self.k[-1], dim=1)
            best.append(top.indices.masked_fill(top.values == -math.inf, NO_ITEM).cpu())
        return torch.cat(best)

    def per_user(self, embeddings: Embeddings) -> dict[str, Tensor]:
        """Return the metrics of every evaluated user, from ``name@k`` to a vector ``[users]``.

        The order is that of :attr:`users`.

        Args:
            embeddings: The tables to rank with.
        """
        return self._user_metrics(self.rank(embeddings), self.labels)

    def _user_metrics(self, ranked: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return user_metrics(ranked, labels.cpu(), [m for m in self.metrics if m in USER_METRICS], self.k)

    def __call__(self, embeddings: Embeddings, per_user: bool = False, cold: bool = False) -> Metrics:
        """Return the metrics of all evaluated users.

        Args:
            embeddings: The tables to rank with.
            per_user: Whether to keep the values of every user in :attr:`Metrics.per_user`.
            cold: Whether to add the metrics on cold items (without a training interaction) and on warm ones, under
                ``cold/`` and ``warm/``: means over the users who have such an item, :obj:`nan` if nobody has.
        """
        ranked = self.rank(embeddings)
        values = self._user_metrics(ranked, self.labels)
        result = Metrics({name: float(value.mean()) for name, value in values.items()})
        result.update(self._list_metrics(ranked))
        if cold:
            is_cold = self.cold_items[self.labels[1]]
            for group, chosen in (("warm", ~is_cold), ("cold", is_cold)):
                labels = self.labels[:, chosen]
                has = torch.bincount(labels[0], minlength=self.users.numel()).cpu() > 0
                for name, value in self._user_metrics(ranked, labels).items():
                    result[f"{group}/{name}"] = float(value[has].mean())
        if per_user:
            import pandas as pd

            index = pd.Index(self.users.tolist(), name="user")
            result.per_user = pd.DataFrame({name: value.numpy() for name, value in values.items()}, index=index)
        return result

    def _list_metrics(self, ranked: Tensor) -> dict[str, float]:
        result, scale = {}, self.num_items / self._num_candidates
        for k in self.k:
            if "coverage" in self.metrics:
                result[f"coverage@{k}"] = coverage(ranked, k, self.num_items) * scale
            if "personalization" in self.metrics:
                result[f"personalization@{k}"] = personalization(ranked, k)
        return result


def evaluate(
    model: nn.Module | Embeddings | tuple[Tensor, Tensor],
    data: HeteroData,
    split: str = "test",
    k: Sequence[int] | int = (10, 20),
    metrics: Sequence[str] | str = DEFAULT_METRICS,
    view: Any = None,
    per_user: bool = False,
    cold: bool = False,
    mask: Sequence[str] | str = ("train",),
    candidates: str = "all",
) -> Metrics:
    """Rank all items for every user of a split and average the metrics over users.

    Args:
        model: A backbone, an objective, any module with ``forward(x_dict, edge_index) -> (user, item)``, or the
            embeddings themselves.
        data: The graph.
        split: ``"val"`` or ``"test"``.
        k: Cut-off or cut-offs.
        metrics: One or more names among ``recall``, ``precision``, ``ndcg``, ``map``, ``mrr``, ``hit``, ``coverage``
            and ``personalization``.
        view: The view to evaluate; :obj:`None` means all modalities, an empty list the view in which every modality is
            intervened on.
        per_user: Whether to keep the values of every user.
        cold: Whether to tell cold items from warm ones.
        mask: Splits whose interactions count as seen; not ``split`` itself.
        candidates: Items that are ranked: ``"all"``, ``"cold"`` (without a training interaction) or ``"warm"``.

    Raises:
        InputError: If a name is unknown, a cut-off is out of range, or the split is empty or masked.
    """
    evaluator = Evaluator(data, split, k, metrics, mask, candidates)
    return evaluator(as_tables(model, data, as_view(view, data.modalities)), per_user, cold)


def popularity(data: HeteroData) -> Embeddings:
    """Return the baseline that recommends the most popular items to everybody, as embeddings of width 1.

    Args:
        data: The graph.
    """
    count = torch.bincount(data[RATES].edge_index[1], minlength=data["item"].num_nodes)
    return Embeddings(torch.ones(data["user"].num_nodes, 1), count.float().unsqueeze(-1))


def unimodal_gap(student: Mapping[str, float], teacher: Mapping[str, float]) -> dict[str, float]:
    """Return for every modality by how much its teacher is ahead of the student's uni-modal view.

    Args:
        student: From modality to a metric of the student's uni-modal view.
        teacher: From modality to the same metric of the teacher.
    """
    return {m: teacher[m] - student[m] for m in student}
