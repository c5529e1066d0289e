"""``pyg-ckd strategies``: a line for every strategy, and the options of one."""

from __future__ import annotations

import re
import sys

import pytest

from pyg_ckd.balance.discovery import find_strategy, options_of, strategies
from pyg_ckd.cli import main
from tests.cli.problem import fails


def test_every_strategy_has_a_line_plain_training_first(capsys) -> None:
    assert main(["strategies"]) == 0
    table, _, legend = capsys.readouterr().out.partition("\n\n")
    assert all(f"{column}: " in legend for column in ("teachers", "as inside", "one view", "own views"))
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert list(lines) == list(strategies())
    assert next(iter(lines)) == "plain"
    for name, words in {
        "plain": ["no teachers", "one view"],
        "ckd": [" teachers", "own views"],
        "multitask": ["no teachers", "own views"],
        "ensemble": [" teachers"],
    }.items():
        assert all(word in lines[name] for word in words)
        assert ("no teachers" in lines[name]) == ("no teachers" in words)
        first = (strategies()[name].__doc__ or "").strip().splitlines()[0]
        assert lines[name].endswith(first)


@pytest.mark.parametrize("name", list(strategies()))
def test_the_options_of_a_strategy_are_shown_with_their_defaults(name: str, capsys) -> None:
    assert main(["strategies", name]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    for option, parameter in options_of(strategies()[name]).items():
        default = parameter.default
        written = str(default).lower() if isinstance(default, bool) else str(default)
        written = ",".join(default) if isinstance(default, tuple) else written
        assert f" {option} " in flat
        assert "default" in flat.partition(f" {option} ")[2]
        assert default is None or f"(default: {written})" in flat.partition(f" {option} ")[2]


@pytest.mark.parametrize(
    ("name", "words"),
    {
        "ckd": "Several processes may share out its batches.",
        "odsw": "Several processes may share out its batches, if they may train the strategy inside.",
        "mmpareto": "With its defaults one process trains it, for it needs the gradients of single terms whole.",
    }.items(),
)
def test_it_says_whether_several_processes_may_train_a_strategy(name: str, words: str, capsys) -> None:
    assert main(["strategies", name]) == 0
    assert words in " ".join(capsys.readouterr().out.split())


def test_it_shows_what_was_chosen_on_validation_parts(monkeypatch, capsys) -> None:
    monkeypatch.setattr(strategies()["elimrec"], "recommended", {})
    assert main(["strategies", "elimrec"]) == 0
    assert "Chosen on validation parts" not in capsys.readouterr().out
    monkeypatch.setattr(strategies()["elimrec"], "recommended", {"weight": 0.25})
    assert main(["strategies", "elimrec"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Chosen on validation parts, and set by commands and studies: weight 0.25." in shown


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"mode": ["a", "b", "c"]}, "pyg-ckd tune searches mode among a, b, c."),
        ({"weight": (0.1, 10.0)}, "pyg-ckd tune searches weight from 0.1 to 10."),
        ({"weight": "1:5", "on": [True, False]}, "pyg-ckd tune searches weight from 1 to 5, on among true, false."),
        ({"weight": [0.5, 1.0]}, "pyg-ckd tune searches weight among 0.5, 1."),
    ],
    ids=str,
)
def test_ranges_and_values_of_every_kind_are_shown(space, words, capsys, tmp_path, monkeypatch) -> None:
    (tmp_path / "kinds_of_space.py").write_text(
        'from pyg_ckd import Objective\n\nclass Mine(Objective):\n    """Mine."""\n\n'
        "    recommended = {'mode': 'soft', 'on': True, 'weight': 2.0}\n\n"
        "    def __init__(self, student, mode: str = 'a', weight: float = 1.5, on: bool = False):\n"
        "        super().__init__(student)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "kinds_of_space", raising=False)
    monkeypatch.setattr(find_strategy("kinds_of_space.Mine"), "search_space", space)
    assert main(["strategies", "kinds_of_space.Mine"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert words in shown
    assert "set by commands and studies: mode soft, on true, weight 2." in shown


def test_a_range_that_is_none_is_refused_by_its_knob(capsys, monkeypatch) -> None:
    monkeypatch.setattr(strategies()["elimrec"], "search_space", {"weight": (1.0, 1.0)})
    assert "knob strategy.weight: found '1:1', expected" in fails(capsys, ["strategies", "elimrec"])


def test_a_strategy_of_a_file_of_ones_own_is_shown_by_its_path(capsys, tmp_path, monkeypatch) -> None:
    (tmp_path / "shown_strategy.py").write_text(
        'from pyg_ckd import Objective\n\nclass Mine(Objective):\n    """Pulls ``all`` modalities."""\n\n'
        "    def __init__(self, student, pull: float = 1.5):\n        super().__init__(student)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert main(["strategies", "shown_strategy.Mine"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Mine: Pulls all modalities.\n")
    assert "pull" in text
    assert "1.5" in text


def test_a_wrong_name_gives_the_closest(capsys) -> None:
    assert "unknown strategy 'multitsk': did you mean 'multitask'?" in fails(capsys, ["strategies", "multitsk"])
    assert "no_such.Mine: cannot be imported" in fails(capsys, ["strategies", "no_such.Mine"])
    assert "found 'more', which belongs to no option" in fails(capsys, ["strategies", "ckd", "more"])
    assert "unknown option --objective" in fails(capsys, ["strategies", "--objective", "ckd"])


def test_of_a_wrapper_the_strategy_inside_says_whether_teachers_are_needed(capsys) -> None:
    assert main(["strategies"]) == 0
    assert re.search(r"^odsw +as inside ", capsys.readouterr().out, flags=re.MULTILINE)
    assert main(["strategies", "odsw"]) == 0
    assert "It needs what the strategy inside needs" in capsys.readouterr().out
