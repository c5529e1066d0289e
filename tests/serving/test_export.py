"""Exports hold what the recommender returns, in every format, whole or not at all."""

from __future__ import annotations

import errno
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import strategies as st

from pyg_ckd.data import Embeddings, build_data
from pyg_ckd.errors import InputError
from pyg_ckd.serving import Recommender, export


def recommender(user_id: Any = None, item_id: Any = None, num_users: int = 50) -> Recommender:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.arange(num_users), torch.arange(num_users) % 30])
    data = build_data(pairs, {"visual": torch.randn(30, 4, generator=generator)}, num_users=num_users, num_items=30)
    if user_id is not None:
        data.user_id, data.item_id = user_id, item_id
    tables = [torch.randn(n, 5, generator=generator) for n in (num_users, 30)]
    return Recommender(Embeddings(*tables), data)


USER_NAMES, ITEM_NAMES = [f"u{n}" for n in range(50)], [f"ä{n}" for n in range(30)]
KINDS = [(None, None), (torch.arange(50) * 2**40, torch.arange(30) - 7), (USER_NAMES, ITEM_NAMES)]


@pytest.mark.parametrize("ids", KINDS, ids=["rows", "integers", "strings"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("rows", [1, 130, 2**18])
def test_ranked_lists_are_those_of_recommend(ids, suffix: str, rows: int, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "_ROWS", rows)  # Parts of one user, of some, and of all.
    source = recommender(*ids)
    path = source.export_top_k(tmp_path / f"lists{suffix}", 30)
    got = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path)
    expected = source.recommend(k=30).to_frame()
    assert list(got.columns) == ["user", "rank", "item", "score"]
    assert len(got) == 50 * 29  # Every user has met one item, and an empty slot has no row.
    for name in ("user", "rank", "item"):
        assert got[name].tolist() == expected[name].tolist()
    np.testing.assert_allclose(got.score, expected.score, rtol=1e-5, atol=1e-6)


def test_users_and_candidates_can_be_chosen(tmp_path) -> None:
    source = recommender(USER_NAMES, ITEM_NAMES)
    options: dict[str, Any] = {"exclude_seen": False, "candidates": ["ä3", "ä5"]}
    path = source.export_top_k(tmp_path / "lists.parquet", 2, user_ids=["u9", "u2"], **options)
    assert (
        pd.read_parquet(path).item.tolist() == source.recommend(["u9", "u2"], 2, **options).items.reshape(-1).tolist()
    )


@pytest.mark.parametrize("ids", KINDS, ids=["rows", "integers", "strings"])
def test_embeddings_come_back_from_npy_and_parquet(ids, tmp_path) -> None:
    source = recommender(*ids)
    npy, parquet = source.export_embeddings(tmp_path / "e.npy"), source.export_embeddings(tmp_path / "e.parquet")
    names = ["e.user.npy", "e.user_id.npy", "e.item.npy", "e.item_id.npy"]
    assert [p.name for p in npy] == [n for n in names if ids[0] is not None or "_id" not in n]
    assert [p.name for p in parquet] == ["e.user.parquet", "e.item.parquet"]
    for kind, table, given in zip(("user", "item"), source.embeddings, ids, strict=True):
        expected = list(range(len(table))) if given is None else list(map(_plain, given))
        assert np.array_equal(np.load(tmp_path / f"e.{kind}.npy", allow_pickle=False), table.numpy())
        read = pq.read_table(tmp_path / f"e.{kind}.parquet")
        assert read[kind].to_pylist() == expected
        assert np.array_equal(np.array(read["embedding"].to_pylist(), dtype=np.float32), table.numpy())
        if given is not None:
            assert np.load(tmp_path / f"e.{kind}_id.npy", allow_pickle=False).tolist() == expected


def test_ids_of_yesterday_are_not_left_beside_tables_of_a_graph_without_ids(tmp_path) -> None:
    old = recommender(USER_NAMES, ITEM_NAMES).export_embeddings(tmp_path / "e.npy")
    before = {file: file.read_bytes() for file in old}
    for name in ("user", "item"):
        with pytest.raises(InputError, match=rf"^out .*e.npy: found e.{name}_id.npy there already, but no {name}_id"):
            recommender().export_embeddings(tmp_path / "e.npy")
        assert {file: file.read_bytes() for file in before} == before
        before.pop(tmp_path / f"e.{name}_id.npy")
        (tmp_path / f"e.{name}_id.npy").unlink()
    (tmp_path / "e.owner_id.npy").write_text("mine")
    new = recommender().export_embeddings(tmp_path / "e.npy")
    names = ["e.item.npy", "e.user.npy"]
    assert sorted(path.name for path in new) == names
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[0], "e.owner_id.npy", names[1]]


@pytest.mark.parametrize("ids", KINDS, ids=["rows", "integers", "strings"])
def test_embeddings_come_back_from_safetensors(ids: Sequence[Any], tmp_path) -> None:
    safetensors = pytest.importorskip("safetensors")
    source = recommender(*ids)
    (path,) = source.export_embeddings(tmp_path / "e.safetensors")
    with safetensors.safe_open(path, "pt") as file:
        for kind, table, given in zip(("user", "item"), source.embeddings, ids, strict=True):
            assert torch.equal(file.get_tensor(kind), table)
            if isinstance(given, torch.Tensor):
                assert torch.equal(file.get_tensor(f"{kind}_id"), given)
            elif given is not None:
                assert json.loads(file.metadata()[f"{kind}_id"]) == given


def test_without_safetensors_the_extra_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(InputError, match=r"pyg-ckd\[safetensors\]"):
        recommender().export_embeddings(tmp_path / "e.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["lists.parket", "lists.npy"])
def test_an_unknown_format_is_refused(name: str, tmp_path) -> None:
    with pytest.raises(InputError, match=r"unknown format .* \.parquet"):
        recommender().export_top_k(tmp_path / name, 3)
    with pytest.raises(InputError, match=r"unknown format '\.csv'"):
        recommender().export_embeddings(tmp_path / "e.csv")


def test_a_full_disk_leaves_nothing_half_written_and_the_old_file_whole(tmp_path, monkeypatch) -> None:
    path, calls = tmp_path / "lists.parquet", []
    recommender().export_top_k(path, 3)
    before = path.read_bytes()

    class Full(pq.ParquetWriter):
        def write_table(self, *args: Any, **kwargs: Any) -> None:
            super().write_table(*args, **kwargs)
            calls.append(1)
            if len(calls) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "ParquetWriter", Full)
    monkeypatch.setattr(export, "_ROWS", 10)
    with pytest.raises(InputError, match=r"lists.parquet: cannot be written \(No space left on device\)"):
        recommender().export_top_k(path, 5)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["lists.parquet"]


def test_nothing_is_written_where_k_or_a_user_is_wrong_or_nothing_is_left(tmp_path: Path) -> None:
    source = recommender()
    for options, words in (
        ({"k": 31}, "k: found 31"),
        ({"user_ids": [50]}, "unknown user 50"),
        ({"k": 1, "user_ids": [3, 33], "candidates": [3]}, "all 2 users, 3 first, have seen every one of the 1 cand"),
    ):
        with pytest.raises(InputError, match=words):
            source.export_top_k(tmp_path / "lists.parquet", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["e.npy", "e.parquet"])
def test_of_the_files_of_embeddings_all_are_written_or_none(name: str, tmp_path, monkeypatch) -> None:
    source = recommender(USER_NAMES, ITEM_NAMES)
    taken = tmp_path / f"e.item.{name[2:]}"
    taken.mkdir()
    with pytest.raises(InputError, match=r"e\.item\.\w+: is a folder, expected the name of a file"):
        source.export_embeddings(tmp_path / name)
    assert list(tmp_path.iterdir()) == [taken]
    taken.rmdir()
    calls = []

    def full(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        source.export_embeddings(tmp_path / name)
    assert not list(tmp_path.iterdir())


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=80, max_size=80, unique=True)
    | st.lists(st.text(st.characters(exclude_categories=("C",)), min_size=1), min_size=80, max_size=80, unique=True),
    k=st.integers(1, 30),
    suffix=st.sampled_from([".npy", ".parquet"]),
)
def test_any_ids_come_back_from_any_export(ids: list[Any], k: int, suffix: str) -> None:
    values = torch.tensor(ids) if isinstance(ids[0], int) else ids
    source = recommender(values[:50], values[50:])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lists = pq.read_table(source.export_top_k(folder / "lists.parquet", k))
        files = source.export_embeddings(folder / f"e{suffix}")
        read = [np.load(f).tolist() if suffix == ".npy" else pq.read_table(f)[0].to_pylist() for f in files]
    expected = source.recommend(k=k).to_frame()
    for column in ("user", "rank", "item", "score"):
        assert lists[column].to_pylist() == expected[column].tolist()
    assert (read[1::2] if suffix == ".npy" else read) == [ids[:50], ids[50:]]


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, ["u1"]], ids=repr)
def test_a_missing_user_gets_no_list_of_another(missing: Any, tmp_path) -> None:
    source = recommender(USER_NAMES, ITEM_NAMES)
    for ask in (lambda **given: source.export_top_k(tmp_path / "lists.jsonl", 2, **given), source.recommend):
        with pytest.raises(InputError, match=r"^user ids: found .* at position 1, expected text or an integer"):
            ask(user_ids=["u1", missing], unknown="popular")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", export.TOP_K_FORMATS)
def test_users_without_items_have_no_row_though_a_whole_part_has_none(suffix: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "_ROWS", 10)
    path = recommender().export_top_k(tmp_path / f"lists{suffix}", 2, candidates={7: [1, 2, 3]})
    if suffix.startswith(".jsonl"):
        assert pd.read_json(path, lines=True).user.tolist() == [7]
    else:
        assert (pd.read_parquet if suffix == ".parquet" else pd.read_csv)(path).user.tolist() == [7, 7]
    with pytest.raises(InputError, match="user 3 has seen every one of the 1 candidates"):
        recommender().export_top_k(tmp_path / f"none{suffix}", 1, user_ids=[3], candidates=[3])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_names_that_no_file_can_have_are_refused(tmp_path) -> None:
    source = recommender(["\ud800", *USER_NAMES[1:]], ITEM_NAMES)
    with pytest.raises(InputError, match="null character"):
        source.export_top_k(f"{tmp_path}/a\0.csv")
    with pytest.raises(InputError, match=r"^out -: found a dash, expected the name of a file"):
        source.export_top_k("-")
    with pytest.raises(InputError, match=r"^user_id: found .* lone surrogates"):
        source.export_top_k(tmp_path / "lists.csv", 2)
    assert not list(tmp_path.iterdir())


def test_tables_without_columns_are_no_parquet(tmp_path) -> None:
    source = recommender()
    source.embeddings = Embeddings(*(table[:, :0] for table in source.embeddings))
    with pytest.raises(InputError, match=r"x\.parquet: found embeddings of width 0, .* write \.npy"):
        source.export_embeddings(tmp_path / "x.parquet")
    assert not list(tmp_path.iterdir())
    assert len(source.export_embeddings(tmp_path / "x.npy")) == 2
