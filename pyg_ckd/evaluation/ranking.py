"""Full-ranking evaluation: every item is ranked for every user, in blocks, on the device of the embeddings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integers, as_names, as_seed, plain_number, shown
from pyg_ckd.data.inputs import as_tables, check_graph, check_no_view, held_out
from pyg_ckd.data.inputs import embed as embed
from pyg_ckd.display import html_table
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.evaluation.custom import CustomMetric, Metric
from pyg_ckd.evaluation.metrics import LIST_METRICS, NO_ITEM, USER_METRICS, coverage, personalization, user_metrics
from pyg_ckd.processes import present
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.neighbourhood import Neighbourhood, Scorer, as_scorer, check_scores
from pyg_ckd.scoring.pairs import pair_keys
from pyg_ckd.scoring.patterns import BLOCK
from pyg_ckd.scoring.sparse import row_starts
from pyg_ckd.scoring.tables import GPU_BLOCK_BYTES, Tables, check_best
from pyg_ckd.scoring.views import as_view

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_METRICS = ("recall", "precision", "ndcg", "map", "mrr", "hit")
CANDIDATES = ("all", "cold", "warm")
BLOCK_BYTES = 2**25
"""Scores held at once; they are ranked fastest where they stay near the caches of a CPU."""
PROBES = 64
"""Scores of a user by which processes see that they rank the same model."""


class Metrics(dict[str, float]):
    """Results by name, such as ``recall@20`` or ``cold/ndcg@10``; prints as a table.

    Attributes:
        per_user: A row per evaluated user and a column per metric, or :obj:`None`.
    """

    per_user: pd.DataFrame | None = None

    def __str__(self) -> str:
        width = max((len(name) for name in self), default=0)
        return "\n".join(f"{name:<{width}}  {value:.4f}" for name, value in self.items())

    def _repr_html_(self) -> str:
        rows = [(name, f"{value:.4f}") for name, value in self.items()]
        return html_table("Metrics", ("metric", "value"), rows)


class Evaluator:
    """Ranks all items for every user with a held-out interaction, with seen items masked.

    Everything that does not depend on the embeddings is prepared once, so that a run can evaluate after every epoch.

    Args:
        data: The graph.
        split: ``"val"`` or ``"test"``.
        k: Cut-off or cut-offs.
        metrics: One or more names among ``recall``, ``precision``, ``ndcg``, ``map``, ``mrr``, ``hit`` (means over
            users) and ``coverage``, ``personalization`` (properties of all lists); or metric objects of PyG, whose
            cut-off is their own, and functions, see :class:`~pyg_ckd.evaluation.CustomMetric`.
        mask: Splits whose interactions count as seen and are never recommended; not ``split`` itself, whose items are
            those to be found.
        candidates: Items that are ranked and to be found: ``"all"``, or only those without (``"cold"``) or with
            (``"warm"``) a training interaction, for users with such a held-out item.
        eval_users: How many users are evaluated, drawn at random: a number, or a share such as ``0.1``; :obj:`None`
            evaluates all.
        seed: Seed of the draw.

    Raises:
        InputError: If a name is unknown, there is no cut-off or one that is not between 1 and the number of candidates,
            the split is empty (of candidates) or among those of ``mask``, or there are fewer users than ``eval_users``.

    Warns:
        UserWarning: If interactions of the split are also in one that is masked, and so can never be found.
    """

    def __init__(
        self,
        data: HeteroData,
        split: str = "val",
        k: Sequence[int] | int = (20,),
        metrics: Sequence[Metric] | Metric = DEFAULT_METRICS,
        mask: Sequence[str] | str = ("train",),
        candidates: str = "all",
        eval_users: int | float | None = None,
        seed: int = 0,
    ) -> None:
        check_graph(data)
        k, mask = as_integers(k, "k"), as_names(mask, "mask")
        metrics = (metrics,) if isinstance(metrics, str) or callable(metrics) else metrics
        if not isinstance(metrics, Iterable):
            raise InputError(
                f"metrics: found {shown(metrics)}, expected names such as ['recall', 'ndcg'], or leave them out"
            )
        metrics = tuple(metrics)
        if split == "train":
            raise InputError("split: found 'train', expected 'val' or 'test': training items are masked in the ranking")
        if split in mask:
            raise InputError(
                f"mask: found {split!r}, the split that is evaluated, expected other splits such as 'train': the items "
                "to be found would be masked themselves; leave it out of the mask"
            )
        self.metrics = tuple(metric for metric in metrics if isinstance(metric, str))
        for name in self.metrics:
            if name not in USER_METRICS and name not in LIST_METRICS:
                raise unknown_name("metric", name, (*USER_METRICS, *LIST_METRICS))
        custom = [CustomMetric(metric) for metric in metrics if not isinstance(metric, str)]
        self._custom = {metric.name: metric for metric in custom}
        if len(self._custom) < len(custom):
            raise InputError(
                f"metrics: found two of one name among {', '.join(m.name for m in custom)}, expected others"
            )
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
        own = [metric.k for metric in custom if metric.k is not None]
        for cut in (*k, *own):
            if not 1 <= cut <= self._num_candidates:
                raise InputError(
                    f"k: found {cut}, expected a number between 1 and {self._num_candidates}, the number of {of}items"
                )
        self.k = tuple(sorted(set(k)))
        self._depth = max(*k, *own) if own else self.k[-1]
        positives = without_repetitions(held_out(data, split))
        positives = positives if among is None else positives[:, among[positives[1]]]
        if positives.size(1) == 0:
            with_items = f" with {of}items" if of else ""
            raise InputError(
                f"split {split!r}: found no interaction{with_items}, expected at least one to evaluate on; hold some "
                "out before the graph is built"
            )
        if eval_users is not None:
            users = drawn_users(positives[0].unique(), eval_users, split, seed)
            positives = positives[:, torch.isin(positives[0], users)]
        self.users, row = torch.unique(positives[0], return_inverse=True)
        self.labels = torch.stack([row, positives[1]])
        self._seen_ptr, self._seen_item, hidden = self._seen(data, mask)
        if hidden:
            warnings.warn(
                f"split {split!r}: found {hidden} of {row.numel()} interactions also in {' or '.join(mask)}, which is "
                "masked, so that nothing can find them; leave them out of one of the two, or the split out of the mask",
                stacklevel=3,
            )

    def _seen(self, data: HeteroData, mask: Sequence[str]) -> tuple[Tensor, Tensor, int]:
        """Return what every evaluated user has met, as where it begins and items, and how many positives are in it."""
        device, positives = self.users.device, pair_keys(self.labels[0], self.labels[1], self.num_items).sort().values
        hidden = torch.zeros_like(positives, dtype=torch.bool)
        position = torch.full((data["user"].num_nodes,), -1, device=device)
        position[self.users] = torch.arange(self.users.numel(), device=device)
        rows, items = [self.labels[0, :0]], [self.labels[1, :0]]
        for edges in (held_out(data, split) for split in mask):
            for part in edges.split(BLOCK, dim=1):  # The interactions of few users need no memory for all of them.
                row = position[part[0]]
                rows.append(row[row >= 0])
                items.append(part[1][row >= 0])
                cells = pair_keys(rows[-1], items[-1], self.num_items)
                place = torch.searchsorted(positives, cells).clamp_(max=positives.numel() - 1)
                hidden[place[positives[place] == cells]] = True
        row, order = torch.cat(rows).sort(stable=True)
        item = torch.cat(items)[order]
        return row_starts(torch.bincount(row, minlength=self.users.numel())), item, int(hidden.sum())

    @torch.no_grad()
    def rank(self, embeddings: Embeddings | Scorer) -> Tensor:
        """Return the best candidates of every evaluated user, best first, int64 ``[users, K]`` on the CPU.

        ``K`` is the largest cut-off. Seen items are never among them: a user with fewer candidates than ``K`` has
        ``-1`` at the end of the list, an empty slot that counts as no recommendation in any metric (``precision@k``
        still divides by ``k``).

        In a group of processes each ranks a share of the users, and all get all lists.

        Args:
            embeddings: The tables to rank with, or any object with ``scores``; the same in all processes.

        Raises:
            InputError: If an embedding or a score is not finite, scores have another shape or type, tables have other
                sizes than the graph, or processes rank other models.
        """
        processes, count = present(), self.users.numel()
        who = f"{count} users from {self.users[:1].tolist()} to {self.users[-1:].tolist()}"
        processes.agree("evaluation", f"{who}, {self._depth} of {self._num_candidates} items")
        with processes.together():
            sizes = (self.num_users, self.num_items)
            scorer = as_scorer(embeddings, sizes)
            gpu = isinstance(scorer, Tables) and scorer.user.device.type != "cpu"
            size = (GPU_BLOCK_BYTES if gpu else BLOCK_BYTES) // (scorer.dtype.itemsize * self.num_items)
            best = [self._best(scorer, start, stop) for start, stop in processes.blocks(count, size)]
            own = torch.cat([torch.empty(0, self._depth, dtype=torch.int64), *best])
            probe = own.new_empty(0) if processes.alone else self._probe(scorer)
        if processes.alone:
            return own
        processes.agree_nearly("model", probe)
        return processes.gather_rows(own.int()).long()

    def _best(self, scorer: Scorer, start: int, stop: int) -> Tensor:
        """Return the lists of a block of users, int64 ``[stop - start, K]`` on the CPU."""
        scores = scorer.scores(self.users[start:stop])
        if not isinstance(scorer, Tables):
            check_scores(scores, (stop - start, self.num_items))
            if not isinstance(scorer, Neighbourhood):
                scores = scores.clone()  # It may be a scorer's own memory, or one row for many users.
        ptr = self._seen_ptr[start : stop + 1]
        row = torch.repeat_interleave(torch.arange(stop - start), ptr.diff().cpu())
        seen = self._seen_item[int(ptr[0]) : int(ptr[-1])]
        scores[row.to(scores.device), seen.to(scores.device)] = -math.inf
        if self._excluded is not None:
            scores.masked_fill_(self._excluded.to(scores.device), -math.inf)
        top = scores.topk(self._depth, dim=1)
        check_best(top.values.cpu(), lambda: self.left(start, stop))
        return top.indices.masked_fill(top.values == -math.inf, NO_ITEM).cpu()

    @property
    def most_seen(self) -> int:
        """How many interactions that count as seen an evaluated user has at most, repeated ones included."""
        return int(self._seen_ptr.diff().max())

    def left(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return how many candidates there are for evaluated users, without what they have met, int64 on the CPU.

        Args:
            start, stop: Which of :attr:`users`. (default: all)
        """
        ptr = self._seen_ptr[start : self.users.numel() + 1 if stop is None else stop + 1].cpu()
        seen, count = self._seen_item[int(ptr[0]) : int(ptr[-1])].cpu(), ptr.numel() - 1
        cell = pair_keys(torch.repeat_interleave(torch.arange(count), ptr.diff()), seen, self.num_items).unique()
        if self._excluded is not None:
            cell = cell[~self._excluded.cpu()[cell % self.num_items]]
        return self._num_candidates - torch.bincount(cell // self.num_items, minlength=count)

    def _probe(self, scorer: Scorer) -> Tensor:
        """Return some scores of the first user, ``[PROBES]``."""
        return scorer.scores(self.users[:1])[0, torch.linspace(0, self.num_items - 1, PROBES).long()]

    def per_user(self, embeddings: Embeddings | Scorer) -> dict[str, Tensor]:
        """Return the metrics of every evaluated user, from ``name@k`` to a vector ``[users]``.

        The order is that of :attr:`users`.

        Args:
            embeddings: As in :meth:`rank`.
        """
        ranked = self.rank(embeddings)
        with present().together():
            return self._user_metrics(ranked, self.labels)[0]

    def _user_metrics(self, ranked: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return the metrics that every user has, and those custom ones that only all lists together have."""
        labels, single = labels.cpu(), {}
        values = user_metrics(ranked, labels, [m for m in self.metrics if m in USER_METRICS], self.k)
        for name, metric in self._custom.items():
            value = metric(ranked if metric.k else ranked[:, : self.k[-1]], labels)
            if value.dim():
                values[name] = value
            else:
                single[name] = float(value)
        return values, single

    def __call__(self, embeddings: Embeddings | Scorer, per_user: bool = False, cold: bool = False) -> Metrics:
        """Return the metrics of all evaluated users.

        Args:
            embeddings: As in :meth:`rank`.
            per_user: Whether to keep the values of every user in :attr:`Metrics.per_user`.
            cold: Whether to add the metrics on cold items (without a training interaction) and on warm ones, under
                ``cold/`` and ``warm/``: means over the users who have such an item, :obj:`nan` if nobody has.
        """
        ranked, processes = self.rank(embeddings), present()
        with processes.together():
            result = self._metrics(ranked, per_user, cold)
        result.update(processes.gather(dict(result))[0])  # To the last bit, whatever machines they are on.
        return result

    def _metrics(self, ranked: Tensor, per_user: bool, cold: bool) -> Metrics:
        values, single = self._user_metrics(ranked, self.labels)
        result = Metrics({name: float(value.mean()) for name, value in values.items()})
        result.update(single)
        result.update(self._list_metrics(ranked))
        if cold:
            is_cold = self.cold_items[self.labels[1]]
            for group, chosen in (("warm", ~is_cold), ("cold", is_cold)):
                labels = self.labels[:, chosen]
                has = torch.bincount(labels[0], minlength=self.users.numel()).cpu() > 0
                for name, value in self._user_metrics(ranked, labels)[0].items():
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


def without_repetitions(edges: Tensor) -> Tensor:
    """Return interactions without repetitions of earlier ones, in their order, ``[2, E]``.

    Args:
        edges: The interactions, integers ``[2, E]``.
    """
    if not edges.numel():
        return edges
    key, order = (edges[0].long() * (int(edges[1].max()) + 1) + edges[1]).sort(stable=True)
    repeated = order[1:][key[1:] == key[:-1]]
    if not repeated.numel():
        return edges
    return edges[:, torch.ones_like(key, dtype=torch.bool).index_fill(0, repeated, False)]


def evaluate(
    model: nn.Module | Embeddings | tuple[Tensor, Tensor] | Scorer,
    data: HeteroData,
    split: str = "test",
    k: Sequence[int] | int = (10, 20),
    metrics: Sequence[Metric] | Metric = DEFAULT_METRICS,
    view: Any = None,
    per_user: bool = False,
    cold: bool = False,
    mask: Sequence[str] | str = ("train",),
    candidates: str = "all",
) -> Metrics:
    """Rank all items for every user of a split and average the metrics over users.

    In a group of processes each ranks a share of the users, and all get the same metrics.

    Args:
        model: A backbone, an objective, any module with ``forward(x_dict, edge_index) -> (user, item)``, the embeddings
            themselves, or any object with ``scores``.
        data: The graph.
        split: ``"val"`` or ``"test"``.
        k: Cut-off or cut-offs.
        metrics: One or more names among ``recall``, ``precision``, ``ndcg``, ``map``, ``mrr``, ``hit``, ``coverage``
            and ``personalization``; or metric objects of PyG and functions.
        view: The view to evaluate; :obj:`None` means all modalities, an empty list means the view in which every
            modality is intervened on.
        per_user: Whether to keep the values of every user.
        cold: Whether to report metrics of cold and of warm items too.
        mask: Splits whose interactions count as seen; not ``split`` itself.
        candidates: Items that are ranked: ``"all"``, ``"cold"`` (without a training interaction) or ``"warm"``.

    Raises:
        InputError: If a name is unknown, a cut-off is out of range, the split is empty or masked, scores are not
            finite, or a view is given although there are no views.

    Warns:
        UserWarning: If the model was trained on a graph with other ids, or interactions of the split are also in one
            that is masked.
    """
    with present().together():
        evaluator = Evaluator(data, split, k, metrics, mask, candidates)
        ready = isinstance(model, Scorer) and not isinstance(model, nn.Module)
        if ready:
            check_no_view(model, view)
        tables: Any = (
            model if ready else as_tables(model, data, None if view is None else as_view(view, data.modalities))
        )
    return evaluator(tables, per_user, cold)


def drawn_users(users: Tensor, eval_users: int | float, split: str, seed: int) -> Tensor:
    """Return some of the users of a split, drawn at random and in their order.

    Args:
        users: All of them, int64 ``[U]``.
        eval_users: How many: a number, or a share such as ``0.1``.
        split: Name of the split, for the message.
        seed: Seed of the draw; the same one draws the same users on any device.

    Raises:
        InputError: If ``eval_users`` or ``seed`` is out of range.
    """
    eval_users = check_eval_users(eval_users) or 0
    count = eval_users if isinstance(eval_users, int) else max(1, round(eval_users * users.numel()))
    if count > users.numel():
        raise InputError(
            f"eval_users: found {eval_users}, expected at most {users.numel()}, the number of users with an "
            f"interaction in split {split!r}"
        )
    order = torch.randperm(users.numel(), generator=torch.Generator().manual_seed(as_seed(seed)))
    return users[order[:count].sort().values.to(users.device)]


def check_eval_users(eval_users: Any) -> int | float | None:
    """Return how many users are evaluated as a plain number; refuse what is neither a number of them nor a share.

    Args:
        eval_users: The option.

    Raises:
        InputError: If it is not.
    """
    if eval_users is None:
        return None
    found: int | float = plain_number(eval_users)
    whole = isinstance(found, int) and not isinstance(found, bool) and found >= 1
    share = isinstance(found, float) and 0 < found <= 1
    if not (whole or share):
        raise InputError(
            f"eval_users: found {shown(eval_users)}, expected a number of users from 1 on, or a share between 0.0 and "
            "1.0"
        )
    return found


def popularity(data: HeteroData) -> Embeddings:
    """Return the baseline that recommends the most popular items to everybody, as embeddings of width 1.

    Args:
        data: The graph.
    """
    count = torch.bincount(held_out(data, "train")[1], minlength=data["item"].num_nodes)
    count = count.float().unsqueeze(-1)
    return Embeddings(count.new_ones(data["user"].num_nodes, 1), count)


def unimodal_gap(student: Mapping[str, float], teacher: Mapping[str, float]) -> dict[str, float]:
    """Return by how much the teacher of every modality is ahead of the student's uni-modal view.

    Args:
        student: From modality to a metric of the student's uni-modal view.
        teacher: From modality to the same metric of the teacher.
    """
    return {m: teacher[m] - student[m] for m in student}
