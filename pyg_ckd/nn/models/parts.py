"""Small things that many backbones do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def check_names(feature_dims: Any) -> None:
    """Refuse what is no mapping from names of modalities, and names that modules inside a backbone cannot have.

    Args:
        feature_dims: The feature width of every modality.

    Raises:
        InputError: If it is none.
    """
    expected = "expected from names of modalities to feature widths, such as {'visual': 512, 'textual': 384}"
    if not isinstance(feature_dims, Mapping):
        raise InputError(f"feature_dims: found {feature_dims!r:.60} ({type(feature_dims).__name__}), {expected}")
    taken = nn.ModuleDict()
    for m in feature_dims:
        if not isinstance(m, str) or not m or "." in m or hasattr(taken, m):
            raise InputError(
                f"feature_dims: found {m!r} as a modality, {expected}; take another name, without a dot, that "
                "torch.nn.ModuleDict does not have itself"
            )


def check_modalities(feature_dims: Any) -> None:
    """Refuse what :func:`check_names` refuses, and no modality at all.

    Args:
        feature_dims: The feature width of every modality.

    Raises:
        InputError: If there is none.
    """
    check_names(feature_dims)
    check_size("number of modalities", len(feature_dims))


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
