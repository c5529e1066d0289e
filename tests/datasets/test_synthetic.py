import pickle

import numpy as np
import pytest
import torch

from pyg_ckd.data import fingerprint
from pyg_ckd.datasets import SyntheticMultimodal, synthetic_multimodal
from pyg_ckd.datasets.synthetic import _distinct
from pyg_ckd.errors import InputError

RATES = ("user", "rates", "item")
SMALL = {"num_users": 60, "num_items": 50, "num_interactions": 700}


def all_edges(data) -> torch.Tensor:
    return torch.cat([data[RATES][name] for name in ("edge_index", "val_edge_index", "test_edge_index")], dim=1)


def dense(data, name: str) -> torch.Tensor:
    out = torch.zeros(data["user"].num_nodes, data["item"].num_nodes)
    return out.index_put_(tuple(data[RATES][name]), torch.ones(()))


def recall_at_20(data, scores: torch.Tensor) -> float:
    train, test = dense(data, "edge_index"), dense(data, "test_edge_index")
    top = scores.masked_fill(train > 0, -torch.inf).topk(20).indices
    users = test.sum(1) > 0
    return float((test.gather(1, top).sum(1)[users] / test.sum(1)[users]).mean())


def centroid_scores(data, m: str) -> torch.Tensor:
    x = torch.nn.functional.normalize(data["item"][m])
    return torch.nn.functional.normalize(dense(data, "edge_index") @ x) @ x.t()


@pytest.mark.parametrize("seed", range(4))
def test_content_of_every_modality_beats_popularity_in_the_planted_order(seed):
    data = synthetic_multimodal(seed=seed)
    recall = [recall_at_20(data, centroid_scores(data, m)) for m in data.modalities]
    popularity = recall_at_20(data, dense(data, "edge_index").sum(0).expand(1000, 600).clone())
    chance = 20 / 600
    assert recall == sorted(recall, reverse=True)
    assert recall[0] > 1.3 * recall[1]
    assert recall[-1] > 1.3 * popularity
    assert recall[-1] > 2 * chance


def test_planted_shares_decide_which_modality_is_strong():
    data = synthetic_multimodal(modalities={"audio": 1, "text": 4})
    assert data.modalities == ["audio", "text"]
    assert data.planted == {"audio": 0.2, "text": 0.8}
    assert recall_at_20(data, centroid_scores(data, "text")) > 2 * recall_at_20(data, centroid_scores(data, "audio"))


def test_noise_hides_a_modality():
    clean, noisy = (synthetic_multimodal(noise={"visual": sigma}) for sigma in (0.0, 20.0))
    assert recall_at_20(clean, centroid_scores(clean, "visual")) > 3 * recall_at_20(
        noisy, centroid_scores(noisy, "visual")
    )


def test_features_without_noise_have_the_rank_of_the_latent_block():
    data = synthetic_multimodal(**SMALL, noise=0.0, latent_dim=5, dim=16)
    assert np.linalg.matrix_rank(data["item"].visual.numpy(), tol=1e-4) == 5


@pytest.mark.parametrize("num_items", [50, 3001])
def test_number_of_interactions_is_exact_and_every_user_has_some(num_items):
    edges = all_edges(synthetic_multimodal(200, num_items, 2000))
    assert edges.size(1) == 2000
    assert torch.unique(edges, dim=1).size(1) == 2000
    assert torch.bincount(edges[0], minlength=200).min() >= 3


def test_activity_is_heavy_tailed():
    count = torch.bincount(all_edges(synthetic_multimodal(2000, 1000, 40000))[0]).float()
    assert count.mean() > 1.3 * count.median()
    assert count.max() > 8 * count.mean()


def test_split_is_eight_to_one_to_one_and_every_user_trains():
    data = synthetic_multimodal()
    sizes = [data[RATES][name].size(1) / 20000 for name in ("edge_index", "val_edge_index", "test_edge_index")]
    np.testing.assert_allclose(sizes, (0.8, 0.1, 0.1), atol=0.01)
    assert torch.unique(data[RATES].edge_index[0]).numel() == 1000


@pytest.mark.parametrize("num_items", [50, 3001])
def test_same_seed_gives_the_same_bits_and_another_seed_does_not(num_items):
    first, again, other = (fingerprint(synthetic_multimodal(60, num_items, 700, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_large_catalogues_keep_the_planted_order():
    data = synthetic_multimodal(2000, 3000, 40000)
    recall = [recall_at_20(data, centroid_scores(data, m)) for m in data.modalities]
    assert recall == sorted(recall, reverse=True)
    assert recall[-1] > 1.5 * 20 / 3000


@pytest.mark.parametrize("num_items", [513, 720, 997])
def test_candidate_pools_hold_different_items(num_items):
    pool = _distinct(40, 512, num_items, torch.Generator().manual_seed(0))
    assert pool.shape == (40, 512)
    assert all(row.unique().numel() == 512 for row in pool)
    assert 0 <= int(pool.min()) <= int(pool.max()) < num_items


def test_one_modality_and_few_items_are_enough():
    data = synthetic_multimodal(3, 2, 3, modalities={"text": 1.0})
    assert data.planted == {"text": 1.0}


BAD = {
    "no users": ({"num_users": 0}, "num_users is 0, expected a positive"),
    "no columns": ({"dim": 0}, "dim is 0"),
    "no latent": ({"latent_dim": -1}, "latent_dim is -1"),
    "too many interactions": ({"num_interactions": 10**6}, "expected 60 to 1500"),
    "too few interactions": ({"num_interactions": 5}, "expected 60 to 1500"),
    "no modality": ({"modalities": {}}, "no modality given"),
    "zero share": ({"modalities": {"text": 0.0}}, "share of 'text' is 0.0, expected a positive number"),
    "nan share": ({"modalities": {"text": float("nan")}}, "share of 'text' is nan"),
    "reserved name": ({"modalities": {"x": 1.0}}, "modality name 'x' is reserved"),
    "negative noise": ({"noise": -1.0}, "noise of 'visual' is -1.0"),
    "noise of another": ({"noise": {"visaul": 1.0}}, "unknown modality 'visaul': did you mean 'visual'"),
    "id share": ({"id_share": 1.0}, "id_share is 1.0, expected a share"),
    "popularity": ({"popularity": -1.0}, "popularity is -1.0"),
    "temperature": ({"temperature": 0.0}, "temperature is 0.0, expected a positive number"),
}


@pytest.mark.parametrize(("changes", "pattern"), BAD.values(), ids=BAD.keys())
def test_arguments_out_of_range_are_refused(changes, pattern):
    with pytest.raises(InputError, match=pattern):
        synthetic_multimodal(**(SMALL | changes))


def test_dataset_without_root_is_the_function():
    dataset = SyntheticMultimodal(**SMALL, seed=3, features="l2")
    assert len(dataset) == 1
    assert fingerprint(dataset[0]) == fingerprint(synthetic_multimodal(**SMALL, seed=3, transform="l2"))


def test_cached_graph_is_the_generated_one(tmp_path):
    first = SyntheticMultimodal(tmp_path, **SMALL)[0]
    again = SyntheticMultimodal(tmp_path, **SMALL)[0]
    assert fingerprint(again) == fingerprint(first)
    assert (again.planted, again.modalities, again.source) == (first.planted, first.modalities, first.source)
    assert len(list((tmp_path / "processed").iterdir())) == 1


def test_cache_is_used_and_force_reload_replaces_it(tmp_path):
    calls = []

    def count(data):
        calls.append(1)
        return data

    for force, expected in ((False, 1), (False, 1), (True, 2)):
        SyntheticMultimodal(tmp_path, **SMALL, pre_transform=count, force_reload=force)
        assert len(calls) == expected


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"modalities": {"visual": 1.0}}, {"noise": 0.1}, {"features": "none"}]
)
def test_other_arguments_have_a_file_of_their_own(tmp_path, changes):
    SyntheticMultimodal(tmp_path, **SMALL)
    SyntheticMultimodal(tmp_path, **(SMALL | changes))
    assert len(list((tmp_path / "processed").iterdir())) == 2


def test_transform_is_applied_at_every_access(tmp_path):
    dataset = SyntheticMultimodal(tmp_path, **SMALL, transform=lambda data: data.modalities)
    assert dataset[0] == ["visual", "textual", "acoustic"]


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), b"", b"text"], ids=["pickle", "empty", "text"])
def test_cached_file_that_is_no_graph_is_refused_and_never_unpickled(tmp_path, content):
    SyntheticMultimodal(tmp_path, **SMALL)
    (file,) = (tmp_path / "processed").iterdir()
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"not a cached graph .*force_reload=True") as error:
        SyntheticMultimodal(tmp_path, **SMALL)
    assert "\n" not in str(error.value)
    SyntheticMultimodal(tmp_path, **SMALL, force_reload=True)
    SyntheticMultimodal(tmp_path, **SMALL)


@pytest.mark.slow
def test_a_million_interactions_are_generated():
    data = synthetic_multimodal(100_000, 50_000, 1_000_000)
    assert all_edges(data).size(1) == 1_000_000
