"""Files that are something else than their names say: one line that says what, and how to mend it."""

from __future__ import annotations

import gzip
import io
import json

import numpy as np
import pandas as pd
import pytest

from pyg_ckd.datasets import load
from pyg_ckd.errors import InputError
from tests.datasets.test_files_as_they_are import ROWS, features, inter, lines, pairs, table

TEXT = lines(ROWS)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def parquet() -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame(ROWS, columns=["user", "item"]).to_parquet(buffer)
    return buffer.getvalue()


CONTENT = {
    "git-lfs": (LFS, "it is a pointer of git-lfs; fetch the file itself with 'git lfs pull'"),
    "git-annex": (b"/annex/objects/SHA256E-s12--ab.csv\n", "a pointer of git-annex; .* 'git annex get'"),
    "gzip": (gzip.compress(TEXT.encode()), "compressed with gzip; decompress it, or .* name it .csv.gz"),
    "Excel": (b"PK\x03\x04\x14\x00\x06\x00\x08", "a zip archive, as of Excel .* export it from Excel as CSV"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\x00", "a workbook of Excel; export it as CSV"),
    "Parquet": (parquet(), "a Parquet file; name it .parquet"),
    "NumPy": (b"\x93NUMPY\x01\x00", "a NumPy array; name it .npy"),
    "UTF-16": (TEXT.encode("utf-16-le"), "its text is UTF-16 without a byte-order mark; save it as UTF-8"),
    "other UTF-16": (TEXT.encode("utf-16-be"), "its text is UTF-16 without a byte-order mark; save it as UTF-8"),
    "web page": (b"<!DOCTYPE html><html>", "a web page; download the file itself"),
    "empty": (b"", "it is empty; copy or write it again"),
}


@pytest.mark.parametrize("name", ["interactions.csv", "interactions.tsv", "items.csv", "train.csv"])
@pytest.mark.parametrize(("content", "says"), CONTENT.values(), ids=CONTENT.keys())
def test_what_a_table_of_text_really_is_is_named(tmp_path, name, content, says):
    folder = table(tmp_path / "d", TEXT) if name == "items.csv" else features(tmp_path / "d")
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: cannot be read as a [ct]sv table: .*{says}") as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["git-lfs", "git-annex", "gzip", "empty", "Excel", "web page"])
@pytest.mark.parametrize("name", ["visual.npy", "interactions.parquet"])
def test_what_a_binary_file_really_is_is_named(tmp_path, name, kind):
    folder = table(tmp_path / "d", TEXT)
    if name != "visual.npy":
        (folder / "interactions.csv").unlink()
    (folder / name).write_bytes(CONTENT[kind][0])
    with pytest.raises(InputError, match=f"{name}: cannot be read as a .*: .*{CONTENT[kind][1]}"):
        load(folder)


@pytest.mark.parametrize("kind", ["git-lfs", "gzip", "web page"])
@pytest.mark.parametrize("name", ["shop.inter", "train.json", "trnMat.pkl", "data.npz"])
def test_what_a_file_of_another_library_really_is_is_named(tmp_path, name, kind):
    folder = inter(tmp_path / "d", CONTENT[kind][0], name)
    with pytest.raises(InputError, match=f"{name}: .*{CONTENT[kind][1]}") as error:
        load(folder / name if name == "data.npz" else folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sep", [",", "\t"])
def test_compressed_tables_are_read(tmp_path, sep):
    folder = features(tmp_path / "d")
    (folder / f"interactions.{'csv' if sep == ',' else 'TSV'}.GZ").write_bytes(gzip.compress(lines(ROWS, sep).encode()))
    assert pairs(load(folder)) == sorted(ROWS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(TEXT.encode() * 99)[:-40], "cannot be decompressed .*, damaged or cut short; copy it again"),
        (TEXT.encode(), "cannot be decompressed: it is not compressed; name it interactions.csv$"),
        (LFS, "cannot be decompressed: it is a pointer of git-lfs"),
        (b"", "cannot be decompressed: it is empty"),
        (gzip.compress(b""), "cannot be read as a csv table: it is empty"),
        (gzip.compress(parquet()), "cannot be read as a csv table: it is a Parquet file"),
        (gzip.compress(b"usr,item\n1,2\n"), "column 'user' is missing"),
        (gzip.compress(b'user,item,t\n1,2,"a\n1,3,b\n1,4,"c\n'), "a field that begins in line 2 runs to line 4"),
        (gzip.compress(b"user,item\n1,2\n1,2,3\n"), "line 3 has 3 fields, but the header names 2, .*; repair the line"),
    ],
    ids=["cut", "text", "pointer", "nothing", "empty", "parquet", "column", "quotes", "line"],  # gzip keeps the time.
)
def test_bad_compressed_tables_are_refused_by_the_name_of_the_file(tmp_path, content, says):
    folder = table(tmp_path / "d", content, "interactions.csv.gz")
    with pytest.raises(InputError, match=says) as error:
        load(folder)
    assert str(error.value).startswith(str(folder / "interactions.csv.gz"))


def test_compressed_and_plain_tables_side_by_side_are_refused(tmp_path):
    folder = table(tmp_path / "d", TEXT)
    (folder / "interactions.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    with pytest.raises(InputError, match=r"holds interactions.csv and interactions.csv.gz, expected one of them"):
        load(folder)


def test_tables_in_folders_of_parquet_files_are_read(tmp_path):
    folder = features(tmp_path / "d")
    (folder / "interactions.parquet").mkdir()
    with pytest.raises(InputError, match=r"interactions.parquet: is a folder without files, expected Parquet files"):
        load(folder)
    for n in range(2):
        frame = pd.DataFrame(ROWS[n::2], columns=["user", "item"])
        frame.to_parquet(folder / "interactions.parquet" / f"part-{n:05}-c000.snappy.parquet")
    (folder / "interactions.parquet" / "_SUCCESS").touch()
    (folder / "interactions.parquet" / ".part-00000.crc").write_bytes(b"crc")
    assert pairs(load(folder)) == sorted(ROWS)


@pytest.mark.parametrize("columns", [["user"], ["item"]])
def test_tables_that_are_partitioned_by_an_id_are_read(tmp_path, columns):
    folder = features(tmp_path / "d")
    frame = pd.DataFrame(ROWS, columns=["user", "item"]).assign(price=0.5)
    frame.to_parquet(folder / "interactions.parquet", partition_cols=columns)
    assert pairs(load(folder)) == sorted(ROWS)


@pytest.mark.parametrize("header", ["user item", "user  item", '"user" "item"', "0 1", "User item rating"])
def test_blanks_between_fields_are_named_with_the_way_to_mend_them(tmp_path, header):
    with pytest.raises(InputError, match=r"blanks separate the fields of the first line, .* expected one of , ; \| ::"):
        load(table(tmp_path / "d", header + "\n" + "".join(f"{u} {i}\n" for u, i in ROWS)))


def test_blanks_between_fields_of_inter_files_are_named(tmp_path):
    for header in ("user_id:token item_id:token", "userID itemID x_label"):
        content = header + "\n" + "".join(f"{u} {i} 0\n" for u, i in ROWS)
        with pytest.raises(
            InputError, match=r"the header is separated by blanks, expected tabs: write the file with sep="
        ):
            load(inter(tmp_path / header[:5], content))


@pytest.mark.parametrize("comment", ["# exported on 2024-01-01", "% of users, items and others", "// x,y"])
def test_a_comment_in_the_first_line_is_named(tmp_path, comment):
    with pytest.raises(InputError, match=r"interactions.csv: begins with a comment, .*; remove the comment"):
        load(table(tmp_path / "d", f"{comment}\n{TEXT}"))


@pytest.mark.parametrize("sep", [",", ";", "\t", "|", "::"])
def test_names_of_rows_without_a_header_are_named_with_line_and_way_to_mend_them(tmp_path, sep):
    content = lines([(k, *row) for k, row in enumerate(ROWS)], sep)
    with pytest.raises(InputError, match=r"line 2 has 3 fields, but the header names 2, .*row.names=FALSE in R"):
        load(table(tmp_path / "d", content))


def test_two_cores_are_named_with_their_numbers(tmp_path):
    folder = features(tmp_path / "d", "_feat.npy")
    for name in ("5-core", "10-core"):
        (folder / name).mkdir()
        (folder / name / "train.json").write_text(json.dumps({"0": [0, 1], "1": [2]}))
    with pytest.raises(InputError, match="holds 10-core, 5-core; choose one with core=10 or core=5"):
        load(folder)
    assert load(folder, core=10)["user"].num_nodes == 2


def test_a_pointer_of_git_lfs_in_the_place_of_a_mask_is_named(tmp_path):
    folder = table(tmp_path / "d", TEXT)
    np.save(folder / "has_visual.npy", np.ones(7, bool))
    (folder / "has_visual.npy").write_bytes(LFS)
    with pytest.raises(
        InputError, match=r"has_visual.npy: cannot be read as a plain array: it is a pointer of git-lfs"
    ):
        load(folder)


@pytest.mark.parametrize("name", ["interactions.csv", "interactions.tsv"])
def test_a_table_that_is_not_compressed_is_told_how_to_be_named(tmp_path, name):
    np.save(tmp_path / "visual.npy", np.eye(3))
    (tmp_path / f"{name}.gz").write_text("user,item\n0,1\n")
    with pytest.raises(InputError, match=rf"{name}.gz: cannot be decompressed: it is not compressed; name it {name}$"):
        load(tmp_path)
