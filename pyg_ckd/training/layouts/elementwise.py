"""Optimizers that can work on parts of tables."""

from __future__ import annotations

import torch

from pyg_ckd.training.optimizer import RowAdam

ELEMENTWISE = (
    *(RowAdam, torch.optim.Adadelta, torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax),
    *(torch.optim.ASGD, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop, torch.optim.Rprop),
    *(torch.optim.SGD, torch.optim.SparseAdam),
)
"""Optimizers that move every number by its own gradients, so that rows of a table may be anywhere."""
