"""Ranked lists from two tables of embeddings, the ids of their rows and what users have met."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integer, as_names, shown
from pyg_ckd.data.checks import SPLITS
from pyg_ckd.data.inputs import RATES, as_table, as_tables, check_graph, check_whole, held_out
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.finite import all_finite
from pyg_ckd.scoring.neighbourhood import Scorer
from pyg_ckd.scoring.tables import HALF
from pyg_ckd.serving.catalogue import Catalogue, Where, catalogue, item_columns
from pyg_ckd.serving.diversity import list_similarity, mmr, pool_size, shared_items
from pyg_ckd.serving.ids import Ids
from pyg_ckd.serving.popular import by_popularity
from pyg_ckd.serving.results import NothingLeft, Recommendations
from pyg_ckd.serving.search import Masked, SeenItems, search
from pyg_ckd.training.earlier import trained_on
from pyg_ckd.training.model import learns_users

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = ("error", "popular")


class RankedLists:
    """Base of :class:`~pyg_ckd.serving.Recommender`: lists of items for users and of similar items.

    Args:
        embeddings: As in :class:`~pyg_ckd.serving.Recommender`.
        data: The graph.
        seen: Splits whose interactions count as seen.
        columns: What is known of items in columns.

    Attributes:
        embeddings: The two tables.
        users: Ids of users.
        items: Ids of items.
        seen: What users have met.
        history: What users had met in training, which embeddings rest on.
        untrained: Which users had met nothing in training, so that nothing was learnt of them, bool ``[users]``; nobody
            where nobody knows what users are made of: in tables and in modules of one's own.
        columns: What is known of items, a row for each; or :obj:`None`.
        data: The graph; :obj:`None` if a saved recommender was opened.
        model: The model; :obj:`None` if there are tables only.
        notes: What was done about users and items that the model does not know, a sentence each.
    """

    def __init__(
        self,
        embeddings: Embeddings | tuple[Tensor, Tensor] | nn.Module,
        data: HeteroData,
        seen: Sequence[str] = tuple(SPLITS),
        columns: pd.DataFrame | None = None,
    ) -> None:
        check_graph(data)
        if isinstance(embeddings, Scorer) and not isinstance(embeddings, nn.Module):
            raise InputError("recommender: found weights between items, expected tables; use NeighbourhoodRecommender")
        self.model = embeddings if isinstance(embeddings, nn.Module) else None
        tables = as_tables(embeddings, data)
        user, item = (x.float() if x.dtype in HALF else x for x in _kept(embeddings, tables))
        self.embeddings = Embeddings(user, item)
        self.data: HeteroData | None = data
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
            if not all_finite(table):
                raise InputError(f"{kind} embeddings: found NaN or infinite values, expected finite numbers")
        if any(getattr(data, f"{kind}_id", None) is not None for kind in ("user", "item")):
            check_whole(data, with_ids=True)  # They would be those of other rows.
        self.users = Ids("user", getattr(data, "user_id", None), data["user"].num_nodes)
        self.items = Ids("item", getattr(data, "item_id", None), data["item"].num_nodes)
        none = torch.empty(2, 0, dtype=torch.int64)
        known = torch.cat([none, *(held_out(data, split).cpu() for split in as_names(seen, "seen"))], dim=1)
        self.seen = SeenItems(known, len(self.users))
        self.history = SeenItems(data[RATES].edge_index, len(self.users))
        self.columns = item_columns(columns, self.items)
        self.trained = (len(self.users), len(self.items))  # The rows that are not of newcomers.
        self.untrained = self.without_lesson(without_pairs(self.history.ptr))
        self.notes: tuple[str, ...] = ()

    def without_lesson(self, idle: Tensor) -> Tensor:
        """Return of which users neither the model nor those that it began from have learnt anything, bool ``[users]``.

        Args:
            idle: Who has met nothing in training, bool ``[users]``.
        """
        if self.model is None or not learns_users(self.model):
            return torch.zeros_like(idle)
        carried = trained_on(self.model).carried
        return idle & ~carried if carried is not None and carried.numel() == idle.numel() else idle

    def recommend(
        self,
        user_ids: Any = None,
        k: int = 20,
        exclude_seen: bool = True,
        candidates: Any = None,
        exclude: Any = None,
        where: Where | None = None,
        diversity: float = 0.0,
        unknown: str = "error",
    ) -> Recommendations:
        r"""Return the best ``k`` items of every user.

        Args:
            user_ids: One id or many. (default: :obj:`None`, all users)
            k: Items per user, from 1 to the number of candidates.
            exclude_seen: Whether items that a user has met are left out. Where fewer than ``k`` remain, the list ends
                with empty slots.
            candidates: Ids of the items to choose from, such as those in stock; or a mapping from ids of known users to
                such ids, in which a user who is not there has no candidate, unknown ones included. (default:
                :obj:`None`, all items)
            exclude: Ids of items that are never recommended; or a mapping from ids of known users to such ids.
                (default: :obj:`None`, none)
            where: Which items to choose from by their columns: from the name of a column to a value, a list of values,
                or a function of the column that returns a mask, such as ``{"price": lambda x: x < 20}``.
            diversity: How different the items of a list should be, from 0 to 1, see
                :func:`~pyg_ckd.serving.diversity.mmr`; :meth:`trade_off` shows its cost.
            unknown: What unknown users get: ``"error"``, or ``"popular"``, the items with most interactions; then a
                warning says how many, and :attr:`Recommendations.fallback` which. Users of the graph without training
                interactions, of whom a model has learnt nothing, get popular items as well, or with ``"error"`` the
                lists of the model and a warning.

        Raises:
            InputError: If an id or a column is unknown, a number is out of range, or nothing is left to recommend to
                any of the users because they have met every candidate.
        """
        asked, users = self.find_users(user_ids, unknown)
        chosen = self.catalogue(candidates, exclude, where, diversity)
        k = self.check_k(k, chosen)
        learnt = self.by_model(users, unknown)
        scores, items = self.rank(users[learnt], k, exclude_seen, chosen)
        if not bool(learnt.all()):
            scores, items = self.with_popular(users, learnt, scores, items, k, exclude_seen, chosen)
        lists = Recommendations(asked, self.items.take(items.numpy()), scores.numpy())
        lists = lists if bool(learnt.all()) else lists.with_fallback((~learnt).numpy())
        if users.numel() and not bool((items >= 0).any()):
            raise NothingLeft(str(self.nothing_left(users, chosen)), lists)
        return lists

    def similar_items(self, item_ids: Any = None, k: int = 20) -> Recommendations:
        """Return the ``k`` items whose embeddings have the largest cosine with that of each item, itself left out.

        Args:
            item_ids: One id or many. (default: :obj:`None`, all items)
            k: Similar items per item, from 1 to the number of items less one.

        Raises:
            InputError: If an id is unknown or ``k`` is out of range.

        Warns:
            UserWarning: If lists rest on weights between items, and an item has none.
        """
        rows, k = self.items.rows(item_ids), _check_k(k, len(self.items) - 1, "other items")

        def itself(start: int, stop: int) -> tuple[Tensor, Tensor]:
            return torch.arange(stop - start), rows[start:stop]

        scores, items = self._similar(rows, k, itself)
        return Recommendations(self.items.take(rows.numpy()), self.items.take(items.numpy()), scores.numpy(), "item")

    def trade_off(
        self,
        k: int = 20,
        diversity: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7),
        user_ids: Any = None,
        exclude_seen: bool = True,
        candidates: Any = None,
        exclude: Any = None,
        where: Where | None = None,
    ) -> pd.DataFrame:
        """Return what more diverse lists cost: a row per value of ``diversity``.

        Args:
            k: Items per user, at least 2.
            diversity: The values to try, at least one.
            user_ids: One id or many. (default: :obj:`None`, all users)
            exclude_seen, candidates, exclude, where: As in :meth:`recommend`.

        Returns:
            ``relevance``, the sum of a list's scores as a share of that of the best list, where scores are counted from
            the lowest one of the pool that lists are chosen from; ``similarity``, the mean cosine of the pairs of a
            list; and ``kept``, the share of the items of the best list that are still there: means over users who
            have a list.

        Raises:
            InputError: As :meth:`recommend`, and if ``diversity`` is no list of numbers.
        """
        import pandas as pd

        values = diversity.tolist() if isinstance(diversity, (np.ndarray, Tensor)) else diversity
        if not isinstance(values, Iterable) or isinstance(values, (str, bytes)) or not (values := list(values)):
            raise InputError(f"diversity: found {shown(values)}, expected the values to try, such as [0.0, 0.2, 0.5]")
        users = self.users.rows(user_ids)
        rows = []
        plain = self.catalogue(candidates, exclude, where)
        k = _check_k(k, plain.table.size(0), "items")
        if k < 2:
            raise InputError(f"k: found {k}, expected at least 2: a list of one item has no pairs to compare")
        low = _lowest(self.rank(users, pool_size(k, plain.table.size(0)), exclude_seen, plain)[0])
        best = self.rank(users, k, exclude_seen, plain)
        filled = (best[1] >= 0).sum(dim=1)
        if users.numel() and not bool((filled > 0).any()):
            raise self.nothing_left(users, plain)
        for value in values:
            chosen = self.catalogue(candidates, exclude, where, value)
            scores, items = self.rank(users, k, exclude_seen, chosen)
            worth, most = ((x - low).clamp(min=0).masked_fill(x == -torch.inf, 0).sum(dim=1) for x in (scores, best[0]))
            share = torch.where(most > 0, worth / torch.where(most > 0, most, 1), 1)  # Equal scores: all are best.
            kept = shared_items(items, best[1])
            rows.append(
                {
                    "diversity": float(value),
                    "relevance": float(share[filled > 0].double().mean()),
                    "similarity": float(list_similarity(items, self.embeddings.item).double().nanmean()),
                    "kept": float((kept / filled)[filled > 0].double().mean()),
                }
            )
        return pd.DataFrame(rows).set_index("diversity")

    def catalogue(
        self, candidates: Any = None, exclude: Any = None, where: Where | None = None, diversity: float = 0.0
    ) -> Catalogue:
        """Prepare the items to choose from; arguments are those of :meth:`recommend`.

        Raises:
            InputError: If an id or a column is unknown, or nothing is left to choose from.
        """
        return catalogue(
            self.embeddings.item, self.users, self.items, self.columns, candidates, exclude, where, diversity
        )

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

        Raises:
            InputError: If ``exclude_seen`` is no truth value.
        """
        masked, among = self._masks(users, exclude_seen, catalogue)
        size = pool_size(k, catalogue.table.size(0)) if catalogue.diversity else k
        scores, items = self._search(users, size, masked, catalogue, among)
        if catalogue.diversity:
            scores, items = mmr(scores, items, self._alike(catalogue), k, catalogue.diversity)
        if catalogue.rows is not None:
            items = torch.where(items >= 0, catalogue.rows[items], -1)
        return scores, items

    def _masks(self, users: Tensor, exclude_seen: bool, catalogue: Catalogue) -> tuple[Masked | None, Masked | None]:
        """Return which pairs of users and candidates must not be found, and which alone may be."""
        check_flag(exclude_seen, "exclude_seen")
        without = [self.seen] if exclude_seen else []
        without += [] if catalogue.exclude is None else [catalogue.exclude]

        def of(parts: Sequence[SeenItems]) -> Masked:
            def pairs(start: int, stop: int) -> tuple[Tensor, Tensor]:
                found = [part.of(users[start:stop]) for part in parts]
                row, item = (torch.cat(one) for one in zip(*found, strict=True))
                return catalogue.inside(row, item)

            return pairs

        return of(without) if without else None, None if catalogue.among is None else of([catalogue.among])

    def nothing_left(self, users: Tensor, catalogue: Catalogue) -> InputError:
        """Return the error for users who have met every candidate.

        Args:
            users: Their rows.
            catalogue: The candidates.
        """
        known = users[users >= 0]
        first = repr(self.users.take(known[:1].numpy()).tolist()[0]) if known.numel() else "unknown"
        one = f"user {first} has" if known.numel() else "the unknown user has"
        who = one if users.numel() == 1 else f"all {users.numel()} users, {first} first, have"
        kind = "items" if catalogue.rows is None else "candidates"
        found = "seen every one of" if catalogue.among is None and catalogue.exclude is None else "nothing left among"
        return InputError(
            f"recommend: {who} {found} the {catalogue.table.size(0)} {kind}, expected one that is left; "
            "give more candidates or exclude_seen=False"
        )

    def find_users(self, user_ids: Any = None, unknown: str = "error") -> tuple[np.ndarray, Tensor]:
        """Return the ids that were asked for ``[n]``, and their rows, int64 ``[n]``, -1 for unknown users.

        Args:
            user_ids, unknown: As in :meth:`recommend`.

        Raises:
            InputError: If a user is unknown and ``unknown`` is ``"error"``, or ``unknown`` is neither way.

        Warns:
            UserWarning: If a user is unknown and gets popular items, nothing was learnt of one, or nothing that one has
                met says anything about other items.
        """
        if unknown not in UNKNOWN:
            raise unknown_name("way with unknown users", unknown, UNKNOWN)
        if unknown == "error" or user_ids is None:
            users = self.users.rows(user_ids)
            asked = self.users.take(users.numpy())
        else:
            asked, users = self.users.find(user_ids)
        new, idle = (np.flatnonzero(found.numpy()) for found in (users < 0, self._is_idle(users)))
        popular = "they get the items with most interactions"
        if new.size:
            first, verb = asked[new[:1]].tolist()[0], "is" if new.size == 1 else "are"
            text = f"recommend: {new.size} of {users.numel()} users {verb} unknown (first: {first!r}); {popular}"
            warnings.warn(text, stacklevel=4)
        if idle.size:
            first, verb = asked[idle[:1]].tolist()[0], "has" if idle.size == 1 else "have"
            by_count = unknown == "popular" or self.idle_by_popularity
            what = popular if by_count else "unknown='popular' gives them popular items"
            warnings.warn(
                f"recommend: {idle.size} of {users.numel()} users {verb} no training interactions (first: {first!r}), "
                f"and nothing was learnt of them; {what}",
                stacklevel=4,
            )
        lost = np.flatnonzero(self.hears_nothing(users).numpy())
        if lost.size:
            first, verb = asked[lost[:1]].tolist()[0], "has" if lost.size == 1 else "have"
            warnings.warn(
                f"recommend: {lost.size} of {users.numel()} users {verb} met only items without weights (first: "
                f"{first!r}), which say nothing about other items; the order of their lists means nothing",
                stacklevel=4,
            )
        return asked, users

    def by_model(self, users: Tensor, unknown: str) -> Tensor:
        """Return whose lists come from the model, bool ``[n]``; those of others are by popularity.

        Args:
            users: What :meth:`find_users` returned.
            unknown: As in :meth:`recommend`.
        """
        return (users >= 0) & ~self._is_idle(users) if unknown == "popular" else users >= 0

    def hears_nothing(self, users: Tensor) -> Tensor:
        """Return who has met items, but none that says anything about others, bool ``[n]``; nobody where tables rank.

        Args:
            users: Rows of users, -1 of unknown ones, int64 ``[n]``.
        """
        return torch.zeros_like(users, dtype=torch.bool)

    @property
    def idle_by_popularity(self) -> bool:
        """Whether the lists of the model itself are by popularity for users of whom nothing was learnt."""
        return False

    def _is_idle(self, users: Tensor) -> Tensor:
        """Return which users are known and have an embedding that nothing has taught, bool ``[n]``."""
        if not len(self.users):
            return users >= 0
        row = users.clamp(min=0)
        unlearnt = row >= self.trained[0]
        if self.untrained.numel():  # A look-up for the users that are asked for, not a table of all.
            unlearnt = unlearnt | self.untrained[row.clamp(max=self.untrained.numel() - 1)]
        return (users >= 0) & unlearnt & (self.history.ptr[row] == self.history.ptr[row + 1])

    def with_popular(
        self,
        users: Tensor,
        learnt: Tensor,
        scores: Tensor,
        items: Tensor,
        k: int,
        exclude_seen: bool,
        catalogue: Catalogue,
    ) -> tuple[Tensor, Tensor]:
        """Return the lists of all who were asked for ``[n, k]``, of some by the number of interactions.

        Args:
            users: Rows of all, -1 of unknown ones, int64 ``[n]``.
            learnt: Who has a list from the model, bool ``[n]``.
            scores, items: The lists of those, ``[m, k]``.
            k: Items per user, checked.
            exclude_seen: Whether items that a user has met are left out.
            catalogue: The items to choose from.
        """
        count = torch.bincount(self.history.item, minlength=len(self.items))
        rest = users[~learnt]
        masks = self._masks(rest[rest >= 0], exclude_seen, catalogue)
        popular = by_popularity(count, rest < 0, k, catalogue, *masks)
        out = scores.new_empty(users.numel(), k), items.new_empty(users.numel(), k)
        for table, mine, theirs in zip(out, (scores, items), popular, strict=True):
            table[learnt], table[~learnt] = mine, theirs.to(table.dtype)
        return out

    def _search(
        self, users: Tensor, k: int, masked: Masked | None, catalogue: Catalogue, among: Masked | None = None
    ) -> tuple[Tensor, Tensor]:
        query = self.embeddings.user[users.to(self.embeddings.user.device)]
        return search(query, catalogue.table, k, masked, among=among)

    def _similar(self, rows: Tensor, k: int, masked: Masked) -> tuple[Tensor, Tensor]:
        table = F.normalize(self.embeddings.item, dim=1)
        return search(table[rows.to(table.device)], table, k, masked)

    def _alike(self, catalogue: Catalogue) -> Tensor:
        """Return the table whose cosines say which items are alike."""
        return catalogue.table


def _kept(given: Any, tables: Embeddings) -> list[Tensor]:
    """Return the two tables, copied where they lie in memory of the model or of the caller, who may change them."""
    if isinstance(given, nn.Module):
        theirs: list[Tensor] = [*given.parameters(), *given.buffers()]
    else:
        theirs = [as_table(x) for x in given] if isinstance(given, (tuple, list)) else [*tables]
    shared = {x.untyped_storage().data_ptr() for x in theirs if x.layout == torch.strided}
    own = (x.detach() for x in (tables.user, tables.item))
    return [x.clone() if x.untyped_storage().data_ptr() in shared else x for x in own]


def without_pairs(ptr: Tensor) -> Tensor:
    """Return which rows have no pair, bool ``[n]``.

    Args:
        ptr: Where the pairs of every row begin, int64 ``[n + 1]``.
    """
    return ptr.diff() == 0


def _lowest(scores: Tensor) -> Tensor:
    """Return the lowest score of every list, ``[n, 1]``."""
    return scores.masked_fill(scores == -torch.inf, torch.inf).amin(dim=1, keepdim=True)


def check_flag(value: Any, name: str) -> None:
    """Refuse what is no truth value, such as the text ``"false"``, which would count as true.

    Args:
        value: The value.
        name: What it is, for the message.

    Raises:
        InputError: If it is anything but :obj:`True` or :obj:`False`.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name}: found {shown(value)} ({type(value).__name__}), expected True or False")


def _check_k(k: Any, limit: int, kind: str) -> int:
    try:
        number = as_integer(k, "k")
    except InputError:
        number = 0
    if not 1 <= number <= limit:
        raise InputError(f"k: found {k!r}, expected 1 to {limit}, the number of {kind}")
    return number
