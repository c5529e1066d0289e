import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler, normalize
from torch_geometric.data import HeteroData

from pyg_ckd.data import (
    L2NormalizeFeatures,
    PCAFeatures,
    RecordedTransform,
    StandardizeFeatures,
    build_data,
    feature_transform,
    imputation,
    impute_mean,
)
from pyg_ckd.errors import InputError

HAS = np.array([True] * 40 + [False] * 10)


def graph(**has: np.ndarray) -> HeteroData:
    rng = np.random.default_rng(0)
    features = {"visual": rng.gamma(2.0, 30.0, (50, 7)), "audio": rng.normal(3, 0.01, (50, 4))}
    return build_data([[0], [0]], features, has=has, transform="none")


def test_standardized_columns_match_scikit_learn():
    data = graph()
    for m, x in StandardizeFeatures(scale=False)(data)["item"].items():
        if m in data.modalities:
            expected = StandardScaler().fit_transform(data["item"][m].double().numpy())
            np.testing.assert_allclose(x.numpy(), expected, atol=1e-5)


def test_standardized_rows_have_norm_about_one_in_every_modality():
    out = StandardizeFeatures()(graph())
    for m in out.modalities:
        assert float(out["item"][m].square().sum(dim=1).mean()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6, -3e30])
def test_constant_columns_become_zero(value):
    x = torch.rand(9, 2)
    x[:, 1] = value
    assert StandardizeFeatures().transform_rows(x)[:, 1].tolist() == [0] * 9


def test_huge_and_tiny_values_stay_finite():
    x = torch.tensor([[1e38, 1e-38], [-1e38, 3e-38], [0, 2e-38]])
    for transform in (StandardizeFeatures(), L2NormalizeFeatures()):
        assert torch.isfinite(transform.transform_rows(x)).all()


def test_l2_rows_match_scikit_learn_and_zero_rows_stay_zero():
    data = graph()
    data["item"].visual[3] = 0
    got = L2NormalizeFeatures()(data)["item"].visual
    np.testing.assert_allclose(got.numpy(), normalize(data["item"].visual.numpy()), atol=1e-6)
    assert got[3].abs().sum() == 0


@pytest.mark.parametrize("transform", [StandardizeFeatures(), StandardizeFeatures(scale=False), L2NormalizeFeatures()])
def test_applying_a_transform_twice_changes_nothing(transform):
    once = transform(graph())
    twice = transform(once)
    for m in once.modalities:
        torch.testing.assert_close(twice["item"][m], once["item"][m], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("whiten", [False, True])
def test_principal_components_match_scikit_learn(whiten):
    data = graph()
    got = PCAFeatures(3, whiten=whiten)(data)["item"].visual
    expected = PCA(3, whiten=whiten, random_state=0).fit_transform(data["item"].visual.double().numpy())
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)
    assert got.dtype == torch.float32


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("x", [torch.full((9, 4), 0.5), torch.zeros(9, 4), torch.rand(1, 4)], ids=["same", "0", "row"])
def test_principal_components_of_features_that_do_not_vary_are_zero_without_a_warning(x, whiten):
    assert PCAFeatures(3, whiten=whiten).transform_rows(x).eq(0).all()


def test_pca_keeps_as_many_columns_as_there_are():
    out = PCAFeatures(6)(graph())
    assert (out["item"].visual.size(1), out["item"].audio.size(1)) == (6, 4)


@pytest.mark.parametrize("transform", [StandardizeFeatures(), L2NormalizeFeatures()])
def test_large_matrices_are_transformed_in_blocks_to_the_same_numbers(transform, monkeypatch):
    whole = transform(graph())
    monkeypatch.setattr("pyg_ckd.data.transforms._BLOCK_FLOATS", 100)
    for m in whole.modalities:
        torch.testing.assert_close(transform(graph())["item"][m], whole["item"][m])


def test_pca_refuses_no_columns():
    with pytest.raises(InputError, match="num_components is 0, expected a positive"):
        PCAFeatures(0)


@pytest.mark.parametrize("name", ["standardize", "l2", "pca", "none"])
def test_items_without_the_modality_change_nothing_and_get_the_mean(name):
    data = graph(visual=HAS)
    moved = graph(visual=HAS)
    moved["item"].visual[~torch.from_numpy(HAS)] = 1e5
    out, other = feature_transform(name)(data)["item"].visual, feature_transform(name)(moved)["item"].visual
    assert torch.equal(out[HAS], other[HAS])
    np.testing.assert_allclose(out[~HAS].numpy(), out[HAS].numpy().mean(axis=0)[None].repeat(10, 0), atol=1e-5)


def test_a_transform_leaves_the_given_graph_and_other_modalities_alone():
    data = graph()
    before = data["item"].visual.clone()
    out = StandardizeFeatures(["visual"])(data)
    assert torch.equal(data["item"].visual, before)
    assert torch.equal(out["item"].audio, data["item"].audio)
    assert not torch.equal(out["item"].visual, before)


def test_unknown_modality_and_unknown_name_are_refused():
    with pytest.raises(InputError, match="unknown modality 'visaul': did you mean 'visual'"):
        StandardizeFeatures(["visaul"])(graph())
    with pytest.raises(InputError, match="unknown transform 'zscore': valid names are l2, none, pca, standardize"):
        feature_transform("zscore")


def test_a_callable_is_its_own_transform():
    assert feature_transform(len) is len


def test_impute_mean_is_taken_over_the_items_that_have_the_modality():
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0], [torch.nan, 0.0]])
    has = torch.tensor([True, True, False])
    assert impute_mean(x, has).tolist() == [[1, 2], [3, 6], [2, 4]]
    assert impute_mean(x, None) is x


@pytest.mark.parametrize("earlier", ["monday.pt", None, 3])
def test_what_is_no_earlier_graph_is_refused(earlier):
    with pytest.raises(InputError, match=rf"^graph: found {type(earlier).__name__}, expected a HeteroData"):
        RecordedTransform(earlier)


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("transform", [StandardizeFeatures(), L2NormalizeFeatures(), PCAFeatures(2)], ids=repr)
def test_features_of_any_type_are_transformed_in_single_precision(transform, kind):
    data = graph(visual=HAS)
    data["item"].visual = (data["item"].visual > 50).to(kind)
    expected = graph(visual=HAS)
    expected["item"].visual = data["item"].visual.float()
    got, expected = transform(data)["item"].visual, transform(expected)["item"].visual
    assert got.dtype == torch.float32
    assert got.any()
    assert torch.equal(got, expected)
    x = data["item"].visual
    assert torch.equal(transform.transform_rows(x), transform.transform_rows(x.float()))


def test_recorded_transforms_also_take_integers():
    data = StandardizeFeatures()(graph())
    new = graph()
    new["item"].visual = new["item"].visual.long()
    expected = graph()
    expected["item"].visual = new["item"].visual.float()
    got = RecordedTransform(data)(new)["item"].visual
    assert torch.equal(got, RecordedTransform(data)(expected)["item"].visual)


def test_integers_are_imputed_by_means_with_a_fraction():
    x = torch.tensor([[1], [2], [0]])
    has = torch.tensor([True, True, False])
    assert impute_mean(x, has).tolist() == [[1.0], [2.0], [1.5]]
    data = build_data([[0, 1], [0, 1]], {"visual": x.float()}, has={"visual": has}, transform="none")
    data["item"].visual = x
    for name in ("mean", "graph", "neighbors"):
        assert imputation(name)(data)["item"].visual.ravel().tolist() == [1.0, 2.0, 1.5]
