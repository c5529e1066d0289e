import numpy as np
import pandas as pd
import pytest

from pyg_ckd.data import fingerprint
from pyg_ckd.datasets import load, read_folder, read_npz, synthetic_multimodal, write_npz
from pyg_ckd.errors import InputError


def test_word_synthetic_honours_the_seed_and_the_transform():
    assert fingerprint(load("synthetic", seed=2)) == fingerprint(synthetic_multimodal(seed=2))
    assert fingerprint(load("synthetic", "l2")) == fingerprint(synthetic_multimodal(transform="l2"))


def test_npz_file_and_folder_are_recognised(tmp_path):
    write_npz(synthetic_multimodal(50, 40, 500), tmp_path / "data.npz")
    assert fingerprint(load(tmp_path / "data.npz")) == fingerprint(read_npz(tmp_path / "data.npz"))
    pd.DataFrame({"user": [0, 0, 1], "item": [0, 1, 1]}).to_csv(tmp_path / "interactions.csv")
    np.save(tmp_path / "visual.npy", np.eye(2))
    assert fingerprint(load(str(tmp_path), seed=5)) == fingerprint(read_folder(tmp_path, seed=5))


def test_option_of_another_source_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown option of synthetic_multimodal 'num_user': did you mean 'num_users'"):
        load("synthetic", num_user=3)
    with pytest.raises(InputError, match="unknown option of read_folder 'sead': did you mean 'seed'"):
        load(tmp_path, sead=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_users": "x"}, "option 'num_users' of synthetic_multimodal: found 'x' .str., expected int"),
        ({"num_users": 10.5}, "option 'num_users' of .*: found 10.5 .float., expected int"),
        ({"num_items": True}, "option 'num_items' of .*: found True .bool., expected int"),
        ({"temperature": None}, "option 'temperature' of .*: found None .NoneType., expected float"),
        ({"noise": "loud"}, "option 'noise' of .*: found 'loud' .str., expected float . Mapping"),
        ({"noise": {"visual": "loud"}}, "option 'noise' of"),
        ({"modalities": ["visual"]}, r"option 'modalities' of .*: found \['visual'\] .list., expected Mapping"),
        ({"seed": -1}, "option 'seed' of .*: found -1, expected an integer from 0"),
    ],
    ids=str,
)
def test_option_of_another_type_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        load("synthetic", **options)


@pytest.mark.parametrize("options", [{"ratios": "all"}, {"ratios": 0.5}, {"ratios": [0.8, "x", 0.1]}, {"split": 3}])
def test_option_of_another_type_is_refused_for_a_folder(options, tmp_path):
    with pytest.raises(InputError, match=f"option '{next(iter(options))}' of read_folder: found"):
        load(tmp_path, **options)


def test_numbers_of_numpy_integers_for_floats_and_mappings_are_what_they_say():
    options = {"num_users": np.int64(50), "num_items": 40, "num_interactions": 500}
    data = load("synthetic", **options, temperature=1, modalities={"a": 1, "b": 0.5}, noise={"a": np.float32(0.5)})
    assert data.modalities == ["a", "b"]
    assert data["user"].num_nodes == 50


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("log.csv", "put it into a folder as interactions.csv, with one <modality>.npy beside it"),
        ("log.CSV.gz", "put it into a folder as interactions.csv.gz, with one <modality>.npy beside it"),
        ("log.parquet", "put it into a folder as interactions.parquet, with one <modality>.npy beside it"),
        ("log.xlsx", "save it as interactions.csv in a folder, with one <modality>.npy beside it"),
    ],
)
def test_a_single_table_is_refused_with_where_to_put_it(tmp_path, name, mend):
    (tmp_path / name).write_text("user,item\n")
    with pytest.raises(InputError, match=rf"{name}: is a .* file, expected a folder or an .npz file; {mend}$"):
        load(tmp_path / name)


def test_the_transform_is_named_where_it_is_called_features():
    with pytest.raises(
        InputError, match=r"unknown option of synthetic_multimodal 'features': did you mean 'transform'\?"
    ):
        load("synthetic", features="pca")


def test_anything_else_is_refused_with_what_would_work(tmp_path):
    (tmp_path / "data.txt").write_text("user,item\n")
    with pytest.raises(InputError, match=r"data.txt: is a .txt file, expected an .npz file, a folder .*'synthetic'"):
        load(tmp_path / "data.txt")
    with pytest.raises(InputError, match=r"syntetic: does not exist, expected .*'synthetic'"):
        load("syntetic")
    with pytest.raises(InputError, match=r"none.npz: does not exist"):
        load(tmp_path / "none.npz")
