"""The graph of differentiation behind tensors, read without computing any gradient."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.autograd.graph import Node


def nodes_behind(tensors: Iterable[Tensor]) -> list[Node]:
    """Return all nodes that a backward pass from tensors could visit, each once.

    Args:
        tensors: The tensors; those without gradient have no nodes.
    """
    found: dict[Node, None] = {}
    waiting = [x.grad_fn for x in tensors if x.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = None
            waiting += [after for after, _ in node.next_functions if after is not None]
    return list(found)


def leaf_of(node: Node) -> Tensor | None:
    """Return the leaf tensor whose gradient a node accumulates, or :obj:`None` if it computes something."""
    return getattr(node, "variable", None) if node.name().endswith("::AccumulateGrad") else None


def leaves_behind(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return all leaf tensors that a backward pass from tensors could give a gradient, each once.

    Args:
        tensors: The tensors, perhaps leaves themselves.
    """
    tensors = list(tensors)
    own = [x for x in tensors if x.grad_fn is None and x.requires_grad]
    found = [leaf for leaf in map(leaf_of, nodes_behind(tensors)) if leaf is not None]
    return list({id(x): x for x in (*own, *found)}.values())
