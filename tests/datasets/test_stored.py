"""Folders whose features are prepared once and stay in their files: the same graph, and every damage by name."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd import Trainer, evaluate
from pyg_ckd.cli.app import main
from pyg_ckd.data import build_data, check_data, describe_data, fingerprint, prepared
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.mapped import file_of
from pyg_ckd.datasets import MultimodalFolder, convert, load, read_folder, read_npz, write_folder, write_npz
from pyg_ckd.datasets.stored import SIDECAR
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, EarlyFusionLightGCN


def graph(transform: str = "none", lacking: bool = True) -> HeteroData:
    """Return a graph with ids, held-out parts, a user without interactions and items that lack a modality."""
    generator = np.random.default_rng(0)
    pairs = generator.permutation(20 * 12)[:90]
    edges = np.stack([pairs // 12, pairs % 12])
    features = {"visual": 5 + generator.standard_normal((12, 6)), "acoustic": generator.standard_normal((12, 4))}
    return build_data(
        edges[:, :60],
        features,
        val=edges[:, 60:75],
        test=edges[:, 75:],
        num_users=21,
        has={"visual": np.arange(12) != 3} if lacking else None,
        transform=transform,
        impute="given" if transform == "none" else "mean",
        user_id=[f"u{n}" for n in range(20, -1, -1)],
        item_id=np.arange(100, 112),
    )


def assert_alike(one: HeteroData, other: HeteroData, atol: float = 1e-7) -> None:
    assert one.modalities == other.modalities
    for name in ("edge_index", "val_edge_index", "test_edge_index"):
        assert torch.equal(one[RATES][name], other[RATES][name])
    for m in one.modalities:
        torch.testing.assert_close(one["item"][m].float(), other["item"][m].float(), atol=atol, rtol=0)
        assert (f"has_{m}" in one["item"]) == (f"has_{m}" in other["item"])
    assert list(one.user_id) == list(other.user_id)
    assert one.item_id.tolist() == other.item_id.tolist()
    assert one["user"].num_nodes == other["user"].num_nodes


@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize(
    ("features", "dtype"), [("standardize", "float32"), ("standardize", "float16"), ("pca", "float32")]
)
def test_a_folder_that_was_prepared_is_the_graph_that_is_prepared_when_read(tmp_path, features, dtype, lacking):
    raw, wanted = graph(lacking=lacking), graph(features, lacking)
    write_folder(raw, tmp_path / "ready", features, dtype)
    data = read_folder(tmp_path / "ready", transform=features)
    assert_alike(data, wanted, 1e-7 if dtype == "float32" else 1e-3)
    for m in data.modalities:
        assert file_of(data["item"][m]) == tmp_path / "ready" / f"{m}.npy"
        assert data["item"][m].dtype == getattr(torch, dtype)
    assert (fingerprint(data) == fingerprint(wanted)) == (dtype == "float32")
    assert fingerprint(check_data(data)) == fingerprint(data)
    assert file_of(check_data(data)["item"].visual) is not None
    assert data.prepared["visual"]["steps"][0]["name"] == wanted.prepared["visual"]["steps"][0]["name"]


def test_what_was_done_is_not_done_again_and_another_transform_is(tmp_path):
    write_folder(graph("standardize"), tmp_path / "ready")
    for transform in ("none", "standardize"):
        assert file_of(read_folder(tmp_path / "ready", transform=transform)["item"].visual) is not None
    data = read_folder(tmp_path / "ready", transform="l2")
    assert file_of(data["item"].visual) is None
    torch.testing.assert_close(data["item"].acoustic.norm(dim=1), torch.ones(12))


def test_half_precision_is_single_after_a_transform_and_with_another_imputation(tmp_path):
    write_folder(graph(), tmp_path / "ready", "standardize", "float16")
    assert read_folder(tmp_path / "ready", transform="l2")["item"].visual.dtype == torch.float32
    zeros = read_folder(tmp_path / "ready", impute="zero")["item"].visual
    assert file_of(zeros) is None
    assert not zeros[3].any()


def test_a_raw_folder_keeps_rows_as_they_are_and_is_prepared_when_read(tmp_path):
    write_folder(graph(), tmp_path / "raw")
    assert_alike(read_folder(tmp_path / "raw"), graph("standardize"))
    assert_alike(read_folder(tmp_path / "raw", transform="none", impute="given"), graph())


def test_writing_goes_through_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("pyg_ckd.data.mapped.BLOCK", 13)
    write_folder(graph(), tmp_path / "ready", "standardize")
    assert_alike(read_folder(tmp_path / "ready"), graph("standardize"), 1e-6)


def test_other_imputations_are_made_after_the_transform(tmp_path):
    write_npz(graph(), tmp_path / "raw.npz")
    convert(tmp_path / "raw.npz", tmp_path / "ready", "folder", "standardize", impute="neighbors")
    data = load(tmp_path / "ready", impute="neighbors")
    wanted = load(tmp_path / "raw.npz", impute="neighbors")
    assert file_of(data["item"].visual) is not None
    assert fingerprint(data) == fingerprint(wanted)
    torch.testing.assert_close(data["item"].visual, wanted["item"].visual)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("backbone", "options"), [(VBPR, {"sparse": True}), (EarlyFusionLightGCN, {})])
def test_training_and_evaluation_are_those_of_features_in_memory(tmp_path, backbone, options, dtype):
    write_folder(graph(), tmp_path / "ready", "standardize", dtype)
    data, found = read_folder(tmp_path / "ready"), []
    memory = check_data(data)
    for m in data.modalities:
        memory["item"][m] = data["item"][m].float().clone()
    for each in (data, memory):
        torch.manual_seed(0)
        model = backbone.from_data(each, embedding_dim=8, **options)
        Trainer(max_epochs=2, batch_size=16, monitor="recall@3", progress=False).fit(model, each)
        found.append((model.state_dict(), evaluate(model, each, k=3, metrics="ndcg")))
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], atol=1e-6, rtol=1e-5)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-6)


def test_a_description_is_that_of_features_in_memory(tmp_path):
    write_folder(graph("standardize"), tmp_path / "ready", "none")
    data = read_folder(tmp_path / "ready")
    here, there = describe_data(data), describe_data(graph("standardize"))
    for m in data.modalities:
        assert here.modalities[m].row_norm == pytest.approx(there.modalities[m].row_norm, rel=1e-4)
        assert here.modalities[m].identical == there.modalities[m].identical


def test_a_cached_graph_stays_in_its_file(tmp_path):
    write_folder(graph(), tmp_path / "raw")
    for _ in range(2):
        data = MultimodalFolder(tmp_path / "raw", root=tmp_path / "root")[0]
    assert file_of(data["item"].visual).suffix == ".pt"
    VBPR.from_data(data)
    evaluate(VBPR.from_data(data, embedding_dim=4), data, k=3)


def damage_nothing_but_the_time(file: Path) -> None:
    os.utime(file, ns=(1, 1))


def test_a_folder_that_was_copied_is_looked_through_and_accepted(tmp_path):
    write_folder(graph(), tmp_path / "ready", "standardize")
    shutil.copytree(tmp_path / "ready", tmp_path / "copy", copy_function=shutil.copyfile)
    assert_alike(read_folder(tmp_path / "copy"), graph("standardize"))
    damage_nothing_but_the_time(tmp_path / "copy" / "visual.npy")
    assert_alike(read_folder(tmp_path / "copy"), graph("standardize"))


def refuse_to_look(*_) -> None:
    raise AssertionError("interactions are looked through again")


def test_interactions_stay_in_their_files_and_are_not_checked_again(tmp_path, monkeypatch):
    wanted = graph("standardize")
    write_folder(graph(), tmp_path / "ready", "standardize")
    for name in ("check_repetition", "check_range"):
        monkeypatch.setattr(f"pyg_ckd.data.build.{name}", refuse_to_look)
    data = read_folder(tmp_path / "ready")
    for each in (data, check_data(data)):
        for split, name in (("train", "edge_index"), ("val", "val_edge_index"), ("test", "test_edge_index")):
            assert file_of(each[RATES][name]) == tmp_path / "ready" / "interactions" / f"{split}.npy"
            assert each[RATES][name].dtype == torch.int64
    assert_alike(data, wanted)
    damage_nothing_but_the_time(tmp_path / "ready" / "interactions" / "val.npy")
    with pytest.raises(AssertionError, match="looked through again"):
        read_folder(tmp_path / "ready")


def test_interactions_that_were_changed_in_place_or_mixed_are_checked_again(tmp_path, monkeypatch):
    for name in ("one", "other"):
        write_folder(graph(), tmp_path / name, "standardize")
    data, other = (read_folder(tmp_path / name) for name in ("one", "other"))
    assert file_of(check_data(data)[RATES].edge_index) is not None
    mixed = copy.copy(data)
    mixed[RATES].val_edge_index = other[RATES].edge_index[:, :3]
    with pytest.raises(InputError, match="val repeats 3 interactions of train"):
        check_data(mixed)
    data[RATES].edge_index[:, 0] = data[RATES].edge_index[:, 1]
    with pytest.raises(InputError, match="train has 1 duplicate interactions"):
        check_data(data)
    assert_alike(read_folder(tmp_path / "one"), graph("standardize"))  # The file is as it was.


def test_interactions_of_earlier_folders_are_converted(tmp_path):
    write_folder(graph(), tmp_path / "ready", "standardize")
    for file in (tmp_path / "ready" / "interactions").iterdir():
        save(file, lambda x: x.astype(np.int32))
    data = read_folder(tmp_path / "ready")
    assert_alike(data, graph("standardize"))
    assert file_of(data[RATES].edge_index) is None


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("train", lambda x: x + 30, "train has .* indices out of range"),
        ("train", lambda x: x[:, [0, 0, 1]], "train has 1 duplicate interactions"),
        ("val", lambda x: x[:1], r"val has shape \[1, 15\]"),
    ],
    ids=["range", "twice", "shape"],
)
def test_interactions_that_were_written_anew_are_checked(tmp_path, split, change, message):
    folder = written(tmp_path)
    save(folder / "interactions" / f"{split}.npy", change)
    with pytest.raises(InputError, match=message):
        read_folder(folder)


def written(tmp_path: Path) -> Path:
    write_folder(graph(), tmp_path / "ready", "standardize")
    return tmp_path / "ready"


def save(file: Path, change) -> None:
    array = change(np.load(file))
    np.save(file, array)


def first_nan(array: np.ndarray) -> np.ndarray:
    array[2, 1] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:-1], r"visual\.npy: has shape \[11, 6\], expected \[12, d\]"),
        (lambda x: x[:, 0], r"visual\.npy: has shape \[12\], expected \[12, d\]"),
        (lambda x: x.astype(np.int64), r"visual\.npy: has dtype int64, expected float32 or float16"),
        (lambda x: x.astype(np.float64), r"visual\.npy: has dtype float64, expected float32 or float16"),
        (first_nan, rf"visual\.npy: has been changed since {SIDECAR} was written"),
        (lambda x: x + 1, r"visual\.npy: has been changed since"),
    ],
    ids=["rows", "columns", "integers", "double", "nan", "values"],
)
def test_a_feature_file_that_was_changed_is_refused_by_name(tmp_path, change, message):
    folder = written(tmp_path)
    save(folder / "visual.npy", change)
    with pytest.raises(InputError, match=message) as error:
        read_folder(folder)
    assert "\n" not in str(error.value)


def test_a_feature_file_that_was_cut_short_or_lost_is_refused_by_name(tmp_path):
    folder = written(tmp_path)
    content = (folder / "visual.npy").read_bytes()
    (folder / "visual.npy").write_bytes(content[:-5])
    with pytest.raises(InputError, match=r"visual\.npy: cannot be read as a plain array .*cut short"):
        read_folder(folder)
    (folder / "visual.npy").unlink()
    with pytest.raises(InputError, match=r"visual\.npy: cannot be read"):
        read_folder(folder)


def test_a_damaged_record_is_refused_by_name(tmp_path):
    folder = written(tmp_path)
    arrays = dict(np.load(folder / SIDECAR))
    for name in ("modalities", "stamps", prepared.KEY):
        np.savez(folder / SIDECAR, **{key: value for key, value in arrays.items() if key != name})
        with pytest.raises(InputError, match=rf"{SIDECAR}: is damaged"):
            read_folder(folder)


def test_a_value_that_is_not_finite_is_named_by_file_row_and_column(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "interactions.csv").write_text("user,item\n0,0\n0,1\n1,1\n1,2\n2,0\n", encoding="utf-8")
    array = np.ones((3, 2), np.float32)
    array[1, 1] = np.inf
    np.save(folder / "visual.npy", array)
    with pytest.raises(
        InputError, match=r"visual\.npy: features of 'visual' are not finite in 1 rows, first in row 1, col"
    ):
        read_folder(folder, transform="none")


def test_features_that_are_changed_under_a_model_are_refused_by_name(tmp_path):
    folder = written(tmp_path)
    data = read_folder(folder)
    model = VBPR.from_data(data, embedding_dim=4)
    evaluate(model, data, k=3)
    with (folder / "visual.npy").open("r+b") as stream:
        stream.truncate(200)
    with pytest.raises(InputError, match=r"visual\.npy: found 200 bytes, expected the file of"):
        evaluate(model, data, k=3)


def test_numbers_beyond_half_precision_are_refused_and_nothing_is_written(tmp_path):
    data = graph(lacking=False)
    data["item"].visual[7, 0] = 1e6
    with pytest.raises(InputError, match=r"visual\.npy: row 7 has a number beyond 65504"):
        write_folder(data, tmp_path / "ready", dtype="float16")
    assert not list(tmp_path.iterdir())


def enlarged(data: HeteroData) -> HeteroData:
    """Return a copy with a row that is too large for half precision: a transform of one's own."""
    data = data.clone()
    data["item"].visual[7, 0] = 1e6
    return data


@pytest.mark.parametrize("block", [13, 2**22])
@pytest.mark.parametrize("filled", ["given", "mean", "mean of the transform"])
def test_numbers_beyond_half_precision_are_refused_behind_a_row_without_the_modality(
    tmp_path, monkeypatch, filled, block
):
    monkeypatch.setattr("pyg_ckd.data.mapped.BLOCK", block)
    data = graph()
    assert not data["item"].has_visual[3]
    transform = enlarged if filled == "mean of the transform" else "none"
    if transform == "none":
        data = check_data(enlarged(data), impute=filled)
    with pytest.raises(InputError, match=r"visual\.npy: row 7 has a number beyond 65504"):
        write_folder(data, tmp_path / "ready", transform, "float16")
    assert not list(tmp_path.iterdir())


def test_numbers_beyond_half_precision_of_an_item_without_the_modality_are_refused_where_they_are_kept(tmp_path):
    data = graph()
    data["item"].visual[3, 0] = -1e6
    with pytest.raises(InputError, match=r"visual\.npy: row 3, of an item without the modality, has a number beyond"):
        write_folder(data, tmp_path / "raw", dtype="float16")
    assert not list(tmp_path.iterdir())
    write_folder(data, tmp_path / "ready", "standardize", "float16")  # The row is filled in.
    assert np.isfinite(np.load(tmp_path / "ready" / "visual.npy")).all()


@pytest.mark.parametrize(("write", "suffix"), [(write_folder, ""), (write_npz, ".npz")])
def test_what_a_folder_or_file_does_not_hold_is_named_in_one_warning(write, suffix, tmp_path, recwarn):
    data = graph()
    write(data, tmp_path / f"plain{suffix}")
    assert not [w for w in recwarn if "written without" in str(w.message)]
    data[RATES].time = torch.arange(60)
    data["item"].price = torch.ones(12)
    data["user"].age = torch.ones(21)
    data["item", "similar", "item"].edge_index = torch.tensor([[0, 1], [1, 2]])
    data["shop"].num_nodes = 2
    data.made_by = "me"
    with pytest.warns(UserWarning, match="written without") as found:
        write(data, tmp_path / f"ready{suffix}")
    message = [str(w.message) for w in found if "written without" in str(w.message)]
    assert len(message) == 1
    names = message[0].partition("written without ")[2].partition(";")[0]
    kinds = ("data[('item', 'similar', 'item')]", f"data[{RATES!r}].time", "data['item'].price", "data['user'].age")
    for name in (*kinds, "data['shop']", "data.made_by"):
        assert name in names
        names = names.replace(name, "")
    assert not names.replace(", ", "")
    read = read_npz if suffix else read_folder
    assert_alike(read(tmp_path / f"ready{suffix}", transform="none", impute="given"), graph())


def test_wrong_options_are_refused(tmp_path):
    folder = written(tmp_path)
    with pytest.raises(InputError, match="dtype"):
        write_folder(graph(), tmp_path / "other", dtype="float8")
    for options in ({"split": "random"}, {"k_core": 2}, {"min_rating": 3.0}):
        with pytest.raises(InputError, match=r"ready: holds interactions that are split and chosen already"):
            read_folder(folder, **options)
    with pytest.raises(InputError, match=r"format: found 'npz' beside features='standardize'"):
        convert(folder, tmp_path / "a.npz", "npz", "standardize")
    with pytest.raises(InputError, match="folder with files in it"):
        write_folder(graph(), folder)


def test_the_command_line_prepares_a_folder(tmp_path, capsys):
    write_npz(graph(), tmp_path / "raw.npz")
    target = tmp_path / "ready"
    words = ["--format", "folder", "--features", "standardize", "--dtype", "float16"]
    assert main(["data", "convert", str(tmp_path / "raw.npz"), str(target), *words]) == 0
    assert "21 users, 12 items, visual [12, 6]" in capsys.readouterr().out
    assert load(target)["item"].visual.dtype == torch.float16
