"""Features that say more about taste as they were given than standardized."""

from __future__ import annotations

import numpy as np
import pytest

from pyg_ckd.data import build_data, describe_data
from pyg_ckd.evaluation import content_ranking, with_content
from pyg_ckd.evaluation.scaling import better_as_given, compare_scaling, is_standardized
from pyg_ckd.nn import VBPR
from pyg_ckd.study import Study, StudySettings

USERS, ITEMS, KINDS = 300, 240, 12


def catalogue(transform="standardize", has=None, **features):
    """Users like items of one kind; ``tags`` has a column of each kind and 300 rare ones that say nothing."""
    rng = np.random.default_rng(0)
    kind = np.arange(ITEMS) % KINDS
    liked = [rng.choice(np.flatnonzero(kind == user % KINDS), 6, replace=False) for user in range(USERS)]
    edges = np.stack([np.repeat(np.arange(USERS), 6), np.concatenate(liked)])
    place = np.tile(np.arange(6), USERS)
    rare = np.zeros((ITEMS, 300))
    for row in rare:
        row[rng.choice(300, 6, replace=False)] = 1
    dense = np.eye(KINDS)[kind] + 0.3 * rng.normal(size=(ITEMS, KINDS))
    x = {"tags": np.hstack([np.eye(KINDS)[kind], rare]), "dense": dense} | features
    parts = {"val": edges[:, place == 4], "test": edges[:, place == 5]}
    size = {"num_users": USERS, "num_items": ITEMS}
    return build_data(edges[:, place < 4], x, transform=transform, has=has, **parts, **size)


@pytest.mark.parametrize("has", [None, {"tags": np.arange(ITEMS) % 7 > 0}])
@pytest.mark.parametrize("transform", ["standardize", "none"])
def test_tags_are_found_to_rank_better_as_given(transform, has):
    data = catalogue(transform, has)
    scaling = compare_scaling(data, data.modalities)
    assert list(better_as_given(scaling.to_dict("index"))) == ["tags"]
    own = {name: content_ranking(catalogue(name, has))["recall"] for name in ("standardize", "none")}
    for m in data.modalities:
        assert scaling.loc[m, "standardized"] == pytest.approx(own["standardize"][m], abs=0.02)  # But for ties.
        assert scaling.loc[m, "given"] == pytest.approx(own["none"][m], abs=0.02)


@pytest.mark.parametrize(
    ("transform", "known"), [("standardize", True), ("none", False), ("l2", False), ("pca", False)]
)
def test_whether_features_are_standardized_is_known(transform, known):
    data = catalogue(transform)
    assert [is_standardized(data, m) for m in data.modalities] == [known, known]
    data["item"]["tags"] = data["item"]["tags"].to_sparse()
    assert not is_standardized(data, "tags")


def test_a_study_compares_what_is_standardized_alone(tmp_path):
    for transform, found in (("standardize", {"tags", "dense"}), ("none", set())):
        settings = StudySettings(trainer={"max_epochs": 1, "progress": False})
        study = Study(
            catalogue(transform), VBPR, tmp_path / transform, settings, contenders=[], baselines=["popularity"]
        )
        assert study.run()["content"]["scaling"].keys() == found


def test_the_graph_stays_as_it_is():
    data = catalogue()
    before = {m: data["item"][m].clone() for m in data.modalities}
    compare_scaling(data, data.modalities)
    assert all(data["item"][m].equal(before[m]) for m in data.modalities)


def test_features_that_were_transformed_otherwise_are_left_out():
    data = catalogue("l2")
    assert compare_scaling(data, data.modalities).empty


def test_features_that_were_changed_since_are_left_out():
    data = catalogue()
    data["item"]["tags"] = 2 * data["item"]["tags"]
    assert compare_scaling(data, data.modalities).index.tolist() == ["dense"]


@pytest.mark.parametrize("kind", ["integers", "sparse", "array"])
def test_features_of_any_kind_are_compared(kind):
    data = catalogue("none")
    expected = compare_scaling(data, ["tags"])
    x = data["item"]["tags"]
    del data.prepared
    data["item"]["tags"] = {"integers": x.long(), "sparse": x.to_sparse(), "array": x.numpy()}[kind]
    assert compare_scaling(data, ["tags"]).equals(expected)


def test_a_described_data_set_warns_of_tags_alone():
    data = catalogue("none")
    said = [line for line in with_content(describe_data(data), data).warnings if line.startswith("scaling: ")]
    assert len(said) == 1
    assert said[0].startswith("scaling: tags: rank better as given than standardized")
    assert "--transform l2 or none" in said[0]
