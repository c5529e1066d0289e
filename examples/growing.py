"""A shop that grows: days of clicks in which users and items arrive and tastes drift, with ids and features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.data import RecordedTransform, build_data

SHARES = {"visual": 0.55, "textual": 0.3, "acoustic": 0.15}
"""How much of a preference every modality decides."""


@dataclass(frozen=True)
class Shop:
    """Clicks and features.

    Attributes:
        clicks: Columns ``user``, ``item`` (ids, text) and ``day``, each pair once.
        features: From modality to a frame with a row for every item, indexed by its id.
        opened: From kind to the day on which every user or item arrives, indexed by id.
    """

    clicks: pd.DataFrame
    features: Mapping[str, pd.DataFrame]
    opened: Mapping[str, pd.Series]

    def until(self, kind: str, day: int) -> pd.Index:
        """Return the ids that are there on a day, sorted."""
        return self.opened[kind].index[self.opened[kind] <= day].sort_values()

    def of_days(self, first: int, last: int) -> pd.DataFrame:
        """Return the clicks from the first to the last day."""
        return self.clicks[self.clicks["day"].between(first, last)][["user", "item"]]


def grow(
    num_users: int = 500,
    num_items: int = 400,
    days: int = 8,
    clicks_a_day: int = 4,
    newcomers: float = 0.4,
    drift: float = 0.15,
    quiet: float = 0.0,
    seed: int = 0,
) -> Shop:
    """Draw a shop.

    A user's preference is a sum over modalities of products of latent factors, as in
    :func:`~pyg_ckd.datasets.synthetic_multimodal`, and every day moves by ``drift``. Users click on items that they
    have not clicked on before, and on those of the last two days more often.

    Args:
        num_users: Users at the end.
        num_items: Items at the end.
        days: Number of days.
        clicks_a_day: Clicks of a user on a day on which the user comes, at most half of the items.
        newcomers: Share of users and items that arrive after the first day, evenly over the days.
        drift: How far tastes move on a day.
        quiet: Share of users who do not come in the second half of the days.
        seed: The same seed gives the same shop.
    """
    rng = np.random.default_rng(seed)
    shares = {"": 0.1} | {m: 0.9 * share for m, share in SHARES.items()}
    latent = {m: rng.normal(size=(num_items, 8)) for m in shares}
    taste = {m: rng.normal(size=(num_users, 8)) for m in shares}
    day_of = {}
    for kind, size in (("user", num_users), ("item", num_items)):
        late = rng.random(size) < newcomers
        day_of[kind] = np.where(late, rng.integers(1, max(days, 2), size), 0)
    pauses = rng.random(num_users) < quiet
    seen = np.zeros((num_users, num_items), dtype=bool)
    rows = []
    for day in range(days):
        taste = {m: (x + drift * rng.normal(size=x.shape)) / (1 + drift**2) ** 0.5 for m, x in taste.items()}
        score = sum(np.sqrt(shares[m] / 8) * taste[m] @ latent[m].T for m in shares) / 0.25
        score = score + np.where(day_of["item"] >= max(day - 1, 1), 1.0, 0.0) + rng.gumbel(size=score.shape)
        score[seen] = -np.inf
        score[:, day_of["item"] > day] = -np.inf
        comes = (rng.random(num_users) < 0.7) & ~(pauses & (day >= days // 2))
        here = np.flatnonzero((day_of["user"] <= day) & (comes | (day_of["user"] == day)))
        best = np.argpartition(-score[here], clicks_a_day, axis=1)[:, :clicks_a_day]
        user = np.repeat(here, clicks_a_day)
        seen[user, best.ravel()] = True
        rows.append(pd.DataFrame({"user": user, "item": best.ravel(), "day": day}))
    names = {
        "user": np.array([f"u{n:05d}" for n in rng.permutation(num_users)]),
        "item": np.array([f"i{n:05d}" for n in rng.permutation(num_items)]),
    }
    clicks = pd.concat(rows, ignore_index=True)
    for kind, ids in names.items():
        clicks[kind] = ids[clicks[kind]]
    features = {}
    for m in SHARES:
        x = latent[m] @ rng.normal(size=(8, 24)) / 8**0.5 + 0.5 * rng.normal(size=(num_items, 24))
        features[m] = pd.DataFrame(x, index=pd.Index(names["item"], name="item"))
    return Shop(clicks, features, {kind: pd.Series(day_of[kind], index=ids) for kind, ids in names.items()})


def graph_of(
    shop: Shop,
    day: int,
    train: pd.DataFrame,
    val: pd.DataFrame,
    test: pd.DataFrame | None = None,
    earlier: HeteroData | None = None,
) -> HeteroData:
    """Return the graph of a day: everybody who is there by then, with features as those of an earlier graph.

    Args:
        shop: The shop.
        day: The day; who arrives later is not in the graph, and nor are held-out clicks of such users and items.
        train: Clicks to train on.
        val: Clicks of the validation part.
        test: Clicks of the test part.
        earlier: The graph of an earlier day, by whose means and deviations features are standardised.
    """
    users, items = shop.until("user", day), shop.until("item", day)
    held_out = [None if x is None else x[x["user"].isin(users) & x["item"].isin(items)] for x in (val, test)]
    return build_data(
        train,
        {m: x.loc[items] for m, x in shop.features.items()},
        val=held_out[0],
        test=held_out[1],
        user_id=users,
        source=f"day {day}",
        transform="standardize" if earlier is None else RecordedTransform(earlier),
    )


def rows_of(data: HeteroData, earlier: HeteroData) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows in ``data`` of the users and items of an earlier graph, int64 ``[U]`` and ``[I]``."""
    found = (pd.Index(getattr(data, f"{k}_id")).get_indexer(getattr(earlier, f"{k}_id")) for k in ("user", "item"))
    user, item = (torch.from_numpy(rows) for rows in found)
    return user, item
