"""Modules as users write them in files of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Tables(nn.Module):
    """Tables of ids beside projected features; arguments are kept in attributes of the same names."""

    def __init__(self, num_users: int, dims: dict[str, int], width: int = 4) -> None:
        super().__init__()
        self.num_users, self.dims, self.width = num_users, dims, width
        self.user = nn.Parameter(torch.randn(num_users, width))
        self.project = nn.ModuleDict({m: nn.Linear(d, width) for m, d in dims.items()})

    def forward(self, x_dict: dict[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return users and items."""
        return self.user, torch.stack([self.project[m](x) for m, x in x_dict.items()]).sum(dim=0)


class Remembers(Tables):
    """Keeps its arguments in a mapping."""

    def __init__(self, sizes: tuple[int, ...], modality: str) -> None:
        super().__init__(sizes[0], {modality: sizes[1]}, sizes[2])
        self.options = {"sizes": list(sizes), "modality": modality}

    def forward(self, x_dict: dict[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return users and items, from one modality."""
        (m,) = self.dims
        return self.user, self.project[m](x_dict[m])


class Forgets(Tables):
    """Keeps nothing of its own argument."""

    def __init__(self, users: int, dims: dict[str, int]) -> None:
        super().__init__(users, dims)


class Takes(Tables):
    """Takes a function."""

    def __init__(self, num_users: int, dims: dict[str, int], act: object = None) -> None:
        super().__init__(num_users, dims)
        self.act = act


class Lies(Tables):
    """Keeps another width than it was given."""

    def __init__(self, num_users: int, dims: dict[str, int], width: int = 4) -> None:
        super().__init__(num_users, dims, width + 1)


class Lazy(nn.Module):
    """Finds out the widths of features by itself."""

    def __init__(self, num_users: int, names: list[str]) -> None:
        super().__init__()
        self.num_users, self.names = num_users, names
        self.user = nn.Parameter(torch.randn(num_users, 3))
        self.project = nn.ModuleDict({m: nn.LazyLinear(3) for m in names})

    def forward(self, x_dict: dict[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return users and items."""
        return self.user, torch.stack([self.project[m](x) for m, x in x_dict.items()]).sum(dim=0)
