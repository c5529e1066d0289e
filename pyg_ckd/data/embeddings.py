"""What every backbone returns and the only thing that evaluation and serving see."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Embeddings(NamedTuple):
    """The two tables of a recommender; the score of user ``u`` for item ``i`` is the dot product of their rows.

    Attributes:
        user: User embeddings ``[num_users, D]``.
        item: Item embeddings ``[num_items, D]``.
    """

    user: Tensor
    item: Tensor

    def margin(self, user: Tensor, preferred: Tensor, other: Tensor) -> Tensor:
        """Return by how much each user scores one item above another, ``score(u, i) - score(u, j)``.

        Args:
            user: Row numbers of the users ``u``, int64 ``[B]``.
            preferred: Row numbers of the items ``i``, int64 ``[B]``.
            other: Row numbers of the items ``j``, int64 ``[B]``.
        """
        return (self.user[user] * (self.item[preferred] - self.item[other])).sum(dim=-1)

    def detach(self) -> Embeddings:
        """Return the same tables outside the graph of differentiation."""
        return Embeddings(self.user.detach(), self.item.detach())
