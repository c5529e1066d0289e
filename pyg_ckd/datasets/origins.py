"""Where the rows of a table are from that was put together from several files, and of which some were left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd


class Origin:
    """The file of each row of a table, and the number of the row in it; rows count from zero, without the header.

    Args:
        frames: The table of each file, in the order in which they are put together.
    """

    def __init__(self, frames: Mapping[Path, pd.DataFrame]) -> None:
        self.files = list(frames)
        self.starts = np.cumsum([0, *map(len, frames.values())])[:-1]

    def of(self, table: pd.DataFrame | pd.Series, position: int) -> tuple[Path, int]:
        """Return the file of a row, and the number of the row in it.

        Args:
            table: The table, or one of its columns, with the index that it was put together with.
            position: The position of the row in it.
        """
        row = int(table.index[position])
        file = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.files[file], row - int(self.starts[file])

    def row(self, table: pd.DataFrame | pd.Series, position: int) -> int:
        """Return the number of a row in its file, see :meth:`of`."""
        return self.of(table, position)[1]

    def named(self, table: pd.DataFrame | pd.Series) -> Callable[[int], str]:
        """Return how messages name the row at a position of a table: by its number, and by its file if there are more.

        Args:
            table: As of :meth:`of`.
        """

        def name(position: int) -> str:
            file, row = self.of(table, position)
            return f"{row} of {file.name}" if len(self.files) > 1 else str(row)

        return name


def put_together(frames: Mapping[Path, pd.DataFrame], splits: Mapping[Path, str]) -> tuple[pd.DataFrame, Origin]:
    """Return tables as one, and where its rows are from, which its index tells as long as it is not reset.

    Args:
        frames: The table of each file.
        splits: The split of the files that hold one, for a column ``split``.
    """
    tables = [frame.assign(split=splits[file]) if file in splits else frame for file, frame in frames.items()]
    return pd.concat(tables, ignore_index=True), Origin(frames)
