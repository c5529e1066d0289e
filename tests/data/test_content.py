"""Which items have content, for all that asks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data.content import dense_features, items_with_content
from pyg_ckd.evaluation.baselines.content import content_rows

CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], list[int]]] = {
    "none": (lambda x: x, []),
    "zeros": (lambda x: x.index_fill(0, torch.tensor([1]), 0), [1]),
    "not finite": (lambda x: x.index_fill(0, torch.tensor([1]), torch.nan), [1]),
    "half precision": (lambda x: x.half().index_fill(0, torch.tensor([2]), 0), [2]),
    "sparse": (lambda x: x.index_fill(0, torch.tensor([0]), 0).to_sparse(), [0]),
    "constant": (torch.ones_like, list(range(9))),
}


@pytest.mark.parametrize(("change", "without"), CHANGES.values(), ids=CHANGES)
def test_items_without_content_are_found(
    change: Callable[[Tensor], Tensor], without: list[int], make_data: Callable[..., HeteroData]
) -> None:
    data = make_data()
    data["item"]["mod0"] = change(data["item"]["mod0"])
    says = items_with_content(data, "mod0")
    assert says.dtype == torch.bool
    assert (~says).nonzero().flatten().tolist() == without
    assert dense_features(data, "mod0").dtype == torch.float64


def test_masks_count_and_what_stands_in_for_missing_features_does_not(make_data: Callable[..., HeteroData]) -> None:
    data = make_data()
    x = data["item"]["mod0"]
    data["item"]["has_mod0"] = torch.arange(len(x)) > 2
    fill = torch.stack([x[3:].mean(dim=0), torch.zeros_like(x[0])])
    data["item"]["mod0"] = x.index_copy(0, torch.tensor([0, 4]), fill)
    says = items_with_content(data, "mod0")
    assert (~says).nonzero().flatten().tolist() == [0, 1, 2, 4]
    assert content_rows(data, ["mod0"])["mod0"].any(dim=1).tolist() == says.tolist()
