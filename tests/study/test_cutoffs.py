"""Studies and searches that share runs, but not cut-offs, leave each other's numbers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pyg_ckd.files import read_json, write_json
from pyg_ckd.study.maker import Maker
from pyg_ckd.study.runs import Run
from pyg_ckd.study.store import cutoffs_of
from tests.study.problem import TRAINER, numbers, small

FAST: dict[str, Any] = {"contenders": ["plain"], "baselines": ["popularity"]}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    small(tmp_path / "first", runs=tmp_path / "runs", k=(3,), **FAST).run()
    return tmp_path / "runs"


def searching(folder: Path, k: tuple[int, ...]) -> tuple[Maker, list[Run]]:
    """Return what measures runs as a search does, without the test part, and the runs of a study."""
    study = small(folder / f"maker-{max(k)}", runs=folder / "runs", k=k, **FAST)
    return Maker(study.data, study.stores, study.monitor, study.cutoffs, test=False), study.plan([0])


def test_a_search_measures_validation_in_lists_of_its_own_length(shared: Path) -> None:
    folder = shared.parent
    expected, runs = searching(folder, (3,))
    known = {run.name: expected.make(run)["val"] for run in runs}
    small(folder / "wide", runs=shared, k=(3, 12), **FAST).run()
    for run in runs:
        if run.backbone is not None:
            assert max(cutoffs_of(expected.stores[run.kind].read(run)["val"])) == 12  # type: ignore[index]
        again = expected.make(run)["val"]
        assert max(cutoffs_of(again)) == 5
        assert {name: again[name] for name in known[run.name]} == known[run.name]


def test_a_search_of_other_cut_offs_does_not_change_what_a_study_finds(shared: Path) -> None:
    folder = shared.parent
    expected = numbers(small(folder / "first", runs=shared, k=(3,), **FAST).run())
    wide, runs = searching(folder, (12,))
    for run in runs:
        wide.make(run)
    assert numbers(small(folder / "first", runs=shared, k=(3,), **FAST).run()) == expected


def test_metrics_of_users_are_kept_for_every_largest_cut_off(shared: Path, monkeypatch) -> None:
    """Another study measures with other cut-offs between the last run of a study and its tests."""
    folder = shared.parent
    expected = numbers(small(folder / "first", runs=shared, k=(3,), **FAST).run())
    study = small(folder / "second", runs=shared, k=(3,), **FAST)
    content = study._content

    def meanwhile() -> Any:
        monkeypatch.setattr(study, "_content", content)
        small(folder / "wide", runs=shared, k=(12,), **FAST).run()
        return content()

    monkeypatch.setattr(study, "_content", meanwhile)
    assert numbers(study.run()) == expected
    (path,) = shared.glob("plain-*")
    assert {file.name for file in path.glob("per_user*")} == {"per_user-5.csv", "per_user-12.csv"}


def test_metrics_of_users_of_older_versions_are_read(shared: Path, monkeypatch) -> None:
    folder = shared.parent
    expected = numbers(small(folder / "first", runs=shared, **FAST).run())
    for path in shared.glob("*/per_user-5.csv"):
        path.rename(path.with_name("per_user.csv"))
    monkeypatch.setattr(Maker, "_measured", None)  # Nothing is measured again.
    assert numbers(small(folder / "first", runs=shared, **FAST).run()) == expected


def spoil(content: str | None, path: Path) -> None:
    path.unlink() if content is None else path.write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    "content",
    [None, "", "user,recall@5\n", "user,recall@5\n0,x\n", "user,recall@3\n0,0.5\n", "no table\n1,2,3,4\n"],
    ids=["missing", "empty", "no rows", "texts", "other cut-offs", "no table"],
)
def test_lost_metrics_of_users_are_measured_again(content: str | None, shared: Path) -> None:
    folder = shared.parent
    study = small(folder / "first", runs=shared, **FAST)
    expected = numbers(study.run())
    (path,) = shared.glob("plain-*/per_user-5.csv")
    before = pd.read_csv(path)
    spoil(content, path)
    assert numbers(small(folder / "first", runs=shared, **FAST).run()) == expected
    pd.testing.assert_frame_equal(pd.read_csv(path), before)


def test_a_run_without_its_cut_offs_in_validation_is_measured_again(shared: Path) -> None:
    (path,) = shared.glob("plain-*/run.json")
    record = read_json(path)
    write_json(path, {**record, "val": {}})
    small(shared.parent / "first", runs=shared, **FAST).run()
    assert read_json(path)["val"] == record["val"]


@pytest.mark.parametrize("name", ["popularity", "plain"])
def test_metrics_of_users_that_were_cut_at_the_end_of_a_line_are_measured_again(name: str, shared: Path) -> None:
    study = small(shared.parent / "first", runs=shared, **FAST)
    expected = numbers(study.run())
    (path,) = shared.glob(f"{name}-*/per_user-5.csv")
    before = path.read_bytes()
    for content in (b"".join(before.splitlines(keepends=True)[:12]), before[:-2]):
        path.write_bytes(content)
        assert numbers(small(shared.parent / "first", runs=shared, **FAST).run()) == expected
        assert path.read_bytes() == before


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_run_whose_history_was_cut_is_made_again(lines: int, shared: Path) -> None:
    study = small(shared.parent / "first", runs=shared, **FAST)
    expected = numbers(study.run())
    paths = [next(shared.glob(f"{name}-*/history.csv")) for name in ("plain", "teacher-*")]
    before = [pd.read_csv(path)["val/ndcg@5"].tolist() for path in paths]
    for path in paths:
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))
    again = small(shared.parent / "first", runs=shared, **FAST)
    assert numbers(again.run()) == expected
    assert [pd.read_csv(path)["val/ndcg@5"].tolist() for path in paths] == before
    paths[0].write_bytes(paths[0].read_bytes()[:-3])
    assert ("plain", 0) not in again.histories([0])


class Never:
    """Ends a training before its first epoch."""

    def on_fit_start(self, history, **more) -> None:
        history.stopped = "never"


def test_a_run_without_an_epoch_is_found_again(tmp_path: Path) -> None:
    options = {**FAST, "settings": {"trainer": {**TRAINER, "callbacks": [Never()]}}}
    expected = numbers(small(tmp_path, **options).run())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/run.json")}
    assert numbers(small(tmp_path, **options).run()) == expected
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/run.json")} == before
