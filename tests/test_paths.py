"""A tilde stands for the home folder in every path, and a byte-order mark is no letter in any text file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyg_ckd import Trainer, evaluate, train_teachers
from pyg_ckd.cli import main
from pyg_ckd.data import Embeddings, build_data, describe_data
from pyg_ckd.datasets import MultimodalFolder, encode_batches, load
from pyg_ckd.datasets.sources import download
from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path, read_json, read_text, write_json
from pyg_ckd.nn import VBPR
from pyg_ckd.report import write_description
from pyg_ckd.serving import ItemIndex, Recommender
from pyg_ckd.study import Study, StudySettings
from pyg_ckd.study.formats import load_results
from pyg_ckd.training.model import load_model, save_model

QUICK = {"max_epochs": 1, "progress": False, "monitor": "recall@3"}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    parts = [
        np.array([(u, (u * 3 + n) % 16) for u in range(12) for n in part]).T for part in ((0, 1, 2, 5), (7,), (9,))
    ]
    return build_data(parts[0], {m: rng.normal(size=(16, 3)) for m in "ab"}, val=parts[1], test=parts[2])


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_tilde_stands_for_home_wherever_files_are_written_and_read(home, data):
    model = VBPR.from_data(data)
    save_model("~/model.pt", model, data)
    load_model("~/model.pt", data)
    served = Recommender.load("~/model.pt", data)
    for name in ("top.csv", "top.PARQUET"):
        assert served.export_top_k(f"~/{name}", k=2) == home / name
        assert (home / name).is_file()
    assert all(path.parent == home and path.is_file() for path in served.export_embeddings("~/tables.NPY"))
    assert write_description("~/page.HTML", describe_data(data)) == home / "page.HTML"
    assert write_description("~/pages", describe_data(data)) == home / "pages" / "description.html"
    Trainer(checkpoint_dir="~/checkpoints", **QUICK).fit(model, data)
    train_teachers(VBPR, data, Trainer(**QUICK), ["a"], cache_dir="~/teachers")
    encode_batches(["one"], lambda batch: [[1.0]], cache="~/encoded", progress=False)
    Study(data, VBPR, "~/study", StudySettings(trainer=QUICK, k=np.array([3])), runs="~/runs", baselines=["popularity"])
    for name in ("checkpoints", "teachers", "encoded", "study"):
        assert any((home / name).iterdir()), name
    (home / "there.json").write_text("{}")
    assert download("https://example.org/there.json", "~/there.json") == home / "there.json"
    with pytest.raises(InputError, match=f"{home}/nothing: found no results of a study"):
        load_results("~/nothing")
    assert not any(path.name.startswith("~") for path in home.rglob("*"))


def test_studies_take_numbers_of_numpy_and_pytorch(tmp_path, data):
    settings = StudySettings(trainer=QUICK, k=torch.tensor([3]))
    study = Study(
        data, VBPR, tmp_path / "study", settings, workers=np.int64(1), baselines=["popularity"], contenders=[]
    )
    results = study.run(np.array([0, 0]))
    assert {run["seed"] for run in results["runs"]} == {0}
    with pytest.raises(InputError, match=r"seeds: found 0.5, expected several seeds"):
        study.run(0.5)
    with pytest.raises(InputError, match=r"unknown split"):
        evaluate(VBPR.from_data(data), data, split=["val"], k=3)


def test_an_index_is_written_to_home(home, data):
    pytest.importorskip("faiss")
    served = Recommender(Embeddings(*(table_of(data[kind].num_nodes) for kind in ("user", "item"))), data)
    assert ItemIndex(served).save("~/index.faiss") == home / "index.faiss"
    assert (home / "index.faiss").is_file()


def table_of(size: int) -> torch.Tensor:
    return torch.randn(size, 4, generator=torch.Generator().manual_seed(size))


def test_the_home_of_nobody_is_named(home, data):
    for use in (
        lambda path: load(path),
        lambda path: MultimodalFolder(path, root=path),
        lambda path: Recommender.load(path, data),
        lambda path: Trainer(checkpoint_dir=path, **QUICK),
        lambda path: train_teachers(VBPR, data, Trainer(**QUICK), cache_dir=path),
        lambda path: Study(data, VBPR, path),
        lambda path: write_json(path, {}),
    ):
        with pytest.raises(InputError, match="there is no such home folder; write the path without ~"):
            use("~nobody-of-this-name/x")
    assert not list(home.iterdir())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with mark", "utf-16-be with mark"])
def test_a_byte_order_mark_says_how_a_text_is_written(tmp_path, encoding):
    name, _, mark = encoding.partition(" ")
    (tmp_path / "x.json").write_bytes(
        (("\ufeff" if mark else "") + json.dumps({"ä": "ö"}, ensure_ascii=False)).encode(name)
    )
    assert read_json(tmp_path / "x.json") == {"ä": "ö"}
    (tmp_path / "x.txt").write_bytes((("\ufeff" if mark else "") + "ä\r\nb\x85c\n").encode(name))
    assert read_text(tmp_path / "x.txt") == "ä\nb\x85c\n"


ADDRESSES = {
    "s3://bucket/m": "give a path on this machine",
    "gs://bucket/m": "give a path on this machine",
    "file:///tmp/m": "write it without file://, as in /tmp/m$",
    "https://example.org/m": "download the file",
    "s3:/bucket/m": "give a path on this machine",
}


@pytest.mark.parametrize(("address", "words"), ADDRESSES.items(), ids=["s3", "gs", "file", "https", "one slash"])
def test_addresses_are_no_paths(address, words, home, data):
    model = VBPR.from_data(data)
    settings = StudySettings(trainer=QUICK, k=[3])
    calls = [
        lambda: save_model(f"{address}.pt", model, data),
        lambda: load_model(f"{address}.pt", data),
        lambda: load(address),
        lambda: MultimodalFolder(home, root=address),
        lambda: Trainer(checkpoint_dir=address, **QUICK),
        lambda: train_teachers(VBPR, data, Trainer(**QUICK), ["a"], cache_dir=address),
        lambda: Study(data, VBPR, address, settings),
        lambda: Recommender(Embeddings(torch.ones(12, 2), torch.ones(16, 2)), data).export_top_k(f"{address}.csv", k=2),
        lambda: write_description(address, describe_data(data)),
        lambda: encode_batches(["one"], lambda batch: [[1.0]], cache=address, progress=False),
        lambda: as_path(Path("s3:/bucket/m")),
    ]
    for call in calls:
        with pytest.raises(InputError, match=f"path: found the address '{address[:5]}" if call != calls[-1] else "s3:"):
            call()
    with pytest.raises(InputError, match=words):
        as_path(address)
    assert not any(home.iterdir())


def test_names_with_colons_are_paths():
    for name in ("C:/m.pt", "C://m.pt", "a:b/c", "12:30.csv", "x/s3://y", "run:1"):
        assert as_path(name) == Path(name)


def test_an_empty_text_is_no_path(home, data):
    model = VBPR.from_data(data)
    calls = [
        lambda: save_model("", model, data),
        lambda: load_model("", data),
        lambda: load(""),
        lambda: MultimodalFolder(home, root=""),
        lambda: MultimodalFolder(""),
        lambda: Trainer(checkpoint_dir="", **QUICK),
        lambda: train_teachers(VBPR, data, Trainer(**QUICK), ["a"], cache_dir=""),
        lambda: Study(data, VBPR, "", StudySettings(trainer=QUICK, k=[3])),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"path: found an empty text, expected .* the current folder is '\.'"):
            call()
    assert not any(home.iterdir())
    assert main(["data", "describe", ""]) == 2
