"""``pyg-ckd recommend --where``: columns of items keep what is written, and values are typed as those of the column."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pyg_ckd.cli import main
from pyg_ckd.data import build_data
from pyg_ckd.nn import VBPR
from pyg_ckd.serving import Recommender
from pyg_ckd.training import build
from tests.cli.problem import fails

ITEMS = 4
LARGE = 2**53


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    """Return the words of a command for a saved recommender, with columns in it if they are given."""
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame([(u, f"B{i}") for u in range(3) for i in range(ITEMS) if u != i], columns=["user", "item"])
    features = pd.DataFrame(rng.normal(size=(ITEMS, 3)), index=[f"B{n}" for n in range(ITEMS)])
    data = build_data(pairs, {"visual": features, "text": features})
    recommender = Recommender(build(VBPR, data, 0, embedding_dim=4), data)

    def words(columns: pd.DataFrame | None = None) -> list[str]:
        path = recommender.with_columns(columns).save(tmp_path / "served.pt")
        return ["recommend", "--checkpoint", str(path), "--out", str(tmp_path / "a.csv"), "--exclude_seen", "false"]

    return words


def items(args: list[str], out: Path, count: int) -> set[int]:
    assert main([*args, "--k", str(count)]) == 0
    return {int(one[1:]) for one in pd.read_csv(out).item}


COLUMNS = {
    "integers": ([5, 7, 5, 9], "5", {0, 2}),
    "floats": ([0.5, 7, None, 0.5], "0.5", {0, 3}),
    "several": ([5, 7, 5, 9], "[7, 9]", {1, 3}),
    "booleans": ([True, False, False, True], "false", {1, 2}),
    "booleans, one missing": ([True, False, None, True], "true", {0, 3}),
    "booleans as a word": ([True, False, False, True], "no", {1, 2}),
    "large integers, one missing": (pd.array([LARGE, LARGE + 1, None, LARGE + 1], "Int64"), f"{LARGE + 1}", {1, 3}),
    "days": ([datetime.date(2024, 5, day) for day in (1, 2, 2, 3)], "2024-05-02", {1, 2}),
    "days, one missing": ([datetime.date(2024, 5, 2), None, None, datetime.date(2024, 5, 3)], "2024-05-02", {0}),
    "times": (pd.to_datetime(["2024-05-01", "2024-05-02", "2024-05-02", None]), "2024-05-02", {1, 2}),
    "times of a day": (pd.DatetimeIndex(["2024-05-01T10:30", *["2024-05-02"] * 3]), "2024-05-01 10:30", {0}),
    "categories": (pd.Categorical([3, 1, 3, 1]), "3", {0, 2}),
    "texts": (["5", "7", "05", "5"], "05", {2}),
}


@pytest.mark.parametrize("case", COLUMNS)
@pytest.mark.parametrize("saved", [True, False], ids=["saved", "parquet"])
def test_what_a_column_shall_be_is_of_its_type(case, saved, command, tmp_path) -> None:
    column, typed, expected = COLUMNS[case]
    frame = pd.DataFrame({"item": [f"B{n}" for n in range(ITEMS)], "what": column})
    more = []
    if not saved:
        frame.to_parquet(tmp_path / "items.parquet", index=False)
        more = ["--items_file", str(tmp_path / "items.parquet")]
    args = [*command(frame if saved else None), *more, "--where.what", typed]
    assert items(args, tmp_path / "a.csv", len(expected)) == expected


def test_times_with_a_zone_are_those_of_the_zone(command, tmp_path) -> None:
    times = pd.DatetimeIndex(["2024-05-01", "2024-05-02", "2024-05-02", "2024-05-03"]).tz_localize("Europe/Berlin")
    frame = pd.DataFrame({"item": [f"B{n}" for n in range(ITEMS)], "what": times})
    frame.to_parquet(tmp_path / "items.parquet", index=False)
    args = [*command(), "--items_file", str(tmp_path / "items.parquet"), "--where.what", "2024-05-02"]
    assert items(args, tmp_path / "a.csv", 2) == {1, 2}


CELLS = {
    "large integers, one missing": ([f"{LARGE}", f"{LARGE + 1}", "", f"{LARGE + 1}"], f"{LARGE + 1}", {1, 3}),
    "larger integers, one missing": ([f"{2**63}", f"{2**63 + 1}", "", "7"], f"{2**63 + 1}", {1}),
    "negative ones": ([f"-{LARGE}", f"-{LARGE + 1}", "", "7"], f"-{LARGE + 1}", {1}),
    "integers beyond 64 bits": ([f"{2**70}", f"{2**70 + 1}", "", "7"], f"{2**70 + 1}", {1}),
    "small integers, one missing": (["5", "7", "", "5"], "5", {0, 3}),
    "truth values, one missing": (["True", "False", "", "True"], "True", {0, 3}),
    "leading zeros": (["00003", "00007", "3", "00003"], "00003", {0, 3}),
    "leading zeros, one missing": (["00003", "00007", "", "00003"], "00003", {0, 3}),
    "zero": (["0", "7", "0", "3"], "0", {0, 2}),
    "prices": (["0.50", "7", "0.5", ""], "0.5", {0, 2}),
}


@pytest.mark.parametrize("case", CELLS)
def test_columns_of_a_text_table_keep_what_is_written(case, command, tmp_path) -> None:
    cells, typed, expected = CELLS[case]
    rows = "".join(f"B{n},{cell}\n" for n, cell in enumerate(cells))
    (tmp_path / "items.csv").write_text(f"item,what\n{rows}", encoding="utf-8")
    args = [*command(), "--items_file", str(tmp_path / "items.csv"), "--where.what", typed]
    assert items(args, tmp_path / "a.csv", len(expected)) == expected


def test_large_integers_of_parquet_are_not_rounded_where_one_is_missing(command, tmp_path) -> None:
    frame = pd.DataFrame({"item": [f"B{n}" for n in range(ITEMS)]})
    frame["what"] = pd.array([LARGE, LARGE + 1, None, 7], "Int64").astype(object)
    frame.astype({"what": "Int64"}).to_parquet(tmp_path / "items.parquet", index=False)
    table = pq.read_table(tmp_path / "items.parquet")
    pq.write_table(table.replace_schema_metadata(), tmp_path / "items.parquet")  # As other programs write it.
    args = [*command(), "--items_file", str(tmp_path / "items.parquet"), "--where.what", f"{LARGE}"]
    assert items(args, tmp_path / "a.csv", 1) == {0}


@pytest.mark.parametrize("cells", [["hat", "shoe", "hat", "cap"], ["5", "7", "5", "9"]])
def test_several_values_without_brackets_are_offered_with_them(cells, command, tmp_path, capsys) -> None:
    frame = pd.DataFrame({"item": [f"B{n}" for n in range(ITEMS)], "kind": cells})
    line = fails(capsys, [*command(frame), "--k", "1", "--where.kind", f"{cells[0]},{cells[1]}"])
    assert f"no item has kind = '{cells[0]},{cells[1]}'; it is, for instance, '{cells[0]}'" in line
    assert f"write --where.kind '[{cells[0]},{cells[1]}]'" in line


def test_a_value_with_a_comma_is_one_value(command, tmp_path) -> None:
    frame = pd.DataFrame({"item": [f"B{n}" for n in range(ITEMS)], "kind": ["hat, red", "shoe", "hat", "red"]})
    args = [*command(frame), "--where.kind", "hat, red"]
    assert items(args, tmp_path / "a.csv", 1) == {0}
