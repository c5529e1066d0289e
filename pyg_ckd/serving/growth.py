"""Users and items that come after training, and what known users have met since."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.data.checks import SPLITS
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.serving.catalogue import at_rows, item_columns, pairs_by_user
from pyg_ckd.serving.fold_in import Ridge, RidgeUsers, mean_of, stack_features
from pyg_ckd.serving.lists import RankedLists, without_pairs
from pyg_ckd.serving.search import distinct_pairs
from pyg_ckd.training.model import user_function

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Self

STAY_UNKNOWN = "new users without training interactions stay unknown"
POPULAR = "recommend(..., unknown='popular')"
"""What a note of them begins with, and what it says that serves them."""
UserMap = Callable[[Tensor, Tensor, Tensor, int], Tensor]


class Waiting(NamedTuple):
    """New users of a graph without training interactions.

    Attributes:
        ids: Their ids.
        seen: What counts as seen of them, numbers among them and rows of items, int64 ``[2, E]``.
    """

    ids: Any
    seen: Tensor


class GrowingLists(RankedLists):
    """Base of :class:`~pyg_ckd.serving.Recommender`: newcomers without training.

    Args:
        embeddings, data, seen, columns: As in :class:`~pyg_ckd.serving.Recommender`.

    Attributes:
        waiting: New users of the graph who stay unknown, as they have no training interactions; or :obj:`None`.
    """

    waiting: Waiting | None = None

    def __init__(
        self,
        embeddings: Embeddings | tuple[Tensor, Tensor] | nn.Module,
        data: HeteroData,
        seen: Sequence[str] = tuple(SPLITS),
        columns: pd.DataFrame | None = None,
    ) -> None:
        super().__init__(embeddings, data, seen, columns)
        exact = user_function(self.model)
        self.exact_users = None if exact is None else exact[0]  # The class that says how users follow from items.
        self._user_map: UserMap | None = None if exact is None else exact[1]
        if exact is not None:  # Whoever has met nothing is nobody in particular, whatever an earlier model knew.
            self.untrained = without_pairs(self.history.ptr)

    def with_new_items(
        self,
        features: Mapping[str, Any],
        item_ids: Any = None,
        known_features: Mapping[str, Any] | None = None,
        transformed: bool = False,
    ) -> Self:
        r"""Return a recommender that also has items which were not there in training, from their features alone.

        An item's embedding is a linear function of the standardised features of all modalities side by side, learnt by
        :class:`~pyg_ckd.serving.fold_in.Ridge` from the embeddings of the items with a training interaction; where the
        model adds linear maps of features, it finds them again. A value far outside of those of the graph counts as the
        farthest known one, and no new row is longer than the longest known one.

        Args:
            features: The features ``[n, d_m]`` of the new items by modality, as they are read, or frames indexed by
                item id; they are transformed as those of the graph were. One that is left out is imputed as there.
                Where the graph was built from a frame whose columns have names, those of a frame may be in any order.
            item_ids: Their ids, of the type of those of the graph. They can be left out where frames have them, and
                where those of the graph are row numbers, which go on.
            known_features: The features ``[num_items, d_m]`` of the items of the graph, as they were read. They are
                needed only where the graph does not know what became of its features, as when a transform of your own
                made them. (default: :obj:`None`, those of ``data``)
            transformed: Whether ``features`` (and ``known_features``) are transformed already, as those of ``data``.
                (default: :obj:`False`)

        Raises:
            InputError: If a modality is unknown, a matrix has a wrong shape or is not finite, columns of a frame have
                other names than before, ids do not fit, or there is no graph.

        Warns:
            UserWarning: If a value lies more than three times farther from the mean of its column than any known one.
        """
        if self.data is None:
            raise InputError(
                "new items: found a saved recommender without the features of its items, expected the graph; take "
                "Recommender.load(model, data)"
            )
        known, new, item_ids = stack_features(self.data, features, known_features, transformed, item_ids)
        item = self._trained_pairs()[1]
        warm = torch.bincount(item, minlength=known.size(0)) > 0
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
        if self.columns is not None:
            out.columns = at_rows(self.columns, range(len(out.items)))
        return out

    def with_columns(self, columns: pd.DataFrame | None) -> Self:
        """Return a recommender with other columns of items, for ``where`` of :meth:`recommend`.

        Args:
            columns: A frame with a row for every item, by id: its index or a column ``item`` or ``item_id``.

        Raises:
            InputError: If it is no frame, or an id is there twice.
        """
        out = copy.copy(self)
        out.columns = item_columns(columns, self.items)
        return out

    def with_new_users(self, histories: Sequence[Any], user_ids: Any = None) -> Self:
        r"""Return a recommender that also has users who were not there in training, from the items they have met.

        Where users of the model are a function of their items, as in :class:`~pyg_ckd.nn.FISM`, it is that function.
        Else a user's embedding is a linear function of the mean embedding of these items, learnt by
        :class:`~pyg_ckd.serving.fold_in.Ridge` from the users with a training interaction. What new users have met
        counts as seen.

        Args:
            histories: For every new user, the ids of at least one item, those of added items among them.
            user_ids: Their ids, of the type of those of the graph. Only where these are row numbers, they can be left
                out and the numbers go on.

        Raises:
            InputError: If an item is unknown, histories are no list of lists, one is empty, or ids do not fit.
        """
        met = _histories(histories)
        pairs = torch.stack(self.items.rows_of_each(met, lambda place: f"new users: history {place}"))
        empty = (torch.bincount(pairs[0], minlength=len(met)) == 0).nonzero().view(-1)
        if empty.numel():
            raise InputError(f"new users: history {int(empty[0])} is empty, expected at least one item")
        if not met:
            raise InputError("new users: found no history, expected one for every new user")
        row, item = distinct_pairs(pairs)
        return self._with_users(row, item, len(met), user_ids)

    def with_idle_users(self) -> Self:
        """Return a recommender that knows the new users of the graph without training interactions as well.

        Nothing was learnt of them: with ``unknown="popular"`` they get popular items, without those that they have met
        in other splits; else they get the first items, and a warning. Without such users nothing changes.
        """
        if self.waiting is None:
            return self
        out, count, (user, item) = copy.copy(self), len(self.waiting.ids), self.embeddings
        none, first = torch.empty(0, dtype=torch.int64), len(self.users)
        out.users = self.users.extended(self.waiting.ids, count)
        out.embeddings = Embeddings(torch.cat([user, user.new_zeros(count, user.size(1))]), item)
        out.history = self.history.extended(none, none, count)
        later = self.waiting.seen + torch.tensor([[first], [0]])
        out.seen, out.waiting = self.seen.extended(none, none, count).with_pairs(later), None
        out.notes = tuple(note for note in self.notes if not note.startswith(STAY_UNKNOWN))
        return out

    def with_seen(self, clicks: Mapping[Any, Any] | pd.DataFrame) -> Self:
        """Return a recommender in which known users have met further items since training.

        These items count as seen. Where users of the model are a function of their items, as in
        :class:`~pyg_ckd.nn.FISM`, the users' embeddings follow; else these stay as they are, but those of users without
        training interactions come from their items, as in :meth:`with_new_users`.

        Args:
            clicks: From user id to the ids of the items (:obj:`None` means none), or a frame with the columns ``user``
                and ``item`` (or ``user_id`` and ``item_id``).

        Raises:
            InputError: If a user or an item is unknown; new ones come with :meth:`with_new_users` and
                :meth:`with_new_items`.
        """
        return self._with_clicks(self._pairs(clicks))

    def _pairs(self, clicks: Mapping[Any, Any] | pd.DataFrame) -> Tensor:
        """Return rows of users and items, int64 ``[2, E]``."""
        if isinstance(clicks, Mapping):
            return pairs_by_user(clicks, self.users, self.items, "clicks")
        columns = getattr(clicks, "columns", ())
        found = [next((n for n in (kind, f"{kind}_id") if n in columns), None) for kind in ("user", "item")]
        if None in found:
            raise InputError(
                f"clicks: found {type(clicks).__name__} with columns {', '.join(map(str, columns)) or 'none'}, "
                "expected a mapping from user id to item ids, or a frame with the columns user and item"
            )
        user, item = (clicks[name].to_numpy() for name in found)
        return torch.stack([self.users.rows(user), self.items.rows(item)])

    def _with_clicks(self, pairs: Tensor) -> Self:
        out = copy.copy(self)
        out.seen, out.history = self.seen.with_pairs(pairs), self.history.with_pairs(pairs)
        if self.exact_users is None and bool(self._is_trained(pairs).any()):
            out._user_map = None  # It is learnt from these.
        users = pairs[0].unique()
        return out._follow(users, users[self.history.ptr[users] == self.history.ptr[users + 1]])

    def learnt_from(self, interactions: Tensor) -> Self:
        """Return a recommender whose users were trained on other interactions than the graph has.

        Those who have met something only since then have learnt nothing from it. They get embeddings from what they
        have met, as new users do.

        Args:
            interactions: Those of the training, int64 ``[2, E]``.
        """
        if self.exact_users is not None:
            return self
        out = copy.copy(self)
        count = torch.bincount(interactions[0].long().cpu(), minlength=self.trained[0])
        out.untrained = self.without_lesson(count == 0)
        return out._follow(torch.arange(self.trained[0]))

    def _follow(self, users: Tensor, begun: Tensor | None = None) -> Self:
        """Return a copy in which embeddings of users follow from what they have met, where they do or were not learnt.

        Args:
            users: Rows of users, int64 ``[n]``, each once.
            begun: Rows of those who had met nothing before. (default: :obj:`None`, none)
        """
        out, table = copy.copy(self), self.embeddings.item
        if self.exact_users is None:
            known = users[users < self.trained[0]]
            late = users[:0] if begun is None else begun[begun >= self.trained[0]]
            users = torch.cat([known[self.untrained[known] & ~self._is_idle(known)], late])
            if not users.numel() or self._trained_pairs()[0].unique().numel() < 2:
                return out
        row, item = (index.to(table.device) for index in self.history.of(users))
        new = out.user_map()(table, row, item, users.numel())
        out.embeddings = Embeddings(self.embeddings.user.index_copy(0, users.to(table.device), new), table)
        return out

    def _with_users(self, row: Tensor, item: Tensor, count: int, user_ids: Any) -> Self:
        """Return a copy with new users, who have met ``item`` each in ``row``, sorted int64 ``[E]``."""
        out = self._extended(row, item, count)
        out.users = self.users.extended(user_ids, count)
        out.seen, out.history = self.seen.extended(row, item, count), self.history.extended(row, item, count)
        return out

    def _extended(self, row: Tensor, item: Tensor, count: int) -> Self:
        """Return a copy that can score new users, who have met ``item`` each in ``row``."""
        out, (user_table, item_table) = copy.copy(self), self.embeddings
        out._user_map = predict = self.user_map()
        device = item_table.device
        new = predict(item_table, row.to(device), item.to(device), count)
        out.embeddings = Embeddings(torch.cat([user_table, new]), item_table)
        return out

    def user_map(self) -> UserMap:
        """Return how the embeddings of users follow from those of what they have met, learnt once if need be.

        Raises:
            InputError: If there are too few users to learn it from.
        """
        if self._user_map is not None:
            return self._user_map
        user, item = (index.to(self.embeddings.item.device) for index in self._trained_pairs())
        warm, row = user.unique(return_inverse=True)
        if warm.numel() < 2:
            raise InputError(f"new users: found {warm.numel()} users with a training interaction, expected 2 or more")
        ridge = Ridge(mean_of(self.embeddings.item, row, item, warm.numel()), self.embeddings.user[warm])
        self._user_map = RidgeUsers(ridge)
        return self._user_map

    def load_more(self, state: Mapping[str, Any]) -> None:
        """Take what a subclass has beside tables from the state of a saved recommender; here nothing.

        Args:
            state: What it was saved as.
        """

    def _trained_pairs(self) -> Tensor:
        """Return the interactions of the items and the learnt users of the training, int64 ``[2, E]``."""
        pairs = self.history.pairs()
        return pairs[:, self._is_trained(pairs)]

    def _is_trained(self, pairs: Tensor) -> Tensor:
        """Return which interactions are of items and learnt users of the training, bool ``[E]``."""
        here = (pairs[0] < self.trained[0]) & (pairs[1] < self.trained[1])
        return here & ~self.untrained[pairs[0].clamp(max=self.trained[0] - 1)] if pairs.numel() else here


def _histories(given: Any) -> list[Any]:
    """Return the histories of new users.

    Args:
        given: As :meth:`GrowingLists.with_new_users` takes them.

    Raises:
        InputError: If they are anything but a sequence of sequences.
    """
    expected = "expected a list with the item ids of every user, such as [[1, 2], [5]]"
    if isinstance(given, Mapping):
        raise InputError(
            f"new users: found a {type(given).__name__}, {expected}; write with_new_users(list(histories.values()), "
            "user_ids=list(histories))"
        )
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes)) or hasattr(given, "columns"):
        mend = "; group a frame by user, as groupby('user')['item'].agg(list) does"
        raise InputError(f"new users: found {type(given).__name__}, {expected}{mend}")
    histories = list(given)
    for n, history in enumerate(histories):
        if not isinstance(history, Iterable) or isinstance(history, (str, bytes)) or getattr(history, "ndim", 1) == 0:
            raise InputError(
                f"new users: found {type(history).__name__} as history {n}, {expected}; a single user is [[1, 2]]"
            )
    return histories
