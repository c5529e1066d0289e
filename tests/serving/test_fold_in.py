"""What stands for a newcomer is the mean of what is known."""

from __future__ import annotations

import torch

from pyg_ckd.serving.fold_in import mean_of


def test_means_are_those_of_a_loop() -> None:
    table = torch.randn(6, 3)
    row, member = torch.tensor([0, 0, 2, 1, 2]), torch.tensor([5, 1, 0, 3, 3])
    expected = torch.stack([table[member[row == n]].mean(0) for n in range(3)])
    torch.testing.assert_close(mean_of(table, row, member, 3), expected)
