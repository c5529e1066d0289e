"""Bad input in every format: one line that says where and how to mend it, and nothing executed or half-written."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings

from pyg_ckd.cli import main
from pyg_ckd.data import fingerprint
from pyg_ckd.datasets import convert, load, read_diffmm, read_npz, recognise, write_npz, write_recbole
from pyg_ckd.datasets.formats.coo import read_coo
from pyg_ckd.datasets.writing import WRITERS
from pyg_ckd.errors import InputError
from tests.conftest import random_data

FOLDERS = ["diffmm", "lattice", "mmrec", "recbole"]
DATA = random_data(modalities=["visual", "textual"])


@pytest.fixture
def folder(tmp_path):
    """Write a valid folder without our sidecar."""

    def write(name: str) -> Path:
        WRITERS[name](DATA, tmp_path / name)
        (tmp_path / name / "pyg_ckd.npz").unlink()
        return tmp_path / name

    return write


def refuses(path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern) as error:
        load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


class Hostile:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, target: Path, call=os.mkdir) -> None:
        self.target, self.call = target, call

    def __reduce__(self):
        return self.call, (str(self.target),)


def hostile_state(target: Path):
    matrix = scipy.sparse.coo_matrix((2, 2))
    matrix.data = Hostile(target)
    return matrix


HOSTILE = {
    "call": Hostile,
    "eval": lambda target: Hostile(f"__import__('os').mkdir({str(target)!r})", eval),
    "inside": hostile_state,
    "in a list": lambda target: [Hostile(target)],
    "in an array": lambda target: np.array([Hostile(target)], dtype=object),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_pickle_runs_nothing(folder, tmp_path, make, protocol):
    path = folder("diffmm")
    target = tmp_path / "executed"
    (path / "valMat.pkl").write_bytes(pickle.dumps(make(target), protocol))
    refuses(path, r"valMat.pkl: not a pickled COO matrix .*nothing else is unpickled|valMat.pkl: not a pickled COO")
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"cos\nsystem\n(S'touch executed'\ntR.", "it refers to (os|posix|nt).system.*store a scipy"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "it refers to __builtin__.eval"),
        (b"\x80\x04\x8c\x0ascipy.sparse\x8c\x0bcoo_matrix.__init__\x93.", "not a pickled COO"),
        (b"cnumpy\ndtype\n(S'O'\ntR.", "dtype O"),
        (b"cnumpy\ndtype\n(S'V8'\ntR.", "dtype V8"),
        (b"cnumpy\nndarray\n((I1000000000\nI1000000000\nttR.", "holds a Array, expected a COO matrix"),
        (b"c_codecs\nencode\n(Va\nVbz2\ntR.", "an encoding bz2"),
        (b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\ntR.", "an object of another class"),
        (b"ccopy_reg\n_reconstructor\n(dVx\nI1\nsb.", "a state for a name"),
        (b"cscipy.sparse\ncoo_matrix\n}b.", "not a pickled COO"),
        (b"r\xff\xff\xff\xff.", "not a pickled COO matrix"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "not a pickled COO matrix"),
        (b"Pname\n.", "not a pickled COO matrix"),
        (b"", "cut short"),
        (b"user,item\n", "not a pickled COO matrix"),
    ],
)
def test_pickles_of_anything_else_are_refused(folder, content, pattern):
    path = folder("diffmm")
    (path / "trnMat.pkl").write_bytes(content)
    refuses(path, f"trnMat.pkl: .*{pattern}")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_pickles_are_refused_or_hold_a_matrix(data):
    matrix = scipy.sparse.coo_matrix((np.ones(3, np.float32), ([0, 1, 2], [1, 0, 3])), shape=(3, 4))
    content = bytearray(pickle.dumps(matrix, data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = io.BytesIO(bytes(content[: data.draw(st.integers(0, len(content)))]))
    path = type("Bytes", (), {"read_bytes": lambda self: file.getvalue(), "__str__": lambda self: "m.pkl"})()
    try:
        pairs, shape = read_coo(path)
    except InputError as refusal:
        text = str(refusal)
    else:
        text = "m.pkl: "
        assert pairs.shape[1] == 0 or (pairs.max(axis=1) < shape).all()
    assert text.startswith("m.pkl: ")
    assert "\n" not in text


def matrix_with(**changes):
    matrix = scipy.sparse.coo_matrix((np.ones(2), ([0, 1], [1, 0])), shape=(12, 9))
    matrix.__dict__.update(changes)
    return matrix


@pytest.mark.parametrize(
    ("matrix", "pattern"),
    [
        (scipy.sparse.csr_matrix((3, 3)), "refers to scipy.sparse._csr.csr_matrix"),
        (matrix_with(coords=(np.array([0, -1]), np.array([1, 0]))), "'row' holds -1 at position 1, expected 0 to 11"),
        (matrix_with(coords=(np.array([0, 1]), np.array([1, 9]))), "'col' holds 9 at position 1, expected 0 to 8"),
        (matrix_with(coords=(np.array([0, 0.5]), np.array([1, 0]))), "'row' is float64"),
        (matrix_with(coords=(np.array([0]), np.array([1, 0]))), "expected row, col and data of one length"),
        (matrix_with(_shape=(12,)), "has shape .12,., expected .users, items."),
        (matrix_with(_shape=(13, 9)), "has shape .13, 9., but trnMat.pkl has .12, 9."),
    ],
)
def test_malformed_matrices_are_refused(folder, matrix, pattern):
    path = folder("diffmm")
    (path / "tstMat.pkl").write_bytes(pickle.dumps(matrix))
    refuses(path, f"tstMat.pkl: .*{pattern}")


def npy(header: str) -> bytes:
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


HEADERS = {
    "huge": (
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4096)}"),
        "16384000000000000 bytes",
    ),
    "negative": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}"), "cut short or damaged"),
    "objects": (npy("{'descr': '|O', 'fortran_order': False, 'shape': (9, 4)}") + b"\x80\x04N.", "Object arrays"),
    "code": (npy("{'descr': __import__('os'), 'fortran_order': False, 'shape': (9,)}"), "cannot be read"),
    "version": (b"\x93NUMPY\x09\x00" + bytes(20), "version 9.0"),
    "text": (b"1 2 3\n4 5 6\n", "cannot be read as a plain array"),
    "empty": (b"", "cannot be read as a plain array"),
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(("content", "pattern"), HEADERS.values(), ids=HEADERS.keys())
def test_absurd_headers_of_features_are_refused_before_anything_is_allocated(folder, name, content, pattern):
    path = folder(name)
    (path / "image_feat.npy").write_bytes(content)
    refuses(path, f"image_feat.npy: .*{pattern}")


def test_absurd_header_inside_an_npz_is_refused(tmp_path):
    write_npz(DATA, tmp_path / "data.npz")
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as archive:
        archive.writestr("more.npy", HEADERS["huge"][0])
    refuses(tmp_path / "data.npz", "array 'more' cannot be read")


@pytest.mark.parametrize("name", FOLDERS)
def test_truncated_files_are_refused(folder, name):
    path = folder(name)
    (path / "text_feat.npy").write_bytes((path / "text_feat.npy").read_bytes()[:-3])
    refuses(path, "text_feat.npy: .*cut short or damaged")
    (path / "text_feat.npy").unlink()
    file = next(file for file in path.rglob("*") if "train" in file.name or file.name in ("trnMat.pkl", "mmrec.inter"))
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.rindex(b"\t") if b"\t" in whole else len(whole) // 2])
    refuses(path, rf"{file.name}: .*(cut short|damaged)")


@pytest.mark.parametrize("name", FOLDERS)
def test_features_with_a_wrong_number_of_rows_are_refused(folder, name):
    path = folder(name)
    np.save(path / "text_feat.npy", np.ones((7, 2)))
    refuses(path, "text_feat.npy: has 7 rows, but image_feat.npy has 9; give one row per item")
    np.save(path / "image_feat.npy", np.ones((7, 2)))
    refuses(path, "image_feat.npy: has 7 rows, but .*give one row per item")
    np.save(path / "image_feat.npy", np.ones(7))
    refuses(path, r"image_feat.npy: has shape \[7\], expected \[num_items, d\]")
    for file in path.glob("*_feat.npy"):
        file.unlink()
    refuses(path, "no features, expected image_feat.npy")


def edit_inter(old: str, new: str, count: int = 1):
    def apply(path: Path) -> Path:
        file = next(iter(sorted(path.glob("*.train.inter")) or path.glob("*.inter")))
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, count))
        return file

    return apply


HEAD, TOKENS = "userID\titemID\tx_label\n", "user_id:token\titem_id:token\n"
MMREC = {
    "misspelt user": ("userID", "userId", "column 'userID' is missing; rename one: .*did you mean 'userId'"),
    "misspelt label": ("x_label", "xlabel", "column 'x_label' is missing; rename one: .*did you mean 'xlabel'"),
    "commas": (HEAD, "userID,itemID,x_label\n", "column 'userID' is missing"),
    "text id": (HEAD, HEAD + "u7\t1\t0\n", "column 'userID' holds 'u7' in row 0 .*expected a row number from 0; map"),
    "fraction": (HEAD, HEAD + "0\t1.5\t0\n", "column 'itemID' holds '1.5' in row 0"),
    "negative": (HEAD, HEAD + "0\t-3\t0\n", "column 'itemID' holds '-3' in row 0"),
    "huge": (HEAD, HEAD + f"0\t{10**30}\t0\n", "column 'itemID' holds '1000000000000000000000000000000' in row 0"),
    "missing": (HEAD, HEAD + "0\t\t0\n", "column 'itemID' holds nothing"),
    "label 3": (
        HEAD,
        HEAD + "0\t8\t3\n",
        "column 'x_label' holds '3' in row 0 .*expected 0 .train., 1 .validation. or",
    ),
    "label text": (HEAD, HEAD + "0\t8\ttrain\n", "column 'x_label' holds 'train' in row 0 .*repair the line"),
    "long line": (HEAD, HEAD + "0\t8\t0\t1\t1\n", "cannot be read as a tab-separated table"),
    "unknown item": (HEAD, HEAD + "0\t9\t0\n", "image_feat.npy: has 9 rows, but .*mmrec.inter reaches item 9"),
    "overlap": (HEAD, HEAD + "{user}\t{item}\t0\n", "val repeats 1 interactions of train, the first is user .*remove"),
    "binary": ("userID", "\x00\x01", "mmrec.inter: "),
}


@pytest.mark.parametrize(("old", "new", "pattern"), MMREC.values(), ids=MMREC.keys())
def test_bad_inter_files_of_mmrec_are_refused(folder, old, new, pattern):
    path = folder("mmrec")
    user, item = DATA["user", "rates", "item"].val_edge_index[:, 0].tolist()
    edit_inter(old, new.format(user=user, item=item))(path)
    refuses(path, pattern)


def test_a_line_that_is_too_long_is_refused_without_a_warning(folder):
    path = folder("mmrec")
    edit_inter(HEAD, HEAD + "0\t8\t0\t1\t1\n")(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refuses(path, "cannot be read as a tab-separated table .Expected 3 fields in line 2, saw 5")


def test_mmrec_without_training_interactions_or_with_two_files_is_refused(folder):
    path = folder("mmrec")
    (path / "mmrec.inter").write_text(HEAD + "0\t1\t1\n")
    refuses(path, "mmrec.inter: no row has x_label 0")
    (path / "b.inter").write_text(HEAD)
    refuses(path, "holds b.inter and mmrec.inter, expected one .inter file")


def put(key: str, value: object):
    return lambda content: json.dumps(content | {key: value})


LATTICE = {
    "cut in half": (lambda c: json.dumps(c)[: len(json.dumps(c)) // 2], r"train.json: line 1, column \d+: not JSON"),
    "list": (lambda c: "[1, 2]", r"train.json: holds \[1, 2\], expected an object"),
    "text key": (put("u7", [1]), "train.json: key 'u7' is no user row, expected an integer from 0; map"),
    "negative key": (put("-1", [1]), "key '-1' is no user row"),
    "no list": (put("3", 7), "user '3' has 7, expected a list of item rows"),
    "negative": (put("3", [1, -2]), "user '3' has item -2 at position 1, expected a row number from 0"),
    "fraction": (put("3", [1.5]), "user '3' has item 1.5 at position 0"),
    "bool": (put("3", [True]), "user '3' has item True at position 0"),
    "null": (put("3", [None]), "user '3' has item None at position 0"),
    "nested": (put("3", [[1]]), r"user '3' has item \[1\] at position 0"),
    "mixed": (put("3", ["1"]), "user '3' has item '1' at position 0 .ids are mixed"),
    "huge": (put("3", [10**30]), "user '3' has item 1000000000"),
    "twice": (lambda c: '{"0": [1], "0": [2]}', "key '0' is there twice; merge"),
    "two ways": (lambda c: '{"1": [1], "01": [2]}', "the same user in two ways"),
    "duplicate": (put("3", [1, 1]), "train has 1 duplicate interactions"),
    "deep": (lambda c: "[" * 100_000, "train.json: "),
    "long number": (lambda c: '{"0": [' + "1" * 5000 + "]}", "train.json: cannot be read as JSON"),
    "unknown item": (put("3", [9]), "image_feat.npy: has 9 rows, but .*train.json reaches item 9"),
    "empty": (lambda c: "{}", "train has no interactions"),
}


@pytest.mark.parametrize(("change", "pattern"), LATTICE.values(), ids=LATTICE.keys())
def test_bad_json_files_of_lattice_are_refused(folder, change, pattern):
    path = folder("lattice")
    file = path / "5-core" / "train.json"
    file.write_text(change(json.loads(file.read_text())))
    refuses(path, pattern)


def test_overlapping_splits_of_every_folder_are_refused(folder):
    path = folder("lattice")
    (path / "5-core" / "test.json").write_bytes((path / "5-core" / "val.json").read_bytes())
    refuses(path, "test repeats 12 interactions of val, the first is user 0, item .*remove them from one")
    path = folder("diffmm")
    (path / "tstMat.pkl").write_bytes((path / "trnMat.pkl").read_bytes())
    refuses(path, r"test repeats \d+ interactions of train")
    path = folder("recbole")
    (path / "recbole.test.inter").write_bytes((path / "recbole.valid.inter").read_bytes())
    refuses(path, "test repeats 12 interactions of val")


RECBOLE = {
    "wrong type": ("user_id:token", "user_id:float", "column 'user_id:token' is missing; rename: .*'user_id:float'"),
    "misspelt": ("item_id:token", "itemid:token", "column 'item_id:token' is missing; rename: .*'itemid:token'"),
    "missing": (TOKENS, TOKENS + "1\t\n", "column 'item_id:token' holds nothing .*in row 0"),
    "unlisted item": (
        TOKENS,
        TOKENS + "1\tx\n",
        "'item_id:token' holds 'x' in row 0 .*that recbole.item lists; add it",
    ),
    "unlisted user": (
        TOKENS,
        TOKENS + "x\t1\n",
        "'user_id:token' holds 'x' in row 0 .*that recbole.user lists; add it",
    ),
}


@pytest.mark.parametrize(("old", "new", "pattern"), RECBOLE.values(), ids=RECBOLE.keys())
def test_bad_atomic_files_are_refused(folder, old, new, pattern):
    path = folder("recbole")
    edit_inter(old, new)(path)
    refuses(path, pattern)


def test_tokens_without_a_list_of_items_have_to_be_rows(folder):
    path = folder("recbole")
    (path / "recbole.item").unlink()
    edit_inter(TOKENS, TOKENS + "1\tB00\n")(path)
    refuses(path, "column 'item_id:token' holds 'B00' in row 0 .*number the items from 0, or add recbole.item")


def test_lists_that_repeat_an_item_or_are_too_long_are_refused(folder):
    path = folder("recbole")
    file = path / "recbole.item"
    file.write_text(file.read_text() + "0\n")
    refuses(path, "recbole.item: lists '0' again in row 9; list it once")
    file.write_text(file.read_text()[:-2] + "x\n")
    refuses(path, "image_feat.npy: has 9 rows, but there are 10 items")


def test_recbole_files_that_do_not_fit_together_are_refused(folder):
    path = folder("recbole")
    (path / "other.inter").write_text(TOKENS)
    refuses(path, "holds other, recbole, expected one data set")
    (path / "other.inter").unlink()
    (path / "recbole.train.inter").unlink()
    refuses(path, "no recbole.train.inter; add it")
    (path / "recbole.inter").write_text(TOKENS + "0\t1\n")
    with pytest.raises(InputError, match=r"split='given' needs recbole.train.inter"):
        load(path, split="given")


@pytest.mark.parametrize("bad", ["a\tb", "a\nb", 'a"b', "", "a\x00"])
def test_ids_that_cannot_be_tokens_are_not_written(tmp_path, bad):
    data = random_data()
    data.item_id = [bad, *map(str, range(8))]
    with pytest.raises(InputError, match=r"data.item_id: .* cannot be a token of RecBole"):
        write_recbole(data, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    data.item_id = ["1"] * 9
    with pytest.raises(InputError, match=r"data.item_id: has 1 different ids for 9 items"):
        write_recbole(data, tmp_path / "out")


def test_sidecars_of_other_interactions_are_refused(tmp_path):
    for name in ("mmrec", "lattice"):
        WRITERS[name](DATA, tmp_path / name)
    np.savez(tmp_path / "mmrec" / "pyg_ckd.npz", num_users=np.array(3))
    refuses(tmp_path / "mmrec", "pyg_ckd.npz: says that there are 3 users, but .*reaches user 11; delete")
    np.savez(tmp_path / "mmrec" / "pyg_ckd.npz", modalities=np.array(["audio"]))
    refuses(tmp_path / "mmrec", "pyg_ckd.npz names the modality 'audio', but audio__feat.npy is missing")
    np.savez(tmp_path / "lattice" / "pyg_ckd.npz", order_train=np.array([0, 0]))
    refuses(tmp_path / "lattice", "pyg_ckd.npz: 'order_train' of shape .2. is no order of the .* interactions")


def test_folders_of_several_formats_and_other_paths_are_refused(folder, tmp_path):
    path = folder("mmrec")
    (path / "trnMat.pkl").write_bytes(b"")
    refuses(path, r"holds files of several formats: mmrec.inter .mmrec., trnMat.pkl .diffmm.; keep")
    with pytest.raises(InputError, match=r"none: does not exist, expected an .npz file, a folder .*mmrec"):
        recognise(tmp_path / "none")
    with pytest.raises(InputError, match=r"trnMat.pkl: cannot be read .No such file"):
        read_diffmm(tmp_path / "none")


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_writers_touch_nothing_that_is_there_and_leave_no_half(tmp_path, name, monkeypatch):
    source, target = tmp_path / "data.npz", tmp_path / ("out.npz" if name == "npz" else "out")
    write_npz(DATA, source)
    if name == "npz":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
    with pytest.raises(InputError, match=r"exists, expected the name of a new|is a folder with files in it"):
        convert(source, target, name)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(InputError, match=r"new.npz: cannot be written \(No space left on device\), nothing was"):
        convert(source, tmp_path / "new.npz", name)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([source.name, target.name])


def test_names_that_are_too_long_are_refused(tmp_path, capsys):
    write_npz(DATA, tmp_path / "data.npz")
    source, long = str(tmp_path / "data.npz"), str(tmp_path / ("a" * 300))
    for args in (["describe", long], *(["convert", source, f"{long}.{f}", "--format", f] for f in ("npz", "mmrec"))):
        assert main(["data", *args]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "File name too long" in err


def test_the_word_synthetic_can_be_converted(tmp_path):
    convert("synthetic", tmp_path / "out", "lattice")
    assert fingerprint(load(tmp_path / "out", "none")) == fingerprint(load("synthetic", "none"))


def test_unknown_format_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown format 'latice': did you mean 'lattice'"):
        convert(tmp_path, tmp_path, "latice")


def test_command_converts_and_fails_in_one_line(tmp_path, capsys):
    write_npz(DATA, tmp_path / "data.npz")
    args = ["data", "convert", str(tmp_path / "data.npz"), str(tmp_path / "out"), "--format"]
    assert main([*args, "lattice"]) == 0
    assert "12 users, 9 items, visual [9, 3], textual [9, 4]" in capsys.readouterr().out
    assert torch.equal(
        load(tmp_path / "out", "none")["item"].visual, read_npz(tmp_path / "data.npz", "none")["item"].visual
    )
    for bad, message in (
        ([*args, "lattice"], "is a folder with files in it"),
        ([*args, "latice"], "did you mean 'lattice'"),
        (args[:-1], "--format"),
        (["data"], "describe or convert"),
        (["data", "convrt"], "convrt"),
    ):
        assert main(bad) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert message in err
