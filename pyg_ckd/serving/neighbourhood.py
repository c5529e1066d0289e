"""The facade of serving for models that have weights between items in the place of tables."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.checks import SPLITS
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.neighbourhood import Neighbourhood, history_matrix
from pyg_ckd.serving.catalogue import Catalogue
from pyg_ckd.serving.recommender import Recommender
from pyg_ckd.serving.search import Masked, search_scores

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Self


class NeighbourhoodRecommender(Recommender):
    r"""Lists of items for users, from what they have met and weights between items: closed-form baselines at work.

    All of :class:`Recommender` that needs neither tables nor a backbone: ``recommend``, ``similar_items`` (what having
    met one item says about the others), ``with_new_users`` (exact: a user is nothing but a history) and
    ``export_top_k``. Only training interactions are histories; all that is known counts as seen.

    Args:
        model: The weights, such as of :func:`~pyg_ckd.evaluation.ease` or :func:`~pyg_ckd.evaluation.item_knn`.
        data: The graph.
        seen, columns: As in :class:`Recommender`.

    Raises:
        InputError: If the weights do not fit the graph, or a split is unknown.

    Example:
        >>> recommender = NeighbourhoodRecommender(ease(data, ridge=100), data)
        >>> recommender.recommend(["u1", "u7"], k=10).to_frame()
    """

    def __init__(
        self,
        model: Neighbourhood,
        data: HeteroData,
        seen: Sequence[str] = tuple(SPLITS),
        columns: pd.DataFrame | None = None,
    ) -> None:
        shape = (data["user"].num_nodes, data["item"].num_nodes)
        if not isinstance(model, Neighbourhood):
            raise InputError(
                f"recommender: found {type(model).__name__}, expected weights between items such as those of "
                "ease(data); for tables or a model use Recommender"
            )
        if model.history.shape != shape:
            raise InputError(
                f"recommender: found weights for {model.history.shape[0]} users and {model.history.shape[1]} items, "
                f"expected {shape[0]} and {shape[1]} as in the graph; fit them on this graph"
            )
        super().__init__(Embeddings(*(torch.empty(n, 0, dtype=model.dtype) for n in shape)), data, seen, columns)
        self.neighbourhood = model

    def without_lesson(self, idle: Tensor) -> Tensor:
        """Return who has met nothing: weights between items know nothing else of a user.

        Args:
            idle: Who has met nothing in training, bool ``[users]``.
        """
        return idle

    @property
    def idle_by_popularity(self) -> bool:
        """Whether users who have met nothing are ranked by popularity: where the model has counts of items."""
        return self.neighbourhood.counts is not None

    def hears_nothing(self, users: Tensor) -> Tensor:
        """Return who has met items, but none that says anything about others, bool ``[n]``.

        Args:
            users: Rows of users, -1 of unknown ones, int64 ``[n]``.
        """
        known = users >= 0
        return known.masked_scatter(known, self.neighbourhood.hears_nothing(users[known]))

    def with_new_items(
        self,
        features: Mapping[str, Any],
        item_ids: Any = None,
        known_features: Mapping[str, Any] | None = None,
        transformed: bool = False,
    ) -> NoReturn:
        """Raise an error: weights of new items come from fitting anew.

        Raises:
            InputError: Always.
        """
        raise InputError("new items: found weights between items, which new items have none of; fit the baseline anew")

    def export_embeddings(self, path: str | os.PathLike[str]) -> list[Path]:
        """Raise an error: there are no tables.

        Raises:
            InputError: Always.
        """
        raise InputError(f"out {path}: found weights between items and no embeddings to write; use export_top_k")

    def state(self) -> dict[str, Any]:
        """Return what :meth:`save` writes: tensors and plain values."""
        model, weights = self.neighbourhood, self.neighbourhood.weights
        stored = weights.cpu() if isinstance(weights, Tensor) else _parts(weights)
        factors = None if model.factors is None else model.factors.cpu()
        counts = None if model.counts is None else model.counts.cpu()
        own = {"weights": stored, "factors": factors, "counts": counts, "met": _parts(model.history)}
        return {**super().state(), **own}

    def load_more(self, state: Mapping[str, Any]) -> None:
        """Take the weights from the state of a saved recommender.

        Args:
            state: What it was saved as.
        """
        device, weights, factors = self.embeddings.item.device, state["weights"], state["factors"]
        stored = weights.to(device) if isinstance(weights, Tensor) else _matrix(weights)
        moved = None if factors is None else factors.to(device)
        counts = state.get("counts")  # Files of before have none.
        self.neighbourhood = Neighbourhood(_matrix(state["met"]), stored, moved, counts)

    def _with_clicks(self, pairs: Tensor) -> Self:
        out = super()._with_clicks(pairs)
        history = history_matrix(out.history.pairs(), len(self.users), len(self.items))
        out.neighbourhood = self.neighbourhood.with_history(csr_array(history, dtype=np.float32))
        return out

    def _follow(self, users: Tensor, begun: Tensor | None = None) -> Self:
        return copy.copy(self)  # A user is nothing but a history.

    def user_map(self) -> NoReturn:
        """Raise an error: users have no embeddings.

        Raises:
            InputError: Always.
        """
        raise InputError("users: found weights between items, by which users are nothing but what they have met")

    def _alike(self, catalogue: Catalogue) -> NoReturn:
        raise InputError("diversity: found weights between items, expected embeddings, which say what is alike")

    def _search(
        self, users: Tensor, k: int, masked: Masked | None, catalogue: Catalogue, among: Masked | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._best(self.neighbourhood, users, k, masked, catalogue.rows, among)

    def _similar(self, rows: Tensor, k: int, masked: Masked) -> tuple[Tensor, Tensor]:
        silent = rows[self.neighbourhood.silent[rows]]
        if silent.numel():
            first, verb = self.items.take(silent[:1].numpy()).tolist()[0], "has" if silent.numel() == 1 else "have"
            warnings.warn(
                f"similar_items: {silent.numel()} of {rows.numel()} items {verb} no weights (first: {first!r}), "
                "which say what goes with an item; the order of their lists means nothing",
                stacklevel=3,
            )
        single = history_matrix(torch.stack([torch.arange(rows.numel()), rows]), rows.numel(), len(self.items))
        return self._best(self.neighbourhood.with_history(single), torch.arange(rows.numel()), k, masked, None)

    def _extended(self, row: Tensor, item: Tensor, count: int) -> Self:
        out = copy.copy(self)
        history = vstack([self.neighbourhood.history, history_matrix(torch.stack([row, item]), count, len(self.items))])
        out.neighbourhood = self.neighbourhood.with_history(csr_array(history, dtype=np.float32))
        user, table = self.embeddings
        out.embeddings = Embeddings(torch.cat([user, user.new_empty(count, 0)]), table)
        return out

    @staticmethod
    def _best(
        model: Neighbourhood,
        users: Tensor,
        k: int,
        masked: Masked | None,
        rows: Tensor | None,
        among: Masked | None = None,
    ) -> tuple[Tensor, Tensor]:
        def score(start: int, stop: int, out: Tensor) -> None:
            scores = model.scores(users[start:stop]).cpu()
            out.copy_(scores if rows is None else scores[:, rows])

        shape = (users.numel(), model.history.shape[1] if rows is None else rows.numel())
        return search_scores(score, shape, k, torch.empty(0, dtype=model.dtype), masked, among=among)


def _parts(matrix: csr_array) -> dict[str, Any]:
    """Return a CSR matrix as tensors."""
    parts = {name: torch.from_numpy(getattr(matrix, name)) for name in ("data", "indices", "indptr")}
    return {**parts, "shape": list(matrix.shape)}


def _matrix(parts: Mapping[str, Any]) -> csr_array:
    arrays = (parts[name].numpy() for name in ("data", "indices", "indptr"))
    matrix = csr_array(tuple(arrays), shape=tuple(parts["shape"]))
    matrix.check_format()
    return matrix
