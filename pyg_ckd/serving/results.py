"""What serving returns: plain arrays, and the same as data frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pyg_ckd.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Recommendations:
    """Ranked items, best first.

    Attributes:
        users: The ids asked for ``[n]``; of :meth:`Recommender.similar_items`, ids of items.
        items: The ids of their items ``[n, k]``, int64, or strings as objects. An empty slot, at the end of the list of
            a user who has fewer candidates than ``k``, holds -1 or, among strings, :obj:`None`.
        scores: The scores ``[n, k]``; ``-inf`` in empty slots.
        query: What ``users`` holds, ``"user"`` or ``"item"``.
        fallback: Which users are unknown, or were without training interactions, and have the items with most
            interactions, whose numbers are the scores, bool ``[n]``; :obj:`None` if none is.
    """

    users: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    query: str = "user"
    fallback: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    @property
    def sources(self) -> np.ndarray:
        """Where the list of each user is from, ``"model"`` or ``"popularity"``, texts ``[n]``."""
        return source_of(np.ones(len(self), dtype=bool) if self.fallback is None else ~self.fallback)

    def with_fallback(self, fallback: np.ndarray) -> Recommendations:
        """Return the same lists with a mark on those by popularity."""
        return replace(self, fallback=fallback)

    def to_frame(self) -> pd.DataFrame:
        """Return a row per recommended item: ``user``, ``rank`` (from 1), ``item``, ``score``; no empty slots.

        Where there are lists by popularity, a column ``from`` says ``model`` or ``popularity``.
        For similar items, the first and the third column are ``item`` and ``similar``.
        """
        import pandas as pd

        names = ("user", "item") if self.query == "user" else ("item", "similar")
        row, rank = np.nonzero(self.scores > -np.inf)
        content = {names[0]: self.users[row], "rank": rank + 1, names[1]: self.items[row, rank]}
        content["score"] = self.scores[row, rank]
        if self.fallback is not None:
            content["from"] = self.sources[row]
        return pd.DataFrame(content)


class NothingLeft(InputError):
    """The error where nobody who was asked for has an item left.

    Args:
        message: The message.
        lists: Their lists, all slots of which are empty, for who would rather have them.
    """

    def __init__(self, message: str, lists: Recommendations) -> None:
        super().__init__(message)
        self.lists = lists


def source_of(learnt: np.ndarray) -> np.ndarray:
    """Return where lists are from: ``model``, or ``popularity``.

    Args:
        learnt: Which lists are from the model, bool ``[n]``.
    """
    return np.where(learnt, "model", "popularity")


@dataclass(frozen=True)
class Explanation:
    """What scores are made of.

    Attributes:
        users: Ids of the users ``[n]``.
        items: Ids of the items ``[n]``.
        names: ``"id"`` and the modalities.
        shares: The part of each name in the score, float64 ``[n, 1 + M]``; a row sums to the score.
        scores: The scores, float64 ``[n]``.
    """

    users: np.ndarray
    items: np.ndarray
    names: tuple[str, ...]
    shares: np.ndarray
    scores: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        """Return a row per pair: ``user``, ``item``, ``score`` and a column for each share."""
        import pandas as pd

        content = {"user": self.users, "item": self.items, "score": self.scores}
        return pd.DataFrame(content | {f"share_{name}": self.shares[:, n] for n, name in enumerate(self.names)})
