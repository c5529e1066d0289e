"""Rows of items and scores from the output of a view, whichever kind it is."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_ckd.scoring.blocks import Block, BlockEmbeddings, Output


def item_rows(output: Output, items: Tensor) -> Tensor:
    """Return the rows of items in the columns that tell items apart, of whichever kind a view's output is.

    Args:
        output: The output of a view.
        items: Row numbers of items, int64 ``[B]``.

    Returns:
        The rows ``[B, D]``, with gradient; see :meth:`Embeddings.item_rows` and :meth:`BlockEmbeddings.item_rows`.
    """
    return output.item_rows(items)


def blocks_of(output: Output) -> list[Block]:
    """Return the blocks of columns of a view's output, in the same order in every view of a backbone.

    Args:
        output: The output of a view.
    """
    return output.blocks if isinstance(output, BlockEmbeddings) else [Block(*output)]


def added_item_rows(output: Output, base: Output, items: Tensor, like: Output | None = None) -> Tensor:
    """Return what a view adds to the rows of items in another view, such as a modality to the empty view.

    Blocks that both views share, as that of the ids, are left out; of any other, the row in the other view is taken
    away, unless all items have the same there. What is left tells items apart by what the first view alone knows. A
    block of one view in which all items have the same row is not taken away from that of the other: distances between
    items stay what they are.

    Args:
        output: The output of a view.
        base: The output of another view of the same backbone.
        items: Row numbers of items, int64 ``[B]``.
        like: The output of a third view: only the columns in which it adds something. (default: :obj:`None`, the first)

    Returns:
        The rows ``[B, D]``, with gradient; ``[B, 0]`` if nothing is left.
    """
    parts, third = [], output if like is None else like
    for own, other, chosen in zip(blocks_of(output), blocks_of(base), blocks_of(third), strict=True):
        if chosen is other or (chosen.constant and other.constant):
            continue
        if own.constant and not other.constant:
            parts.append(-other.item_rows(items))
        else:
            rows = own.item_rows(items)
            parts.append(rows if other.constant else rows - other.item_rows(items))
    return torch.cat(parts, dim=1) if parts else blocks_of(output)[0].item.new_zeros(items.numel(), 0)


def score_matrix(output: Output, users: Tensor, items: Tensor) -> Tensor:
    """Return the scores of some users for some items, but for what is the same for all items.

    Args:
        output: The output of a view.
        users: Row numbers of users, int64 ``[B]``.
        items: Row numbers of items, int64 ``[C]``.

    Returns:
        The scores ``[B, C]``, with gradient.
    """
    if not isinstance(output, BlockEmbeddings):
        return output.user.index_select(0, users) @ output.item.index_select(0, items).t()
    total = output.blocks[0].item.new_zeros(users.numel(), items.numel())
    for block in output.blocks:
        if not block.constant:
            rows = block.item_rows(items).t()
            total = total + (rows if block.user is None else block.user.index_select(0, users) @ rows)
    return total
