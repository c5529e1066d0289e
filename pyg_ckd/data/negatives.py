"""Items that a user did not interact with, drawn uniformly, by popularity or by score, without a loop over users."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyg_ckd.arguments import as_integer, as_number
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.patterns import pattern_of, row_blocks

NEGATIVES = ("uniform", "popularity", "hard")
MOST_ITEMS, SHARED_ITEMS = 20_000, 4_096
"""Up to how many items a softmax is over all of them, and how many are drawn for it beyond."""


class Positives:
    """The distinct interactions of all users, sorted by user and then by item.

    Args:
        edge_index: Interactions (user row, item row), int64 ``[2, E]``; repetitions allowed.
        num_users: Number of users.
        num_items: Number of items.

    Attributes:
        item: Items ``[P]``, int32 where that suffices for users, items and interactions, else int64.
        degree: Distinct items of every user, int64 ``[num_users]``.
        start: Where every user's items start, int64 ``[num_users]``.
    """

    def __init__(self, edge_index: Tensor, num_users: int, num_items: int) -> None:
        self.num_users, self.num_items = num_users, num_items
        self._crow, self.item = pattern_of(edge_index[0], edge_index[1], (num_users, num_items))
        self.degree, self.start = self._crow.diff().long(), self._crow[:-1].long()

    @property
    def user(self) -> Tensor:
        """Users, int64 ``[P]``, in the order of :attr:`item`."""
        return torch.repeat_interleave(self.degree)

    def popularity(self) -> Tensor:
        """Return how many users interacted with every item, int64 ``[num_items]``."""
        return torch.bincount(self.item, minlength=self.num_items)

    def sorted_keys(self, span: int, of_users: Tensor, of_items: Callable[[slice], Tensor]) -> Tensor:
        """Return ``user * span + of_users[user] + of_items`` of all interactions, int64 ``[P]``, made in blocks.

        Args:
            span: Length of the numbers of one user.
            of_users: A number of every user, int64 ``[num_users]``.
            of_items: Returns the numbers of a run of interactions.
        """
        out = of_users.new_empty(self.item.numel())
        base = torch.arange(self.num_users, device=out.device) * span + of_users
        for users, run in row_blocks(self._crow):
            out[run] = base[users].repeat_interleave(self.degree[users]) + of_items(run)
        return out


class UniformNegatives:
    """Draws every item without an interaction with the same probability.

    For a user with ``n`` distinct items a rank ``r`` is drawn from the ``num_items - n`` others, and the ``r``-th item
    that is missing from the user's sorted list is found by one binary search over all users' lists at once.

    Args:
        positives: The interactions.
    """

    wants_embeddings = False

    def __init__(self, positives: Positives) -> None:
        self._num_items, self._degree, self._start = positives.num_items, positives.degree, positives.start
        # Within a user, item[j] - j is the number of missing items below the j-th positive: it never decreases.
        device = positives.item.device
        self._missing_key = positives.sorted_keys(
            positives.num_items + 1,
            positives.start,
            lambda run: positives.item[run] - torch.arange(run.start, run.stop, device=device),
        )

    def draw(self, user: Tensor, generator: torch.Generator) -> Tensor:
        """Return an item for each user.

        Args:
            user: Users, none of whom has all items, int64 ``[B]``.
            generator: Where randomness comes from.
        """
        draw = torch.rand(user.numel(), generator=generator, device=user.device, dtype=torch.float64)
        free = self._num_items - self._degree[user]
        rank = torch.minimum((draw * free).long(), free - 1)
        key = user * (self._num_items + 1) + rank
        return rank + torch.searchsorted(self._missing_key, key, right=True) - self._start[user]


class PopularityNegatives:
    r"""Draws an item without an interaction with a probability that grows with its popularity.

    The weight of item :math:`j` is :math:`\max(n_j, 1)^\alpha` with :math:`n_j` users who interacted with it, as in
    `"Distributed Representations of Words and Phrases" <https://arxiv.org/abs/1310.4546>`_. Weights are whole numbers
    of a small unit, so that all items laid end to end have a length without rounding. For a user, a point is drawn on
    what is left of this line without the user's own items, and one binary search over all users' items at once tells
    how many of them lie before it. No draw is ever rejected, and none is an own item.

    Args:
        positives: The interactions.
        alpha: :math:`\alpha`; 0 is uniform.
        popularity: Users :math:`n_j` of every item, int64 ``[num_items]``. (default: :obj:`None`, those of
            ``positives``)

    Raises:
        InputError: If ``alpha`` is negative or not finite.
    """

    wants_embeddings = False

    def __init__(self, positives: Positives, alpha: float = 0.75, popularity: Tensor | None = None) -> None:
        self._start = positives.start
        weight = popularity_weight(positives.popularity() if popularity is None else popularity, alpha)
        # Positions of all users one after the other stay within 62 bits, and a position within the 53 of a draw.
        total = min(2**62 // (positives.num_users + 1), 2**52) - positives.num_items
        whole = (weight * (total / weight.sum())).long().clamp(min=1)
        self._end = whole.cumsum(0)  # Where every item ends on the line.
        self._total = int(self._end[-1])
        self._own = whole.new_zeros(positives.item.numel() + 1)  # Length of all positives before one, of all users.
        torch.index_select(whole, 0, positives.item, out=self._own[1:])
        torch.cumsum(self._own, 0, out=self._own)
        # What is left of the line before a positive never decreases within a user.
        self._key = positives.sorted_keys(
            self._total + 1,
            self._own[positives.start],
            lambda run: self._end[positives.item[run]] - self._own[run.start + 1 : run.stop + 1],
        )
        self._free = self._total - (self._own[self._start + positives.degree] - self._own[self._start])

    def draw(self, user: Tensor, generator: torch.Generator) -> Tensor:
        """Return an item for each user.

        Args:
            user: Users, none of whom has all items, int64 ``[B]``.
            generator: Where randomness comes from.
        """
        draw = torch.rand(user.numel(), generator=generator, device=user.device, dtype=torch.float64)
        free = self._free[user]
        point = torch.minimum((draw * free).long(), free - 1)
        before = torch.searchsorted(self._key, user * (self._total + 1) + point, right=True)
        point += self._own[before] - self._own[self._start[user]]
        return torch.searchsorted(self._end, point, right=True)


class HardNegatives:
    """Draws several items without an interaction and takes the one that scores highest.

    From `"Optimizing Top-N Collaborative Filtering via Dynamic Negative Item Sampling"
    <https://dl.acm.org/doi/10.1145/2484028.2484126>`_. Scores are those of the last embeddings given to :meth:`update`.

    Args:
        positives: The interactions.
        candidates: Items to choose from, drawn uniformly and with repetition; 1 is uniform.

    Raises:
        InputError: If ``candidates`` is not positive.
    """

    wants_embeddings = True

    def __init__(self, positives: Positives, candidates: int = 8) -> None:
        candidates = as_integer(candidates, "candidates", 1)
        self._uniform, self._candidates = UniformNegatives(positives), candidates
        self._embeddings: Embeddings | None = None

    def update(self, embeddings: Embeddings) -> None:
        """Take the embeddings to score with from now on.

        Args:
            embeddings: The tables, without gradient.
        """
        self._embeddings = embeddings

    def draw(self, user: Tensor, generator: torch.Generator) -> Tensor:
        """Return an item for each user.

        Args:
            user: Users, none of whom has all items, int64 ``[B]``.
            generator: Where randomness comes from.

        Raises:
            InputError: If there are no embeddings yet.
        """
        if self._embeddings is None:
            raise InputError(
                "negatives: found 'hard' before any embeddings, expected sampler.update(embeddings) first, as a "
                "trainer does before every epoch"
            )
        items = self._uniform.draw(user.repeat_interleave(self._candidates), generator).view(-1, self._candidates)
        of_users, of_items = self._embeddings
        scores = (of_items[items] @ of_users[user].unsqueeze(-1)).squeeze(-1)  # [B, candidates]
        return items.gather(1, scores.argmax(dim=1, keepdim=True)).squeeze(1)


class SharedNegatives:
    r"""Draws items that all triples of a batch share, as a sampled softmax does; own items of users are among them.

    Args:
        count: Items that are drawn, with repetition; :obj:`None` draws none, for all items.
        weight: Weight of every item, ``[num_items]``. (default: :obj:`None`, all weigh the same)
    """

    def __init__(self, count: int | None, weight: Tensor | None = None) -> None:
        self.count, self._weight = count, weight

    def draw(self, size: int, device: torch.device, rows: Tensor | None = None) -> tuple[Tensor, Tensor | None] | None:
        """Return items, and how much more often than uniformly each is drawn as a logarithm, with PyTorch's generators.

        Args:
            size: Number of items to draw from.
            device: Where they are wanted.
            rows: Row numbers in the whole graph of the items to draw from, if they are those of a subgraph.

        Returns:
            Row numbers, int64 ``[N]``, and float64 ``[N]`` or :obj:`None` if all are zero; :obj:`None` for all items.
        """
        if self.count is None or self.count >= size:
            return None
        if self._weight is None:
            return torch.randint(size, (self.count,), device=device), None
        weight = self._weight.to(device) if rows is None else self._weight.to(device)[rows]
        end = weight.cumsum(0)
        point = torch.rand(self.count, device=device, dtype=torch.float64) * end[-1]
        items = torch.searchsorted(end, point, right=True).clamp(max=size - 1)
        return items, (weight[items] * (size / end[-1])).log()


def popularity_weight(popularity: Tensor, alpha: float = 0.75) -> Tensor:
    r"""Return :math:`\max(n_j, 1)^\alpha` of every item as a share of the largest one, float64 ``[num_items]``.

    Args:
        popularity: Users :math:`n_j` who interacted with every item, int64 ``[num_items]``.
        alpha: :math:`\alpha`.

    Raises:
        InputError: If ``alpha`` is negative or not finite.
    """
    if not 0 <= as_number(alpha, "alpha") < math.inf:
        raise InputError(f"alpha: found {alpha}, expected a finite number of zero or more")
    popularity = popularity.clamp(min=1).double()
    return (popularity / popularity.max()) ** alpha


def softmax_size(num_negatives: int | None, num_items: int) -> int | None:
    """Return how many items a softmax is over beside the positive; :obj:`None` means all.

    Args:
        num_negatives: The number that is asked for, or :obj:`None` for all items up to 20,000 and else 4,096 of them.
        num_items: Number of items.
    """
    return num_negatives or (None if num_items <= MOST_ITEMS else SHARED_ITEMS)


def negatives_of(
    kind: str, positives: Positives, alpha: float = 0.75, candidates: int = 8, popularity: Tensor | None = None
) -> UniformNegatives | PopularityNegatives | HardNegatives:
    """Return what draws negatives of a kind.

    Args:
        kind: ``"uniform"``, ``"popularity"`` or ``"hard"``.
        positives: The interactions.
        alpha: See :class:`PopularityNegatives`.
        candidates: See :class:`HardNegatives`.
        popularity: See :class:`PopularityNegatives`.

    Raises:
        InputError: If the kind is unknown.
    """
    if kind not in NEGATIVES:
        raise unknown_name("kind of negatives", kind, NEGATIVES)
    if kind == "popularity":
        return PopularityNegatives(positives, alpha, popularity)
    return HardNegatives(positives, candidates) if kind == "hard" else UniformNegatives(positives)
