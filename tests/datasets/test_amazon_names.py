"""Files of reviews under names in capitals, in UTF-16, beside companions of macOS, and vectors that are replaced."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from pyg_ckd.datasets import AmazonReviews, write_vectors
from pyg_ckd.errors import InputError

ITEMS = [f"{n:03d}" for n in range(6)]


def write(folder: Path, names: tuple[str, str], encoding: str = "utf-8") -> Path:
    folder.mkdir()
    pairs = [(u, i) for u in range(6) for i in range(6) if (u + i) % 3]
    rows = [{"reviewerID": f"Ä{u}", "asin": ITEMS[i], "unixReviewTime": 100 + u + i} for u, i in pairs]
    titles = [None, float("nan"), "red shoe", ["blue", "bottle"], "<b>green</b> hat", "grey coat"]
    meta = [{"asin": item, "title": title} for item, title in zip(ITEMS, titles, strict=True)]
    for name, records in zip(names, (rows, meta), strict=True):
        content = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records).encode(encoding)
        (folder / name).write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
        (folder / f"._{name}").write_bytes(b"\x00\x05\x16\x07 of macOS")
    return folder


def reviews(root: Path, files: Path, **options):
    return AmazonReviews(root, "baby", files=files, text="title", images=False, k_core=2, dim=2, **options)[0]


SUFFIXES = [("json", "json"), ("json.gz", "json.GZ"), ("JSON.GZ", "JSON"), ("JSON.gz", "Json")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffixes", SUFFIXES, ids="-".join)
def test_files_are_found_and_read_however_they_are_named_and_written(tmp_path, encoding, suffixes):
    names = (f"reviews_Baby_5.{suffixes[0]}", f"meta_Baby.{suffixes[1]}")
    data = reviews(tmp_path / "root", write(tmp_path / "files", names, encoding))
    assert (data.item_id, data.user_id[0]) == (ITEMS, "Ä0")
    assert data["item"].has_textual.tolist() == [False, False, True, True, True, True]


def test_other_vectors_under_the_same_name_are_read(tmp_path):
    files = write(tmp_path / "files", ("reviews_Baby_5.json", "meta_Baby.json"))
    for scale in (1.0, 2.0):
        write_vectors(tmp_path / "clip.parquet", ITEMS, scale * np.arange(12.0).reshape(6, 2) + 1)
        data = reviews(tmp_path / "root", files, vectors={"visual": tmp_path / "clip.parquet"}, features="none")
        assert data["item"].visual[0].tolist() == [scale * 0 + 1, scale + 1]


@pytest.mark.parametrize("by", ["folder", "name"])
def test_other_files_under_the_same_names_are_read(tmp_path, by):
    names = ("reviews_Baby_5.json", "meta_Baby.json")
    files = folder = write(tmp_path / "files", names)
    if by == "name":
        files = {kind: folder / name for kind, name in zip(("reviews", "metadata"), names, strict=True)}
    first = reviews(tmp_path / "root", files)
    assert reviews(tmp_path / "root", files).user_id == first.user_id
    text = (folder / names[0]).read_text(encoding="utf-8")
    (folder / names[0]).write_text(text.replace("Ä0", "Ö0"), encoding="utf-8")
    assert reviews(tmp_path / "root", files).user_id[-1] == "Ö0"
    assert len(list((tmp_path / "root" / "processed").iterdir())) == 2


def test_an_edition_may_be_given_as_a_number(tmp_path):
    files = write(tmp_path / "files", ("reviews_Baby_5.json", "meta_Baby.json"))
    assert reviews(tmp_path / "root", files, edition=2014).item_id == ITEMS
    reviews(tmp_path / "root", files, edition="2014")
    assert len(list((tmp_path / "root" / "processed").iterdir())) == 1


WRONG = {
    "edition": ({"edition": None}, "unknown edition 'None': valid names are 2014, 2018, 2023"),
    "editions": ({"edition": ["2014"]}, "unknown edition"),
    "split": ({"split": None}, r"unknown split 'None': did you mean 'none'\? valid names are"),
    "vectors": ({"vectors": "x.npy"}, r"vectors: found 'x.npy', expected a dict such as \{'visual': 'clip.parquet'\}"),
    "path of vectors": ({"vectors": {"audio": 3}}, "path: found 3"),
    "text": ({"text": None}, "text: found None, expected a name or a list of names"),
    "texts": ({"text": ["title", 3]}, "text: found 3, expected names only"),
    "category": ({"category": None}, "category: found None, expected baby, beauty"),
    "images": ({"images": "no"}, "images: found 'no', expected true or false"),
    "url": ({"url": 3}, "url: found 3, expected an address"),
    "files": ({"files": 3}, "path: found 3"),
    "root": ({"root": None}, "path: found None"),
}


@pytest.mark.parametrize(("options", "pattern"), WRONG.values(), ids=WRONG.keys())
def test_arguments_of_another_type_are_refused_in_one_line(tmp_path, options, pattern):
    with pytest.raises(InputError, match=pattern) as error:
        AmazonReviews(**({"root": tmp_path, "category": "baby"} | options))
    assert "\n" not in str(error.value)
