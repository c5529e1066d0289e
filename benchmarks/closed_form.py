"""Closed forms of items on items: the inverse in place, and corrected for content, against that of PyTorch."""

from __future__ import annotations

import torch

from benchmarks.common import Bars, Suite, Table
from pyg_ckd.data.closed_form import FEW, FastItemWeights, item_weights

PYTORCH = "PyTorch's Cholesky and inverse"
FAST, ANEW, CORRECTED = "ours, float32", "with content, float32", "with content, corrected"
COLUMNS = 128
"""Columns of the content, of fewer items fewer."""


def run(suite: Suite, sizes: tuple[int, ...] | None = None) -> list[Table]:
    """Measure the weights of EASE for random Gram matrices, on the CPU.

    Args:
        suite: What to measure on.
        sizes: Numbers of items.
    """
    table = Table("closed forms", [], chart=Bars("ratio to PyTorch", ("items", "way")))
    for items in sizes or ((2700, 6710) if suite.full else (1400,)):
        rows = torch.rand(items, items, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        gram = rows @ rows.t()
        ways = {PYTORCH: lambda gram=gram: by_pytorch(gram, 10.0), "ours": lambda gram=gram: item_weights(gram, 10.0)}
        torch.testing.assert_close(ways["ours"](), ways[PYTORCH](), atol=1e-5, rtol=0)
        fast, kept = FastItemWeights(gram), FastItemWeights(gram)
        columns = min(COLUMNS, items // FEW)
        kept.keep(10.0, columns)
        content = torch.rand(items, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        with_content = item_weights(gram, 10.0, content)
        ways[FAST] = lambda fast=fast: fast(10.0)
        ways[ANEW] = lambda fast=fast, content=content: fast(10.0, content)
        ways[CORRECTED] = lambda kept=kept, content=content: kept(10.0, content)
        for name, expected in ((FAST, ways[PYTORCH]()), *((name, with_content) for name in (ANEW, CORRECTED))):
            torch.testing.assert_close(ways[name](), expected, atol=1e-3, rtol=0)
        found = suite.compare(ways)
        table.rows += [
            {
                "items": items,
                "way": name,
                "seconds": timing.median,
                "ratio to PyTorch": timing.median / found[PYTORCH].median,
                "of minima": timing.minimum / found[PYTORCH].minimum,
            }
            for name, timing in found.items()
        ]
    return [table]


def by_pytorch(gram: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return the weights by PyTorch's LAPACK, out of place."""
    matrix = gram.clone()
    matrix.diagonal().add_(ridge)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return (-inverse / inverse.diagonal()).fill_diagonal_(0).float()
