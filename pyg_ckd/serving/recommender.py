"""The facade of serving: embeddings, ids and what has been seen, turned into lists of items."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.checks import SPLITS
from pyg_ckd.data.inputs import RATES, embed
from pyg_ckd.devices import Device, as_device
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.serving.growth import GrowingLists
from pyg_ckd.serving.lists import HALF
from pyg_ckd.serving.newer import graph_of_model, new_items, new_users
from pyg_ckd.serving.results import Explanation
from pyg_ckd.serving.saved import KIND, restored, state_of, write
from pyg_ckd.serving.search import SeenItems
from pyg_ckd.serving.shares import shapley_weights
from pyg_ckd.training.model import build_model
from pyg_ckd.training.safe_file import read_file

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Self

_VIEW_BYTES = 2**30  # Tables of views held at once by `explain`.


class Recommender(GrowingLists):
    r"""Lists of items for users, from two tables of embeddings.

    Methods take and return the ids in ``data.user_id`` and ``data.item_id``, or row numbers if the graph has no ids.
    Every method accepts one id or many. Search is exact, runs on the device of the embeddings, and holds one block of
    scores at a time.

    Args:
        embeddings: The two tables; or a backbone, an objective, or any module with ``forward(x_dict, edge_index) ->
            (user, item)``, called once for them and kept for :meth:`explain`.
        data: The graph.
        seen: Splits whose interactions count as seen. By default all splits; ``("train",)`` gives the lists that
            :func:`~pyg_ckd.evaluate` measures, except for the order of items with the same score.
        columns: Columns of the items, a data frame with a row for each by id (its index, or a column ``item`` or
            ``item_id``), for ``where`` of :meth:`recommend`. (default: :obj:`None`, nothing)

    Raises:
        InputError: If the tables do not fit the graph or hold numbers that are not finite, a split is unknown, or
            ``columns`` has an id twice.

    Example:
        >>> recommender = Recommender.load("out/model.pt", data)
        >>> recommender.recommend(["u1", "u7"], k=10).to_frame()
    """

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike[str],
        data: HeteroData | None = None,
        backbones: Mapping[str, type[Any]] | None = None,
        device: Device | None = None,
        seen: Sequence[str] = tuple(SPLITS),
        columns: pd.DataFrame | None = None,
    ) -> Self:
        """Open what :meth:`save` wrote, or read a trained model, compute its embeddings, and serve them.

        A model meets the graph it was trained on, or a newer one that has ids. The graph may be in another order. What
        known users have met since counts as seen, and reaches the embeddings where the model computes them from
        interactions, and those of users who had none in training. New items get embeddings from their features
        (:meth:`with_new_items`), new users from what they have met (:meth:`with_new_users`); users without interactions
        stay unknown. :attr:`notes` says what was done.

        Args:
            checkpoint: A file of :meth:`save`; or a ``model.pt`` of ``pyg-ckd train`` or ``compare``, or a file of
                :func:`~pyg_ckd.training.save_model`.
            data: The graph; none for a file of :meth:`save`.
            backbones: The classes that a model may name. (default: :obj:`None`, those of :mod:`pyg_ckd.nn`, and the one
                of its import path if that is imported)
            device: Where to compute, such as ``"cuda:1"``. (default: :obj:`None`, the CPU)
            seen: Splits whose interactions count as seen; of a file of :meth:`save`, all that count there.
            columns: As in :class:`Recommender`; it takes the place of those in the file.

        Raises:
            InputError: If the file is missing or damaged, or belongs to other data; a user or an item of the model is
                missing in the graph or has other features than in training.
        """
        content = read_file(checkpoint)
        if content["kind"] == KIND:
            if data is not None:
                raise InputError(
                    f"checkpoint {checkpoint}: found a saved recommender, which needs no graph, expected none; add "
                    "newer interactions with with_seen"
                )
            out: Any = Recommender.from_state(content, checkpoint, as_device(device))
            if not isinstance(out, cls):
                raise InputError(f"checkpoint {checkpoint}: found a {type(out).__name__}, expected a {cls.__name__}")
            return out if columns is None else out.with_columns(columns)
        if content["kind"] != "model":
            raise InputError(
                f"checkpoint {checkpoint}: found a checkpoint of kind {content['kind']!r}, expected 'model' or {KIND!r}"
            )
        if data is None:
            raise InputError(
                f"checkpoint {checkpoint}: found a trained model, which needs the graph for its features and "
                "interactions, expected it: Recommender.load(model, data), or --data on the command line"
            )
        known, whole = graph_of_model(checkpoint, content, data)
        model = build_model(checkpoint, content, known, backbones)
        served: Any = cls(model.to(as_device(device)), known, seen)
        if whole is not None:
            served = served.learnt_from(content["graph"]["interactions"])
            served = new_users(new_items(served, whole, seen), whole, seen)
        return served if columns is None else served.with_columns(columns)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all that lists need into one file, which opens without the graph and without the model.

        That is tables, ids, what users have met, columns of items, and how new users follow from what they have met. Of
        the opened one, :meth:`explain` and :meth:`with_new_items` are refused, which need the features of the graph.

        Args:
            path: The file.

        Returns:
            The path.

        Raises:
            InputError: If it cannot be written, or a column of items holds anything but numbers, texts and dates, or
                has a name that is no text.
        """
        return write(path, {"kind": KIND, **self.state()})

    @staticmethod
    def from_state(
        state: Mapping[str, Any], source: str | os.PathLike[str], device: torch.device | str = "cpu"
    ) -> Recommender:
        """Return the recommender that :meth:`state` was called on, of whichever class.

        Args:
            state: What it returned.
            source: The file that it comes from, for messages.
            device: Where to compute.

        Raises:
            InputError: If something is missing or does not fit.
        """
        out: Any = restored(state, {c.__name__: c for c in _all(Recommender)}, source, device)
        return out

    def state(self) -> dict[str, Any]:
        """Return what :meth:`save` writes: tensors and plain values."""
        return state_of(self)

    def explain(self, user: Any, item: Any) -> Explanation:
        r"""Return the share of every modality and of the id in the score of each pair.

        The share of modality ``m`` is its Shapley value over views, see
        :func:`~pyg_ckd.serving.shares.shapley_weights`: how much the score changes, on average over the orders in which
        the modalities can become factual, when ``m`` does. The share of the id is the score in the view in which no
        modality is factual: what id embeddings, biases and the graph give with mean features and mean preferences.
        Shares sum to the score. Where a score is the sum of one block per modality, as in
        :class:`~pyg_ckd.nn.VBPR`, a share is the score of the modality's block less that of its mean.

        All views of the whole graph are computed whether one pair is asked for or a million: ask for many at once.
        Where users are a function of their items, as in :class:`~pyg_ckd.nn.FISM`, what they have met since training
        counts in every view.

        Args:
            user: One id or many.
            item: One id or as many; one item goes with all users and one user with all items.

        Raises:
            InputError: If an id is unknown, the numbers of ids do not fit, there is no model, a user or an item is not
                one the model was trained with, such a user has met items that were added, or the model has changed
                since its embeddings were computed.
        """
        users, items = self.users.rows(user), self.items.rows(item)
        if users.numel() != items.numel() and 1 not in (users.numel(), items.numel()):
            raise InputError(f"explain: found {users.numel()} users and {items.numel()} items, expected as many or one")
        users, items = (rows.contiguous() for rows in torch.broadcast_tensors(users, items))
        if self.model is None or self.data is None:
            raise InputError("explain: found embeddings only, expected the model: Recommender(model, data)")
        pairs = (users, self.users, "user"), (items, self.items, "item")
        for (rows, ids, kind), trained in zip(pairs, self.trained, strict=True):
            new = rows[rows >= trained]
            if new.numel():
                name = ids.take(new[:1].numpy()).tolist()[0]
                raise InputError(f"explain: {kind} {name!r} was added without training, expected one that was there")
        views, weights = shapley_weights(list(self.data.modalities))
        size = max(1, _VIEW_BYTES // sum(table.nbytes for table in self.embeddings))
        values = []
        follow = self._users_now(users)
        for start in range(0, len(views), size):
            for tables in embed(self.model, self.data, views[start : start + size]):
                now = follow(tables)
                values.append(_scores(now, users, items))
        self._check_unchanged(now, users, items)
        values[-1] = _scores(self.embeddings, users, items)  # The full view is what recommendations come from.
        value = torch.stack(values)  # [V, n]
        shares = torch.cat([value[:1], weights @ value]).t().contiguous()
        return Explanation(
            self.users.take(users.numpy()),
            self.items.take(items.numpy()),
            ("id", *self.data.modalities),
            shares.numpy(),
            value[-1].numpy(),
        )

    def _users_now(self, users: Tensor) -> Callable[[Embeddings], Embeddings]:
        """Return what makes users of the tables of a view follow from all that they have met, if they do.

        Args:
            users: Rows of the users that are asked for.

        Raises:
            InputError: If such a user has met an item that was added, of which no view has an embedding.
        """
        function = self._user_map
        if self.exact_users is None or function is None or self.data is None:
            return lambda tables: tables
        asked = users.unique()
        row, item = self.history.of(asked)
        before = SeenItems(self.data[RATES].edge_index, self.trained[0]).of(asked)
        pairs, old = (one * len(self.items) + other for one, other in ((row, item), before))
        new = ~torch.isin(pairs, old)
        added = asked[row[new & (item >= self.trained[1])]]
        if added.numel():
            name = self.users.take(added[:1].numpy()).tolist()[0]
            raise InputError(
                f"explain: user {name!r} has met items that were added without training, expected one who has not; "
                "train again, or ask for others"
            )
        changed = row[new].unique()
        if not changed.numel():
            return lambda tables: tables
        chosen = torch.isin(row, changed)
        place, met = torch.searchsorted(changed, row[chosen]), item[chosen]

        def follow(tables: Embeddings) -> Embeddings:
            device = tables.item.device
            mapped = function(tables.item, place.to(device), met.to(device), changed.numel())
            return Embeddings(tables.user.index_copy(0, asked[changed].to(device), mapped), tables.item)

        return follow

    def _check_unchanged(self, full: Embeddings, users: Tensor, items: Tensor) -> None:
        """Refuse a model whose full view is no longer what recommendations come from."""
        for now, kept, rows in zip(full, self.embeddings, (users, items), strict=True):
            one, other = (table[rows.unique().to(table.device)].float() for table in (now, kept))
            near = 1e-4 * max(1e-6, float(other.abs().amax())) if other.numel() else 0.0
            if not torch.allclose(one, other.to(one.device), rtol=0, atol=near * (1 if now.dtype not in HALF else 100)):
                raise InputError(
                    "explain: the model has changed since its embeddings were computed, expected it as it was; make a "
                    "new Recommender(model, data) of it"
                )

    def export_top_k(self, path: str | os.PathLike[str], k: int = 20, **options: Any) -> Path:
        """Write recommendations to a file, see :func:`~pyg_ckd.serving.export.export_top_k`."""
        from pyg_ckd.serving.export import export_top_k

        return export_top_k(self, path, k, **options)

    def export_embeddings(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write the two tables to files, see :func:`~pyg_ckd.serving.export.export_embeddings`."""
        from pyg_ckd.serving.export import export_embeddings

        return export_embeddings(self, path)


def _all(cls: type[Recommender]) -> list[type[Recommender]]:
    """Return a class and all that derive from it."""
    return [cls, *(one for child in cls.__subclasses__() for one in _all(child))]


def _scores(tables: Embeddings, users: Tensor, items: Tensor) -> Tensor:
    """Return the scores of pairs in float64 on the CPU, ``[n]``."""
    user, item = tables.user[users.to(tables.user.device)], tables.item[items.to(tables.item.device)]
    return (user.double() * item.double()).sum(dim=1).cpu()
