"""One table of several studies says what their files say."""

from __future__ import annotations

from examples.contenders import summary
from pyg_ckd.study.results import gaps, run_mean
from tests.report import many


def cells(text: str) -> dict[str, list[str]]:
    return {line[0]: line for line in ([c.strip() for c in row.split("|")[1:-1]] for row in text.splitlines()[2:])}


def test_a_line_holds_the_recall_the_difference_and_the_weakest_view_of_every_study() -> None:
    first, second = many.study(), many.study()
    for run in second["runs"]:
        run["test"]["recall@20"] *= 2 if run["name"] != "ckd" else 3
    found = cells(summary([first, second]))
    plain, ckd = (run_mean(first, name, "recall@20") for name in ("plain", "ckd"))
    assert found["ckd"][1].startswith(f"{ckd:.4f} (")
    assert found["plain"][2] == f"{2 * plain:.4f}"
    relative = (ckd / plain - 1 + 1.5 * ckd / plain - 1) / 2
    assert found["ckd"][3] == f"{100 * relative:+.1f} %".replace("-", "−")
    weakest = min(gap.reach for gap in gaps(first, "recall@20") if gap.contender == "ckd")
    assert found["ckd"][4] == f"{100 * weakest:.0f} %"
    assert found["EASE"][3:] == ["", "", "", ""]


def test_contenders_are_sorted_and_those_that_are_not_everywhere_come_last() -> None:
    first, second = many.study(), many.study()
    second["runs"] = [run for run in second["runs"] if run["name"] != "mine"]
    second["contenders"] = [c for c in second["contenders"] if c["name"] != "mine"]
    names = list(cells(summary([first, second])))
    assert names[-1] == "mine"
    assert not any("teacher" in name.lower() for name in names)
    start = names.index("plain") + 1
    means = [run_mean(first, name, "recall@20") for name in names[start:-1]]
    assert means == sorted(means, reverse=True)
