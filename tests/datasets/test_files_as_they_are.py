"""Tables as people have them: quotation marks, separators, byte-order marks, capitals, far dates, ratings."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from pyg_ckd.cli.yaml_files import read_mapping
from pyg_ckd.data import build_data, leave_one_out_split, temporal_split
from pyg_ckd.datasets import (
    MultimodalFolder,
    convert,
    encode_files,
    load,
    read_vectors,
    recognise,
    write_npz,
    write_vectors,
)
from pyg_ckd.datasets.sources.lines import read_lines
from pyg_ckd.errors import InputError
from pyg_ckd.files import encoding_of

RATES = ("user", "rates", "item")
USERS, ITEMS = 6, 7
ROWS = [(u, i) for u in range(USERS) for i in range(ITEMS) if (u + 2 * i) % 3]


def features(folder: Path, suffix: str = ".npy", names=("visual", "textual")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        with (folder / f"{name}{suffix}").open("wb") as file:
            np.save(file, np.random.default_rng(n).normal(size=(ITEMS, 4)).astype("f4"))
    return folder


def table(folder: Path, content: str | bytes, name: str = "interactions.csv", **options) -> Path:
    features(folder, **options)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def inter(folder: Path, content: str | bytes, name: str = "shop.inter") -> Path:
    return table(folder, content, name, suffix="_feat.npy", names=("image", "text"))


def pairs(data) -> list[tuple]:
    edges = torch.cat([data[RATES][f"{part}edge_index"] for part in ("", "val_", "test_")], dim=1).tolist()
    ids = [getattr(data, f"{kind}_id", None) for kind in ("user", "item")]
    columns = [
        row if names is None else [names[n] if isinstance(names, list) else int(names[n]) for n in row]
        for row, names in zip(edges, ids, strict=True)
    ]
    return sorted(zip(*columns, strict=True))


def lines(rows, sep: str = ",", header: str = "user,item", end: str = "\n") -> str:
    return end.join([header.replace(",", sep), *(sep.join(map(str, row)) for row in rows)]) + end


# Lines that quotation marks would swallow.


@pytest.mark.parametrize("mark", ['"Great', 'so "great', '"', '""', '"Great"', "'Great"])
@pytest.mark.parametrize("place", [(2,), (2, 7), (0, 1), (2, len(ROWS) - 1)])
def test_quotation_marks_in_tab_separated_files_are_letters(tmp_path, mark, place):
    text = [mark if k in place else "fine" for k in range(len(ROWS))]
    rows = [(*pair, text[k]) for k, pair in enumerate(ROWS)]
    recbole = lines(rows, "\t", "user_id:token,item_id:token,title:token_seq")
    assert pairs(load(inter(tmp_path / "recbole", recbole))) == sorted(ROWS)
    mmrec = lines([(u, i, 0, t) for u, i, t in rows], "\t", "userID,itemID,x_label,title")
    assert pairs(load(inter(tmp_path / "mmrec", mmrec))) == sorted(ROWS)
    assert pairs(load(table(tmp_path / "tsv", lines(rows, "\t", "user,item,review")))) == sorted(ROWS)
    assert pairs(load(table(tmp_path / "more", lines(rows, "::", "user,item,review")))) == sorted(ROWS)


def test_quotation_marks_in_lists_of_users_and_items_are_letters(tmp_path):
    folder = inter(tmp_path / "r", lines(ROWS, "\t", "user_id:token,item_id:token"))
    for kind, size in (("user", USERS), ("item", ITEMS)):
        rows = [(n, '"odd' if n in (1, 4) else "plain") for n in range(size)]
        (folder / f"shop.{kind}").write_text(lines(rows, "\t", f"{kind}_id:token,name:token_seq"))
    assert pairs(load(folder)) == sorted(ROWS)


@pytest.mark.parametrize("sep", [",", ";", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["interactions", "train", "items"])
def test_a_swallowed_line_is_named_in_every_table_encoding_and_ending(tmp_path, sep, encoding, end, name):
    folder = features(tmp_path / "c")
    rows = [(u, i, '"Great' if k in (1, 5) else "fine") for k, (u, i) in enumerate(ROWS)]
    if name == "items":
        (folder / "interactions.csv").write_text(lines(ROWS))
        content = lines([(i, '"Tale' if i in (1, 5) else "plain") for i in range(ITEMS)], sep, "item,title", end)
    else:
        content = lines(rows, sep, "user,item,review", end)
    (folder / f"{name}.csv").write_bytes(content.encode(encoding))
    with pytest.raises(InputError, match=f"{name}.csv: a field that begins in line 3 runs to line 7"):
        load(folder)


@pytest.mark.parametrize("odd", ["a\0b", "a\x85b\u2028c", "a\x0bb\x0cc"])
def test_odd_characters_in_texts_end_no_line(tmp_path, odd):
    rows = [(u, i, odd if k in (2, 3) else "x") for k, (u, i) in enumerate(ROWS)]
    assert pairs(load(inter(tmp_path / "r", lines(rows, "\t", "user_id:token,item_id:token,t:token")))) == sorted(ROWS)
    for sep in (",", "\t", "::"):
        assert pairs(load(table(tmp_path / f"d{ord(sep[0])}", lines(rows, sep, "user,item,t")))) == sorted(ROWS)


def test_headers_may_have_blanks_behind_the_separator(tmp_path):
    content = "user, item\n" + "".join(f"u{u}, {i}\n" for u, i in ROWS)
    assert pairs(load(table(tmp_path / "d", content))) == sorted((f"u{u}", i) for u, i in ROWS)


def test_texts_in_another_encoding_are_named_with_the_way_to_mend_them(tmp_path):
    rows = [(u, i, "gr\u00f6\u00dfe") for u, i in ROWS]
    csv = table(tmp_path / "c", lines(rows, header="user,item,t").encode("latin-1"))
    recbole = inter(tmp_path / "r", lines(rows, "\t", "user_id:token,item_id:token,t:token").encode("latin-1"))
    for folder in (csv, recbole):
        with pytest.raises(InputError, match="its text is not UTF-8; save it as UTF-8"):
            load(folder)


@pytest.mark.parametrize(
    "marks", [{2: '"Great', 7: '"Great'}, {2: '"Great', 3: 'fine"'}, {0: '"', 20: '"'}, {5: '"Great'}]
)
@pytest.mark.parametrize("text_ids", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_a_field_that_swallows_lines_of_a_csv_file_is_named(tmp_path, marks, text_ids, first):
    rows = []
    for k, (u, i) in enumerate(ROWS):
        ids = (f"u{u}", f"i{i}") if text_ids else (u, i)
        rows.append((marks.get(k, "fine"), *ids) if first else (*ids, marks.get(k, "fine")))
    folder = table(tmp_path / "c", lines(rows, header="review,user,item" if first else "user,item,review"))
    pd.DataFrame({"item": [f"i{n}" if text_ids else n for n in range(ITEMS)]}).to_csv(folder / "items.csv", index=False)
    with pytest.raises(InputError, match=r"interactions.csv: a (field|quotation mark) ") as error:
        load(folder)
    if len(marks) == 1:
        assert "a quotation mark in line 7 is not closed" in str(error.value)
    else:
        assert f"line {min(marks) + 2} runs to line {max(marks) + 2}" in str(error.value)


def test_texts_of_several_lines_that_are_quoted_well_are_read(tmp_path):
    rows = [(u, i, f"Good, and\ncheap {'x, y, z' if k % 3 else ''}\n\n(really)") for k, (u, i) in enumerate(ROWS)]
    rows[3] = (*ROWS[3], "plain")
    folder = features(tmp_path / "c")
    pd.DataFrame(rows, columns=["user", "item", "review"]).to_csv(folder / "interactions.csv", index=False)
    assert pairs(load(folder)) == sorted(ROWS)


# Separators, headers, byte-order marks.


@pytest.mark.parametrize("sep", [",", ";", "\t", "|", "::"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_any_separator_and_byte_order_mark_are_read(tmp_path, sep, encoding, end):
    rows = [(f"0{u}", f"ä{i}", k) for k, (u, i) in enumerate(ROWS)]
    folder = table(tmp_path / "d", lines(rows, sep, "user,item,timestamp", end).encode(encoding))
    (folder / "items.csv").write_bytes(
        lines([(f"ä{i}", "x") for i in range(ITEMS)], sep, "item,title", end).encode(encoding)
    )
    assert pairs(load(folder)) == sorted((u, i) for u, i, _ in rows)


@pytest.mark.parametrize("sep", [",", ";", "\t", "|", "::"])
def test_a_missing_header_is_named_with_the_line_to_add(tmp_path, sep):
    folder = table(tmp_path / "d", sep.join("01") + "\n" + lines(ROWS, sep, "2,3"))
    with pytest.raises(InputError, match=r"has no header, the first line is .* same separator; put the line") as error:
        load(folder)
    assert repr(f"user{sep}item") in str(error.value)


@pytest.mark.parametrize("sep", [",", ";", "|"])
@pytest.mark.parametrize("header", ["userID,itemID,x_label", "user_id:token,item_id:token"])
def test_inter_files_with_other_separators_are_named(tmp_path, sep, header):
    rows = [(u, i, 0) for u, i in ROWS] if "x_label" in header else ROWS
    with pytest.raises(InputError, match=r"the header is separated by (commas|semicolons|bars), expected tabs"):
        load(inter(tmp_path / "d", lines(rows, sep, header)))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("header", ["userID,itemID,x_label", "user_id:token,item_id:token,y:token"])
def test_byte_order_marks_of_inter_files_are_no_letters(tmp_path, encoding, header):
    folder = inter(tmp_path / "d", lines([(u, i, 0) for u, i in ROWS], "\t", header).encode(encoding))
    assert pairs(load(folder)) == sorted(ROWS)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_of_json_files_are_no_letters(tmp_path, encoding):
    folder = features(tmp_path / "d", "_feat.npy", ("image", "text"))
    content = {str(u): [i for v, i in ROWS if v == u] for u in range(USERS)}
    (folder / "train.json").write_text(json.dumps(content), encoding=encoding)
    assert pairs(load(folder)) == sorted(ROWS)


# Names of files and folders.


def test_suffixes_in_capitals_are_suffixes(tmp_path):
    folder = table(tmp_path / "plain", lines(ROWS), "interactions.CSV", suffix=".NPY")
    expected = load(folder)
    assert pairs(expected) == sorted(ROWS)
    write_npz(expected, tmp_path / "data.NPZ")
    assert [file.name for file in tmp_path.glob("data*")] == ["data.NPZ"]
    assert pairs(load(tmp_path / "data.NPZ")) == sorted(ROWS)
    for name, files in (
        ("mmrec", {"mmrec.inter": "mmrec.INTER", "text_feat.npy": "text_feat.NPY"}),
        ("lattice", {"5-core/train.json": "5-core/train.JSON"}),
        ("diffmm", {"trnMat.pkl": "trnMat.PKL"}),
        ("recbole", {"recbole.train.inter": "recbole.train.INTER", "recbole.item": "recbole.ITEM"}),
    ):
        convert(tmp_path / "data.NPZ", tmp_path / name, name)
        for old, new in files.items():
            (tmp_path / name / old).rename(tmp_path / name / new)
        assert recognise(tmp_path / name) == name
        assert pairs(load(tmp_path / name)) == sorted(ROWS)


@pytest.mark.parametrize("name", ["folder", "mmrec", "lattice", "diffmm", "recbole"])
def test_companions_of_macos_are_no_data(tmp_path, name):
    source = table(tmp_path / "folder", lines(ROWS))
    if name != "folder":
        convert(source, tmp_path / name, name)
    expected = pairs(load(tmp_path / name))
    for file in [file for file in (tmp_path / name).rglob("*") if file.is_file()]:
        file.with_name(f"._{file.name}").write_bytes(b"\x00\x05\x16\x07 of macOS")
    (tmp_path / name / "._9-core").mkdir()
    (tmp_path / name / ".DS_Store").write_bytes(b"\x00")
    assert pairs(load(tmp_path / name)) == expected


def test_the_home_folder_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    data = load(table(tmp_path / "d", lines(ROWS)))
    write_npz(data, "~/a.npz")
    assert pairs(load("~/d")) == pairs(load("~/a.npz")) == sorted(ROWS)
    for name in ("mmrec", "lattice", "diffmm", "recbole"):
        convert("~/a.npz", f"~/{name}", name)
        assert recognise(f"~/{name}") == name
        assert pairs(load(f"~/{name}")) == sorted(ROWS)
    assert pairs(MultimodalFolder("~/d", root="~/root")[0]) == sorted(ROWS)
    assert (tmp_path / "root" / "processed").is_dir()
    write_vectors("~/v.parquet", ["a"], np.ones((1, 2)))
    assert read_vectors("~/v.parquet", ["a"])[1].tolist() == [True]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"x")
    (tmp_path / "images" / "._a.jpg").write_bytes(b"x")
    assert encode_files("~/images", lambda files: np.ones((len(files), 1)), progress=False)[0] == ["a"]
    with pytest.raises(InputError, match="there is no such home folder"):
        load("~nobody-of-this-name/d")
    assert not Path("~").exists()


# Ids.


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("text_first", [False, True])
def test_ids_of_tables_are_compared_as_text_where_one_has_text(tmp_path, suffix, text_first):
    folder = features(tmp_path / "d")
    names = [f"{i + 1}" for i in range(ITEMS)]
    log = pd.DataFrame({"user": [u for u, _ in ROWS], "item": [names[i] for _, i in ROWS]})
    listed = pd.DataFrame({"item": names})
    if text_first:
        listed["item"] = listed["item"].astype(int)
    else:
        log["item"] = log["item"].astype(int)
    for stem, frame in (("interactions", log), ("items", listed)):
        frame.to_csv(folder / f"{stem}.csv", index=False) if suffix == "csv" else frame.to_parquet(
            folder / f"{stem}.parquet"
        )
    assert [(u, int(i) - 1) for u, i in pairs(load(folder))] == sorted(ROWS)


def test_a_zero_in_front_makes_another_id_in_every_table(tmp_path):
    folder = features(tmp_path / "d")
    names = ["01001", "1001", "7", "07", "a", "b", "c"]
    (folder / "items.csv").write_text(lines([(n,) for n in names], header="item"))
    (folder / "interactions.csv").write_text(lines([(u, names[i]) for u, i in ROWS]))
    assert pairs(load(folder)) == sorted((u, names[i]) for u, i in ROWS)
    (folder / "interactions.csv").write_text(lines([(0, "1001"), (1, "1001"), (1, "7"), (2, "7")]))
    assert {i for _, i in pairs(load(folder))} == {"1001", "7"}


def test_ids_with_a_fraction_are_refused_with_the_way_to_mend_them(tmp_path):
    rows = [(u, float(i)) for u, i in ROWS]
    with pytest.raises(InputError, match=r"found 1.0 in row 0 .*convert with .astype\('int64'\)"):
        load(table(tmp_path / "d", lines(rows)))
    mmrec = lines([(u, i, 0) for u, i in rows], "\t", "userID,itemID,x_label")
    assert pairs(load(inter(tmp_path / "m", mmrec))) == sorted(ROWS)  # Only row numbers can stand there.
    with pytest.raises(InputError, match=r"'item_id:token' holds '1.0' in row 0 .*write 1, without a fraction"):
        load(inter(tmp_path / "r", lines(rows, "\t", "user_id:token,item_id:token")))


def test_vectors_take_ids_of_tensors_and_arrays(tmp_path):
    x = np.arange(6.0).reshape(3, 2)
    for ids in (torch.tensor([5, 7, 9]), np.array([5, 7, 9]), pd.Series(["5", "7", "9"])):
        write_vectors(tmp_path / "v.parquet", ids, x)
        for items in ([9, 5], torch.tensor([9, 5]), ["9", "5"]):
            assert read_vectors(tmp_path / "v.parquet", items, only_known=False)[0].tolist() == [[4, 5], [0, 1]]
    with pytest.raises(InputError, match="items: found '5', expected a list of ids"):
        read_vectors(tmp_path / "v.parquet", "5")


# Numbers of any kind.


def test_options_may_be_numbers_of_numpy_and_pytorch(tmp_path):
    folder = table(tmp_path / "d", lines(ROWS))
    expected = load(folder, seed=3, k_core=1, split="cold-start", cold_share=0.3, ratios=(0.8, 0.1, 0.1))
    for kind in (np.int64, torch.tensor, np.array):
        options = {"seed": kind(3), "k_core": kind(1), "cold_share": kind(0.3), "ratios": kind([0.8, 0.1, 0.1])}
        if kind is np.int64:
            options |= {"cold_share": np.float64(0.3), "ratios": np.array([0.8, 0.1, 0.1])}
        data = load(folder, split="cold-start", **options)
        assert torch.equal(data[RATES].edge_index, expected[RATES].edge_index)


# Dates.


@pytest.mark.parametrize("far", ["9999-12-31", "2262-04-12", "1677-01-01", "0001-01-01", "1601-01-01 10:00:00+02:00"])
@pytest.mark.parametrize("kind", ["csv", "parquet text", "parquet us", "parquet date", "series", "objects", "frame"])
def test_far_dates_are_first_or_last_in_every_reader_and_split(tmp_path, far, kind):
    late = far > "2021"
    odd = 0 if late else 4
    rows = [(u, i, far if i == odd else f"2021-03-0{i + 1}") for u in range(4) for i in range(5)]
    frame = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    moments = np.array([np.datetime64(text[:10], "us") for text in frame["timestamp"]])
    expected = {0} if late else {3}
    if kind in ("series", "objects", "frame"):
        when = {"series": pd.Series(moments), "objects": moments.tolist(), "frame": frame["timestamp"]}[kind]
        pair = frame[["user", "item"]].to_numpy().T
        for _, _, test in (leave_one_out_split(pair, when), temporal_split(pair, when, (0.6, 0.2, 0.2))):
            assert set(test[1].tolist()) == expected
        return
    folder = tmp_path / "d"
    folder.mkdir()
    np.save(folder / "visual.npy", np.random.default_rng(0).normal(size=(5, 3)))
    if kind == "csv":
        frame.to_csv(folder / "interactions.csv", index=False)
    else:
        if kind == "parquet us":
            frame["timestamp"] = moments
        elif kind == "parquet date":
            frame["timestamp"] = moments.astype("datetime64[D]").tolist()
        frame.to_parquet(folder / "interactions.parquet")
    for split in ("leave-one-out", "temporal"):
        data = load(folder, split=split, ratios=(0.6, 0.2, 0.2))
        assert set(data[RATES].test_edge_index[1].tolist()) == expected


@pytest.mark.parametrize(
    ("column", "when"),
    [
        ("timestamp:token", ["2020-01-02", "2020-01-03", "1601-01-01", "9999-01-01"]),
        ("timestamp:token", ["20", "100", "3", "1000"]),
        (
            "timestamp:float",
            [f"160000000000000000{n}" for n in (2, 3, 1, 4)],
        ),
        ("timestamp:float", ["2" * 21, "3" * 21, "1" * 21, "4" * 21]),
    ],
)
def test_moments_of_atomic_files_are_numbers_or_dates(tmp_path, column, when):
    rows = [(0, k, moment) for k, moment in enumerate(when)]
    folder = inter(tmp_path / "d", lines(rows, "\t", f"user_id:token,item_id:token,{column}"))
    for split in ("leave-one-out", "temporal"):
        rates = load(folder, split=split, ratios=(0.5, 0.25, 0.25))[RATES]
        assert (rates.val_edge_index[1].tolist(), rates.test_edge_index[1].tolist()) == ([1], [3])


def test_nanoseconds_order_what_is_within_their_range(tmp_path):
    when = [f"2024-01-01T00:00:00.00000000{n}" for n in (3, 1, 2)]
    _, val, test = leave_one_out_split([[0, 0, 0], [0, 1, 2]], when)
    assert (val[1].tolist(), test[1].tolist()) == ([2], [0])


# Feedback.


def liked_folder(tmp_path: Path, format: str, column: str, values: list) -> Path:
    """Write every interaction with a rating or label, in one of the formats that can have them."""
    rows = [(u, i, values[k % len(values)]) for k, (u, i) in enumerate(ROWS)]
    if format == "recbole":
        return inter(tmp_path / "d", lines(rows, "\t", f"user_id:token,item_id:token,{column}:float"))
    if format == "mmrec":
        return inter(tmp_path / "d", lines([(*row, 0) for row in rows], "\t", f"userID,itemID,{column},x_label"))
    if format == "diffmm":
        folder = features(tmp_path / "d", "_feat.npy", ("image", "text"))
        users, items, numbers = map(np.array, zip(*rows, strict=True))
        matrix = scipy.sparse.coo_matrix((numbers.astype(float), (users, items)), shape=(USERS, ITEMS))
        (folder / "trnMat.pkl").write_bytes(pickle.dumps(matrix))
        return folder
    folder = features(tmp_path / "d")
    frame = pd.DataFrame(rows, columns=["user", "item", column])
    frame.to_csv(folder / "interactions.csv", index=False) if format == "csv" else frame.to_parquet(
        folder / "interactions.parquet"
    )
    return folder


@pytest.mark.parametrize("format", ["csv", "parquet", "recbole", "mmrec", "diffmm"])
@pytest.mark.parametrize(
    ("column", "values", "options", "kept"),
    [
        ("rating", [5, 1, 4, 2.5], {"min_rating": 4}, [5, 4]),
        ("rating", [5, 1, 4, 2.5], {"min_rating": np.float32(2.5)}, [5, 4, 2.5]),
        ("label", [2, 1], {"positive": 2}, [2]),
        ("label", [3, 1, 2], {"positive": [2, "3"]}, [3, 2]),
        ("rating", [5, 1, 4], {"positive": 5.0, "min_rating": 2}, [5]),
    ],
)
def test_ratings_and_labels_say_what_is_a_like_in_every_reader(tmp_path, format, column, values, options, kept):
    folder = liked_folder(tmp_path, format, column, values)
    expected = sorted(pair for k, pair in enumerate(ROWS) if values[k % len(values)] in kept)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert pairs(load(folder, **options)) == expected
    with pytest.warns(UserWarning, match="is not used, so that all 28 interactions count as likes; choose") as said:
        assert pairs(load(folder)) == sorted(ROWS)
    assert len(said) == 1


def test_labels_of_zero_warn_and_those_of_one_do_not(tmp_path):
    for values, expected in (([1], 0), ([0], 1), ([1, 0], 1)):
        shutil.rmtree(tmp_path / "d", ignore_errors=True)
        folder = liked_folder(tmp_path, "recbole", "label", values)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            load(folder)
        assert len([w for w in said if "label" in str(w.message)]) == expected


def test_frames_have_ratings_too():
    log = pd.DataFrame({"user": [0, 0, 1, 1], "item": [0, 1, 1, 2], "rating": [5, 1, 4, 3]})
    x = {"visual": np.eye(3)}
    assert build_data(log, x, min_rating=3)[RATES].edge_index.tolist() == [[0, 1, 1], [0, 1, 2]]
    late = pd.DataFrame({"user": [0, 1], "item": [2, 0], "rating": [1, 2]})
    assert build_data(log, x, val=late, min_rating=3)[RATES].val_edge_index.size(1) == 0
    with pytest.warns(UserWarning, match="input: train, val: the column 'rating'") as said:
        assert build_data(log, x, val=late)[RATES].edge_index.size(1) == 4
    assert len(said) == 1
    with pytest.raises(InputError, match="train is no frame with ratings or labels"):
        build_data([[0], [0]], x, min_rating=3)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"min_rating": 9}, "min_rating=9 leaves no interaction, as 'rating' goes from 1 to 5; lower it"),
        (
            {"positive": "like"},
            "positive='like' leaves no interaction, as 'rating' holds 1 7x.*; name one of these values",
        ),
        ({"positive": []}, "positive: found no values"),
    ],
)
def test_feedback_that_leaves_nothing_is_named(tmp_path, options, pattern):
    with pytest.raises(InputError, match=pattern):
        load(liked_folder(tmp_path, "csv", "rating", [5, 1, 4, 2]), **options)


def test_feedback_that_is_missing_or_not_there_is_named(tmp_path):
    folder = liked_folder(tmp_path, "csv", "rating", [5, "", 4, 2])
    with pytest.raises(InputError, match=r"'rating' holds nan in row 1 .*expected a number; fill or drop"):
        load(folder, min_rating=3)
    with pytest.raises(InputError, match="min_rating needs a column 'rating' or 'label', but found user, item"):
        load(table(tmp_path / "e", lines(ROWS)), min_rating=3)


# Repeated interactions.


def repeating(tmp_path: Path, format: str) -> Path:
    rows = [*ROWS, ROWS[0], ROWS[5], ROWS[9]]
    stamped = [(f"u{u}", i, k * 5 % len(ROWS) if k < len(ROWS) else k) for k, (u, i) in enumerate(rows)]
    if format == "recbole":
        return inter(tmp_path / "d", lines(stamped, "\t", "user_id:token,item_id:token,timestamp:float"))
    if format == "mmrec":
        return inter(tmp_path / "d", lines([(u, i, 0) for u, i in rows], "\t", "userID,itemID,x_label"))
    return table(tmp_path / "d", lines(stamped, header="user,item,timestamp"))


@pytest.mark.parametrize("format", ["recbole", "folder"])
@pytest.mark.parametrize("split", ["random", "leave-one-out", "temporal"])
def test_repeated_interactions_of_one_file_are_told_once_or_kept_once(tmp_path, format, split):
    folder = repeating(tmp_path, format)
    with pytest.raises(
        InputError, match=r"3 duplicate interactions, the first is user 'u0', item .* in row 28; .*keep="
    ):
        load(folder, split=split)
    for keep in ("first", "last"):
        data = load(folder, split=split, keep=keep)
        assert pairs(data) == sorted((f"u{u}", i) for u, i in ROWS)
    if split == "temporal":
        last = load(folder, split=split, keep="last", ratios=(25 / 28, 0, 3 / 28))[RATES].test_edge_index
        first = load(folder, split=split, keep="first", ratios=(25 / 28, 0, 3 / 28))[RATES].test_edge_index
        assert set(map(tuple, last.t().tolist())) == {ROWS[0], ROWS[5], ROWS[9]}
        assert set(map(tuple, first.t().tolist())) == {ROWS[k] for k in range(len(ROWS)) if k * 5 % len(ROWS) >= 25}


@pytest.mark.parametrize("format", ["recbole", "folder", "mmrec"])
def test_options_of_readers_hold_for_conversions_too(tmp_path, format):
    folder = repeating(tmp_path, format)
    with pytest.raises(InputError, match="3 duplicate interactions"):
        convert(folder, tmp_path / "a.npz", "npz")
    assert not (tmp_path / "a.npz").exists()
    convert(folder, tmp_path / "a.npz", "npz", keep="last")
    assert pairs(load(tmp_path / "a.npz")) == pairs(load(folder, keep="last"))
    with pytest.raises(InputError, match=r"unknown option of read_.* 'kep': did you mean 'keep'"):
        convert(folder, tmp_path / "b.npz", "npz", kep="last")


def test_repeated_interactions_of_mmrec_are_told_with_their_row(tmp_path):
    folder = repeating(tmp_path, "mmrec")
    with pytest.raises(InputError, match=r"shop.inter has 3 duplicate interactions, .* again in row 28"):
        load(folder)
    assert pairs(load(folder, keep="first")) == sorted(ROWS)


@pytest.mark.parametrize("format", ["npz", "lattice", "diffmm", "mmrec", "recbole"])
def test_what_is_in_two_parts_stays_in_the_first_or_the_last(tmp_path, format):
    x = {"visual": np.eye(3), "textual": np.eye(3)}
    data = build_data([[0, 0, 1], [0, 1, 1]], x, val=[[0, 1], [1, 2]], strict=False, keep="error")
    path = tmp_path / ("d.npz" if format == "npz" else "d")
    if format == "npz":
        np.savez(path, train=data[RATES].edge_index, val=data[RATES].val_edge_index, **x)
    else:
        features(path, "_feat.npy", ("image",))
        train, val = data[RATES].edge_index.numpy(), data[RATES].val_edge_index.numpy()
        if format == "lattice":
            (path / "train.json").write_text('{"0": [0, 1], "1": [1]}')
            (path / "val.json").write_text('{"0": [1], "1": [2]}')
        elif format == "diffmm":
            for name, part in (("trnMat", train), ("valMat", val)):
                matrix = scipy.sparse.coo_matrix((np.ones(part.shape[1]), (part[0], part[1])), shape=(2, ITEMS))
                (path / f"{name}.pkl").write_bytes(pickle.dumps(matrix))
        elif format == "mmrec":
            rows = [(*row, 0) for row in train.T] + [(*row, 1) for row in val.T]
            (path / "d.inter").write_text(lines(rows, "\t", "userID,itemID,x_label"))
        else:
            for name, part in (("train", train), ("valid", val)):
                (path / f"d.{name}.inter").write_text(lines(part.T, "\t", "user_id:token,item_id:token"))
    with pytest.raises(InputError, match=r"val repeats 1 interactions of train.*keep='first'"):
        load(path)
    first, last = load(path, keep="first")[RATES], load(path, keep="last")[RATES]
    assert (first.edge_index.size(1), first.val_edge_index.tolist()) == (3, [[1], [2]])
    assert (last.edge_index.size(1), last.val_edge_index.tolist()) == (2, [[0, 1], [1, 2]])
    with pytest.raises(InputError, match="unknown keep 'frist': did you mean 'first'"):
        load(path, keep="frist")


# Files that are not what they seem.


@pytest.mark.parametrize("column", ["timestamp:float", "timestamp:token", "timestamp"])
def test_infinite_times_in_files_are_refused(tmp_path, column):
    rows = [(*row, "inf" if n == 3 else n) for n, row in enumerate(ROWS)]
    if ":" in column:
        folder = inter(tmp_path / "r", lines(rows, "\t", f"user_id:token,item_id:token,{column}"))
    else:
        folder = table(tmp_path / "t", lines(rows, header=f"user,item,{column}"))
    for options in ({"split": "temporal"}, {"split": "leave-one-out"}, {"keep": "last"}):
        with pytest.raises(InputError, match=r"column 'timestamp.* '?inf'? in row 3"):
            load(folder, **options)


@pytest.mark.parametrize(
    "header", ["user,user,item", "user,item,item", "user_id,item,user_id", "user,item,label,label"]
)
def test_a_column_that_is_there_twice_is_refused(tmp_path, header):
    rows = [(u, i, i, u)[: header.count(",") + 1] for u, i in ROWS]
    for name, sep in (("interactions.csv", ","), ("interactions.tsv", "\t")):
        with pytest.raises(
            InputError, match=r"has the column '(user|item|user_id|label)' twice, expected one column of"
        ):
            load(table(tmp_path / name, lines(rows, sep, header), name))
    folder = table(tmp_path / "other", lines([(*row, 1, 2) for row in ROWS], header="user,item,note,note"))
    assert pairs(load(folder)) == sorted(ROWS)


@pytest.mark.parametrize("ids", ["{}", "x{}"])
def test_a_header_among_the_rows_is_named(tmp_path, ids):
    rows = [(u, ids.format(i)) for u, i in ROWS]
    twice = lines(rows[:5]) + lines(rows[5:])
    folder = table(tmp_path / "t", twice)
    pd.DataFrame({"item": [ids.format(i) for i in range(ITEMS)]}).to_csv(folder / "items.csv", index=False)
    with pytest.raises(
        InputError, match=r"row 5 .* is the header again, 'user, item', expected it once; remove the line"
    ):
        load(folder)
    header = "user_id:token,item_id:token"
    with pytest.raises(InputError, match=r"row 5 .* is the header again, 'user_id:token, item_id:token', expected it"):
        load(inter(tmp_path / "r", lines(ROWS[:5], "\t", header) + lines(ROWS[5:], "\t", header)))


def test_truth_values_as_ids_in_a_file_get_advice_that_can_be_followed(tmp_path):
    folder = table(tmp_path / "t", lines([(u, str(i > 2)) for u, i in ROWS]))
    with pytest.raises(InputError, match="name the column of ids 'item', or write ids that are no truth") as error:
        load(folder)
    assert "astype" not in str(error.value)


TYPES = {
    "user_id:int,item_id:token": "column 'user_id:int' has the type 'int', .*; rename it to 'user_id:token'",
    "user_id: token,item_id: token": "column 'user_id: token' has blanks in its type, .* to 'user_id:token'",
    "user_id:token,item_id:str": "column 'item_id:str' has the type 'str', .*; rename it to 'item_id:token'",
    "user_id:token,item_id:token,timestamp:int": "column 'timestamp:int' has the type 'int', .*to 'timestamp:float'",
}


@pytest.mark.parametrize(("header", "words"), TYPES.items(), ids=["user", "blank", "item", "time"])
def test_wrong_types_of_atomic_files_are_named(tmp_path, header, words):
    rows = [(*row, 1)[: header.count(",") + 1] for row in ROWS]
    folder = inter(tmp_path / "r", lines(rows, "\t", header))
    assert recognise(folder) == "recbole"
    with pytest.raises(InputError, match=f"the {words}"):
        load(folder)
    more = lines([(*row, 1) for row in ROWS], "\t", "user_id:token,item_id:token,age:int")
    assert pairs(load(inter(tmp_path / "more", more))) == sorted(ROWS)


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-be"])
def test_text_in_utf_32_is_named(tmp_path, encoding):
    def content(text: str) -> bytes:
        return ("" if encoding == "utf-32" else "\ufeff").encode(encoding) + text.encode(encoding)

    for folder in (
        table(tmp_path / "t", content(lines(ROWS))),
        inter(tmp_path / "r", content(lines(ROWS, "\t", "user_id:token,item_id:token"))),
    ):
        with pytest.raises(InputError, match=r"UTF-32.*; save it as UTF-8"):
            load(folder)
    (tmp_path / "reviews.json").write_bytes(content('{"a": 1}\n'))
    with pytest.raises(InputError, match="is UTF-32, expected UTF-8; save it as UTF-8"):
        list(read_lines(tmp_path / "reviews.json"))
    with pytest.raises(InputError, match="is UTF-32, expected UTF-8; save it as UTF-8"):
        encoding_of(tmp_path / "reviews.json")
    (tmp_path / "c.yaml").write_bytes(content("backbone: VBPR\n"))
    with pytest.raises(InputError, match=r"cannot be read .*; save it as UTF-8"):
        read_mapping(str(tmp_path / "c.yaml"), "configuration")
