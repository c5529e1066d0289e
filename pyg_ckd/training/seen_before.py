"""Which held-out interactions an earlier model was trained on: metrics of a model that starts from it count them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.identity import Known
from pyg_ckd.data.inputs import held_out
from pyg_ckd.scoring.pairs import pair_keys

SPLITS = {"val": "validation", "test": "test"}


def seen_before(data: HeteroData, known: Known, interactions: Tensor, num_items: int) -> dict[str, float]:
    """Return the share of the held-out interactions of a graph that an earlier model was trained on.

    Args:
        data: The graph of today.
        known: Which users and items of it the earlier model knows.
        interactions: What the earlier model was trained on, in its own rows, integers ``[2, E]``.
        num_items: Number of items of the earlier model.

    Returns:
        The share by split; a split without interactions is left out.

    Warns:
        UserWarning: If there are any.
    """
    user, item = interactions.cpu()
    trained = pair_keys(user, item, num_items)
    shares, found = {}, []
    for split, title in SPLITS.items():
        user, item = held_out(data, split).cpu().long()
        if not user.numel():
            continue
        user, item = known.user[user], known.item[item]
        both = (user >= 0) & (item >= 0)
        count = int(torch.isin(pair_keys(user[both], item[both], num_items), trained).sum())
        shares[split] = count / both.numel()
        if count:
            found.append(f"{count:,} of the {both.numel():,} {title} interactions ({shares[split]:.1%})")
    if found:
        warnings.warn(
            f"start_from: {known.source.removeprefix('start_from: ')} was trained on {' and '.join(found)} of today, "
            "so that metrics are too high: the split of today differs from the earlier one. A random split depends on "
            "the order of the rows; give the data a column split, or split them temporal or leave-one-out",
            stacklevel=4,
        )
    return shares
