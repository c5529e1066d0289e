"""Links to nothing, folders in the place of files, and features in files that nobody reads."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from pyg_ckd.datasets import MultimodalNpz, convert, load
from pyg_ckd.errors import InputError
from tests.datasets.test_files_as_they_are import ITEMS, ROWS, features, inter, lines, pairs, table

LINKS = [
    "items.csv",
    "items.parquet",
    "audio.npy",
    "has_visual.npy",
    "interactions.csv",
    "val.csv",
    "valid.csv",
    "pyg_ckd.npz",
]


@pytest.mark.parametrize("name", LINKS)
def test_links_to_nothing_are_refused_with_what_they_stand_for(tmp_path, name):
    folder = table(tmp_path / "d", lines(ROWS), "train.csv" if name.startswith("va") else "interactions.csv")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("../.cache/9f86d08")
    with pytest.raises(InputError, match=rf"{name}: is a link to nothing, expected .*\.cache/9f86d08; fetch it, e.g. "):
        load(folder)


@pytest.mark.parametrize("format", ["lattice", "diffmm", "mmrec", "recbole"])
@pytest.mark.parametrize("name", ["text_feat.npy", "has_visual.npy", "val", "pyg_ckd.npz"])
def test_links_to_nothing_are_refused_in_every_format(tmp_path, format, name):
    folder = tmp_path / "d"
    x = {"visual": np.eye(ITEMS), "textual": np.eye(ITEMS)}
    np.savez(tmp_path / "a.npz", train=np.array(ROWS[:20]).T, val=np.array(ROWS[20:]).T, **x)
    convert(tmp_path / "a.npz", folder, format)
    if name == "val":
        name = {
            "lattice": "5-core/val.json",
            "diffmm": "valMat.pkl",
            "mmrec": "d.inter",
            "recbole": "d.valid.inter",
        }[format]
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("nowhere")
    with pytest.raises(InputError, match=f"{name}: is a link to nothing"):
        load(folder)


def test_links_to_nothing_are_refused_in_folders_of_ours_and_for_archives_and_cores(tmp_path):
    convert(table(tmp_path / "d", lines(ROWS)), tmp_path / "ready", "folder")
    file = tmp_path / "ready" / "interactions" / "val.npy"
    file.unlink()
    file.symlink_to("nowhere")
    with pytest.raises(InputError, match=r"val.npy: is a link to nothing"):
        load(tmp_path / "ready")
    (tmp_path / "a.npz").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"a.npz: is a link to nothing"):
        MultimodalNpz(tmp_path / "a.npz")
    folder = features(tmp_path / "l", "_feat.npy")
    (folder / "5-core").symlink_to("nowhere")
    with pytest.raises(InputError, match="5-core: is a link to nothing"):
        load(folder)


def test_links_to_files_are_files(tmp_path):
    folder = table(tmp_path / "d", lines(ROWS))
    shutil.move(folder / "visual.npy", tmp_path / "stored")
    (folder / "visual.npy").symlink_to(tmp_path / "stored")
    assert load(folder).modalities == ["textual", "visual"]


@pytest.mark.parametrize("name", ["textual.npy", "items.csv", "has_visual.npy", "train.tsv"])
def test_folders_in_the_place_of_files_are_refused(tmp_path, name):
    folder = table(tmp_path / "d", lines(ROWS))
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: is a folder, expected a file; rename it"):
        load(folder)


def warnings_of(folder: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        load(folder)
    return [str(w.message) for w in said if "not read" in str(w.message)]


NAMES = [
    "textual.pt",
    "textual.npz",
    "text.parquet",
    "textual.csv",
    "image_features.h5",
    "audio.npy.gz",
    "clip_emb.pkl",
]


@pytest.mark.parametrize("name", NAMES)
def test_features_in_other_formats_are_named_in_a_warning(tmp_path, name):
    folder = table(tmp_path / "d", lines(ROWS), names=("visual",))
    (folder / name).write_text("item,a,b\n0,0.5,1.5\n")
    said = warnings_of(folder)
    assert len(said) == 1
    assert f"{folder}: {name}: not read, for features are .npy files; if these are some, write them as <mod" in said[0]


@pytest.mark.parametrize("name", ["text_feat.pt", "audio_feat.csv"])
def test_features_in_other_formats_are_named_beside_those_of_other_libraries(tmp_path, name):
    folder = inter(tmp_path / "d", lines([(u, i, 0) for u, i in ROWS], "\t", "userID,itemID,x_label"))
    assert warnings_of(folder) == []
    (folder / "text_feat.npy").unlink()
    (folder / name).write_text("0.5,1.5\n0.5,1.5\n")
    assert len(warnings_of(folder)) == 1


def pictures(place: Path, endings: str, count: int = 30) -> None:
    place.mkdir(exist_ok=True)
    for n in range(count):
        (place / f"{n}{endings}").write_bytes(b"")


@pytest.mark.parametrize(
    ("place", "ending", "kind", "name"),
    [
        ("visual", ".jpg", "image", "visual"),
        ("images", ".PNG", "image", "images"),
        ("my pictures", ".webp", "image", "my_pictures"),
        ("2024", ".gif", "image", "visual"),
        ("sounds", ".mp3", "audio", "sounds"),
        ("1", ".flac", "audio", "acoustic"),
    ],
)
def test_folders_of_images_and_sounds_are_named_with_what_to_do(tmp_path, place, ending, kind, name):
    folder = table(tmp_path / "d", lines(ROWS), names=("textual",))
    pictures(folder / place, ending)
    assert warnings_of(folder) == [
        f"{folder}: {place}/: 30 {kind} files, not read; encode them with pyg_ckd.datasets.encode_files and save the "
        f"vectors as {name}.npy, one row per item in the order of the items"
    ]


def test_images_beside_the_table_are_named(tmp_path):
    folder = table(tmp_path / "d", lines(ROWS), names=("textual",))
    pictures(folder, ".jpeg", 3)
    assert [text.partition(";")[0] for text in warnings_of(folder)] == [f"{folder}: 3 image files, not read"]
    assert "save the vectors as visual.npy" in warnings_of(folder)[0]


def test_images_beside_files_of_another_library_are_named_with_its_ending(tmp_path):
    folder = inter(tmp_path / "d", lines([(u, i, 0) for u, i in ROWS], "\t", "userID,itemID,x_label"))
    (folder / "image_feat.npy").unlink()
    pictures(folder / "image", ".jpg")
    assert "save the vectors as image_feat.npy" in warnings_of(folder)[0]


def test_a_folder_with_nothing_but_images_says_how_to_encode_them(tmp_path):
    folder = table(tmp_path / "d", lines(ROWS), names=())
    pictures(folder / "images", ".jpg")
    with pytest.raises(InputError, match=r"no features.*images/: 30 image files, not read; encode them .* images\.npy"):
        load(folder)


def test_media_of_which_features_were_made_and_pictures_of_reports_are_passed_over(tmp_path):
    folder = table(tmp_path / "d", lines(ROWS), names=("visual", "textual"))
    pictures(folder / "images", ".jpg")
    pictures(folder / "textual", ".gif")
    for name in ("study", ".hidden"):
        pictures(folder / name, ".mp3")
        (folder / name / "settings.json").write_text("{}")
    pictures(folder / "logo", ".wav", 1)
    assert warnings_of(folder) == []


def test_a_modality_without_features_is_named_by_its_mask(tmp_path):
    folder = table(tmp_path / "d", lines(ROWS), names=("visual", "genre"))
    np.save(folder / "has_genre.npy", np.arange(ITEMS) > 2)
    assert warnings_of(folder) == []
    (folder / "genre.npy").rename(folder / "genre.npz")
    with pytest.raises(InputError, match="mask given for unknown modality 'genre'"), pytest.warns(match="genre.npz"):
        load(folder)


OTHERS = ["model.pt", "image_adj_10_True.pt", "item_titles.csv", "texts.csv", "users.csv", "visual.pt", "pyg_ckd.txt"]


@pytest.mark.parametrize("name", [*OTHERS, "README.md", "metadata.parquet", ".textual.pt", "image_graph.npz"])
def test_other_files_are_passed_over_without_a_word(tmp_path, name):
    folder = table(tmp_path / "d", lines(ROWS), names=("visual",))
    (folder / name).write_text("item,title\n0,Great Tale\n")
    assert warnings_of(folder) == []
    assert pairs(load(folder)) == sorted(ROWS)
