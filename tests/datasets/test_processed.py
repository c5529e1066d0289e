"""Data sets that are processed once, and features that stay in their files."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from pyg_ckd.data import fingerprint
from pyg_ckd.datasets import MultimodalFolder, cached, load, read_folder, synthetic_multimodal
from pyg_ckd.datasets.writing import WRITERS
from pyg_ckd.errors import InputError


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "source"
    path.mkdir()
    keys = np.random.default_rng(0).choice(400, 200, replace=False)
    pd.DataFrame({"user": keys // 20, "item": keys % 20}).to_parquet(path / "interactions.parquet")
    np.save(path / "visual.npy", np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32))
    return path


def processed(root) -> list[str]:
    return sorted(file.name for file in (root / "processed").iterdir())


def test_a_processed_graph_is_the_one_that_was_read(folder, tmp_path):
    first = MultimodalFolder(folder, tmp_path / "root")[0]
    again = MultimodalFolder(folder, tmp_path / "root")[0]
    assert fingerprint(first) == fingerprint(again) == fingerprint(read_folder(folder))
    assert again.user_id.tolist() == first.user_id.tolist()
    assert again.source == str(folder)
    assert len(processed(tmp_path / "root")) == 1


def test_the_source_is_not_read_again(folder, tmp_path, monkeypatch):
    MultimodalFolder(folder, tmp_path / "root")
    monkeypatch.setattr("pyg_ckd.datasets.processed.load", lambda *args, **kwargs: pytest.fail("the source was read"))
    MultimodalFolder(folder, tmp_path / "root")


@pytest.mark.parametrize("below", ["", "more/root"])
def test_a_file_in_the_place_of_the_root_is_named_before_the_work(folder, tmp_path, monkeypatch, below):
    monkeypatch.setattr("pyg_ckd.datasets.processed.load", lambda *args, **kwargs: pytest.fail("the source was read"))
    (tmp_path / "some.csv").write_text("user,item")
    with pytest.raises(InputError, match=r"root: .*some.csv is a file, expected a folder for the processed graph"):
        MultimodalFolder(folder, tmp_path / "some.csv" / below)


def test_a_root_that_cannot_be_written_is_named(folder, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyg_ckd.datasets.cached.torch.save", full)
    with pytest.raises(
        InputError, match=r"cannot be written \(No space left on device\), nothing half-written stays; make room"
    ):
        MultimodalFolder(folder, tmp_path / "root")


@pytest.mark.parametrize("options", [{"seed": 1}, {"split": "leave-one-out"}, {"features": "none"}, {"impute": "zero"}])
def test_other_options_are_processed_anew(folder, tmp_path, options):
    MultimodalFolder(folder, tmp_path / "root")
    MultimodalFolder(folder, tmp_path / "root", **options)
    assert len(processed(tmp_path / "root")) == 2


def test_a_changed_source_is_processed_anew_and_the_root_may_lie_in_it(folder):
    MultimodalFolder(folder, folder / "root")
    MultimodalFolder(folder, folder / "root")
    assert len(processed(folder / "root")) == 1
    np.save(folder / "visual.npy", np.zeros((20, 3), np.float32))
    data = MultimodalFolder(folder, folder / "root")[0]
    assert not data["item"].visual.any()
    os.utime(folder / "interactions.parquet", (0, 0))
    MultimodalFolder(folder, folder / "root")
    assert len(processed(folder / "root")) == 1  # Those of earlier states are gone.


def test_a_file_that_was_replaced_by_one_of_the_same_size_and_time_is_read_anew(folder, tmp_path):
    MultimodalFolder(folder, tmp_path / "root", "none")
    before = (folder / "visual.npy").stat()
    np.save(tmp_path / "other.npy", np.full((20, 3), 2, np.float32))
    os.utime(tmp_path / "other.npy", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "other.npy").replace(folder / "visual.npy")
    after = (folder / "visual.npy").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert MultimodalFolder(folder, tmp_path / "root", "none")[0]["item"].visual.unique().tolist() == [2]


def test_graphs_of_earlier_states_go_and_those_of_other_options_and_folders_stay(folder, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(folder, tmp_path / "other")
    MultimodalFolder(tmp_path / "other", root)
    MultimodalFolder(folder, root)
    old = MultimodalFolder(folder, root, seed=1)[0]
    before = old["item"].visual.clone()
    (root / "processed" / "mine.pt").write_bytes(b"")
    assert len(processed(root)) == 4
    np.save(folder / "visual.npy", np.zeros((20, 3), np.float32))
    MultimodalFolder(folder, root)
    assert len(processed(root)) == 3  # Of the other folder, of this one, and what is no graph of ours.
    MultimodalFolder(folder, root, seed=1)
    assert len(processed(root)) == 4
    assert torch.equal(old["item"].visual, before)  # Whoever has it open keeps it.
    assert fingerprint(old)


def test_a_graph_that_another_process_removes_meanwhile_is_made_anew(folder, tmp_path, monkeypatch):
    expected = fingerprint(MultimodalFolder(folder, tmp_path / "root")[0])

    def gone(file):
        file.unlink()
        return read(file)

    read = cached._read
    monkeypatch.setattr(cached, "_read", gone)
    assert fingerprint(MultimodalFolder(folder, tmp_path / "root")[0]) == expected
    assert len(processed(tmp_path / "root")) == 1


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_format_can_be_processed(tmp_path, name):
    data = synthetic_multimodal(30, 20, 200)
    path = tmp_path / ("x.npz" if name == "npz" else "x")
    WRITERS[name](data, path)
    for _ in range(2):
        assert fingerprint(MultimodalFolder(path, tmp_path / "root", "none")[0]) == fingerprint(data)


def test_without_a_root_nothing_is_written(folder, tmp_path):
    assert fingerprint(MultimodalFolder(folder)[0]) == fingerprint(read_folder(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_wrong_option_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="unknown option of read_folder 'sead': did you mean 'seed'"):
        MultimodalFolder(folder, tmp_path / "root", sead=1)


def test_a_processed_graph_is_mapped_and_changing_it_leaves_the_file_alone(folder, tmp_path):
    MultimodalFolder(folder, tmp_path / "root")
    data = MultimodalFolder(folder, tmp_path / "root")[0]
    data["item"].visual.zero_()
    assert MultimodalFolder(folder, tmp_path / "root")[0]["item"].visual.any()


def test_float32_features_stay_in_their_file_until_they_are_changed(folder):
    data = load(folder, "none")
    file = folder / "visual.npy"
    inode = f" {file.stat().st_ino} "
    with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123
        assert any(inode in line for line in maps)
    expected = np.load(file)
    assert np.array_equal(data["item"].visual.numpy(), expected)
    data["item"].visual.zero_()
    assert np.array_equal(np.load(file), expected)


def test_a_file_that_is_replaced_does_not_change_the_graph(folder):
    data = load(folder, "none")
    expected = np.load(folder / "visual.npy")
    np.save(folder / "new.tmp.npy", np.zeros_like(expected))
    (folder / "new.tmp.npy").replace(folder / "visual.npy")
    assert np.array_equal(data["item"].visual.numpy(), expected)


@pytest.mark.parametrize(
    "x", [np.ones((20, 3), np.float16), np.ones((20, 3), ">f4"), np.asfortranarray(np.ones((20, 3)))]
)
def test_features_of_other_kinds_become_float32_rows(folder, x):
    np.save(folder / "visual.npy", x)
    visual = load(folder, "none")["item"].visual
    assert visual.dtype == torch.float32
    assert visual.is_contiguous()
    assert visual.eq(1).all()


def test_lost_items_are_filled_in_as_the_option_says(folder):
    np.save(folder / "has_visual.npy", np.arange(20) > 3)
    rows = {name: load(folder, "none", impute=name)["item"].visual[:4] for name in ("mean", "zero", "graph", "given")}
    assert not rows["zero"].any()
    assert (rows["mean"] == rows["mean"][0]).all()
    assert not torch.equal(rows["graph"], rows["mean"])
    assert np.array_equal(rows["given"].numpy(), np.load(folder / "visual.npy")[:4])
    with pytest.raises(InputError, match="unknown imputation 'nearest'"):
        load(folder, impute="nearest")


@pytest.mark.parametrize("name", ["cold-start", "cold_start"])
def test_whole_items_are_held_out_of_a_folder(folder, name):
    data = read_folder(folder, split=name, cold_share=0.3)
    edges = data["user", "rates", "item"]
    assert 20 - edges.edge_index[1].unique().numel() == 6
    with pytest.raises(InputError, match=r"interactions\.parquet: split: cold_share is 2"):
        read_folder(folder, split=name, cold_share=2.0)


def test_repetitions_pass_when_asked_to(folder):
    frame = pd.read_parquet(folder / "interactions.parquet").assign(split="train")
    pd.concat([frame, frame[:3], frame[:1].assign(split="test")]).to_parquet(folder / "interactions.parquet")
    with pytest.raises(InputError, match="has 4 duplicate interactions"):
        read_folder(folder)
    data = read_folder(folder, strict=False)
    assert data["user", "rates", "item"].edge_index.size(1) == 203
