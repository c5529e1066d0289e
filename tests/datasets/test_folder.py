import tempfile
import uuid
import warnings
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings

from pyg_ckd.data.inputs import HELD_OUT
from pyg_ckd.datasets import read_folder
from pyg_ckd.errors import InputError

RATES = ("user", "rates", "item")
FRAME = pd.DataFrame(
    {
        "user": ["bob", "ann", "ann", "ann", "bob", "bob"],
        "item": [0, 1, 2, 3, 1, 3],
        "timestamp": [5, 3, 2, 1, 6, 7],
        "split": ["train", "train", "val", "train", "train", "test"],
    }
)
VISUAL = np.arange(8.0).reshape(4, 2)


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "visual.npy", VISUAL)
    np.save(tmp_path / "audio.npy", np.ones((4, 3), np.float16))
    return tmp_path


def refuses(folder, pattern: str, **options) -> None:
    with pytest.raises(InputError, match=pattern) as error:
        read_folder(folder, **options)
    assert str(folder) in str(error.value) or "unknown split" in str(error.value)
    assert "\n" not in str(error.value)


def pairs(data, name: str = "edge_index") -> set[tuple]:
    users, items = data[RATES][name].tolist()
    users_of, items_of = (ids if isinstance(ids, list) else ids.tolist() for ids in (data.user_id, data.item_id))
    return {(users_of[u], items_of[i]) for u, i in zip(users, items, strict=True)}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_column_split_is_followed_and_ids_are_kept(folder, suffix):
    path = folder / f"interactions.{suffix}"
    FRAME.to_csv(path, index=False) if suffix == "csv" else FRAME.to_parquet(path)
    data = read_folder(folder, transform="none")
    assert data.modalities == ["audio", "visual"]
    assert data.user_id == ["ann", "bob"]
    assert data.item_id.tolist() == [0, 1, 2, 3]
    assert pairs(data) == {("bob", 0), ("ann", 1), ("ann", 3), ("bob", 1)}
    assert pairs(data, "val_edge_index") == {("ann", 2)}
    assert pairs(data, "test_edge_index") == {("bob", 3)}
    assert np.array_equal(data["item"].visual.numpy(), VISUAL)


def test_one_file_per_split_gives_the_same_graph(folder):
    for name, part in FRAME.groupby("split"):
        part[["user", "item"]].to_csv(folder / f"{name}.csv", index=False)
    data = read_folder(folder)
    assert pairs(data) == {("bob", 0), ("ann", 1), ("ann", 3), ("bob", 1)}
    assert pairs(data, "test_edge_index") == {("bob", 3)}


def test_listed_items_give_the_order_of_the_feature_rows(folder):
    names = np.array(["d", "c", "b", "a"])
    FRAME.assign(item=names[FRAME["item"]]).to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame({"item": names, "title": "x"}).to_csv(folder / "items.csv", index=False)
    data = read_folder(folder)
    assert data.item_id == ["d", "c", "b", "a"]
    assert set(map(tuple, data[RATES].edge_index.t().tolist())) == {(1, 0), (0, 1), (0, 3), (1, 1)}


def test_large_integer_ids_stay_integers(folder):
    FRAME.assign(user=FRAME["user"].map({"ann": 76561198000000001, "bob": -5})).to_csv(folder / "interactions.csv")
    assert read_folder(folder).user_id.tolist() == [-5, 76561198000000001]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_unsigned_ids_beyond_63_bits_stay_what_they_are(folder, suffix):
    names = np.array([3, 2, 1, 0], dtype=np.uint64) + np.uint64(2**63)
    frame = FRAME.assign(item=names[FRAME["item"]], user=FRAME["user"].map({"ann": np.uint64(2**64 - 1), "bob": 5}))
    frame["user"] = frame["user"].astype(np.uint64)
    for stem, table in (("interactions", frame), ("items", pd.DataFrame({"item": names}))):
        path = folder / f"{stem}.{suffix}"
        table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    data = read_folder(folder)
    assert sorted(data.user_id) == [str(2**64 - 1), "5"]
    assert data.item_id == [str(2**63 + n) for n in (3, 2, 1, 0)]
    assert (str(2**64 - 1), str(2**63 + 2)) in pairs(data)


def test_zeros_in_front_of_an_id_of_a_csv_file_are_kept(folder):
    FRAME.assign(user=FRAME["user"].map({"ann": "07", "bob": "7"})).to_csv(folder / "interactions.csv", index=False)
    assert read_folder(folder).user_id == ["07", "7"]


def test_a_user_may_be_called_na(folder):
    FRAME.assign(user=FRAME["user"].map({"ann": "NA", "bob": "null"})).to_csv(folder / "interactions.csv", index=False)
    assert read_folder(folder).user_id == ["NA", "null"]


def test_uuids_are_ids(folder):
    ids = {name: uuid.UUID(int=n) for n, name in enumerate(("bob", "ann"))}
    FRAME.assign(user=FRAME["user"].map(ids)).to_parquet(folder / "interactions.parquet")
    assert read_folder(folder).user_id == [str(ids["bob"]), str(ids["ann"])]


ID_LISTS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=4, max_size=4, unique=True),
    st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4, unique=True),
    st.lists(st.from_regex(r"0?[0-9]{1,20}", fullmatch=True), min_size=4, max_size=4, unique=True),
    st.lists(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1), min_size=4, max_size=4, unique=True),
    st.lists(st.uuids(), min_size=4, max_size=4, unique=True),
)


@settings(max_examples=200, deadline=None)
@given(users=ID_LISTS, items=ID_LISTS, suffix=st.sampled_from(["csv", "parquet"]), seed=st.integers(0, 99))
def test_ids_of_any_type_lead_back_from_any_table(users, items, suffix, seed):
    """Ids that look like fractions (``1e5``) are refused in CSV files if all do; an ``a`` makes them text."""
    if suffix == "csv":
        users, items = (
            [f"a{x}" if isinstance(x, str) and not x.isdecimal() else x for x in ids] for ids in (users, items)
        )
    key = np.random.default_rng(seed).permutation(16)[:9]
    expected = {(str(users[k // 4]), str(items[k % 4])) for k in key}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "visual.npy", VISUAL)
        frame = pd.DataFrame({"user": [users[k // 4] for k in key], "item": [items[k % 4] for k in key]})
        for stem, table in (("train", frame), ("items", pd.DataFrame({"item": items}))):
            path = folder / f"{stem}.{suffix}"
            table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
        data = read_folder(folder)
    assert {(str(u), str(i)) for u, i in pairs(data)} == expected
    assert [str(i) for i in (data.item_id.tolist() if isinstance(data.item_id, torch.Tensor) else data.item_id)] == [
        str(i) for i in items
    ]


def test_masks_are_read(folder):
    FRAME.to_csv(folder / "interactions.csv")
    np.save(folder / "has_visual.npy", np.array([True, True, True, False]))
    assert read_folder(folder)["item"].has_visual.tolist() == [True, True, True, False]


@pytest.mark.parametrize("dates", [False, True])
def test_leave_one_out_and_temporal_splits_follow_the_timestamps(folder, dates):
    frame = FRAME.drop(columns="split")
    if dates:
        frame["timestamp"] = [f"2024-01-0{day} 12:00:00" for day in frame["timestamp"]]
    frame.to_csv(folder / "interactions.csv", index=False)
    data = read_folder(folder, split="leave-one-out")
    assert pairs(data, "test_edge_index") == {("ann", 1), ("bob", 3)}
    assert pairs(data, "val_edge_index") == {("ann", 2), ("bob", 1)}
    data = read_folder(folder, split="temporal", ratios=(4 / 6, 1 / 6, 1 / 6))
    assert pairs(data, "val_edge_index") == {("bob", 1)}
    assert pairs(data, "test_edge_index") == {("bob", 3)}


def test_random_split_ignores_the_column_and_auto_falls_back_to_it(folder):
    rng = np.random.default_rng(0)
    keys = rng.choice(400, 300, replace=False)
    pd.DataFrame({"user": keys // 4, "item": keys % 4}).to_csv(folder / "interactions.csv", index=False)
    auto, named = read_folder(folder, seed=1), read_folder(folder, split="random", seed=1)
    assert pairs(auto) == pairs(named) != pairs(read_folder(folder, seed=2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {},
            r"split=.random. with the shares 0.8, 0.1, 0.1 of 3 .* validation and test parts .*nothing is measured",
        ),
        (
            {"split": "leave-one-out"},
            "split='leave-one-out' of 3 interactions leaves the validation and test parts empty",
        ),
        ({"ratios": (0.5, 0.5, 0.0)}, "leaves the validation part empty, so that no epoch is chosen; give more inter"),
        ({"ratios": (0.5, 0.0, 0.5)}, "leaves the test part empty, so that no test is made; .* or a column 'split'"),
    ],
)
def test_too_few_interactions_to_hold_any_out_are_told_before_training(folder, options, said):
    frame = pd.DataFrame({"user": ["a", "b", "c"], "item": [0, 1, 2], "timestamp": [1, 2, 3]})
    frame.to_csv(folder / "interactions.csv", index=False)
    with pytest.warns(UserWarning, match=f"interactions.csv: {said}" if options == {} else said):
        read_folder(folder, **options)


def test_parts_that_are_empty_on_purpose_are_no_reason_for_a_warning(folder):
    FRAME.drop(columns="split").to_csv(folder / "interactions.csv", index=False)
    FRAME.assign(split="train").to_csv(folder / "given.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_folder(folder, split="random", ratios=(1.0, 0.0, 0.0))
        (folder / "given.csv").replace(folder / "interactions.csv")
        read_folder(folder)


def test_k_core_drops_users_and_keeps_all_items(folder):
    extra = pd.DataFrame({"user": ["cid"], "item": [0], "timestamp": [0], "split": ["train"]})
    pd.concat([FRAME, extra]).to_csv(folder / "interactions.csv", index=False)
    data = read_folder(folder, split="random", k_core=2)
    assert data.user_id == ["ann", "bob"]
    assert data["item"].num_nodes == 4


def write(change):
    def apply(folder):
        change(FRAME.copy()).to_csv(folder / "interactions.csv", index=False)

    return apply


def write_items(items):
    def apply(folder):
        FRAME.to_csv(folder / "interactions.csv", index=False)
        pd.DataFrame(items).to_csv(folder / "items.csv", index=False)

    return apply


def write_bytes(name: str, content: bytes):
    def apply(folder):
        FRAME.to_csv(folder / "interactions.csv", index=False)
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)

    return apply


def write_array(name: str, array: np.ndarray):
    def apply(folder):
        write_items({"item": [0, 1, 2, 3]})(folder)
        np.save(folder / name, array)

    return apply


def put(frame, column, row, value):
    frame[column] = frame[column].astype(object)
    frame.loc[row, column] = value
    return frame


def write_both(folder):
    FRAME.to_csv(folder / "interactions.csv")
    FRAME.to_parquet(folder / "interactions.parquet")


def write_whole_and_part(folder):
    FRAME.to_csv(folder / "interactions.csv")
    FRAME.to_csv(folder / "test.csv")


BAD = {
    "no interactions": (lambda folder: None, r"no interactions found.*found audio.npy, visual.npy", {}),
    "a spreadsheet": (
        lambda folder: (folder / "interactions.xlsx").write_bytes(b""),
        r"no interactions found, but interactions.xlsx, which is not read, .*; save the sheet as interactions.csv$",
        {},
    ),
    "both formats": (write_both, "holds interactions.parquet and interactions.csv", {}),
    "whole and part": (write_whole_and_part, "holds interactions.csv and test.csv", {}),
    "misspelt column": (write(lambda f: f.rename(columns={"user": "usr"})), "column 'user' is missing.*'usr'", {}),
    "userid column": (write(lambda f: f.rename(columns={"user": "userid"})), "rename 'userid' to 'user'", {}),
    "missing id": (write(lambda f: put(f, "user", 2, None)), "'user' has 1 missing values, the first in row 2", {}),
    "fractional id": (write(lambda f: put(f, "item", 1, 0.5)), "'item' has dtype float64, .*found 0.5 in row 1", {}),
    "text items": (write(lambda f: put(f, "item", 1, "x")), "items have dtype .*add items.csv", {}),
    "unknown row": (write(lambda f: put(f, "item", 4, 9)), "item 9 in row 4 is none of the 4 feature rows", {}),
    "wrong split": (write(lambda f: put(f, "split", 3, "vla")), "row 3 unknown split 'vla': did you mean 'val'", {}),
    "no rows": (write(lambda f: f[:0]), "interactions.csv: has no rows", {}),
    "duplicates": (
        write(lambda f: pd.concat([f, f[:2]])),
        "2 duplicate interactions, the first is user 'bob', item 0 again in row 6; keep one of each, with "
        r"keep='first' or keep='last' \(--data_options.keep first on the command line\)$",
        {},
    ),
    "given without": (write(lambda f: f.drop(columns="split")), "needs a column 'split'", {"split": "given"}),
    "temporal without": (write(lambda f: f.drop(columns="timestamp")), "column 'timestamp'", {"split": "temporal"}),
    "no date": (
        write(lambda f: put(f, "timestamp", 1, "soon")),
        "neither numbers nor dates.*row",
        {"split": "temporal"},
    ),
    "unknown split": (write(lambda f: f), "unknown split 'tempral': did you mean 'temporal'", {"split": "tempral"}),
    "unlisted item": (write_items({"item": [0, 1, 2, 7]}), "2 interactions are with items that items.csv does not", {}),
    "short list": (write_items({"item": [0, 1]}), "lists 2 items, but the features have 4 rows", {}),
    "too few rows for a list": (
        write_array("visual.npy", np.zeros((3, 2))),
        r"visual.npy: features of 'visual' have 3 rows, too few for 4 items; give one row per line of items.csv",
        {},
    ),
    "images": (
        write_array("visual.npy", np.zeros((4, 3, 8, 8))),
        r"expected \[num_items, d\]; these look like images: give one vector per item, from an encoder",
        {},
    ),
    "repeated item": (write_items({"item": [0, 1, 1, 3]}), "lists .*1.* again in row 2", {}),
    "list without column": (write_items({"items": [0, 1, 2, 3]}), "column 'item' is missing; rename 'items'", {}),
    "no table": (write_bytes("interactions.csv", b""), "cannot be read as a csv table", {}),
    "ragged table": (
        write_bytes("interactions.csv", b"user,item\n1,2\n1,2,3,4\n"),
        "line 3 has 4 fields, .* repair",
        {},
    ),
    "long lines": (
        write_bytes("interactions.csv", b"user,item\n1,2,3\n1,0,3\n"),
        "line 2 has 3 fields, but the header names 2, 'user,item'; name all of them, or write the table without names",
        {},
    ),
    "binary table": (write_bytes("interactions.csv", b"\xff\xfe\x00"), "cannot be read as a csv", {}),
    "no array": (write_bytes("visual.npy", b"text"), "visual.npy: cannot be read as a plain array", {}),
    "empty array": (write_bytes("visual.npy", b""), "visual.npy: cannot be read as a plain array", {}),
    "high k": (write(lambda f: f), "k-core: k=9 leaves none .* the largest k that does is 2", {"k_core": 9}),
}


@pytest.mark.parametrize(("prepare", "pattern", "options"), BAD.values(), ids=BAD.keys())
def test_bad_folders_are_refused_in_one_line_that_says_where(folder, prepare, pattern, options):
    prepare(folder)
    refuses(folder, pattern, **options)


def test_damaged_parquet_is_refused(folder):
    FRAME.to_parquet(folder / "interactions.parquet")
    (folder / "interactions.parquet").write_bytes((folder / "interactions.parquet").read_bytes()[:-20])
    refuses(folder, "cannot be read as a parquet table")


def test_parts_cannot_be_split_again(folder):
    FRAME[["user", "item"]].to_csv(folder / "train.csv")
    refuses(folder, "split='random' needs interactions", split="random")


def test_ids_that_are_text_in_one_part_and_numbers_in_another_are_compared_as_text(folder):
    numbers = FRAME["user"].map({"bob": 7, "ann": 12})
    FRAME.assign(user=numbers.astype(str))[["user", "item"]].to_parquet(folder / "train.parquet")
    pd.DataFrame({"user": [12], "item": [0]}).to_parquet(folder / "val.parquet")
    data = read_folder(folder)
    assert data.user_id == ["12", "7"]
    assert pairs(data, "val_edge_index") == {("12", 0)}


def test_a_negative_seed_is_refused(folder):
    FRAME.to_csv(folder / "interactions.csv", index=False)
    for split in ("random", "cold-start"):
        refuses(folder, "split: seed is -1, expected an integer of at least 0", split=split, seed=-1)


def test_object_arrays_are_never_unpickled(folder):
    FRAME.to_csv(folder / "interactions.csv")
    np.save(folder / "visual.npy", np.array([[object()]]), allow_pickle=True)
    refuses(folder, "visual.npy: cannot be read as a plain array .*Object arrays")


def test_folder_without_features_and_no_folder_are_refused(tmp_path):
    refuses(tmp_path, "no features, expected <modality>.npy .*found nothing")
    refuses(tmp_path / "none", "does not exist, expected a folder")
    np.save(tmp_path / "visual.npy", np.ones(3))
    refuses(tmp_path, r"visual.npy: has shape \[3\], expected \[num_items, d\]")


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("name", ["val", "test"])
@pytest.mark.parametrize("kind", ["csv", "float64", "int64", "object", "string"])
def test_a_held_out_table_without_rows_changes_no_id(folder, listed, name, kind):
    pd.DataFrame({"user": [2, 10, 33, 10], "item": [0, 1, 2, 3]}).to_csv(folder / "train.csv", index=False)
    if listed:
        pd.DataFrame({"item": range(4)}).to_csv(folder / "items.csv", index=False)
    if kind == "csv":
        (folder / f"{name}.csv").write_text("user,item\n")
    else:
        pd.DataFrame({"user": [], "item": []}).astype(kind).to_parquet(folder / f"{name}.parquet")
    data = read_folder(folder)
    assert data.user_id.tolist() == [2, 10, 33]
    assert data.item_id.tolist() == [0, 1, 2, 3]
    assert pairs(data) == {(2, 0), (10, 1), (33, 2), (10, 3)}


def test_a_table_without_rows_leaves_text_beside_it_text(folder):
    pd.DataFrame({"user": [2, 10], "item": ["a", "b"]}).to_csv(folder / "train.csv", index=False)
    pd.DataFrame({"item": [*"abcd"]}).to_csv(folder / "items.csv", index=False)
    pd.DataFrame({"user": [], "item": []}).to_parquet(folder / "val.parquet")
    data = read_folder(folder)
    assert data.user_id.tolist() == [2, 10]
    assert pairs(data) == {(2, "a"), (10, "b")}


def test_a_table_without_rows_leaves_ratings_in_a_warning_as_they_are(folder):
    pd.DataFrame({"user": [2, 10], "item": [0, 1], "rating": [1, 5]}).to_csv(folder / "train.csv", index=False)
    pd.DataFrame({"user": [], "item": [], "rating": []}).to_parquet(folder / "val.parquet")
    with pytest.warns(UserWarning, match=r"'rating' \(1 1x, 5 1x\) is not used"):
        read_folder(folder)


def test_a_mix_of_units_is_named_by_the_rows_of_the_file(folder):
    when = [1_700_000_000 + n for n in range(6)]
    when[4] *= 1000
    frame = FRAME.drop(columns="split").assign(timestamp=when, rating=[1, 5, 5, 5, 5, 5])
    frame.to_csv(folder / "interactions.csv", index=False)
    words = r"seconds \(1700000001 in row 1\), milliseconds \(1700000004000 in row 4\)"
    with pytest.warns(UserWarning, match=words) as caught:
        read_folder(folder, split="temporal", ratios=(0.8, 0.2, 0.0), min_rating=3)
    assert len(caught) == 1


@pytest.mark.parametrize("suffix", ["column", "parts"])
def test_split_none_makes_all_interactions_training_interactions(folder, suffix):
    if suffix == "column":
        FRAME.to_csv(folder / "interactions.csv", index=False)
    else:
        for name, part in FRAME.groupby("split"):
            part.drop(columns="split").to_csv(folder / f"{name}.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = read_folder(folder, split="none")
    assert pairs(data) == set(zip(FRAME.user, FRAME.item, strict=True))
    assert all(data[RATES].get(name) is None or not data[RATES][name].numel() for name in HELD_OUT)
    with pytest.raises(InputError, match=r"ratios: found \(1, 0, 0\) beside split='none', which makes all"):
        read_folder(folder, split="none", ratios=(1, 0, 0))


def test_split_none_is_that_of_ratios_without_held_out_parts(folder):
    FRAME.drop(columns="split").to_csv(folder / "interactions.csv", index=False)
    one, other = read_folder(folder, split="none"), read_folder(folder, split="random", ratios=(1, 0, 0))
    assert torch.equal(one[RATES].edge_index, other[RATES].edge_index)
    assert sorted(one[RATES].keys()) == sorted(other[RATES].keys())
