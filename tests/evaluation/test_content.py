"""Ranking by the features of one modality alone, against loops and planted taste."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyg_ckd.data import build_data, describe_data
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import content_ranking, with_content
from pyg_ckd.evaluation.content import silent_modalities, validated_ranking

USERS, ITEMS, KINDS = 200, 60, 4


def planted(seed: int = 0, **features):
    """Users like items of one kind; ``kind`` knows the kinds, ``noise`` and ``flat`` do not."""
    rng = np.random.default_rng(seed)
    kind = np.arange(ITEMS) % KINDS
    liked = [rng.choice(np.flatnonzero(kind == user % KINDS), 6, replace=False) for user in range(USERS)]
    edges = np.stack([np.repeat(np.arange(USERS), 6), np.concatenate(liked)])
    place = np.tile(np.arange(6), USERS)
    known = np.eye(KINDS)[kind] + 0.3 * rng.normal(size=(ITEMS, KINDS))
    x = {"kind": known, "noise": rng.normal(size=(ITEMS, 5)), "flat": np.ones((ITEMS, 3))} | features
    train, val, test = edges[:, place < 4], edges[:, place == 4], edges[:, place == 5]
    return build_data(train, x, val=val, test=test, num_users=USERS, num_items=ITEMS)


def by_loops(data, modality: str, k: int, order: np.ndarray) -> float:
    x = data["item"][modality].double().numpy()
    x = x - x.mean(axis=0)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True))[order]
    train = data["user", "rates", "item"].edge_index.numpy()
    found = []
    for user, item in data["user", "rates", "item"].val_edge_index.t().tolist():
        met = train[1, train[0] == user]
        scores = x @ x[met].sum(axis=0)
        scores[met] = -np.inf
        found.append(item in np.argsort(-scores)[:k])
    return float(np.mean(found))


def test_recall_is_that_of_cosines_with_the_mean_of_what_a_user_met():
    data = planted()
    found = content_ranking(data, k=10, shuffles=2, modalities=["kind", "noise"])
    assert list(found.columns) == ["recall", "shuffled", "p_value", "high", "users"]
    assert found["users"].tolist() == [USERS, USERS]
    assert found.attrs["metric"] == "recall@10"
    assert found.index.tolist() == ["kind", "noise"]
    for m in ("kind", "noise"):
        assert found.loc[m, "recall"] == pytest.approx(by_loops(data, m, 10, np.arange(ITEMS)), abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    for m in ("kind", "noise"):
        orders = [torch.randperm(ITEMS, generator=generator).numpy() for _ in range(2)]
        expected = np.mean([by_loops(data, m, 10, order) for order in orders])
        assert found.loc[m, "shuffled"] == pytest.approx(expected, abs=1e-9)


def test_noise_constants_and_rows_of_other_items_say_nothing():
    kind = planted()["item"]["kind"].numpy()
    found = content_ranking(planted(moved=np.random.default_rng(3).permutation(kind)), k=10)
    assert found.loc["kind", "recall"] > 2 * found.loc["kind", "shuffled"]
    assert found.loc["kind", "p_value"] < 1e-3
    assert found.loc["flat", "recall"] == found.loc["flat", "shuffled"] == found.loc["flat", "high"]
    assert found.loc["flat", "p_value"] == 1
    assert "flat" in silent_modalities(found)
    assert "kind" not in silent_modalities(found)


def skewed(num_users: int, share: float, seed: int, modalities: int):
    """Some items are far more popular than others; a share of the interactions is with items of the user's kind."""
    rng, items = np.random.default_rng(seed), 300
    kind, popularity = np.arange(items) % 10, 1 / (1 + rng.permutation(items)) ** 1.2
    edges = []
    for user in range(num_users):
        own = popularity * (kind == user % 10)
        weight = (1 - share) * popularity / popularity.sum() + share * own / own.sum()
        edges += [(user, item) for item in rng.choice(items, 7, replace=False, p=weight / weight.sum())]
    edge = np.array(edges).T
    place = np.tile(np.arange(7), num_users)
    x = {f"noise{n}": rng.normal(size=(items, 4)) for n in range(modalities)}
    x["kind"] = np.eye(10)[kind] + 0.3 * rng.normal(size=(items, 10))
    return build_data(edge[:, place < 6], x, val=edge[:, place == 6], num_users=num_users, num_items=items)


def test_noise_is_seldom_taken_for_taste_where_popularity_is_skewed():
    found = content_ranking(skewed(2000, 0.3, 1, 20)).drop("kind")
    assert (found["p_value"] < 0.05).sum() <= 2
    assert len(silent_modalities(found)) >= 10


@pytest.mark.parametrize("num_users", [100, 300])
def test_weak_taste_is_not_called_silent_where_there_are_too_few_users_to_tell(num_users):
    for seed in range(4):
        found = content_ranking(skewed(num_users, 0.4, seed, 0))
        assert silent_modalities(found) == []


def test_missing_and_broken_rows_stay_where_they_are():
    whole = planted()
    x = whole["item"]["kind"].clone()
    has = torch.arange(ITEMS) % 3 > 0
    masked = planted()
    masked["item"]["kind"] = torch.where(has.unsqueeze(1), x, 1e6)
    masked["item"]["has_kind"] = has
    broken = planted()
    broken["item"]["kind"] = torch.where(has.unsqueeze(1), x, float("nan"))
    first, second = (content_ranking(data, k=10, modalities="kind") for data in (masked, broken))
    assert first.equals(second)
    assert silent_modalities(first) == []
    assert first.loc["kind", "recall"] < content_ranking(whole, k=10).loc["kind", "recall"]


def test_scale_and_place_of_features_do_not_matter():
    data = planted()
    x = data["item"]["kind"].double()
    other = planted(kind=1e30 * x.numpy() + 5e30)
    assert content_ranking(other, k=10)["recall"].tolist() == pytest.approx(
        content_ranking(data, k=10)["recall"].tolist(), abs=0.02
    )


def test_the_same_seed_gives_the_same_table():
    data = planted()
    assert content_ranking(data, k=10, seed=4).equals(content_ranking(data, k=10, seed=4))
    assert content_ranking(data, "test", k=10).loc["kind", "recall"] > 0.5


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"modalities": ["sound"]}, "sound"),
        ({"shuffles": 1}, "shuffles: found 1, expected at least 2"),
        ({"modalities": []}, "modalities: found none"),
        ({"k": 100}, "k: found 100, expected a number between 1 and 60"),
        ({"split": "train"}, "split: found 'train'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_arguments_are_named(options, pattern):
    with pytest.raises(InputError, match=pattern):
        content_ranking(planted(), **options)


def test_one_user_is_too_few():
    data = planted()
    edges = data["user", "rates", "item"]
    edges.val_edge_index = edges.val_edge_index[:, :1]
    with pytest.raises(InputError, match="val: found 1 user, expected two or more"):
        content_ranking(data)
    description = describe_data(data)
    assert with_content(description, data) is description


def test_features_of_any_kind_are_taken():
    data, x = planted(), planted()["item"]["kind"]
    expected = content_ranking(data, k=10, modalities="kind")
    for other in (x.numpy(), x.to_sparse(), x.double()):
        data["item"]["kind"] = other
        assert content_ranking(data, k=10, modalities="kind").equals(expected)
    data["item"]["has_kind"] = np.ones(ITEMS, dtype=np.int64)
    assert content_ranking(data, k=10, modalities="kind").equals(expected)


def test_a_described_data_set_warns_of_silent_features():
    data = planted()
    found = with_content(describe_data(data), data)
    said = [line for line in found.warnings if line.startswith("silent features")]
    assert "flat" in [line.split(": ")[1] for line in said]
    assert "kind" not in [line.split(": ")[1] for line in said]
    assert "check that row i belongs to item i" in said[0]


def test_modalities_that_are_too_large_are_left_out_unless_asked_for(monkeypatch):
    data = planted()
    monkeypatch.setattr("pyg_ckd.evaluation.content.MOST_NUMBERS", 4 * (USERS + ITEMS))
    assert validated_ranking(data, 10).index.tolist() == ["kind", "flat"]
    assert content_ranking(data, k=10).index.tolist() == ["kind", "noise", "flat"]
    monkeypatch.setattr("pyg_ckd.evaluation.content.MOST_NUMBERS", 1)
    assert validated_ranking(data) is None


def test_one_column_is_left_out_unless_asked_for():
    data = planted(price=np.arange(ITEMS, dtype=float)[:, None])
    assert validated_ranking(data, 10).index.tolist() == ["kind", "noise", "flat"]
    assert content_ranking(data, k=10, modalities="price").index.tolist() == ["price"]
