"""What stands in for missing features: brute force over interactions and neighbours, and what must never change."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch_geometric.data import HeteroData

from pyg_ckd.data import (
    RATES,
    GraphImputation,
    NeighborImputation,
    build_data,
    check_data,
    fingerprint,
    imputation,
)
from pyg_ckd.errors import InputError

SETTINGS = settings(deadline=None, max_examples=50)
METHODS = ["mean", "zero", "graph", "neighbors"]
FLOATS = st.floats(-100, 100, width=32)
HAS = np.array([True, True, False, True, False])
TRAIN = np.array([[0, 0, 0, 1, 1, 2], [0, 2, 1, 2, 0, 3]])


def small(impute="mean", transform="none", **changes) -> HeteroData:
    x = np.array([[1.0, 0], [3, 2], [np.nan, np.nan], [8, 8], [np.inf, 0]])
    text = np.array([[1.0, 0], [0, 1], [1, 0.1], [0.9, 0], [0, 2]])
    arguments = {"features": {"visual": x, "text": text}, "has": {"visual": HAS}} | changes
    features = arguments.pop("features")
    return build_data(TRAIN, features, num_items=5, transform=transform, impute=impute, **arguments)


@st.composite
def inputs(draw):
    """Arguments of the builder with two modalities that some items lack, whatever their rows hold then."""
    users, items = draw(st.integers(1, 5)), draw(st.integers(2, 7))
    keys = np.array(draw(st.lists(st.integers(0, users * items - 1), min_size=1, max_size=20, unique=True)))
    masks = st.lists(st.booleans(), min_size=items, max_size=items).filter(any).map(np.array)
    has = {m: draw(masks) for m in ("visual", "text")}
    features = {m: draw(hnp.arrays(np.float32, (items, 2), elements=FLOATS, fill=st.nothing())) for m in has}
    return np.stack([keys // items, keys % items]), features, has, users, items


def build(arguments, impute: str, transform: str = "none") -> HeteroData:
    train, features, has, users, items = arguments
    return build_data(train, features, has=has, num_users=users, num_items=items, impute=impute, transform=transform)


@pytest.mark.parametrize("impute", METHODS)
@SETTINGS
@given(arguments=inputs(), garbage=st.sampled_from([np.nan, np.inf, 7.5, -0.0]))
def test_items_with_the_modality_keep_every_bit_and_rows_of_the_others_have_no_influence(impute, arguments, garbage):
    train, features, has, *sizes = arguments
    out = build(arguments, impute)
    other = {m: np.where(has[m][:, None], x, np.float32(garbage)) for m, x in features.items()}
    again = build((train, other, has, *sizes), impute)
    assert fingerprint(out) == fingerprint(again)
    for m, x in features.items():
        assert out["item"][m][has[m]].numpy().tobytes() == x[has[m]].tobytes()
        assert out["item"][m].dtype == torch.float32
        assert out["item"][f"has_{m}"].tolist() == has[m].tolist()


@pytest.mark.parametrize("impute", METHODS[:1] + METHODS[2:])
@SETTINGS
@given(arguments=inputs(), transform=st.sampled_from(["none", "standardize", "l2"]))
def test_stand_ins_are_averages_of_items_that_have_the_modality(impute, arguments, transform):
    out, has = build(arguments, impute, transform), arguments[2]
    for m in has:
        known, x = out["item"][m][has[m]].double(), out["item"][m].double()
        slack = 1e-5 * (1 + known.abs().max())
        assert (x >= known.amin(dim=0) - slack).all()
        assert (x <= known.amax(dim=0) + slack).all()


@pytest.mark.parametrize("impute", METHODS)
@SETTINGS
@given(arguments=inputs())
def test_filling_in_again_changes_no_bit(impute, arguments):
    out = build(arguments, impute)
    assert fingerprint(imputation(impute)(out)) == fingerprint(out)
    assert fingerprint(check_data(out, impute)) == fingerprint(out)
    assert fingerprint(check_data(out, "given")) == fingerprint(out)


@settings(deadline=None, max_examples=200)
@given(arguments=inputs())
def test_graph_averages_equal_those_of_a_loop_over_paths(arguments):
    (users, items), features, has, _, num_items = arguments
    out = build(arguments, "graph")["item"]
    for m, x in features.items():
        for i in np.flatnonzero(~has[m]):
            partners = [j for u in users[items == i] for j in items[users == u] if has[m][j]]
            rows = x[partners if partners else has[m]].astype(np.float64)
            np.testing.assert_allclose(out[m][i].numpy(), rows.mean(axis=0), atol=1e-4, rtol=1e-5)
    assert num_items == out.num_nodes


@settings(deadline=None, max_examples=200)
@given(arguments=inputs(), k=st.integers(1, 4))
def test_neighbour_averages_equal_those_of_sorted_cosines(arguments, k):
    train, features, has, users, items = arguments
    out = build((train, features, has, users, items), NeighborImputation(k))["item"]
    for m, other in (("visual", "text"), ("text", "visual")):
        both, x = np.flatnonzero(has[m] & has[other]), features[m].astype(np.float64)
        norm = np.maximum(np.linalg.norm(features[other], axis=1, keepdims=True), 1e-12)
        cosine = (features[other] / norm) @ (features[other] / norm).T
        for i in np.flatnonzero(~has[m]):
            if not has[other][i] or not both.size:
                expected = [x[has[m]].mean(axis=0)]
            else:  # Equal cosines may come in any order.
                order = np.sort(cosine[i, both])[::-1][: min(k, both.size)]
                sure = both[cosine[i, both] > order[-1] + 1e-5]
                maybe = both[np.abs(cosine[i, both] - order[-1]) <= 1e-5]
                if sure.size + maybe.size > order.size:
                    continue
                expected = [x[np.concatenate([sure, maybe])].mean(axis=0)]
            np.testing.assert_allclose(out[m][i].numpy(), expected[0], atol=1e-3, rtol=1e-4)


def test_every_method_in_one_example():
    rows = {name: small(name)["item"].visual[[2, 4]].tolist() for name in METHODS}
    assert rows["mean"] == [[4.0, pytest.approx(10 / 3)]] * 2
    assert rows["zero"] == [[0.0, 0.0]] * 2
    # Item 2 shares user 0 with items 0 and 1, and user 1 with item 0; nobody knows item 4.
    assert rows["graph"] == [[pytest.approx(5 / 3), pytest.approx(2 / 3)], [4.0, pytest.approx(10 / 3)]]
    assert small(NeighborImputation(k=1))["item"].visual[4].tolist() == [3.0, 2.0]


def test_the_first_modality_that_an_item_has_leads_to_its_neighbours():
    audio = np.array([[0.0, 1], [1, 0], [0, 1], [0, 1.1], [0.0, 1]])
    text = np.array([[1.0, 0], [0, 1], [1, 0], [0, 1], [0, 1]])
    x = np.arange(10.0).reshape(5, 2)
    out = small(
        NeighborImputation(k=1),
        features={"visual": x, "text": text, "audio": audio},
        has={"visual": HAS, "text": np.array([True, True, True, True, False])},
    )
    assert out["item"].visual[2].tolist() == x[0].tolist()  # By text.
    assert out["item"].visual[4].tolist() == x[0].tolist()  # By audio, as it has no text.


def test_stand_ins_are_made_of_transformed_features():
    out = small("graph", "standardize")["item"].visual
    torch.testing.assert_close(out[2], (2 * out[0] + out[1]) / 3)


def test_held_out_interactions_lead_to_no_stand_in():
    given = {"val": np.array([[2], [4]]), "test": np.array([[1], [4]])}
    assert small("graph", **given)["item"].visual[4].tolist() == small("mean")["item"].visual[4].tolist()


def test_rows_as_given_stay_unless_they_are_not_finite():
    x = np.array([[1.0, 0], [3, 2], [-7, -0.0], [8, 8], [np.inf, 0]])
    out = small("given", features={"visual": x})["item"].visual
    assert out[2].tolist() == [-7.0, 0.0]
    assert out[4].tolist() == [4.0, pytest.approx(10 / 3)]


def test_large_sums_are_taken_in_blocks_of_columns(monkeypatch):
    whole = small("graph")
    monkeypatch.setattr("pyg_ckd.data.impute._BLOCK_FLOATS", 1)
    assert fingerprint(small("graph")) == fingerprint(whole)


def test_a_graph_is_filled_in_as_a_copy():
    data = small()
    before = data["item"].visual.clone()
    out = GraphImputation()(data)
    assert torch.equal(data["item"].visual, before)
    assert not torch.equal(out["item"].visual, before)
    assert torch.equal(out["item"].text, data["item"].text)
    assert out[RATES].edge_index is data[RATES].edge_index


def test_unknown_imputation_and_no_neighbours_are_refused():
    with pytest.raises(InputError, match="unknown imputation 'neighbours': did you mean 'neighbors'"):
        small("neighbours")
    with pytest.raises(InputError, match="k: found 0, expected a positive number of neighbours"):
        NeighborImputation(0)


def test_a_callable_is_its_own_imputation():
    assert imputation(len) is len
    assert [repr(imputation(name)) for name in ("mean", "neighbors")] == [
        "MeanImputation()",
        "NeighborImputation(k=10)",
    ]
