"""The facade of serving: embeddings, ids and what has been seen, turned into lists of items."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integer, as_names
from pyg_ckd.data.checks import SPLITS
from pyg_ckd.data.inputs import RATES, as_tables, check_whole, embed, held_out
from pyg_ckd.devices import Device, as_device
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.neighbourhood import Scorer
from pyg_ckd.serving.fold_in import Ridge, mean_of, stack_features
from pyg_ckd.serving.ids import Ids
from pyg_ckd.serving.results import Explanation, Recommendations
from pyg_ckd.serving.search import Masked, SeenItems, search
from pyg_ckd.serving.shares import shapley_weights

_VIEW_BYTES = 2**30  # Tables of views held at once by `explain`.
_HALF = (torch.float16, torch.bfloat16)  # Searched in single precision.


class Catalogue(NamedTuple):
    """The items to choose from, prepared once for any number of users.

    Attributes:
        table: Their embeddings ``[C, D]``.
        rows: Their rows, int64 ``[C]`` on the CPU, or :obj:`None` if they are all items.
        position: Where every item stands among them, int64 ``[I]``, -1 for the others; or :obj:`None`.
    """

    table: Tensor
    rows: Tensor | None = None
    position: Tensor | None = None


class Recommender:
    r"""Lists of items for users, from two tables of embeddings.

    Ids are those that the graph carries in ``data.user_id`` and ``data.item_id``, in and out, or else row numbers.
    Every method takes one id or many in the same call. Search is exact, runs on the device of the tables, and holds one
    block of scores at a time.

    Args:
        embeddings: The two tables; or a backbone, an objective, or any module with ``forward(x_dict, edge_index) ->
            (user, item)``, called once for them and kept for :meth:`explain`.
        data: The graph.
        seen: Splits whose interactions count as seen. By default all that is known; ``("train",)`` gives the lists that
            :func:`~pyg_ckd.evaluate` measures.

    Raises:
        InputError: If the tables do not fit the graph or hold numbers that are not finite, or a split is unknown.

    Example:
        >>> recommender = Recommender.load("out/model.pt", data)
        >>> recommender.recommend(["u1", "u7"], k=10).to_frame()
    """

    def __init__(
        self,
        embeddings: Embeddings | tuple[Tensor, Tensor] | nn.Module,
        data: HeteroData,
        seen: Sequence[str] = tuple(SPLITS),
    ) -> None:
        if isinstance(embeddings, Scorer) and not isinstance(embeddings, nn.Module):
            raise InputError("recommender: found weights between items, expected tables; use NeighbourhoodRecommender")
        self.model = embeddings if isinstance(embeddings, nn.Module) else None
        tables = as_tables(embeddings, data)
        user, item = (x.float() if x.dtype in _HALF else x for x in (tables.user.detach(), tables.item.detach()))
        self.embeddings, self.data = Embeddings(user, item), data
        for kind, table in zip(("user", "item"), self.embeddings, strict=True):
            if table.dim() != 2 or table.size(0) != data[kind].num_nodes:
                raise InputError(
                    f"{kind} embeddings: found shape {list(table.shape)}, expected [{data[kind].num_nodes}, D], a row "
                    f"for every {kind} of the graph"
                )
            if not table.is_floating_point() or table.dtype != user.dtype or table.shape[1:] != user.shape[1:]:
                raise InputError(
                    f"{kind} embeddings: found {table.dtype} of width {table.size(1)}, expected floating-point numbers "
                    f"of one type and width for users and items, but users have {user.dtype} of width {user.size(1)}"
                )
            if not bool(torch.isfinite(table).all()):
                raise InputError(f"{kind} embeddings: found NaN or infinite values, expected finite numbers")
        if any(getattr(data, f"{kind}_id", None) is not None for kind in ("user", "item")):
            check_whole(data, with_ids=True)  # They would be those of other rows.
        self.users = Ids("user", getattr(data, "user_id", None), data["user"].num_nodes)
        self.items = Ids("item", getattr(data, "item_id", None), data["item"].num_nodes)
        none = torch.empty(2, 0, dtype=torch.int64)
        known = torch.cat([none, *(held_out(data, split).cpu() for split in as_names(seen, "seen"))], dim=1)
        self.seen = SeenItems(known, len(self.users))
        self._user_map: Ridge | None = None

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike[str],
        data: HeteroData,
        backbones: Mapping[str, type[Any]] | None = None,
        device: Device | None = None,
        seen: Sequence[str] = tuple(SPLITS),
    ) -> Recommender:
        """Read a trained model, compute its embeddings, and serve them.

        Args:
            checkpoint: A ``model.pt`` of ``pyg-ckd train`` or ``compare``, or a file of
                :func:`~pyg_ckd.training.model.save_model`.
            data: The graph it was trained on.
            backbones: The classes that the checkpoint may name. (default: :obj:`None`, those of :mod:`pyg_ckd.nn`)
            device: Where to compute, such as ``"cuda:1"``. (default: :obj:`None`, the CPU)
            seen: Splits whose interactions count as seen.

        Raises:
            InputError: If the file is missing or damaged, or belongs to other data.
        """
        from pyg_ckd.training.model import load_model

        model = load_model(checkpoint, data, backbones)
        return cls(model.to(as_device(device)), data, seen)

    def recommend(
        self, user_ids: Any = None, k: int = 20, exclude_seen: bool = True, candidates: Any = None
    ) -> Recommendations:
        """Return the best ``k`` items of every user.

        Args:
            user_ids: One id or many. (default: :obj:`None`, all users)
            k: Items per user, from 1 to the number of candidates.
            exclude_seen: Whether items that a user has met are left out. Where fewer than ``k`` remain, the list ends
                with empty slots.
            candidates: Ids of the items to choose from, such as those in stock. (default: :obj:`None`, all items)

        Raises:
            InputError: If an id is unknown, ``k`` is out of range, or nothing is left to recommend to any of the users
                because they have met every candidate.
        """
        users, catalogue = self.users.rows(user_ids), self.catalogue(candidates)
        scores, items = self.rank(users, self.check_k(k, catalogue), exclude_seen, catalogue)
        if users.numel() and not bool((items >= 0).any()):
            raise self.nothing_left(users, catalogue)
        return Recommendations(self.users.take(users.numpy()), self.items.take(items.numpy()), scores.numpy())

    def similar_items(self, item_ids: Any = None, k: int = 20) -> Recommendations:
        """Return the ``k`` items whose embeddings have the largest cosine with that of each item, itself left out.

        Args:
            item_ids: One id or many. (default: :obj:`None`, all items)
            k: Similar items per item, from 1 to the number of items less one.

        Raises:
            InputError: If an id is unknown or ``k`` is out of range.
        """
        rows, k = self.items.rows(item_ids), _check_k(k, len(self.items) - 1, "other items")

        def itself(start: int, stop: int) -> tuple[Tensor, Tensor]:
            return torch.arange(stop - start), rows[start:stop]

        scores, items = self._similar(rows, k, itself)
        return Recommendations(self.items.take(rows.numpy()), self.items.take(items.numpy()), scores.numpy(), "item")

    def explain(self, user: Any, item: Any) -> Explanation:
        r"""Return the share of every modality and of the id in the score of each pair.

        The share of modality ``m`` is its Shapley value over views, see
        :func:`~pyg_ckd.serving.shares.shapley_weights`: how much the score changes, on average over the orders in which
        the modalities can become factual, when ``m`` does. The share of the id is the score in the view in which no
        modality is factual: what id embeddings, biases and the graph give with mean features and mean preferences.
        Shares sum to the score. Where a score is the sum of one block per modality, as in
        :class:`~pyg_ckd.nn.VBPR`, a share is the score of the modality's block less that of its mean.

        All views of the whole graph are computed whether one pair is asked for or a million: ask for many at once.

        Args:
            user: One id or many.
            item: One id or as many; one item goes with all users and one user with all items.

        Raises:
            InputError: If an id is unknown, the numbers of ids do not fit, there is no model, or a user or an item
                is not one the model was trained with.
        """
        users, items = self.users.rows(user), self.items.rows(item)
        if users.numel() != items.numel() and 1 not in (users.numel(), items.numel()):
            raise InputError(f"explain: found {users.numel()} users and {items.numel()} items, expected as many or one")
        users, items = (rows.contiguous() for rows in torch.broadcast_tensors(users, items))
        if self.model is None:
            raise InputError("explain: found embeddings only, expected the model: Recommender(model, data)")
        for rows, ids, kind in ((users, self.users, "user"), (items, self.items, "item")):
            new = rows[rows >= self.data[kind].num_nodes]
            if new.numel():
                name = ids.take(new[:1].numpy()).tolist()[0]
                raise InputError(f"explain: {kind} {name!r} was added without training, expected one that was there")
        views, weights = shapley_weights(list(self.data.modalities))
        size = max(1, _VIEW_BYTES // sum(table.nbytes for table in self.embeddings))
        values = []
        for start in range(0, len(views) - 1, size):
            for tables in embed(self.model, self.data, views[start : min(start + size, len(views) - 1)]):
                values.append(_scores(tables, users, items))
        values.append(_scores(self.embeddings, users, items))  # The full view is what recommendations come from.
        value = torch.stack(values)  # [V, n]
        shares = torch.cat([value[:1], weights @ value]).t().contiguous()
        return Explanation(
            self.users.take(users.numpy()),
            self.items.take(items.numpy()),
            ("id", *self.data.modalities),
            shares.numpy(),
            value[-1].numpy(),
        )

    def with_new_items(
        self,
        features: Mapping[str, Any],
        item_ids: Any = None,
        known_features: Mapping[str, Any] | None = None,
        transformed: bool = False,
    ) -> Recommender:
        r"""Return a recommender that also has items which were not there in training, from their features alone.

        An item's embedding is a linear function of the standardised features of all modalities side by side, learnt by
        :class:`~pyg_ckd.serving.fold_in.Ridge` from the embeddings of the items with a training interaction; where the
        model adds linear maps of features, it finds them again.

        Args:
            features: The features ``[n, d_m]`` of the new items by modality, as they are read, or frames indexed by
                item id; they are transformed as those of the graph were. One that is left out is imputed as there.
            item_ids: Their ids, of the type of those of the graph. They can be left out where frames have them, and
                where those of the graph are row numbers, which go on.
            known_features: The features ``[num_items, d_m]`` of the items of the graph, as they were read. They are
                needed only where the graph does not know what became of its features, as when a transform of your own
                made them. (default: :obj:`None`, those of ``data``)
            transformed: Whether ``features`` (and ``known_features``) are transformed already, as those of ``data``.
                (default: :obj:`False`)

        Raises:
            InputError: If a modality is unknown, a matrix has a wrong shape or is not finite, or ids do not fit.
        """
        known, new, item_ids = stack_features(self.data, features, known_features, transformed, item_ids)
        warm = torch.bincount(self.data[RATES].edge_index[1].cpu(), minlength=known.size(0)) > 0
        if int(warm.sum()) < 2:
            raise InputError(
                f"new items: found {int(warm.sum())} items with a training interaction, expected at least 2"
            )
        table = self.embeddings.item
        warm = warm.nonzero().view(-1).to(table.device)
        predict = Ridge(known.to(table.device)[warm], table[warm])
        out = copy.copy(self)
        out.items = self.items.extended(item_ids, new.size(0))
        out.embeddings = Embeddings(self.embeddings.user, torch.cat([table, predict(new.to(table.device))]))
        return out

    def with_new_users(self, histories: Sequence[Any], user_ids: Any = None) -> Recommender:
        r"""Return a recommender that also has users who were not there in training, from the items they have met.

        A user's embedding is a linear function of the mean embedding of these items, learnt by
        :class:`~pyg_ckd.serving.fold_in.Ridge` from the users with a training interaction. What new users have met
        counts as seen.

        Args:
            histories: For every new user, the ids of at least one item, those of added items among them.
            user_ids: Their ids, of the type of those of the graph. Only where these are row numbers, they can be left
                out and the numbers go on.

        Raises:
            InputError: If an item is unknown, a history is empty, or ids do not fit.
        """
        met = [self.items.rows(history).unique() for history in histories]
        for n, items in enumerate(met):
            if not items.numel():
                raise InputError(f"new users: history {n} is empty, expected at least one item")
        if not met:
            raise InputError("new users: found no history, expected one for every new user")
        row = torch.repeat_interleave(torch.arange(len(met)), torch.tensor([items.numel() for items in met]))
        out = self._extended(row, torch.cat(met), len(met))
        out.users = self.users.extended(user_ids, len(met))
        out.seen = self.seen.extended(row, torch.cat(met), len(met))
        return out

    def export_top_k(self, path: str | os.PathLike[str], k: int = 20, **options: Any) -> Path:
        """Write recommendations to a file, see :func:`~pyg_ckd.serving.export.export_top_k`."""
        from pyg_ckd.serving.export import export_top_k

        return export_top_k(self, path, k, **options)

    def export_embeddings(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write the two tables to files, see :func:`~pyg_ckd.serving.export.export_embeddings`."""
        from pyg_ckd.serving.export import export_embeddings

        return export_embeddings(self, path)

    def catalogue(self, candidates: Any = None) -> Catalogue:
        """Prepare the items to choose from.

        Args:
            candidates: Their ids; repetitions count once. (default: :obj:`None`, all items)

        Raises:
            InputError: If an id is unknown or there is none.
        """
        if candidates is None:
            return Catalogue(self.embeddings.item)
        rows = self.items.rows(candidates).unique()
        if not rows.numel():
            raise InputError("candidates: found none, expected at least one item; leave them out for all items")
        position = torch.full((len(self.items),), -1)
        position[rows] = torch.arange(rows.numel())
        return Catalogue(self.embeddings.item[rows.to(self.embeddings.item.device)], rows, position)

    def check_k(self, k: int, catalogue: Catalogue) -> int:
        """Return ``k``.

        Raises:
            InputError: If it is no integer from 1 to the number of candidates.
        """
        return _check_k(k, catalogue.table.size(0), "items" if catalogue.rows is None else "candidates")

    def rank(self, users: Tensor, k: int, exclude_seen: bool, catalogue: Catalogue) -> tuple[Tensor, Tensor]:
        """Return scores and item rows of the best items, ``[n, k]``, ``-inf`` and -1 in empty slots, on the CPU.

        Args:
            users: Rows of users, int64 ``[n]`` on the CPU.
            k: Items per user, checked.
            exclude_seen: Whether items that a user has met are left out.
            catalogue: The items to choose from.
        """

        def met(start: int, stop: int) -> tuple[Tensor, Tensor]:
            position, item = self.seen.of(users[start:stop])
            if catalogue.position is not None:
                item = catalogue.position[item]
                position, item = position[item >= 0], item[item >= 0]
            return position, item

        scores, items = self._search(users, k, met if exclude_seen else None, catalogue)
        if catalogue.rows is not None:
            items = torch.where(items >= 0, catalogue.rows[items], -1)
        return scores, items

    def nothing_left(self, users: Tensor, catalogue: Catalogue) -> InputError:
        """Return the error for users who have met every candidate.

        Args:
            users: Their rows.
            catalogue: The candidates.
        """
        first = self.users.take(users[:1].numpy()).tolist()[0]
        who = f"user {first!r} has" if users.numel() == 1 else f"all {users.numel()} users, {first!r} first, have"
        kind = "items" if catalogue.rows is None else "candidates"
        return InputError(
            f"recommend: {who} seen every one of the {catalogue.table.size(0)} {kind}, expected one that is left; "
            "give more candidates or exclude_seen=False"
        )

    def _search(self, users: Tensor, k: int, masked: Masked | None, catalogue: Catalogue) -> tuple[Tensor, Tensor]:
        query = self.embeddings.user[users.to(self.embeddings.user.device)]
        return search(query, catalogue.table, k, masked)

    def _similar(self, rows: Tensor, k: int, masked: Masked) -> tuple[Tensor, Tensor]:
        table = F.normalize(self.embeddings.item, dim=1)
        return search(table[rows.to(table.device)], table, k, masked)

    def _extended(self, row: Tensor, item: Tensor, count: int) -> Recommender:
        """Return a copy that can score new users, who have met ``item`` each in ``row``."""
        out, (user_table, item_table) = copy.copy(self), self.embeddings
        out._user_map = predict = self._user_map or self._fit_users()
        device = item_table.device
        new = predict(mean_of(item_table, row.to(device), item.to(device), count))
        out.embeddings = Embeddings(torch.cat([user_table, new]), item_table)
        return out

    def _fit_users(self) -> Ridge:
        user, item = self.data[RATES].edge_index.to(self.embeddings.item.device)
        warm, row = user.unique(return_inverse=True)
        if warm.numel() < 2:
            raise InputError(f"new users: found {warm.numel()} users with a training interaction, expected 2 or more")
        return Ridge(mean_of(self.embeddings.item, row, item, warm.numel()), self.embeddings.user[warm])


def _check_k(k: Any, limit: int, kind: str) -> int:
    try:
        number = as_integer(k, "k")
    except InputError:
        number = 0
    if not 1 <= number <= limit:
        raise InputError(f"k: found {k!r}, expected 1 to {limit}, the number of {kind}")
    return number


def _scores(tables: Embeddings, users: Tensor, items: Tensor) -> Tensor:
    """Return the scores of pairs in float64 on the CPU, ``[n]``."""
    user, item = tables.user[users.to(tables.user.device)], tables.item[items.to(tables.item.device)]
    return (user.double() * item.double()).sum(dim=1).cpu()
