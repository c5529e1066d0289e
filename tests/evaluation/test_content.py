"""Ranking by the features of one modality alone, against loops and planted taste."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyg_ckd.data import build_data, describe_data
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import content_ranking
from pyg_ckd.evaluation.content import silent_modalities, validated_ranking, with_content

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
    found = content_ranking(data, k=10, shuffles=1, modalities=["kind", "noise"])
    assert list(found.columns) == ["recall", "shuffled", "p_value", "users"]
    assert found["users"].tolist() == [USERS, USERS]
    assert found.attrs["metric"] == "recall@10"
    assert found.index.tolist() == ["kind", "noise"]
    for m in ("kind", "noise"):
        assert found.loc[m, "recall"] == pytest.approx(by_loops(data, m, 10, np.arange(ITEMS)), abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    for m in ("kind", "noise"):
        order = torch.randperm(ITEMS, generator=generator).numpy()
        assert found.loc[m, "shuffled"] == pytest.approx(by_loops(data, m, 10, order), abs=1e-9)


def test_noise_constants_and_rows_of_other_items_say_nothing():
    kind = planted()["item"]["kind"].numpy()
    found = content_ranking(planted(moved=np.random.default_rng(3).permutation(kind)), k=10)
    assert silent_modalities(found) == ["noise", "flat", "moved"]
    assert found.loc["kind", "recall"] > 2 * found.loc["kind", "shuffled"]
    assert found.loc["flat", "recall"] == found.loc["flat", "shuffled"]
    assert found.loc["flat", "p_value"] == 1


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
        ({"shuffles": 0}, "shuffles: found 0, expected a positive number"),
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


def test_few_users_cannot_tell():
    data = planted()
    edges = data["user", "rates", "item"]
    edges.val_edge_index = edges.val_edge_index[:, :99]
    assert silent_modalities(content_ranking(data, k=10)) == []


def test_a_described_data_set_warns_of_silent_features():
    data = planted()
    found = with_content(describe_data(data), data)
    said = [line for line in found.warnings if line.startswith("silent features")]
    assert [line.split(": ")[1] for line in said] == ["noise", "flat"]
    assert "check that row i belongs to item i" in said[0]


def test_modalities_that_are_too_large_are_left_out_unless_asked_for(monkeypatch):
    data = planted()
    monkeypatch.setattr("pyg_ckd.evaluation.content.MOST_NUMBERS", 4 * (USERS + ITEMS))
    assert validated_ranking(data, 10).index.tolist() == ["kind", "flat"]
    assert content_ranking(data, k=10).index.tolist() == ["kind", "noise", "flat"]
    monkeypatch.setattr("pyg_ckd.evaluation.content.MOST_NUMBERS", 1)
    assert validated_ranking(data) is None
