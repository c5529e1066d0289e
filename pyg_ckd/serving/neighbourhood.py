"""The facade of serving for models that have weights between items in the place of tables."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.checks import SPLITS
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.neighbourhood import Neighbourhood, history_matrix
from pyg_ckd.serving.recommender import Catalogue, Recommender
from pyg_ckd.serving.search import Masked, search_scores


class NeighbourhoodRecommender(Recommender):
    r"""Lists of items for users, from what they have met and weights between items: closed-form baselines at work.

    All of :class:`Recommender` that needs neither tables nor a backbone: ``recommend``, ``similar_items`` (what having
    met one item says about the others), ``with_new_users`` (exact: a user is nothing but a history) and
    ``export_top_k``. Only training interactions are histories; all that is known counts as seen.

    Args:
        model: The weights, such as of :func:`~pyg_ckd.evaluation.ease` or :func:`~pyg_ckd.evaluation.item_knn`.
        data: The graph.
        seen: As in :class:`Recommender`.

    Raises:
        InputError: If the weights do not fit the graph, or a split is unknown.

    Example:
        >>> recommender = NeighbourhoodRecommender(ease(data, ridge=100), data)
        >>> recommender.recommend(["u1", "u7"], k=10).to_frame()
    """

    def __init__(self, model: Neighbourhood, data: HeteroData, seen: Sequence[str] = tuple(SPLITS)) -> None:
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
        super().__init__(Embeddings(*(torch.empty(n, 0, dtype=model.dtype) for n in shape)), data, seen)
        self.neighbourhood = model

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

    def _search(self, users: Tensor, k: int, masked: Masked | None, catalogue: Catalogue) -> tuple[Tensor, Tensor]:
        return self._best(self.neighbourhood, users, k, masked, catalogue.rows)

    def _similar(self, rows: Tensor, k: int, masked: Masked) -> tuple[Tensor, Tensor]:
        single = history_matrix(torch.stack([torch.arange(rows.numel()), rows]), rows.numel(), len(self.items))
        return self._best(self.neighbourhood.with_history(single), torch.arange(rows.numel()), k, masked, None)

    def _extended(self, row: Tensor, item: Tensor, count: int) -> NeighbourhoodRecommender:
        out = copy.copy(self)
        history = vstack([self.neighbourhood.history, history_matrix(torch.stack([row, item]), count, len(self.items))])
        out.neighbourhood = self.neighbourhood.with_history(csr_array(history, dtype=np.float32))
        return out

    @staticmethod
    def _best(
        model: Neighbourhood, users: Tensor, k: int, masked: Masked | None, among: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        def score(start: int, stop: int, out: Tensor) -> None:
            scores = model.scores(users[start:stop]).cpu()
            out.copy_(scores if among is None else scores[:, among])

        num_items = model.history.shape[1] if among is None else among.numel()
        return search_scores(score, (users.numel(), num_items), k, torch.empty(0, dtype=model.dtype), masked)
