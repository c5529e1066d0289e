"""A FAISS index finds what exact search finds, or tells how much of it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from pyg_ckd.errors import InputError
from pyg_ckd.serving import ItemIndex, index
from tests.serving.test_export import ITEM_NAMES, USER_NAMES, recommender


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss")


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_a_flat_index_is_exact(faiss, exclude_seen: bool) -> None:
    source = recommender(USER_NAMES, ITEM_NAMES)
    flat = ItemIndex(source)
    got, expected = flat.recommend(["u4", "u0"], 5, exclude_seen), source.recommend(["u4", "u0"], 5, exclude_seen)
    assert got.items.tolist() == expected.items.tolist()
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5)
    assert flat.recall(5, exclude_seen=exclude_seen) == 1.0


def test_lists_that_cannot_be_filled_end_with_empty_slots(faiss) -> None:
    source = recommender()
    got = ItemIndex(source).recommend(k=30)
    assert (got.items[:, -1] == -1).all()
    assert np.array_equal(got.items, source.recommend(k=30).items)
    assert ItemIndex(source).recall(30) == 1.0


def test_recall_is_the_share_of_exact_results_that_are_found(faiss, monkeypatch) -> None:
    source = recommender(num_users=200)
    monkeypatch.setattr(index, "LARGE", 30)
    inverted = ItemIndex(source, "IVF6,Flat", "nprobe=2")
    exact, found = source.recommend(k=5).items, inverted.recommend(k=5).items
    expected = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
    assert inverted.recall(5) == pytest.approx(expected)
    assert 0.3 < expected < 1
    assert ItemIndex(source, "IVF6,Flat", "nprobe=6").recall(5) == 1.0
    assert ItemIndex(source).factory == "IVF21,Flat"


def test_a_saved_index_is_read_by_faiss(faiss, tmp_path) -> None:
    source = recommender()
    path = ItemIndex(source).save(tmp_path / "items.faiss")
    item = faiss.read_index(str(path)).search(source.embeddings.user[:4].numpy(), 3)[1]
    assert np.array_equal(item, source.recommend(range(4), 3, exclude_seen=False).items)


def test_what_faiss_refuses_is_named(faiss, tmp_path) -> None:
    for arguments in (("Nonsense",), ("IVF999,Flat",), ("Flat", "nprobe=2")):
        with pytest.raises(InputError, match="index: FAISS refuses") as caught:
            ItemIndex(recommender(), *arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="k: found 31"):
        ItemIndex(recommender()).recommend(k=31)
    with pytest.raises(InputError, match="unknown user 99"):
        ItemIndex(recommender()).recommend(99)
    for option in ({"where": {"price": 1}}, {"diversity": 0.3}, {"candidates": [1]}, {"unknown": "popular"}):
        with pytest.raises(InputError, match=f"^{next(iter(option))}: found it for an index"):
            ItemIndex(recommender()).recommend(k=3, **option)
    with pytest.raises(InputError, match="num_users: found 0"):
        ItemIndex(recommender()).recall(num_users=0)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        ItemIndex(recommender()).save(tmp_path / "file" / "items.faiss")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "HNSW8"])
@pytest.mark.parametrize("block", [7, 2**16])
def test_a_file_in_which_any_row_has_changed_is_refused(factory: str, block: int, faiss, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(index, "_BLOCK", block)
    source, path = recommender(), tmp_path / "items.faiss"
    ItemIndex(source, factory).save(path)
    opened = ItemIndex.load(path, source)
    assert opened.recommend(k=5).items.shape == (50, 5)
    whole = path.read_bytes()
    for row in source.embeddings.item[[0, 13, 29]]:
        place = whole.index(row.numpy().tobytes()) + 3  # The sign and the exponent of the first number.
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"^index .*: found the items of another recommender or damaged ones"):
            ItemIndex.load(path, source)
    path.write_bytes(whole)
    assert ItemIndex.load(path, source)._index.index.ntotal == 30


def test_without_faiss_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"pyg-ckd\[retrieval\]"):
        ItemIndex(recommender())


def test_nobody_gets_nothing(faiss) -> None:
    found = ItemIndex(recommender()).recommend([], k=3)
    assert found.items.shape == (0, 3)


@pytest.mark.parametrize("factory", ["Flat", "IVF3,Flat", "HNSW8"])
@pytest.mark.parametrize("name", ["items.faiss", "items.pt"])
def test_an_index_of_other_items_is_refused(faiss, factory: str, name: str, tmp_path) -> None:
    source, other = recommender(), recommender()
    other.embeddings = other.embeddings._replace(item=other.embeddings.item.flip(0))
    path = ItemIndex(source, factory).save(tmp_path / name)
    found = ItemIndex.load(path, recommender()).recommend(k=3)
    assert np.array_equal(found.items, ItemIndex(source, factory).recommend(k=3).items)
    with pytest.raises(InputError, match=r"^index .*: found the items of another recommender"):
        ItemIndex.load(path, other)


def test_an_index_that_stores_codes_is_opened(faiss, tmp_path) -> None:
    path = ItemIndex(recommender(), "SQ8").save(tmp_path / "items.faiss")
    assert ItemIndex.load(path, recommender()).recommend(k=3).items.shape == (50, 3)


def test_arguments_of_other_types_are_named(faiss) -> None:
    source = recommender()
    for call, words in (
        (lambda: ItemIndex(tuple(source.embeddings)), "index: found tuple, expected a recommender"),
        (lambda: ItemIndex(source, 5), r"factory: found 5 \(int\), expected a text"),
        (lambda: ItemIndex(source, None, 5), r"parameters: found 5 \(int\), expected a text"),
        (lambda: ItemIndex(source).recommend(k=3, exclude_seen="no"), "exclude_seen: found 'no'"),
    ):
        with pytest.raises(InputError, match=f"^{words}"):
            call()
