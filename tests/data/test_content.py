"""Which items have content, for all that asks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data import content, mapped, neighbors
from pyg_ckd.data.content import (
    dense_features,
    items_with_content,
    modalities_without_content,
    warn_without_content,
)
from pyg_ckd.evaluation.baselines.content import content_rows
from pyg_ckd.nn.models.item_weights import unit_rows

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


@pytest.mark.parametrize("scale", [2.0**100, 2.0**-100])
def test_the_scale_of_features_changes_no_row_of_baselines_and_models(scale: float, make_data) -> None:
    data = make_data()
    x = data["item"]["mod0"]
    expected, rows = content_rows(data, ["mod0"])["mod0"], unit_rows(x)
    data["item"]["mod0"] = x * scale
    assert torch.equal(content_rows(data, ["mod0"])["mod0"], expected)
    assert torch.equal(unit_rows(x * scale), rows)
    assert rows.norm(dim=1).tolist() == pytest.approx([1.0] * len(rows), abs=1e-5)
    assert torch.equal(rows, F.normalize(x - x.mean(dim=0)))


def rows_of(items: int, *rows: int) -> Tensor:
    """Return features of zeros, but for some rows."""
    return torch.zeros(items, 3).index_fill(0, torch.tensor(rows, dtype=torch.int64), 2.0)


SAME: dict[str, tuple[Tensor, bool]] = {
    "zeros": (torch.zeros(9, 3), False),
    "constant": (torch.full((9, 3), 0.1), False),
    "rounding": (1e4 + 1e-3 * torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), False),
    "one that is not zero, in the first block": (rows_of(9, 1), False),
    "one that is not zero, in the last block": (rows_of(9, 8), False),
    "two that are not zero, in different blocks": (rows_of(9, 1, 8), True),
    "two values, in different blocks": (torch.ones(9, 3).index_fill(0, torch.arange(6, 9), 2.0), True),
    "two that are not zero, in the last block": (rows_of(9, 6, 7, 8), True),
    "one that differs": (torch.ones(9, 3).index_fill(0, torch.tensor([4]), 2.0), True),
    "not finite but for one": (torch.full((9, 3), torch.nan).index_fill(0, torch.tensor([2]), 1.0), False),
    "all different": (torch.arange(27.0).reshape(9, 3), True),
}


@pytest.mark.parametrize("block", [2**22, 9, 3], ids=["one block", "of three rows", "of one row"])
@pytest.mark.parametrize(("x", "expected"), SAME.values(), ids=SAME)
def test_modalities_without_content_are_found_however_they_are_read(
    x: Tensor, expected: bool, block: int, make_data: Callable[..., HeteroData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "BLOCK", block)
    data = make_data()
    data["item"]["mod1"] = x
    assert (int(items_with_content(data, "mod1").sum()) > 1) is expected
    for given in (x, x.half(), x.to_sparse()):
        data["item"]["mod1"] = given
        assert modalities_without_content(data) == ([] if expected else ["mod1"])
    data["item"]["has_mod0"] = torch.arange(9) == 3
    assert modalities_without_content(data) == (["mod0"] if expected else ["mod0", "mod1"])


def test_of_large_features_the_first_block_is_enough(
    make_data: Callable[..., HeteroData], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, read = make_data(), []
    monkeypatch.setattr(mapped, "BLOCK", 12)
    monkeypatch.setattr(content, "without_content", lambda x: read.append(len(x)) or neighbors.without_content(x))
    assert modalities_without_content(data) == []
    assert read == [4, 3]  # Rows of 3 and of 4 numbers.


def test_a_warning_names_the_modalities_without_content(make_data: Callable[..., HeteroData]) -> None:
    data = make_data(modalities=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert warn_without_content(data) == []
    data["item"]["mod0"], data["item"]["mod2"] = torch.zeros(9, 3), torch.ones(9, 5)
    with pytest.warns(
        UserWarning, match=r"^features of 'mod0', 'mod2': found no content that tells items apart"
    ) as found:
        assert warn_without_content(data) == ["mod0", "mod2"]
    assert [Path(one.filename).name for one in found] == ["test_content.py"]
