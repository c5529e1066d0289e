"""Nights of a shop go on after a break and beat what is simple; one more period costs old users little."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

from examples import continual, every_night
from examples.growing import graph_of, grow, rows_of
from pyg_ckd.training import run_file

QUICK = ["--users", "160", "--first-epochs", "8", "--max-epochs", "2", "--lr", "1e-2"]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pt")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module", name="nights")
def _nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nights")
    every_night.main(["--out", str(folder), *QUICK])
    return folder


def test_every_night_beats_popularity_and_a_cold_epoch(nights: Path) -> None:
    records = [json.loads((nights / f"night-{n}" / "metrics.json").read_text()) for n in (1, 2, 3)]
    for record in records:
        assert record["model"] > record["popularity"]
        assert record["model"] > record["one cold epoch"]
    for kind in ("users", "items"):
        sizes = [record[kind] for record in records]
        assert sizes == sorted(set(sizes))  # They grow.
    lists = pd.read_parquet(nights / "night-3" / "lists.parquet")
    assert lists["user"].nunique() == records[2]["users"]
    met = grow(160, 128, days=every_night.DAYS).of_days(0, 4)
    assert lists[["user", "item"]].merge(met).empty


@pytest.mark.parametrize("writes", [3, 9])  # In the first night and in the second.
def test_killed_in_the_middle_the_same_call_goes_on(writes, nights, tmp_path, monkeypatch, capsys) -> None:
    count, save = [0], run_file.write_whole

    def dies(path, content):
        save(path, content)
        count[0] += 1
        if count[0] == writes:
            raise KeyboardInterrupt

    call = ["--out", str(tmp_path), *QUICK]
    with monkeypatch.context() as patch:
        patch.setattr(run_file, "write_whole", dies)
        with pytest.raises(KeyboardInterrupt):
            every_night.main(call)
    broken = tmp_path / f"night-{1 if writes == 3 else 2}"
    assert (broken / "last.pt").exists()
    assert not (broken / "metrics.json").exists()
    every_night.main(call)
    assert digests(tmp_path) == digests(nights)
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    capsys.readouterr()
    every_night.main(call)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == finished
    assert capsys.readouterr().out.count("\n") == 5


def test_nights_of_other_settings_are_refused(nights, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        every_night.main(["--out", str(nights), *QUICK, "--seed", "1"])
    assert error.value.code == 2
    assert "found nights of other settings" in capsys.readouterr().err


def test_one_more_period_is_measured_for_old_and_new(capsys) -> None:
    continual.main(["--users", "160", "--seeds", "1", "--first-epochs", "8", "--lr", "1e-2"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    value = {row[0]: [float(x.split()[0]) if x[0].isdigit() else None for x in row[1:]] for row in rows[2:]}
    assert value["the earlier model"][1:] == [None] * 4
    for warm in ("plain fine-tuning", "incremental"):
        assert value[warm][0] > value["from scratch"][0]
        assert value[warm][1] > value["from scratch"][1]
    assert value["warm start, all clicks"][1] > value["from scratch, all clicks"][1]


def test_a_shop_grows_and_nobody_clicks_on_what_is_not_there() -> None:
    shop = grow(60, 50, days=4, seed=3)
    assert not shop.clicks.duplicated(["user", "item"]).any()
    for kind in ("user", "item"):
        assert (shop.clicks[kind].map(shop.opened[kind]) <= shop.clicks["day"]).all()
        assert 0 < len(shop.until(kind, 0)) < len(shop.until(kind, 3)) == shop.opened[kind].size
    pd.testing.assert_frame_equal(shop.clicks, grow(60, 50, days=4, seed=3).clicks)
    first, later = (graph_of(shop, day, shop.of_days(0, day - 1), shop.of_days(day, day)) for day in (2, 3))
    for rows, kind in zip(rows_of(later, first), ("user", "item"), strict=True):
        there, here = getattr(later, f"{kind}_id"), getattr(first, f"{kind}_id")
        assert [there[row] for row in rows.tolist()] == list(here)
