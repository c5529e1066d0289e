"""Several processes write a folder of lists that is, to the bit, what one process writes; commands do so too."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from pyg_ckd.cli import main, ranks
from pyg_ckd.data import Embeddings, build_data
from pyg_ckd.datasets import load, synthetic_multimodal, write_npz
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import item_knn
from pyg_ckd.nn import VBPR
from pyg_ckd.processes import apart, present
from pyg_ckd.serving import NeighbourhoodRecommender, Recommender
from pyg_ckd.training.model import save_model
from tests.training.several import in_processes

USERS, ITEMS = 300, 30


def recommender(seed: int = 0) -> Recommender:
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.stack([torch.arange(USERS), torch.arange(USERS) % ITEMS])
    data = build_data(pairs, {"visual": torch.ones(ITEMS, 4)}, num_users=USERS, num_items=ITEMS)
    data.user_id, data.item_id = [f"u{n}" for n in range(USERS)], torch.arange(ITEMS) + 7
    return Recommender(Embeddings(*(torch.randn(n, 5, generator=generator) for n in (USERS, ITEMS))), data)


CASES: dict[str, dict[str, Any]] = {
    "all users": {},
    "some users": {"user_ids": [f"u{n}" for n in range(299, 90, -1)], "k": 3, "diversity": 0.2},
    "unknown users": {"user_ids": ["nobody", "u3", "who"], "unknown": "popular"},
    "fewer users than processes": {"user_ids": ["u5"]},
    "no users": {"user_ids": []},
    "neighbours": {"candidates": list(range(7, 30))},
}


def source_of(name: str) -> Recommender:
    found = recommender()
    return NeighbourhoodRecommender(item_knn(found.data), found.data) if name == "neighbours" else found


def error_of(work: Any) -> tuple[str, bool]:
    try:
        work()
    except InputError as error:
        return str(error), error.everywhere
    return "", False


def exports(folder: Path) -> dict[str, Any]:
    """Write every case in all processes, and once more by the first one alone."""
    files: dict[str, Any] = {}
    for name, options in CASES.items():
        source, place = source_of(name), folder / name.replace(" ", "-")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source.export_top_k(place, **options)
            if present().first:
                with apart():
                    source.export_top_k(folder / "alone" / f"{place.name}.parquet", **options)
        files[name] = sorted(path.name for path in place.iterdir())
    return files


class Full(pq.ParquetWriter):
    """A disk that fills up in the second process."""

    def write_table(self, *args: Any, **kwargs: Any) -> None:
        super().write_table(*args, **kwargs)
        if present().rank == 1:
            raise OSError(errno.ENOSPC, "No space left on device")


def broken(folder: Path) -> dict[str, tuple[str, bool]]:
    source, rank, place = recommender(), present().rank, folder / "lists"
    taken, plain = folder / "taken", pq.ParquetWriter
    if rank == 0:
        taken.mkdir()
        (taken / "old.parquet").touch()
    present().wait()
    found = {
        "single file": error_of(lambda: source.export_top_k(folder / "lists.csv.gz")),
        "taken": error_of(lambda: source.export_top_k(taken)),
        "k": error_of(lambda: source.export_top_k(place, 31 if rank else 3)),
        "another k": error_of(lambda: source.export_top_k(place, 3 + rank)),
        "model": error_of(lambda: recommender(rank).export_top_k(place)),
        "nothing": error_of(lambda: source.export_top_k(place, 1, user_ids=["u3", "u33"], candidates=[10])),
    }
    try:
        pq.ParquetWriter = Full
        found["disk"] = error_of(lambda: source.export_top_k(place))
    finally:
        pq.ParquetWriter = plain
    return found


COMMANDS = {
    "evaluate": ["evaluate", "--json", "{}/metrics.json", "--view", "visual"],
    "recommend": ["recommend", "--out", "{}/by-command", "--k", "4"],
    "bad option": ["evaluate", "--splt", "val"],
    "bad metric": ["evaluate", "--metrics", "recal"],
    "bad data": ["recommend", "--out", "{}/none", "--data", "{}/none.npz"],
    "single file": ["recommend", "--out", "{}/none.csv"],
    "bad place": ["evaluate", "--json", "{}/data.npz/metrics.json"],
    "other command": ["doctor"],
    "no command": ["evalute"],
}


def commands(folder: Path) -> dict[str, Any]:
    """Run commands as ``torchrun`` would, and keep exit code and what is printed."""
    rank = str(present().rank)
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    found = {}
    for name, command in COMMANDS.items():
        args = [part.format(folder) for part in command]
        if command[0] in ("evaluate", "recommend"):
            args[1:1] = ["--data", str(folder / "data.npz"), "--checkpoint", str(folder / "model.pt")]
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = main(args)
        found[name] = (code, out.getvalue(), err.getvalue())
    return found


def work(name: str) -> dict[str, Any]:
    folder = Path(name)
    return {"files": exports(folder), "errors": broken(folder), "commands": commands(folder)}


@pytest.fixture(scope="module")
def folder() -> Any:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def processes(folder: Path) -> list[dict[str, Any]]:
    write_npz(synthetic_multimodal(num_users=150, num_items=40, num_interactions=900, dim=4), folder / "data.npz")
    data = load(str(folder / "data.npz"))
    torch.manual_seed(0)
    save_model(folder / "model.pt", VBPR.from_data(data, embedding_dim=4), data)
    return in_processes(work, str(folder))


@pytest.mark.parametrize("name", CASES)
def test_parts_make_the_table_of_one_process(folder: Path, processes, name: str) -> None:
    assert processes[0]["files"][name] == [f"part-0000{n}-of-00002.parquet" for n in range(2)]
    place = folder / name.replace(" ", "-")
    expected = pq.read_table(folder / "alone" / f"{place.name}.parquet")
    assert pq.read_table(place).equals(expected)
    assert pd.read_parquet(place).equals(expected.to_pandas())
    assert (expected.num_rows > 0) == (name != "no users")


def test_both_processes_have_a_part_of_the_users(folder: Path, processes) -> None:
    users = [set(pd.read_parquet(path).user) for path in sorted((folder / "all-users").iterdir())]
    assert min(map(len, users)) >= 100
    assert not users[0] & users[1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("single file", "lists.csv.gz: found a single file for 2 processes, expected a folder"),
        ("taken", "taken: is a folder with files in it, expected a new or empty folder"),
        ("k", "k: found 31, expected 1 to 30"),
        ("another k", "export: found several (process 1: "),
        ("model", "recommender: found another in process 2"),
        ("nothing", "have seen every one of the 1 candidates"),
        ("disk", "lists: cannot be written (No space left on device)"),
    ],
)
def test_what_one_process_cannot_write_ends_all_and_leaves_nothing(folder: Path, processes, name, words) -> None:
    messages = [process["errors"][name] for process in processes]
    assert words in messages[0][0]
    assert messages[0] == messages[1] == (messages[0][0], True)
    assert not [path for path in folder.iterdir() if "lists" in path.name or path.name.startswith(".")]


def test_commands_share_their_work_and_the_first_process_speaks(folder: Path, processes, capsys) -> None:
    first, second = (process["commands"] for process in processes)
    data = ["--data", str(folder / "data.npz"), "--checkpoint", str(folder / "model.pt")]
    assert main(["evaluate", *data, "--view", "visual", "--json", str(folder / "one.json")]) == 0
    assert first["evaluate"] == (0, capsys.readouterr().out, "")
    assert json.loads((folder / "metrics.json").read_text()) == json.loads((folder / "one.json").read_text())
    assert main(["recommend", *data, "--k", "4", "--out", str(folder / "one.parquet")]) == 0
    assert first["recommend"] == (0, f"recommendations: {folder / 'by-command'}\n", "")
    assert len(list((folder / "by-command").iterdir())) == 2
    assert pq.read_table(folder / "by-command").equals(pq.read_table(folder / "one.parquet"))
    assert second["evaluate"] == second["recommend"] == (0, "", "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bad option", "--split"),
        ("bad metric", "unknown metric 'recal'"),
        ("bad data", "none.npz: does not exist"),
        ("single file", "expected a folder in which each writes a part, a name without an ending such as"),
        ("bad place", "metrics.json"),
        ("other command", "doctor: found 2 processes, expected one"),
        ("no command", "did you mean 'evaluate'"),
    ],
)
def test_bad_input_of_a_command_is_one_line_of_the_first_process_and_code_2_in_all(processes, name, words) -> None:
    (code, out, err), second = (process["commands"][name] for process in processes)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("pyg-ckd: error: ")
    assert words in err
    assert second == (2, "", "")


def test_an_error_of_one_process_alone_is_told_by_it(monkeypatch, capsys) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    ranks.report("x: found nothing", everywhere=False)
    ranks.report("process 2 of 3: another process has ended", everywhere=False)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "pyg-ckd: error: process 2 of 3: x: found nothing",
        "pyg-ckd: error: process 2 of 3: another process has ended",
    ]


def test_one_process_writes_a_folder_of_one_part_and_never_over_files(tmp_path: Path) -> None:
    source = recommender()
    (tmp_path / "lists").mkdir()
    assert source.export_top_k(tmp_path / "lists", 4) == tmp_path / "lists"
    assert [path.name for path in (tmp_path / "lists").iterdir()] == ["part-00000-of-00001.parquet"]
    single = pq.read_table(source.export_top_k(tmp_path / "lists.parquet", 4))
    assert pq.read_table(tmp_path / "lists").equals(single)
    for place, words in (("lists", "is a folder with files in it"), ("file", "is a file")):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=f"out .*{place}: {words}, expected a new or empty folder"):
            source.export_top_k(tmp_path / place, 4)


def test_commands_that_share_their_work_exist() -> None:
    from pyg_ckd.cli import DESCRIPTIONS

    assert set(ranks.SHARED) <= set(DESCRIPTIONS)
