"""Scores that are sums over what a user has met, for models that have weights between items and no tables."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from pyg_ckd.errors import InputError
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.finite import all_finite
from pyg_ckd.scoring.sparse import csr_matrix, product
from pyg_ckd.scoring.tables import Tables

_ROWS = 4096  # Rows of weights that are looked at together.


@runtime_checkable
class Scorer(Protocol):
    """Whatever gives scores of all items to a block of users; it is ranked like :class:`Embeddings`."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the scores."""

    def scores(self, users: Tensor) -> Tensor:
        """Return the scores of all items ``[B, I]``. They are copied before anything is written to them.

        Args:
            users: Rows of users, int64 ``[B]``.
        """


def as_scorer(given: Any, sizes: tuple[int, int]) -> Scorer:
    """Return what ranks, checked as far as can be seen before the first scores.

    Args:
        given: A scorer, or a pair of tables.
        sizes: Numbers of users and items.

    Raises:
        InputError: If it is neither, tables do not fit, or the type of scores is none of floating-point numbers.
    """
    if not isinstance(given, Scorer):
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            raise InputError(
                f"evaluation: found {type(given).__name__}, expected tables (user [U, D], item [I, D]), or an object "
                "with dtype and scores(users); evaluate(model, data) ranks with a model"
            )
        return Tables(Embeddings(*given), sizes)
    if not isinstance(given.dtype, torch.dtype) or not given.dtype.is_floating_point:
        raise InputError(
            f"scores: found {given.dtype!r} as dtype of {type(given).__name__}, expected their floating-point type, "
            "such as torch.float32"
        )
    return given


def check_scores(scores: Any, shape: tuple[int, int]) -> None:
    """Refuse what a scorer returned if it is no finite score of every item for every user.

    Args:
        scores: What it returned.
        shape: Numbers of the users that were asked for and of items.

    Raises:
        InputError: If it is not.
    """
    dense = isinstance(scores, Tensor) and scores.layout == torch.strided and scores.is_floating_point()
    if not dense or scores.shape != shape:
        found = type(scores).__name__
        if isinstance(scores, Tensor):
            found = f"{'' if scores.layout == torch.strided else 'sparse '}{scores.dtype} of shape {list(scores.shape)}"
        raise InputError(
            f"scores: found {found}, expected floating-point numbers in a dense tensor {list(shape)}, a row for each "
            "of the users that are asked for and a column for every item"
        )
    if not all_finite(scores):
        raise InputError("scores: found NaN or infinite values, expected finite numbers")


class Neighbourhood:
    r"""Users as rows of what they have met, items as weights of what speaks for them.

    .. math::
        s_{ui} = \sum_{j \in \mathcal{I}_u, j \neq i} \left( w_{ji} + \mathbf{f}_j^\top \mathbf{f}_i \right)

    A block of users is scored at a time, so that no table of users and items is ever held. Only the history knows the
    users: nothing needs to be learnt for new ones.

    Args:
        history: What users have met, CSR ``[U, I]`` with ones.
        weights: :math:`w_{ji}` ``[I, I]``, a float tensor, or a CSR matrix of few entries, then on the CPU. The
            diagonal should be zero.
        factors: :math:`\mathbf{f}`, float ``[I, d]``. (default: :obj:`None`, none)
        counts: How often every item was met in training, ``[I]``: the scores of users who have met nothing.
            (default: :obj:`None`, zeros)

    Raises:
        InputError: If shapes do not fit, or a weight, factor or count is not finite.
    """

    def __init__(
        self,
        history: csr_array,
        weights: Tensor | csr_array,
        factors: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> None:
        items = history.shape[1]
        if tuple(weights.shape) != (items, items) or (factors is not None and factors.shape[:1] != (items,)):
            shapes = [list(x.shape) for x in (weights, factors) if x is not None]
            raise InputError(f"neighbourhood: found weights and factors {shapes}, expected [{items}, {items}] and rows")
        if counts is not None and tuple(counts.shape) != (items,):
            raise InputError(
                f"neighbourhood: found counts {list(counts.shape)}, expected [{items}], one for every item"
            )
        for name, table in (("weights", weights), ("factors", factors), ("counts", counts)):
            values = torch.from_numpy(table.data) if isinstance(table, csr_array) else table
            if values is not None and not all_finite(values):
                raise InputError(f"neighbourhood {name}: found NaN or infinite values, expected finite numbers")
        self.history, self.weights, self.factors, self.counts = history, weights, factors, counts
        self._norms = None if factors is None else factors.square().sum(dim=1)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the scores."""
        if isinstance(self.weights, Tensor):
            return self.weights.dtype
        return torch.from_numpy(self.weights.data[:0]).dtype

    def scores(self, users: Tensor) -> Tensor:
        """Return the scores of all items for users, ``[B, I]``, on the device of the weights.

        Args:
            users: Rows of users, int64 ``[B]``.
        """
        met = self.history[users.cpu().numpy()]
        if isinstance(self.weights, Tensor):
            out = product(self._on_device(met, self.weights), self.weights)
        else:
            out = torch.from_numpy((met.astype(self.weights.dtype) @ self.weights).toarray())
        if self.counts is not None:
            nothing = torch.from_numpy(np.diff(met.indptr) == 0).to(out.device)
            if bool(nothing.any()):
                out[nothing] = self.counts.to(out)
        if self.factors is None or self._norms is None:
            return out
        met_on_device = self._on_device(met, self.factors)
        out.addmm_(product(met_on_device, self.factors), self.factors.t())
        row = torch.from_numpy(np.repeat(np.arange(met.shape[0]), np.diff(met.indptr))).to(out.device)
        column = met_on_device.col_indices().long()
        out[row, column] -= self._norms[column]  # An item says nothing about itself.
        return out

    @cached_property
    def silent(self) -> Tensor:
        """Which items say nothing about others, as all their weights and factors are zero, bool ``[I]`` on the CPU."""
        if isinstance(self.weights, Tensor):
            says = torch.cat([(rows != 0).any(dim=1) for rows in self.weights.split(_ROWS)]).cpu()
        else:
            says = torch.from_numpy(np.asarray((self.weights != 0).sum(axis=1)) > 0)
        return ~says if self._norms is None else ~(says | (self._norms > 0).cpu())

    def hears_nothing(self, users: Tensor) -> Tensor:
        """Return who has met items, but none that says anything about others, bool ``[B]``, on the CPU.

        Args:
            users: Rows of users, int64 ``[B]``.
        """
        met = self.history[users.cpu().numpy()]
        heard = met @ (~self.silent).numpy().astype(met.dtype)
        return torch.from_numpy((np.diff(met.indptr) > 0) & (heard == 0))

    def with_history(self, history: csr_array) -> Neighbourhood:
        """Return the same weights for other users.

        Args:
            history: What they have met, CSR ``[U', I]`` with ones.
        """
        out = Neighbourhood(history, self.weights, self.factors, self.counts)
        out.__dict__["silent"] = self.silent  # Of the same weights, which are not read again.
        return out

    @staticmethod
    def _on_device(met: csr_array, like: Tensor) -> Tensor:
        crow, col = (torch.from_numpy(x.astype(np.int64)).to(like.device) for x in (met.indptr, met.indices))
        return csr_matrix(crow, col, like.new_ones(col.numel()), *met.shape)


def history_matrix(edge_index: Tensor, num_users: int, num_items: int) -> csr_array:
    """Return what users have met as a CSR matrix of ones, float32 ``[num_users, num_items]``.

    Args:
        edge_index: Interactions (user row, item row), int64 ``[2, E]``; repeated ones count once.
        num_users: Number of users.
        num_items: Number of items.
    """
    user, item = edge_index.cpu().numpy()
    history = csr_array((np.ones(user.size, dtype=np.float32), (user, item)), shape=(num_users, num_items))
    history.sum_duplicates()
    history.data[:] = 1
    return history
