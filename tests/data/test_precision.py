"""Columns that float32 does not hold, such as dates, keep what they say; all others keep their bits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch_geometric.data import HeteroData

from pyg_ckd.data import RATES, RecordedTransform, StandardizeFeatures, build_data, fingerprint
from pyg_ckd.data.matching import graph_record, matched
from pyg_ckd.data.precision import narrow_columns
from pyg_ckd.datasets import load, write_npz
from pyg_ckd.serving.fold_in import stack_features

ITEMS = 31
RNG = np.random.default_rng(0)
NARROW = {
    "dates of a month": 20_240_101 + RNG.permutation(ITEMS),
    "seconds of an hour": 1_700_000_000 + RNG.integers(0, 3600, ITEMS),
    "far numbers": 1e8 + RNG.integers(0, 6, ITEMS),
    "fractions": 3e6 + RNG.random(ITEMS),
}
ORDINARY = {
    "normal": RNG.normal(size=ITEMS),
    "years": 1990.0 + np.arange(ITEMS),
    "around a thousand": 1000 + RNG.normal(size=ITEMS),
    "constant": np.full(ITEMS, 0.1),
    "constant up to rounding": 0.1 * (1 + RNG.normal(size=ITEMS) * 1e-15),
    "single precision": (0.1 + RNG.normal(size=ITEMS) * 1e-8).astype(np.float32).astype(np.float64),
}


def graph(column: np.ndarray, transform="standardize", order: np.ndarray | None = None, **arguments) -> HeteroData:
    order = np.arange(ITEMS) if order is None else order
    x = np.stack([column, np.random.default_rng(1).normal(size=ITEMS)], axis=1)[order]
    x = x.astype(column.dtype) if column.dtype.kind == "f" else x.astype(np.float64)
    pairs = np.stack([np.arange(ITEMS) % 5, np.arange(ITEMS)])
    pairs[1] = np.argsort(order)[pairs[1]]
    ids = {"user_id": list(range(5)), "item_id": order}
    return build_data(pairs, {"visual": x}, transform=transform, **ids, **arguments)


@pytest.mark.parametrize("column", NARROW.values(), ids=NARROW.keys())
@pytest.mark.parametrize("kind", ["floats", "integers", "frame"])
def test_far_numbers_are_standardised_as_they_were_given(column, kind, recwarn):
    if kind == "integers" and column.dtype.kind == "f":
        column = np.rint(column * 100).astype(np.int64)
    x = np.stack([column, np.arange(ITEMS)], axis=1)
    expected = StandardScaler().fit_transform(x.astype(np.float64)) / 2**0.5
    features = pd.DataFrame(x) if kind == "frame" else x
    data = build_data(np.stack([np.arange(ITEMS) % 5, np.arange(ITEMS)]), {"visual": features})
    assert data["item"].visual.dtype == torch.float32
    np.testing.assert_allclose(data["item"].visual.numpy(), expected, atol=1e-6)
    assert len(recwarn) == 0


@pytest.mark.parametrize("column", ORDINARY.values(), ids=ORDINARY.keys())
@pytest.mark.parametrize("transform", ["standardize", "pca", "l2", "none"])
def test_what_float32_holds_well_enough_keeps_its_bits(column, transform, recwarn):
    wide, single = graph(column, transform), graph(column.astype(np.float32), transform)
    assert torch.equal(wide["item"].visual, single["item"].visual)
    assert fingerprint(wide) == fingerprint(single)
    assert len(recwarn) == 0


def test_items_that_lack_the_modality_do_not_hide_a_narrow_column():
    has, column = np.arange(ITEMS) % 3 > 0, NARROW["dates of a month"].astype(np.float64)
    column[~has] = 0
    x = graph(column, has={"visual": has})["item"].visual[:, 0]
    there = column[has]
    np.testing.assert_allclose(x[has].numpy(), (there - there.mean()) / there.std() / 2**0.5, atol=1e-6)
    assert float(x[~torch.from_numpy(has)].abs().max()) < 1e-6


@pytest.mark.parametrize("column", NARROW.values(), ids=NARROW.keys())
@pytest.mark.parametrize("transform", ["standardize", "pca"])
def test_new_items_and_later_graphs_get_the_same_values(column, transform, tmp_path):
    data = graph(column, transform)
    raw = np.stack([column, np.random.default_rng(1).normal(size=ITEMS)], axis=1)
    for known in (None, {"visual": raw}):
        old, new, _ = stack_features(data, {"visual": raw[:4]}, known)
        assert new.dtype == old.dtype == torch.float32
        torch.testing.assert_close(new, data["item"].visual[:4], atol=1e-6, rtol=0)
    again = graph(column, RecordedTransform(data))
    torch.testing.assert_close(again["item"].visual, data["item"].visual, atol=1e-6, rtol=0)
    write_npz(data, tmp_path / "a.npz")
    read = load(tmp_path / "a.npz", transform="none")
    assert fingerprint(read) == fingerprint(data)
    torch.testing.assert_close(stack_features(read, {"visual": raw[:4]})[1], old[:4], atol=1e-6, rtol=0)


@pytest.mark.parametrize("column", NARROW.values(), ids=NARROW.keys())
def test_a_graph_in_another_order_or_with_other_means_is_matched(column):
    data = graph(column)
    order = np.random.default_rng(3).permutation(ITEMS)
    out = matched(graph(column, order=order), fingerprint(data), graph_record(data), "model.pt")
    assert out is not None
    torch.testing.assert_close(out["item"].visual, data["item"].visual, atol=1e-5, rtol=0)
    assert out[RATES].edge_index.size(1) == ITEMS


@pytest.mark.parametrize("transform", ["none", "l2"])
def test_a_transform_that_does_not_subtract_means_calls_for_an_offset(transform):
    with pytest.warns(UserWarning, match=r"input: features of 'visual': column 0 varies by so little.*an offset"):
        graph(NARROW["far numbers"], transform)


def test_narrow_columns_are_those_that_a_loop_finds():
    x = np.stack([*NARROW.values(), *ORDINARY.values()], axis=1)
    assert narrow_columns(x) == list(range(len(NARROW)))
    assert narrow_columns(x.astype(np.float32)) == []
    assert narrow_columns(torch.from_numpy(x)) == list(range(len(NARROW)))


def test_double_precision_has_a_resolution_of_its_own():
    x = torch.tensor([[1e8 + n + 0.1, 1.0] for n in range(6)], dtype=torch.float64)
    out = StandardizeFeatures(scale=False).transform_rows(x)
    assert out.dtype == torch.float64
    np.testing.assert_allclose(out[:, 0].numpy(), StandardScaler().fit_transform(x.numpy())[:, 0], atol=1e-6)
    assert out[:, 1].tolist() == [0] * 6
