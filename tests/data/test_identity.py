"""Users and items of two graphs are matched by id, and features must mean what they meant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyg_ckd.data import RATES, RecordedTransform, build_data, feature_transform, fingerprint
from pyg_ckd.data.identity import Identity, identity_of, match
from pyg_ckd.data.prepared import current
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
    with pytest.raises(InputError, match="the earlier graph does not know how any of the modalities visual"):
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


def replayed(x: np.ndarray, earlier=None):
    """Return a graph of 40 items, prepared with the numbers of an earlier one if there is one."""
    transform = "standardize" if earlier is None else RecordedTransform(earlier)
    return build_data([[0, 1], [0, 1]], {"visual": x}, num_users=3, item_id=range(len(x)), transform=transform)


@pytest.mark.parametrize("factor", [255.0, 1.3, 0.01])
def test_another_scale_is_refused_where_the_recorded_numbers_were_applied(factor: float):
    x = np.random.default_rng(0).uniform(size=(40, 5))
    monday = replayed(x)
    with pytest.raises(InputError, match=rf"old: features 'visual' of the 40 items .* lie {factor:.3g} times as far"):
        match(identity_of(monday), identity_of(replayed(factor * x, monday)), "old")
    anew = identity_of(replayed(factor * x))  # Means and deviations of its own take the scale away.
    assert match(identity_of(monday), anew, "old").item.tolist() == list(range(40))


def test_rounding_and_a_few_changed_items_are_no_other_scale():
    rng = np.random.default_rng(1)
    for size, spread in ((40, 1.0), (300, 1.0), (40, 1e-3)):
        x = rng.normal(5.0, spread, (size, 6))
        monday, few = replayed(x), x.copy()
        few[: size // 10] = rng.normal(5.0, 3 * spread, (size // 10, 6))
        drifted = x + 0.3 * spread * rng.normal(size=x.shape)
        ways = [x.astype(np.float32), few, drifted, 1.05 * (x - 5) + 5]
        ways += [x.astype(np.float16)] if spread == 1 else []
        for other in ways:
            known = match(identity_of(monday), identity_of(replayed(other, monday)), "old")
            assert known.item.tolist() == list(range(size))
    kinds = np.eye(4)[rng.integers(0, 4, 60)]  # Many items are alike.
    monday = replayed(kinds)
    assert match(identity_of(monday), identity_of(replayed(kinds, monday)), "old").item.numel() == 60
    with pytest.raises(InputError, match="lie 3 times as far apart"):
        match(identity_of(monday), identity_of(replayed(3 * kinds, monday)), "old")


def two_days(transform, has=None, **features):
    base = {"visual": np.arange(18.0).reshape(6, 3) ** 2}
    return build_data(
        [[0, 1, 2], [0, 1, 2]], {**base, **features}, has=has, item_id=range(6), num_users=3, transform=transform
    )


@pytest.mark.parametrize("name", ["standardize", "l2", "pca", None])
@pytest.mark.parametrize("lacking", [False, True])
def test_a_modality_that_the_earlier_graph_lacks_has_a_transform_of_its_own(name, lacking):
    monday = two_days("standardize")
    audio = np.random.default_rng(3).normal(2.0, 4.0, (6, 4))
    has = {"audio": np.array([True, True, False, True, True, True])} if lacking else None
    tuesday = two_days(RecordedTransform(monday, new=name), has, audio=audio)
    own = two_days(name, has, audio=audio)
    assert tuesday.modalities == ["visual", "audio"]
    assert torch.equal(tuesday["item"].visual, monday["item"].visual)
    assert torch.equal(tuesday["item"].audio, own["item"].audio)
    assert str(tuesday.prepared["audio"]) == str(own.prepared["audio"])
    assert current(tuesday, "audio") is not None
    wednesday = two_days(RecordedTransform(tuesday), has, audio=audio + 1.0)
    again = two_days(RecordedTransform(own), has, audio=audio + 1.0)
    assert torch.equal(wednesday["item"].audio, again["item"].audio)
    known = match(identity_of(monday), identity_of(tuesday), "old", new_modalities=True)
    assert known.new_modalities == ("audio",)


def test_new_modalities_are_standardised_by_default_and_others_refused_by_name():
    audio = np.random.default_rng(3).normal(2.0, 4.0, (6, 4))
    monday = two_days("standardize")
    got = two_days(RecordedTransform(monday), audio=audio)["item"].audio
    assert torch.equal(got, two_days("standardize", audio=audio)["item"].audio)
    with pytest.raises(InputError, match="unknown transform 'standardise'"):
        RecordedTransform(monday, new="standardise")
    unknown = two_days(lambda data: data)
    unknown["item"].visual = unknown["item"].visual + 1
    del unknown.prepared
    with pytest.raises(InputError, match="'visual': the earlier graph does not know how its features were prepared"):
        two_days(RecordedTransform(unknown), audio=audio)
