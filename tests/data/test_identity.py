"""Users and items of two graphs are matched by id, and features must mean what they meant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyg_ckd.data import RATES, RecordedTransform, build_data, feature_transform, fingerprint
from pyg_ckd.data.identity import Identity, identity_of, match
from pyg_ckd.errors import InputError

DIMS = {"visual": 2}


def graph(user_id=None, item_id=None, transform="none", rows=6, seed=0, has=None):
    x = np.random.default_rng(seed).gamma(2.0, 3.0, (6, 5))[:rows]
    ids = {"user_id": user_id, "item_id": item_id}
    return build_data([[0, 1], [0, 1]], {"visual": x}, num_users=3, transform=transform, has=has, **ids)


def found(earlier, later, kind="user"):
    known = match(*(Identity({"user": len(x), "item": len(x)}, DIMS, {kind: x}) for x in (earlier, later)), "old")
    return getattr(known, kind).tolist()


def test_ids_are_matched_wherever_they_stand():
    assert found(["a", "b", "c"], ["c", "x", "a"]) == [2, -1, 0]
    assert found(torch.tensor([5, 7]), torch.tensor([9, 7, 5]), "item") == [-1, 1, 0]


def test_ids_that_are_text_in_one_graph_and_numbers_in_the_other_are_compared_as_text():
    assert found(torch.tensor([5, 70]), ["70", "x", "5"]) == [1, -1, 0]


def test_ids_without_anything_in_common_are_refused_with_examples():
    with pytest.raises(InputError, match=r"no user of the graph among its 2 users \(there 'a', 'b', here 1, 2\)"):
        found(["a", "b"], torch.tensor([1, 2]))


def test_what_is_known_is_said_in_one_line():
    sizes = {"user": 2, "item": 3}
    known = match(Identity(sizes, DIMS), Identity({"user": 5, "item": 3}, {"sound": 1, **DIMS}), "old.pt", True)
    assert str(known) == "old.pt knows 2 of 5 users and 3 of 3 items, new modalities sound"
    assert known.modality.tolist() == [-1, 0]


def test_a_graph_that_was_cut_has_no_identity():
    data = graph(user_id=["a", "b", "c"], item_id=range(6))
    part = data.subgraph({"user": torch.tensor([2, 0])})
    with pytest.raises(InputError, match="cut or renumbered"):
        identity_of(part)


def test_ids_that_are_there_twice_or_not_one_per_node_are_no_identity():
    data = graph(user_id=["a", "b", "c"])
    data.user_id = ["a", "b", "a"]
    with pytest.raises(InputError, match="user_id: found 'a' twice, expected 3 different ones, one per user"):
        identity_of(data)
    data.user_id = torch.tensor([1, 2])
    with pytest.raises(InputError, match="user_id: found 2 ids, expected 3 different ones"):
        identity_of(data)


@pytest.mark.parametrize("name", ["standardize", "l2", "pca"])
@pytest.mark.parametrize("lacking", [False, True])
def test_features_are_prepared_as_those_of_an_earlier_graph(name, lacking):
    has = {"visual": np.array([True, True, False, True, True, True])} if lacking else None
    earlier, rows = graph(transform=name, has=has), torch.tensor([0, 1, 3, 4])
    some = None if has is None else {"visual": has["visual"][:5]}
    later = graph(transform=RecordedTransform(earlier), rows=5, has=some)
    torch.testing.assert_close(later["item"].visual[rows], earlier["item"].visual[rows], rtol=0, atol=1e-6)
    if lacking:
        torch.testing.assert_close(later["item"].visual[2], later["item"].visual[rows].mean(dim=0), rtol=0, atol=1e-6)
    anew = graph(transform=name, rows=5, has=some)
    assert fingerprint(later) != fingerprint(anew)
    again = graph(transform=RecordedTransform(later.prepared), rows=5, has=some)
    assert torch.equal(again["item"].visual, later["item"].visual)
    match(identity_of(later), identity_of(earlier), "old")


def test_columns_that_mean_something_else_are_refused_and_other_means_are_not():
    earlier = graph(transform="pca")
    with pytest.raises(InputError, match=r"principal components of 'visual' were fitted anew.*RecordedTransform"):
        match(identity_of(earlier), identity_of(graph(transform="pca", seed=1)), "old")
    with pytest.raises(InputError, match="StandardizeFeatures and PCAFeatures, those of the graph by Standardize"):
        match(identity_of(earlier), identity_of(graph(transform="standardize")), "old")
    parts = (identity_of(graph(transform="standardize", seed=seed)) for seed in (0, 1))
    assert match(*parts, "old").item.tolist() == [0, 1, 2, 3, 4, 5]


def test_what_cannot_be_prepared_alike_is_refused():
    earlier = graph(transform="standardize")
    other = build_data([[0], [0]], {"visual": np.ones((3, 4))}, transform="none")
    with pytest.raises(InputError, match="'visual': found features of width 4, expected 5"):
        RecordedTransform(earlier)(other)
    with pytest.raises(InputError, match="'visual': the earlier graph does not know"):
        feature_transform(RecordedTransform({}))(other)
    assert other[RATES].edge_index.shape == (2, 1)


def marked(x, rows=None, scale=1.0):
    order = np.arange(len(x)) if rows is None else rows
    return build_data(
        [[0, 1], [0, 1]], {"visual": scale * x[order]}, num_users=3, item_id=range(len(x)), transform="none"
    )


def test_features_under_other_ids_than_before_are_refused():
    x = np.random.default_rng(0).normal(size=(40, 5))
    earlier = identity_of(marked(x))
    with pytest.raises(InputError, match=r"features 'visual' of the 40 items .* were ids shuffled"):
        match(earlier, identity_of(marked(x, np.arange(40)[::-1].copy())), "old")
    few = np.arange(40)
    few[[1, 2]] = [2, 1]
    for same in (marked(x), marked(x, scale=3.0), marked(x, few)):
        assert match(earlier, identity_of(same), "old").item.tolist() == list(range(40))
