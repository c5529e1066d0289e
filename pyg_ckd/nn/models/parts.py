"""Small things that many backbones do."""

from __future__ import annotations

from torch import Tensor, nn

from pyg_ckd.arguments import as_integer
from pyg_ckd.errors import InputError
from pyg_ckd.nn.bounded import columnwise
from pyg_ckd.nn.conv.lg_conv import LGConv
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.nn.rows import is_as_written


def reset_linear_layers(module: nn.Module) -> None:
    """Draw the parameters of all linear layers in a module anew."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()


def check_size(name: str, size: int, least: int = 1) -> None:
    """Raise an InputError unless ``size`` is at least ``least``."""
    if as_integer(size, name) < least:
        raise InputError(f"{name}: found {size}, expected at least {least}")


def sum_of_layers(convs: nn.ModuleList, x: Tensor, graph: Adjacency, weight: Tensor | None = None) -> Tensor:
    """Return the sum of what enters light graph convolutions and of what each makes of it, ``[N, D]``.

    Large tables without gradients are computed some columns at a time, unless a layer is another one or has hooks.

    Args:
        convs: The layers, each :class:`~pyg_ckd.nn.LGConv`.
        x: Node embeddings ``[N, D]``.
        graph: The graph.
        weight: Other weights than the graph's, see :meth:`~pyg_ckd.nn.Adjacency.matmul`.
    """

    def layers(x: Tensor) -> Tensor:
        total = x
        for conv in convs:
            x = conv(x, graph, weight)
            total = total + x
        return total

    plain = all(type(conv) is LGConv for conv in convs) and is_as_written(convs, nn.ModuleList, (), convs)
    return columnwise(x, graph, layers) if plain else layers(x)
