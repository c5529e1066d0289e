"""What is found out about a matrix of any size block by block: how its columns spread, and which parts are repeated."""

from __future__ import annotations

import torch
from torch import Tensor

FEW_ROWS = 20
"""Below so many rows, none is an outlier."""


class Spread:
    """How the rows of a matrix lie around the mean of its columns.

    Args:
        mean: The mean of every column, float64 ``[d]``.
        low: The smallest value of every column, float32 ``[d]``.
        high: The largest one.
    """

    def __init__(self, mean: Tensor, low: Tensor, high: Tensor) -> None:
        self._mean, self._ends = mean, torch.stack([low, high, torch.zeros_like(low)])
        self._rows, self._same = 0, torch.zeros(3, len(mean), dtype=torch.int64)
        self._largest, self._where = torch.zeros_like(mean), torch.zeros(len(mean), dtype=torch.int64)
        self.square = torch.zeros_like(mean)

    @property
    def at_ends(self) -> Tensor:
        """How many rows have the smallest or the largest value of each column, int64 ``[d]``."""
        return torch.where(self._ends[0] == self._ends[1], self._same[0], self._same[0] + self._same[1])

    def add(self, rows: Tensor) -> None:
        """Take further rows of the matrix.

        Args:
            rows: The rows, float32 ``[n, d]``.
        """
        self._same += torch.stack([(rows == value).sum(dim=0) for value in self._ends])
        squares = (rows.double() - self._mean).square_()
        self.square += squares.sum(dim=0)
        largest, where = squares.max(dim=0)
        self._where = torch.where(largest > self._largest, where + self._rows, self._where)
        self._largest = torch.maximum(self._largest, largest)
        self._rows += len(rows)

    def outliers(self, usable: Tensor) -> dict[int, tuple[int, float]]:
        """Return the columns of which a single row holds most of the variance, with that row and its share.

        Columns in which most rows have the same value are left out, such as those of rare tags.

        Args:
            usable: Which rows of the matrix were taken, bool ``[N]``.
        """
        varied = self._same.amax(dim=0) <= self._rows / 2
        share = self._largest / self.square
        found = (varied & (share > 0.5)).nonzero().view(-1).tolist() if self._rows >= FEW_ROWS else []
        places = usable.nonzero().view(-1)
        return {column: (int(places[self._where[column]]), float(share[column])) for column in found}


class Digests:
    """Numbers of 128 bits that tell rows and columns of a matrix apart: sums of their bits with random weights.

    Args:
        width: The number of columns.
    """

    def __init__(self, width: int) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._weight = self._draw(width)
        self._rows: list[Tensor] = [torch.empty(0, 2, dtype=torch.int64)]
        self.columns = torch.zeros(width, 2, dtype=torch.int64)

    @property
    def rows(self) -> Tensor:
        """Two numbers of every row, int64 ``[N, 2]``."""
        return torch.cat(self._rows)

    def add(self, rows: Tensor) -> None:
        """Take further rows of the matrix.

        Args:
            rows: The rows, float32 ``[n, d]``.
        """
        bits, of_rows = (rows + 0.0).view(torch.int32).long(), self._draw(rows.size(0))  # Minus zero is zero.
        self._rows.append(torch.stack([(bits * weight).sum(dim=1) for weight in self._weight.t()], dim=1))
        self.columns += torch.stack([(bits * weight.unsqueeze(1)).sum(dim=0) for weight in of_rows.t()], dim=1)

    def _draw(self, count: int) -> Tensor:
        return torch.randint(-(2**62), 2**62, (count, 2), generator=self._generator) * 2 + 1


def repeated(digests: Tensor, every: bool) -> int:
    """Return how many digests are there more than once.

    Args:
        digests: The digests ``[N, 2]``.
        every: Whether every one of them counts, or all but the first.
    """
    count = torch.unique(digests, dim=0, return_counts=True)[1] if digests.size(0) else digests.new_zeros(0)
    return int(count[count > 1].sum()) if every else int((count - 1).sum())
