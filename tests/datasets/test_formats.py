"""Round trips through every format: generated graphs, conversions, the real data, published layouts."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from pathlib import Path

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings

from pyg_ckd.data import RATES, build_data, fingerprint
from pyg_ckd.datasets import convert, load, read_diffmm, read_lattice, read_mmrec, read_npz, read_recbole, recognise
from pyg_ckd.datasets.conversion import READERS
from pyg_ckd.datasets.formats.common import file_of, modality_of
from pyg_ckd.datasets.writing import WRITERS
from pyg_ckd.errors import InputError

FORMATS = sorted(WRITERS)
NAMES = ["visual", "textual", "acoustic", "image", "text", "image_", "mod0", "a_feat", "Tags", "ä"]
SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
TOKENS = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters='"'), min_size=1, max_size=5)


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk():
    """Thousands of small files are written here, and waiting until the disk has each is most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@st.composite
def graphs(draw):
    """Graphs with any number of users and items, cold ones, any order, masks, ids, float32 bits of every kind."""
    users, items = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    pairs = draw(st.lists(st.integers(0, users * items - 1), min_size=1, max_size=20, unique=True))
    labels = draw(st.lists(st.integers(0, 2), min_size=len(pairs), max_size=len(pairs)))
    keys, label = np.array(pairs), np.array(labels)
    label[~np.isin(keys // items, keys[label == 0] // items)] = 0  # Held-out interactions are of users in training.
    edges = [np.stack([keys[label == part] // items, keys[label == part] % items]) for part in range(3)]
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    features = {
        m: draw(hnp.arrays(np.float32, (items, draw(st.integers(1, 3))), elements=FLOATS, fill=st.nothing()))
        for m in names
    }
    masks = st.lists(st.booleans(), min_size=items, max_size=items).filter(any).map(np.array)
    has = {m: draw(masks) for m in names if draw(st.booleans())}
    data = build_data(
        edges[0], features, val=edges[1], test=edges[2], num_users=users, num_items=items, has=has, transform="none"
    )
    for kind, size in (("user", users), ("item", items)):
        choice = draw(st.sampled_from(["none", "integers", "text"]))
        if choice == "integers":
            ids = draw(st.lists(st.integers(-(2**53), 2**53), min_size=size, max_size=size, unique=True))
            data[f"{kind}_id"] = torch.tensor(ids)
        elif choice == "text":
            data[f"{kind}_id"] = draw(st.lists(TOKENS, min_size=size, max_size=size, unique=True))
    return data


def ids(data, kind: str):
    """Return the ids of a graph as a list, :obj:`None` if it has none."""
    values = getattr(data, f"{kind}_id", None)
    return values.tolist() if isinstance(values, torch.Tensor) else values


def same(one, other) -> None:
    """Require the identical graph: every size, interaction (in order), feature bit, mask and modality; and the ids."""
    assert fingerprint(one) == fingerprint(other)
    for kind in ("user", "item"):
        if ids(one, kind) is not None:
            assert ids(one, kind) == ids(other, kind)
            assert type(getattr(one, f"{kind}_id")) is type(getattr(other, f"{kind}_id"))


@pytest.mark.parametrize("name", FORMATS)
@SETTINGS
@given(data=graphs())
def test_written_and_read_again_it_is_the_identical_graph(name, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("out.npz" if name == "npz" else "out")
        WRITERS[name](data, path)
        assert recognise(path) == name
        same(data, READERS[name](path, transform="none"))
        assert [file.name for file in Path(folder).iterdir()] == [path.name]


@settings(SETTINGS, max_examples=25)
@given(data=graphs(), chain=st.permutations(FORMATS))
def test_any_chain_of_conversions_keeps_every_interaction_and_every_bit(data, chain):
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "start.npz"
        WRITERS["npz"](data, source)
        for name in chain:
            target = Path(folder) / (f"{name}.npz" if name == "npz" else name)
            convert(source, target, name)
            source = target
        same(data, load(source, "none"))


@SETTINGS
@given(data=graphs())
def test_mmrec_to_ours_to_lattice_to_ours_keeps_every_interaction_and_every_bit(data):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        WRITERS["mmrec"](data, root / "mmrec")
        convert(root / "mmrec", root / "a.npz", "npz")
        convert(root / "a.npz", root / "lattice", "lattice")
        convert(root / "lattice", root / "b.npz", "npz")
        same(data, read_npz(root / "b.npz", transform="none"))
        with np.load(root / "a.npz") as one, np.load(root / "b.npz") as other:
            assert {k: one[k].tobytes() for k in one.files} == {k: other[k].tobytes() for k in other.files}


@given(st.text("aegimtxou_", min_size=1, max_size=9) | st.sampled_from(["image", "text", "audio", "image__"]))
def test_file_names_of_modalities_are_unique_and_lead_back(name):
    assert modality_of(Path(file_of(name))) == name


def test_published_names_are_the_modalities_that_they_hold():
    names = {"image_feat.npy": "visual", "text_feat.npy": "textual", "audio_feat.npy": "acoustic", "x_feat.npy": "x"}
    assert {file: modality_of(Path(file)) for file in names} == names
    assert [file_of(m) for m in ("visual", "textual", "acoustic", "x")] == [*names]


@pytest.mark.slow
def test_tiktok_is_the_same_graph_in_every_format(real_data, tmp_path):
    source = real_data("tiktok.npz")
    expected = fingerprint(read_npz(source))
    for name in FORMATS:
        target = tmp_path / ("tiktok.npz" if name == "npz" else name)
        convert(source, target, name)
        assert fingerprint(load(target)) == expected, name


# The layouts as their own programs write them, without our sidecar.

TRAIN, VAL, TEST = [[0, 0, 2, 1], [3, 1, 0, 2]], [[0], [0]], [[2], [1]]
IMAGE, TEXT = np.arange(8.0).reshape(4, 2), np.ones((4, 3), np.float32)


@pytest.fixture
def published(tmp_path):
    """Write a small data set in a layout, byte by byte and not with our writers."""

    def write(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        np.save(folder / "image_feat.npy", IMAGE)
        np.save(folder / "text_feat.npy", TEXT)
        rows = [(u, i, x) for x, part in enumerate((TRAIN, VAL, TEST)) for u, i in zip(*part, strict=True)]
        if name == "mmrec":
            lines = [f"{u}\t{i}\t5.0\t1370000000\t{x}" for u, i, x in rows]
            text = "\n".join(["userID\titemID\trating\ttimestamp\tx_label", *lines]) + "\n"
            (folder / "baby.inter").write_text(text)
            np.save(folder / "user_graph_dict.npy", np.array({"an": object}), allow_pickle=True)  # DualGNN's; not ours.
        elif name == "lattice":
            (folder / "5-core").mkdir()
            for part, content in zip(("train", "val", "test"), (TRAIN, VAL, TEST), strict=True):
                lists = {}
                for u, i in zip(*content, strict=True):
                    lists.setdefault(str(u), []).append(i)
                (folder / "5-core" / f"{part}.json").write_text(json.dumps(lists))
        elif name == "diffmm":
            for part, (u, i) in zip(("trn", "val", "tst"), (TRAIN, VAL, TEST), strict=True):
                matrix = scipy.sparse.coo_matrix((np.ones(len(u)), (u, i)), shape=(3, 4))
                (folder / f"{part}Mat.pkl").write_bytes(pickle.dumps(matrix))
        else:
            for part, content in zip(("train", "valid", "test"), (TRAIN, VAL, TEST), strict=True):
                lines = [f"u{u}\ti{i}\t4.5" for u, i in zip(*content, strict=True)]
                text = "\n".join(["user_id:token\titem_id:token\trating:float", *lines])
                (folder / f"x.{part}.inter").write_text(text)
            (folder / "x.item").write_text(
                "item_id:token\ttitle:token_seq\n" + "".join(f"i{i}\ta b\n" for i in range(4))
            )
        return folder

    return write


@pytest.mark.parametrize("name", ["mmrec", "lattice", "diffmm", "recbole"])
def test_published_layouts_are_recognised_and_read(published, name):
    folder = published(name)
    assert recognise(folder) == name
    data = load(str(folder), "none")
    assert data.modalities == ["visual", "textual"]
    assert (data["user"].num_nodes, data["item"].num_nodes) == (3, 4)
    assert np.array_equal(data["item"].visual.numpy(), IMAGE.astype(np.float32))
    rates = data[RATES]
    assert rates.edge_index.tolist() == TRAIN
    assert (rates.val_edge_index.tolist(), rates.test_edge_index.tolist()) == (VAL, TEST)
    assert data.source == str(folder)


def test_features_and_json_files_of_lattice_are_found_where_they_are_kept(published):
    folder = published("lattice")
    expected = fingerprint(read_lattice(folder))
    assert fingerprint(read_lattice(folder / "5-core")) == expected
    assert fingerprint(read_lattice(folder, core=5)) == expected
    for name in ("image_feat.npy", "text_feat.npy"):
        (folder / name).rename(folder / "5-core" / name)
    assert fingerprint(read_lattice(folder)) == expected
    (folder / "0-core").mkdir()
    (folder / "0-core" / "train.json").write_text("{}")
    with pytest.raises(InputError, match="holds 0-core, 5-core; choose one with core=0"):
        read_lattice(folder)


def test_item_rows_of_lattice_may_be_text(published):
    folder = published("lattice")
    expected = fingerprint(read_lattice(folder))
    for file in (folder / "5-core").iterdir():
        content = json.loads(file.read_text())
        file.write_text(json.dumps({user: [str(item) for item in items] for user, items in content.items()}))
    assert fingerprint(read_lattice(folder)) == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["coo_matrix", "coo_array"])
@pytest.mark.parametrize("dtype", [">f4", "int8", "bool", "float64"])
def test_pickles_of_every_protocol_are_read(published, protocol, kind, dtype):
    folder = published("diffmm")
    matrix = getattr(scipy.sparse, kind)((np.ones(4), (TRAIN[0], TRAIN[1])), shape=(3, 4))
    matrix.data = np.array([1, 1, 0, 1], dtype=dtype)
    (folder / "tstMat.pkl").unlink()
    (folder / "trnMat.pkl").write_bytes(pickle.dumps(matrix, protocol))
    assert read_diffmm(folder)[RATES].edge_index.tolist() == [[0, 0, 1], [3, 1, 2]]  # Zeros are no interactions.


def test_pickle_of_an_old_scipy_is_read(published):
    folder = published("diffmm")
    matrix = scipy.sparse.coo_matrix((np.ones(4, np.float32), (TRAIN[0], TRAIN[1])), shape=(3, 4))
    state = {"_shape": (3, 4), "maxprint": 50, "row": matrix.row, "col": matrix.col, "data": matrix.data}
    matrix.__dict__.clear()
    matrix.__dict__.update(state)
    content = pickle.dumps(matrix, 2).replace(b"scipy.sparse._coo", b"scipy.sparse.coo")
    (folder / "trnMat.pkl").write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_diffmm(folder)[RATES].edge_index.tolist() == TRAIN


def test_one_recbole_file_is_split_here_and_the_times_are_followed(published):
    folder = published("recbole")
    for file in folder.glob("*.inter"):
        file.unlink()
    pairs = np.stack([np.repeat(np.arange(10), 4), np.tile(np.arange(4), 10)])
    frame = pd.DataFrame({"user_id:token": pairs[0], "item_id:token": [f"i{i}" for i in pairs[1]]})
    frame["timestamp:float"] = np.tile([3.5, 1.0, 2.0, 0.0], 10)
    frame.to_csv(folder / "x.inter", sep="\t", index=False)
    assert fingerprint(load(folder, seed=1)) != fingerprint(load(folder, seed=2))
    data = read_recbole(folder, split="leave-one-out")
    assert data[RATES].test_edge_index.tolist() == [list(range(10)), [0] * 10]  # The latest one.
    assert data.user_id.tolist() == list(range(10))
    assert data.item_id == ["i0", "i1", "i2", "i3"]


@pytest.mark.parametrize("whole", [True, False])
def test_all_of_recbole_is_for_training_on_request(whole, published):
    folder = published("recbole")
    if whole:
        lines = [line for file in sorted(folder.glob("*.inter")) for line in file.read_text().split("\n")[1:]]
        for file in folder.glob("*.inter"):
            file.unlink()
        (folder / "x.inter").write_text("\n".join(["user_id:token\titem_id:token\trating:float", *lines]))
    data = read_recbole(folder, split="none")
    found = {(data.user_id[u], data.item_id[i]) for u, i in data[RATES].edge_index.t().tolist()}
    assert found == {(f"u{u}", f"i{i}") for part in (TRAIN, VAL, TEST) for u, i in zip(*part, strict=True)}
    with pytest.raises(InputError, match="beside split='none'"):
        read_recbole(folder, split="none", ratios=[0.8, 0.1, 0.1])


def test_recbole_tokens_that_are_numbers_need_no_list_of_items(published):
    folder = published("recbole")
    (folder / "x.item").unlink()
    for file in folder.glob("*.inter"):
        file.write_text(file.read_text().replace("i0", "0").replace("i1", "1").replace("i2", "2").replace("i3", "3"))
    data = read_recbole(folder)
    assert data[RATES].edge_index.tolist() == TRAIN
    assert data.user_id == ["u0", "u1", "u2"]
    assert data.item_id.tolist() == [0, 1, 2, 3]


def test_written_folders_hold_what_their_programs_read(published, tmp_path):
    data = load(published("mmrec"), "none")
    for name in ("mmrec", "lattice", "diffmm", "recbole"):
        WRITERS[name](data, tmp_path / "out" / name)
    out = tmp_path / "out"
    frame = pd.read_csv(out / "mmrec" / "mmrec.inter", usecols=["userID", "itemID", "x_label"], sep="\t")
    assert frame[frame["x_label"] == 0][["userID", "itemID"]].to_numpy().T.tolist() == TRAIN
    lists = json.loads((out / "lattice" / "5-core" / "train.json").read_text())
    assert lists == {"0": [3, 1], "1": [2], "2": [0]}
    with (out / "diffmm" / "trnMat.pkl").open("rb") as file:
        matrix = pickle.load(file)
    assert type(matrix) is scipy.sparse.coo_matrix
    assert np.array_equal(matrix.toarray(), [[0, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0]])
    assert (out / "recbole" / "recbole.train.inter").read_text().startswith("user_id:token\titem_id:token\n0\t3\n")
    for name in ("mmrec", "lattice", "diffmm", "recbole"):
        assert np.array_equal(np.load(out / name / "image_feat.npy"), IMAGE)


def test_float64_features_are_rounded_to_float32_and_float16_is_exact(published):
    folder = published("mmrec")
    np.save(folder / "image_feat.npy", np.full((4, 1), 0.1))
    np.save(folder / "text_feat.npy", np.full((4, 1), 0.1, np.float16))
    item = read_mmrec(folder, "none")["item"]
    assert item.visual.unique().tolist() == [float(np.float32(0.1))]
    assert item.textual.unique().tolist() == [float(np.float16(0.1))]


def test_users_that_were_added_to_a_written_list_are_refused_with_the_sidecar(published, tmp_path):
    WRITERS["recbole"](load(published("mmrec"), "none"), tmp_path / "r")
    users = tmp_path / "r" / "r.user"
    users.write_text(users.read_text() + "98\n99\n")
    with pytest.raises(
        InputError, match=r"says that there are 3 users, but beside .*r.train.inter there are 5; delete"
    ):
        load(tmp_path / "r")
    (tmp_path / "r" / "pyg_ckd.npz").unlink()
    data = load(tmp_path / "r")
    assert data["user"].num_nodes == len(data.user_id) == 5
