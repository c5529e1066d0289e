import io
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from pyg_ckd.data import fingerprint
from pyg_ckd.datasets import MultimodalNpz, load, read_npz, synthetic_multimodal, write_npz
from pyg_ckd.datasets.writing import WRITERS
from pyg_ckd.errors import InputError

ARRAYS = {
    "num_users": np.int64(3),
    "num_items": np.int64(4),
    "train": np.array([[0, 0, 1, 2], [0, 1, 1, 3]], dtype=np.int32),
    "val": np.array([[0], [2]]),
    "visual": np.arange(8, dtype=np.float16).reshape(4, 2),
    "audio": np.ones((4, 3)),
}


@pytest.fixture
def save(tmp_path):
    def write(*, without: str = "", **changes):
        arrays = {name: array for name, array in (ARRAYS | changes).items() if name != without}
        np.savez(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return write


def refuses(path, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern) as error:
        read_npz(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_every_other_matrix_is_a_modality_in_the_order_of_the_file(save):
    data = read_npz(save(), transform="none")
    assert data.modalities == ["visual", "audio"]
    assert (data["user"].num_nodes, data["item"].num_nodes) == (3, 4)
    assert np.array_equal(data["item"].visual.numpy(), ARRAYS["visual"].astype(np.float32))
    assert data["user", "rates", "item"].val_edge_index.tolist() == [[0], [2]]
    assert data["user", "rates", "item"].test_edge_index.shape == (2, 0)


def test_given_order_masks_and_ids_are_read(save):
    path = save(
        modalities=np.array(["audio", "visual"]),
        has_audio=np.array([True, False, True, True]),
        user_id=np.array([30, 10, 20]),
        item_id=np.array(["a", "b", "c", "d"]),
    )
    data = read_npz(path)
    assert data.modalities == ["audio", "visual"]
    assert data["item"].has_audio.tolist() == [True, False, True, True]
    assert data.user_id.tolist() == [30, 10, 20]
    assert data.item_id == ["a", "b", "c", "d"]


def test_unsigned_ids_beyond_63_bits_are_kept_as_text(save):
    data = read_npz(save(user_id=np.array([2**63, 1, 2], dtype=np.uint64), item_id=np.arange(4, dtype=np.uint64)))
    assert data.user_id == [str(2**63), "1", "2"]
    assert data.item_id.tolist() == [0, 1, 2, 3]


def test_written_graph_is_read_back_bit_for_bit(save, tmp_path):
    data = read_npz(save(has_audio=np.array([True, False, True, True]), item_id=np.array(["a", "b", "c", "d"])))
    write_npz(data, tmp_path / "copy.npz")
    again = read_npz(tmp_path / "copy.npz", transform="none")
    assert fingerprint(again) == fingerprint(data)
    assert again.item_id == data.item_id
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["copy.npz", "data.npz"]


def test_ids_that_could_not_be_read_are_not_written(save, tmp_path):
    data = read_npz(save())
    data.item_id = ["a", "b", "a", "c"]
    for name, write in WRITERS.items():
        if name != "recbole":  # Which has no room for them either, see its tests.
            with pytest.raises(InputError, match="data: 'item_id' holds 'a' again in row 2, expected every id once"):
                write(data, tmp_path / ("out.npz" if name == "npz" else "out"))
            assert [file.name for file in tmp_path.iterdir()] == ["data.npz"]


def test_synthetic_graph_survives_a_file(tmp_path):
    data = synthetic_multimodal(50, 40, 500)
    write_npz(data, tmp_path / "data.npz")
    assert fingerprint(read_npz(tmp_path / "data.npz", transform="none")) == fingerprint(data)


def test_other_suffix_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"ends in .npz"):
        write_npz(synthetic_multimodal(50, 40, 500), tmp_path / "data.pt")


def test_dataset_holds_the_graph_and_applies_its_transforms(save):
    def mark(name):
        def transform(data):
            data[name] = torch.ones(1)
            return data

        return transform

    dataset = MultimodalNpz(save(), features="l2", transform=mark("late"), pre_transform=mark("early"))
    assert len(dataset) == 1
    assert fingerprint(dataset[0]) == fingerprint(read_npz(save(), "l2"))
    assert "late" in dataset[0]
    assert "early" in dataset[0]


BAD = {
    "misspelt train": ({"without": "train", "trian": ARRAYS["train"]}, "'train' are missing.*did you mean 'trian'"),
    "float sizes": ({"num_users": np.float64(3)}, "'num_users' is float64 of shape .*expected a single integer"),
    "many sizes": ({"num_items": np.array([4, 4])}, r"'num_items' is int64 of shape \[2\]"),
    "left-over array": (
        {"tset": np.array([1, 2])},
        r"array 'tset' has shape \[2\], expected the features of a modality",
    ),
    "left-over pairs": ({"tset": np.array([[0], [3]])}, "'tset' have 2 rows, too few for 4 items"),
    "no modality": ({"without": "visual", "audio": np.ones((4, 0))}, "'audio' have zero columns"),
    "float train": ({"train": np.ones((2, 3))}, "train has dtype float64"),
    "transposed train": ({"train": ARRAYS["train"].T}, r"train has shape \[4, 2\].*transpose"),
    "unknown mask": ({"has_text": np.ones(4, bool)}, "mask given for unknown modality 'text'"),
    "numbers as order": ({"modalities": np.array([1, 2])}, "'modalities' has dtype int64, expected a list of strings"),
    "order of others": ({"modalities": np.array(["text", "audio"])}, "unknown modality 'text'"),
    "incomplete order": ({"modalities": np.array(["audio"])}, r"'modalities' is \['audio'\], expected each of"),
    "short ids": ({"user_id": np.arange(2)}, r"'user_id' is int64 of shape \[2\], expected 3 integers or strings"),
    "float ids": ({"item_id": np.ones(4)}, "'item_id' is float64"),
    "bytes as ids": (
        {"item_id": np.array([b"a", b"b", b"c", b"d"])},
        r"'item_id' is |S1 .*expected 4 integers or strings, one per item; write numpy.char.decode\(ids\)",
    ),
    "repeated text": (
        {"item_id": np.array(["d", "b", "a", "b"])},
        "'item_id' holds 'b' again in row 3, expected every id once; merge",
    ),
    "repeated number": ({"user_id": np.array([7, 9, 7])}, "'user_id' holds 7 again in row 2, expected every id once"),
    "objects": (
        {"visual": np.array([[object()] * 2] * 4)},
        "'visual' holds Python objects, which are never unpickled; .*; texts become vectors with .*text_features",
    ),
    "texts": (
        {"visual": np.array(["a", "b", "c", "d"])},
        r"'visual' has shape \[4\], .*; texts become vectors with pyg_ckd.datasets.text_features",
    ),
    "images": (
        {"visual": np.zeros((4, 3, 8, 8))},
        r"'visual' has shape \[4, 3, 8, 8\], .*; these look like images: give one vector per item",
    ),
}


@pytest.mark.parametrize(("changes", "pattern"), BAD.values(), ids=BAD.keys())
def test_bad_content_is_refused_with_file_and_key(save, changes, pattern):
    refuses(save(**changes), pattern)


def test_missing_file_and_folder_are_told_apart(tmp_path):
    refuses(tmp_path / "none.npz", "does not exist, expected a .npz file")
    refuses(tmp_path, "is a folder, expected a .npz file")


@pytest.mark.parametrize("content", [b"", b"text, not an archive", b"\x80\x04K\x01."])
def test_other_files_are_no_archive(tmp_path, content):
    (tmp_path / "data.npz").write_bytes(content)
    refuses(tmp_path / "data.npz", "not a readable .npz archive")


def test_truncated_archive_is_refused(save):
    path = save()
    path.write_bytes(path.read_bytes()[:-100])
    refuses(path, "not a readable .npz archive .*cut short")


def test_damaged_member_is_named(save):
    path = save()
    content = bytearray(path.read_bytes())
    at = content.index(ARRAYS["audio"].tobytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    refuses(path, "array 'audio' cannot be read .*CRC")


def test_member_that_is_no_array_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        buffer = io.BytesIO()
        np.save(buffer, ARRAYS["train"])
        archive.writestr("train.npy", buffer.getvalue())
        archive.writestr("readme.txt", "hello")
    refuses(tmp_path / "data.npz", "entry 'readme.txt' is not a NumPy array")


@pytest.mark.parametrize(
    ("name", "sizes", "edges", "modalities"),
    [
        ("tiktok.npz", (9308, 6710), (59541, 3051, 6130), ["visual", "acoustic"]),
        ("lastfm.npz", (1858, 1425), (44327, 4799, 7219), ["textual", "acoustic_vggish", "acoustic_whisper"]),
    ],
)
def test_real_data_has_the_documented_sizes_and_unit_scale(real_data, name, sizes, edges, modalities):
    data = read_npz(real_data(name))
    rates = data["user", "rates", "item"]
    assert (data["user"].num_nodes, data["item"].num_nodes) == sizes
    assert tuple(rates[n].size(1) for n in ("edge_index", "val_edge_index", "test_edge_index")) == edges
    assert sorted(data.modalities) == sorted(modalities)
    for m in data.modalities:
        assert 0.8 < float(data["item"][m].square().sum(dim=1).mean()) < 1.01


def test_centroid_ranking_on_real_data_gives_the_documented_recall(real_data):
    data = read_npz(real_data("lastfm.npz"))
    rates, recall = data["user", "rates", "item"], {}
    train, test = (
        torch.zeros(1858, 1425).index_put_(tuple(rates[name]), torch.ones(()))
        for name in ("edge_index", "test_edge_index")
    )
    for m in data.modalities:
        x = torch.nn.functional.normalize(data["item"][m])
        score = torch.nn.functional.normalize(train @ x) @ x.t()
        top = score.masked_fill(train > 0, -2).topk(20).indices
        users = test.sum(1) > 0
        recall[m] = float((test.gather(1, top).sum(1)[users] / test.sum(1)[users]).mean())
    assert recall["textual"] == pytest.approx(0.290, abs=2e-3)
    assert recall["acoustic_vggish"] == pytest.approx(0.091, abs=2e-3)
    assert recall["acoustic_whisper"] == pytest.approx(0.072, abs=2e-3)


IDS = {
    "series": pd.Series(["b", "a", "c", "d"]),
    "series of numbers": pd.Series([7, 3, 5, 4], index=[3, 2, 1, 0]),
    "objects": np.array(["b", "a", "c", "d"], dtype=object),
    "numbers as objects": np.array([7, 3, 5, 4], dtype=object),
    "index": pd.Index([7, 3, 5, 4]),
    "categories": pd.Series(pd.Categorical(["b", "a", "c", "d"])),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
@pytest.mark.parametrize("format", sorted(WRITERS))
def test_ids_in_columns_and_arrays_of_objects_are_written(save, tmp_path, ids, format):
    data = read_npz(save())
    data.item_id = ids
    path = tmp_path / ("out.npz" if format == "npz" else "out")
    WRITERS[format](data, path)
    again = load(path, "none")
    assert (again.item_id if isinstance(again.item_id, list) else again.item_id.tolist()) == list(ids)
