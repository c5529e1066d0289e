"""What is kept on disk is that of the encoder, the transform and the files as they are now."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch_geometric.transforms as T
from torch_geometric.data import HeteroData

from pyg_ckd.data import PCAFeatures, StandardizeFeatures
from pyg_ckd.datasets import MultimodalFolder, encode_files, text_features, write_lattice
from pyg_ckd.errors import InputError

TEXTS = ["red shoes", "blue bottle", "green hat"]


def encoder(body: str):
    """Return an encoder as it stands in a file that is edited."""
    space: dict = {"np": np, "__name__": "mine"}
    exec(f"def length(one):\n    return {body}\ndef encode(batch):\n    return [[length(one)] for one in batch]", space)
    return space["encode"]


def test_texts_are_encoded_anew_when_the_encoder_was_edited(tmp_path: Path):
    for body, expected in (("1.0", 1.0), ("2.0", 2.0), ("1.0", 1.0)):
        x, _ = text_features(TEXTS, encoder(body), cache=tmp_path, progress=False)
        assert x.ravel().tolist() == [expected] * 3
    assert len(list(tmp_path.iterdir())) == 2


def test_files_are_encoded_anew_when_they_or_the_encoder_were_edited(tmp_path: Path):
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "a.txt"
    file.write_text("one")

    def encoded(body: str) -> list[float]:
        return (
            encode_files(tmp_path / "in", encoder(body), cache=tmp_path / "cache", progress=False)[1].ravel().tolist()
        )

    assert encoded("len(one.read_text())") == [3.0]
    assert encoded("2.0 * len(one.read_text())") == [6.0]
    file.write_text("three")
    assert encoded("len(one.read_text())") == [5.0]
    file.write_text("seven")
    os.utime(file, ns=(0, 10**18))  # As large as before.
    assert encoded("len(one.read_text())") == [5.0]
    assert len(list((tmp_path / "cache").iterdir())) == 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    keys = np.random.default_rng(0).choice(200, 60, replace=False)
    pd.DataFrame({"user": keys // 20, "item": keys % 20}).to_csv(path / "interactions.csv", index=False)
    np.save(path / "visual.npy", np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32))
    return path


class Times:
    """A transform whose text does not tell its settings, as those of PyG."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, data: HeteroData) -> HeteroData:
        data["item"].visual = data["item"].visual * self.factor
        return data

    def __repr__(self) -> str:
        return "Times()"


def edited(body: str):
    space: dict = {"__name__": "mine"}
    exec(f"def change(data):\n    data['item'].visual = data['item'].visual {body}\n    return data", space)
    return space["change"]


PAIRS = {
    "settings of ours": ({"features": PCAFeatures(2)}, {"features": PCAFeatures(3)}),
    "settings": ({"features": Times(2)}, {"features": Times(3)}),
    "code": ({"features": edited("* 2")}, {"features": edited("* 3")}),
    "code of imputation": ({"impute": edited("* 2")}, {"impute": edited("* 3")}),
    "settings before": ({"pre_transform": Times(2)}, {"pre_transform": Times(3)}),
    "settings of PyG": tuple({"pre_transform": T.NormalizeFeatures([name])} for name in ("x", "visual")),
    "code before": ({"pre_transform": edited("* 2")}, {"pre_transform": edited("* 3")}),
}


@pytest.mark.parametrize(("one", "other"), PAIRS.values(), ids=PAIRS.keys())
def test_a_graph_is_processed_anew_when_code_or_settings_were_edited(one, other, folder, tmp_path):
    def files() -> int:
        return len(list((tmp_path / "root" / "processed").iterdir()))

    for options, expected in ((one, 1), (one, 1), (other, 2), (one, 2)):
        MultimodalFolder(folder, tmp_path / "root", **options)
        assert files() == expected


def test_the_same_transform_in_another_object_is_the_same(folder, tmp_path):
    for features in (StandardizeFeatures(), StandardizeFeatures(), edited("* 2"), edited("* 2"), Times(2), Times(2)):
        MultimodalFolder(folder, tmp_path / "root", features=features)
    assert len(list((tmp_path / "root" / "processed").iterdir())) == 3


@pytest.mark.parametrize("core", ["5-core", "json"])
def test_features_above_the_interactions_are_read_anew_when_they_were_replaced(folder, tmp_path, core):
    write_lattice(MultimodalFolder(folder)[0], tmp_path / "baby")
    (tmp_path / "baby" / "5-core").rename(tmp_path / "baby" / core)
    for scale in (1.0, 2.0):
        np.save(tmp_path / "baby" / "image_feat.npy", np.full((20, 2), scale, np.float32))
        (tmp_path / "baby" / "visual_feat.npy").unlink(missing_ok=True)
        data = MultimodalFolder(tmp_path / "baby" / core, tmp_path / "root", features="none")[0]
        assert data["item"].visual.unique().tolist() == [scale]
    np.save(tmp_path / "baby" / "has_visual.npy", np.arange(20) > 3)
    data = MultimodalFolder(tmp_path / "baby" / core, tmp_path / "root", features="none")[0]
    assert int(data["item"].has_visual.sum()) == 16


def test_a_linked_folder_is_read_anew_when_it_was_changed_and_may_lead_back(folder, tmp_path):
    path = tmp_path / "linked"
    path.mkdir()
    (tmp_path / "table").mkdir()
    (path / "interactions.parquet").symlink_to(tmp_path / "table", target_is_directory=True)
    (path / "back").symlink_to(path, target_is_directory=True)
    (folder / "visual.npy").rename(path / "visual.npy")
    for users in (3, 2):
        pd.DataFrame({"user": np.arange(30) % users, "item": np.arange(30) % 20}).drop_duplicates().to_parquet(
            tmp_path / "table" / "part-0.parquet"
        )
        assert MultimodalFolder(path, tmp_path / "root")[0]["user"].num_nodes == users
    MultimodalFolder(path, tmp_path / "root")
    assert len(list((tmp_path / "root" / "processed").iterdir())) == 1


VALUES = {
    "scalar": (np.int64(2020), "int64"),
    "array": (np.arange(3), "ndarray"),
    "frame": (pd.DataFrame({"a": [1]}), "DataFrame"),
    "function": (lambda x: x, "function"),
    "nested": ({"years": [np.float32(1)]}, "dict"),
}


@pytest.mark.parametrize("store", ["data", "item"])
@pytest.mark.parametrize(("value", "kind"), VALUES.values(), ids=VALUES.keys())
def test_values_that_could_not_be_read_again_are_refused_at_once(folder, tmp_path, value, kind, store):
    def add(data):
        (data if store == "data" else data["item"]).year = value
        return data

    place = "data.year" if store == "data" else r"data\['item'\].year"
    with pytest.raises(InputError, match=f"{place} holds a value of the type {kind}, .*; let pre_transform"):
        MultimodalFolder(folder, tmp_path / "root", pre_transform=add)
    assert list((tmp_path / "root" / "processed").iterdir()) == []


def test_plain_values_and_tensors_of_a_transform_are_kept(folder, tmp_path):
    def add(data):
        data.year, data.names, data.t = 2020, ["a"], torch.tensor(3)
        return data

    for _ in range(2):
        data = MultimodalFolder(folder, tmp_path / "root", pre_transform=add)[0]
        assert (data.year, data.names, data.t.item()) == (2020, ["a"], 3)
