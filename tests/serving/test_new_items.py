"""New items come with features as they are read: the graph knows how its own were prepared."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.data import Embeddings, NeighborImputation, PCAFeatures, StandardizeFeatures, build_data
from pyg_ckd.data.impute import _IMPUTATIONS
from pyg_ckd.data.ridge import Ridge, far_outside
from pyg_ckd.data.transforms import _TRANSFORMS
from pyg_ckd.datasets import MultimodalFolder, load, write_npz
from pyg_ckd.datasets.writing import WRITERS
from pyg_ckd.errors import InputError
from pyg_ckd.serving import Recommender

USERS, ITEMS, NEW = 15, 40, 6
RNG = np.random.default_rng(1)
LATENT = RNG.normal(size=(ITEMS + NEW, 4))
RAW = {
    "visual": 50 + 30 * LATENT @ RNG.normal(size=(4, 12)) + RNG.normal(size=(ITEMS + NEW, 12)),
    "textual": 0.01 * LATENT @ RNG.normal(size=(4, 70)) + 0.001 * RNG.normal(size=(ITEMS + NEW, 70)) + 3,
}
HAS = {"visual": np.arange(ITEMS) % 5 > 0, "textual": np.arange(ITEMS) % 7 > 0}
TRAIN = np.array([(u, i) for u in range(USERS) for i in range(ITEMS) if (u * 7 + i) % 4 == 0]).T
TRANSFORMS = ["standardize", "l2", "pca", "none", PCAFeatures(5, whiten=True), StandardizeFeatures(scale=False)]
IMPUTATIONS = ["mean", "zero", "graph", "neighbors", NeighborImputation(3), "given"]


def known(missing: bool) -> dict[str, np.ndarray]:
    return {m: np.where(HAS[m][:, None] | (not missing), x[:ITEMS], 0.0) for m, x in RAW.items()}


def graph(transform, impute="mean", missing: bool = True) -> HeteroData:
    return build_data(
        TRAIN, known(missing), has=HAS if missing else {}, transform=transform, impute=impute, num_items=ITEMS
    )


def recommender(data: HeteroData) -> Recommender:
    user = torch.from_numpy(np.random.default_rng(2).normal(size=(USERS, 4)))
    return Recommender(Embeddings(user, torch.from_numpy(LATENT[:ITEMS])), data)


def new(*left_out: str) -> dict[str, np.ndarray]:
    return {m: x[ITEMS:] for m, x in RAW.items() if m not in left_out}


def rows(one: Recommender) -> torch.Tensor:
    return one.embeddings.item[ITEMS:]


def test_every_name_of_a_transform_and_an_imputation_is_tried_here():
    assert set(_TRANSFORMS) <= {one for one in TRANSFORMS if isinstance(one, str)}
    assert set(_IMPUTATIONS) <= {one for one in IMPUTATIONS if isinstance(one, str)}


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
@pytest.mark.parametrize("impute", IMPUTATIONS, ids=repr)
@pytest.mark.parametrize("left_out", [(), ("visual",), ("textual",)], ids=repr)
def test_raw_features_alone_give_what_they_give_beside_raw_features_of_known_items(transform, impute, left_out):
    one = recommender(graph(transform, impute))
    a = rows(one.with_new_items(new(*left_out)))
    b = rows(one.with_new_items(new(*left_out), known_features=known(True)))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_new_items_land_where_their_latent_factors_are(transform):
    found = rows(recommender(graph(transform, missing=False)).with_new_items(new()))
    truth = torch.from_numpy(LATENT[ITEMS:])
    assert float((found - truth).square().mean()) < 0.25 * float(truth.square().mean())


@pytest.mark.parametrize("transform", ["standardize", "l2"])
def test_a_known_item_that_comes_again_as_it_was_read_is_not_everyones_first(transform):
    one = recommender(graph(transform, missing=False))
    again = one.with_new_items({m: x[:5] for m, x in RAW.items()})
    first = again.recommend(k=1, exclude_seen=False).items[:, 0]
    assert np.mean(first >= ITEMS) < 0.5
    torch.testing.assert_close(again.embeddings.item[ITEMS:], one.embeddings.item[:5], rtol=0.5, atol=0.5)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_transformed_features_may_be_given_as_such(transform):
    data = graph(transform, missing=False)
    expected = rows(recommender(data).with_new_items({m: RAW[m][:3] for m in RAW}))
    given = {m: data["item"][m][:3] for m in data.modalities}
    torch.testing.assert_close(
        rows(recommender(data).with_new_items(given, transformed=True)), expected, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("format", [*sorted(WRITERS), "processed"])
@pytest.mark.parametrize("transform", ["standardize", "pca", "l2"])
def test_graphs_from_files_know_it_too(tmp_path, transform, format):
    data = graph(transform, "neighbors")
    expected = rows(recommender(data).with_new_items(new("visual")))
    if format == "processed":
        write_npz(graph("none", "given"), tmp_path / "raw.npz")
        for _ in range(2):
            again = MultimodalFolder(tmp_path / "raw.npz", tmp_path / "root", features=transform, impute="neighbors")[0]
    else:
        path = tmp_path / ("d.npz" if format == "npz" else "d")
        WRITERS[format](data, path)
        again = load(path, "none", impute="neighbors")
    found = rows(recommender(again).with_new_items(new("visual"), range(ITEMS, ITEMS + NEW)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


IDS = np.array([f"B{n * 7919 % 1009}" for n in range(ITEMS + NEW)])
FRAMES = {m: pd.DataFrame(x, index=IDS) for m, x in RAW.items()}


def shuffled(tables: dict[str, pd.DataFrame], seed: int) -> dict[str, pd.DataFrame]:
    return {m: table.sample(frac=1, random_state=seed + n) for n, (m, table) in enumerate(tables.items())}


@pytest.mark.parametrize("impute", ["mean", "neighbors"])
def test_frames_of_new_and_known_items_are_joined_by_id(impute):
    data = graph("standardize", impute, missing=False)
    data.item_id = IDS[:ITEMS].tolist()
    one, ids = recommender(data), IDS[ITEMS:].tolist()
    expected = one.with_new_items(new(), ids)
    for seed in range(3):
        frames = shuffled({m: x[ITEMS:] for m, x in FRAMES.items()}, seed)
        old = shuffled({m: x[:ITEMS] for m, x in FRAMES.items()}, seed)
        for known_features in (None, old):
            torch.testing.assert_close(
                rows(one.with_new_items(frames, ids, known_features)), rows(expected), rtol=0, atol=1e-5
            )
        by_themselves = one.with_new_items(frames)
        assert sorted(by_themselves.items.index[ITEMS:]) == sorted(ids)
        order = by_themselves.items.rows(ids)
        torch.testing.assert_close(by_themselves.embeddings.item[order], rows(expected), rtol=0, atol=1e-5)


def test_frames_that_do_not_fit_the_ids_are_refused():
    data = graph("standardize", missing=False)
    data.item_id = IDS[:ITEMS].tolist()
    one, ids = recommender(data), IDS[ITEMS:].tolist()
    fresh = {m: x[ITEMS:] for m, x in FRAMES.items()}
    with pytest.raises(InputError, match=r"new items: features of 'visual' have no row for 1 of 6 items, the first is"):
        one.with_new_items(fresh | {"visual": fresh["visual"][1:]}, ids)
    with pytest.raises(InputError, match=r"features of 'visual' have 1 rows of items that are not in item_id"):
        one.with_new_items(fresh, ids[:-1])
    with pytest.raises(InputError, match=r"'textual' come without ids beside features that have them"):
        one.with_new_items(fresh | {"textual": fresh["textual"].to_numpy()})
    with pytest.raises(InputError, match=r"known items: features of 'visual' have no row for 1 of 40 items"):
        one.with_new_items(fresh, ids, {m: x[1:ITEMS] for m, x in FRAMES.items()})


def test_what_nobody_knows_is_refused_with_the_ways_out():
    data = graph("standardize")
    data["item"].visual = data["item"].visual * 2
    one = recommender(data)
    with pytest.raises(InputError, match=r"features of 'visual' were changed since .*known_features.*transformed=True"):
        one.with_new_items(new())
    assert rows(one.with_new_items(new(), known_features=known(False))).shape == (NEW, 4)
    wrong = {"visual": np.ones((NEW, 5)), "textual": new()["textual"]}
    with pytest.raises(InputError, match=r"new items: 'visual' has shape \[6, 5\], expected \[6, 12\]"):
        recommender(graph("pca")).with_new_items(wrong)


@pytest.mark.parametrize("features", [None, [RAW["visual"]], RAW["visual"]], ids=["none", "list", "array"])
def test_features_are_a_mapping(features) -> None:
    source = recommender(graph("standardize"))
    with pytest.raises(
        InputError, match=r"^new items: found features of type \w+, expected a mapping .* \{'visual': x\}"
    ):
        source.with_new_items(features)
    if features is not None:
        with pytest.raises(InputError, match=r"^known items: found features of type"):
            source.with_new_items(new(), known_features=features)


def test_features_that_are_not_finite_are_named_without_a_mask_that_none_can_give() -> None:
    wrong = new()
    wrong["visual"] = wrong["visual"].copy()
    wrong["visual"][2, 3] = np.nan
    with pytest.raises(
        InputError, match=r"^new items: features of 'visual' are not finite in 1 rows, first in row 2"
    ) as caught:
        recommender(graph("standardize")).with_new_items(wrong)
    assert "has_visual" not in str(caught.value)
    assert "without 'visual'" in str(caught.value)


@pytest.mark.parametrize("ids", [None, "text"])
def test_one_wrong_number_puts_no_item_at_the_top_and_is_named(ids) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(201, 16, generator=generator), torch.randn(16, 8, generator=generator)
    item = x @ y + 0.5 * torch.randn(201, 8, generator=generator)
    pairs = torch.stack([torch.arange(400), torch.arange(400) % 200])
    data = build_data(
        pairs, {"visual": x[:200, :6], "text": x[:200, 6:]}, num_users=400, num_items=200, transform="none"
    )
    if ids == "text":
        data.item_id = [f"i{n}" for n in range(200)]
    source = Recommender(Embeddings(torch.randn(400, 8, generator=generator), item[:200]), data)
    wrong = x[200:, 6:].clone()
    wrong[0, 3] = 50.0
    new_ids, name = {None: (None, "200"), "text": (["late"], "'late'")}[ids]
    fine = source.with_new_items({"visual": x[200:, :6], "text": x[200:, 6:]}, new_ids)
    with pytest.warns(
        UserWarning, match=rf"1 of 1 new items have .* \(first: {name}, 'text', column 3: 50, where known"
    ):
        got = source.with_new_items({"visual": x[200:, :6], "text": wrong}, new_ids)

    def share(one: Recommender) -> float:
        return float((one.recommend(k=1, exclude_seen=False).items == one.items.take(np.array([200]))).mean())

    assert share(got) <= share(fine) + 0.05  # It was on top of four lists of ten.
    assert float(got.embeddings.item[200].norm()) <= float(item[:200].norm(dim=1).max()) * (1 + 1e-6)
    assert torch.equal(fine.embeddings.user, got.embeddings.user)


def test_what_is_far_outside_counts_as_the_farthest_that_is_known() -> None:
    known = torch.tensor([[0.0, 5.0, n % 2] for n in range(20)])
    known[3, 0], known[4, 0] = 2.0, -2.0
    new = torch.tensor([[5.9, 7.0, 0.5], [6.1, -99.0, 2.6], [-40.0, 5.0, 0.0]])
    near, far = far_outside(known, new)
    assert far.tolist() == [[False] * 3, [True, False, True], [True, False, False]]
    assert near.tolist() == [[pytest.approx(5.9), 7.0, 0.5], [2.0, -99.0, 1.0], [-2.0, 5.0, 0.0]]
    assert not far_outside(known[:9], new)[1].any()


def test_nothing_is_far_outside_of_a_dead_column_with_noise() -> None:
    known = torch.tensor([[float(n), 1e-8 * (n % 3)] for n in range(20)])
    new = torch.tensor([[5.0, 1e-6], [99.0, 0.0]])
    near, far = far_outside(known, new)
    assert far.tolist() == [[False, False], [True, False]]
    assert float(near[0, 1]) <= 2e-8, "a ridge would multiply it"


def test_no_prediction_of_a_ridge_is_longer_than_what_it_was_learnt_from() -> None:
    x = torch.linspace(-1, 1, 30).unsqueeze(1)
    ridge = Ridge(x, torch.cat([3 * x, 4 * x], dim=1))
    again = Ridge.from_state(ridge.state())
    for one in (ridge, again):
        assert one(torch.tensor([[100.0], [-100.0]])).tolist() == [pytest.approx([3, 4]), pytest.approx([-3, -4])]
        assert one(torch.tensor([[0.5]])).tolist() == [pytest.approx([1.5, 2.0], rel=1e-3)]
    before = Ridge.from_state({k: v for k, v in ridge.state().items() if k != "longest"})
    assert before(torch.tensor([[2.0]])).tolist() == [pytest.approx([6.0, 8.0], rel=1e-3)]
