"""Dropout of tables of features: draws that entries share against PyTorch's."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.common import Bars, Suite, Table
from pyg_ckd.nn.dropout import dropout

PYTORCH = "PyTorch's dropout"


def run(suite: Suite, sizes: tuple[tuple[int, int], ...] | None = None) -> list[Table]:
    """Measure dropout of half of a table's entries, on the CPU.

    Args:
        suite: What to measure on.
        sizes: Rows and columns of the tables.
    """
    table = Table("dropout", [], chart=Bars("ratio to PyTorch", ("entries", "way")))
    for rows, columns in sizes or (((6710, 256), (17000, 1024)) if suite.full else ((2000, 128),)):
        x = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))
        found = suite.compare({PYTORCH: lambda x=x: F.dropout(x, 0.5), "ours": lambda x=x: dropout(x, 0.5)})
        table.rows += [
            {
                "entries": f"{rows:,} x {columns:,}",
                "way": name,
                "milliseconds": 1000 * timing.median,
                "ratio to PyTorch": timing.median / found[PYTORCH].median,
                "of minima": timing.minimum / found[PYTORCH].minimum,
            }
            for name, timing in found.items()
        ]
    return [table]
