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


def test_anything_else_is_refused_with_what_would_work(tmp_path):
    (tmp_path / "data.csv").write_text("user,item\n")
    with pytest.raises(InputError, match=r"data.csv: is a .csv file, expected an .npz file, a folder .*'synthetic'"):
        load(tmp_path / "data.csv")
    with pytest.raises(InputError, match=r"syntetic: does not exist, expected .*'synthetic'"):
        load("syntetic")
    with pytest.raises(InputError, match=r"none.npz: does not exist"):
        load(tmp_path / "none.npz")
