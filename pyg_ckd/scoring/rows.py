"""Rows of items and scores from the output of a view, whichever kind it is."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_ckd.scoring.blocks import Block, BlockEmbeddings, Output
from pyg_ckd.scoring.column_sums import check_rows
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.triples import Triples


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
    check_rows("blocks of columns")
    return output.blocks if isinstance(output, BlockEmbeddings) else [Block(*output)]


def added_item_rows(output: Output, base: Output, items: Tensor, like: Output | None = None) -> Tensor:
    """Return the rows of items in a view minus those in another, in the columns that tell items apart.

    Without those of the empty view, it is what the modalities of a view add to the ids. Blocks that both views share
    are left out. A block of one view in which all items have the same row is not taken away from that of the other:
    distances between items stay what they are.

    Args:
        output: The output of a view.
        base: The output of another view of the same backbone.
        items: Row numbers of items, int64 ``[B]``.
        like: The output of a third view: only the columns in which it adds something. (default: :obj:`None`, the first)

    Returns:
        The rows ``[B, D]``, with gradient; ``[B, 0]`` if nothing is left.
    """
    parts = []
    blocks = blocks_of(output)
    for own, other, chosen in zip(blocks, blocks_of(base), blocks if like is None else blocks_of(like), strict=True):
        if chosen is other or (chosen.constant and other.constant):
            continue
        if own.constant:
            parts.append(-other.item_rows(items))
        else:
            rows = own.item_rows(items)
            parts.append(rows if other.constant else rows - other.item_rows(items))
    return torch.cat(parts, dim=1) if parts else blocks[0].item.new_zeros(items.numel(), 0)


def score_matrix(output: Output, users: Tensor, items: Tensor) -> Tensor:
    """Return the scores of some users for some items, but for what is the same for all items.

    Args:
        output: The output of a view.
        users: Row numbers of users, int64 ``[B]``.
        items: Row numbers of items, int64 ``[C]``.

    Returns:
        The scores ``[B, C]``, with gradient.
    """
    blocks = blocks_of(output)
    total = blocks[0].item.new_zeros(users.numel(), items.numel())
    for block in blocks:
        if not block.constant:
            rows = block.item_rows(items).t()
            total = total + (rows if block.user is None else block.user.index_select(0, users) @ rows)
    return total


def table_margins(output: Output, *triples: Triples) -> list[Tensor]:
    """Return the margins that the two tables of a view's output have, as those of a teacher have them.

    They differ from :meth:`Embeddings.margins` only where an output leaves the preferred item out of its user in
    training, as that of :class:`~pyg_ckd.nn.FISM` does.

    Args:
        output: The output of a view.
        *triples: Row numbers of users, preferred items and other items, int64 ``[B]`` each.
    """
    return getattr(output, "table_margins", output.margins)(*triples)


def moving_columns(tables: Embeddings) -> Embeddings:
    """Return copies of two tables without columns in which all items agree, which change no margin.

    Args:
        tables: The tables.
    """
    user, item = tables
    moves = (item != item[:1]).any(dim=0)
    moves[:1] |= ~moves.any()  # Even a teacher that likes all items alike has a table.
    return Embeddings(user.detach()[:, moves], item.detach()[:, moves])
