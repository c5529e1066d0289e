"""Help texts: within 80 columns, without marks of reStructuredText, every group under its own headline."""

from __future__ import annotations

import re

import pytest

from pyg_ckd.balance.discovery import strategies
from pyg_ckd.cli import DESCRIPTIONS, main
from pyg_ckd.cli.help import arguments_of, clean, item
from pyg_ckd.nn import backbones

MARKS = re.compile(r"``|:[a-z]+:`|`_|\\[a-zA-Z]+|<class|\.\. math|\[\d+\]_")
COMMANDS = [
    *([name] for name in DESCRIPTIONS if name != "data"),
    ["data"],
    *(["data", name] for name in ("amazon", "convert", "describe")),
    *(["train", "--backbone", name] for name in backbones()),
    *(["train", "--objective", name] for name in strategies()),
    ["compare", "--contenders", ",".join(strategies())],
]


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*args, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_80_columns_and_has_no_marks(command: list[str], capsys) -> None:
    text = shown(capsys, *command)
    assert text.startswith(f"usage: pyg-ckd {command[0]}")
    assert max(map(len, text.splitlines())) <= 80
    assert MARKS.findall(text) == []


ELSEWHERE = re.compile(r"\bas above\b|, see \w|; see \w|used like|the loss above")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_lines_of_help_stand_alone(command: list[str], capsys) -> None:
    assert ELSEWHERE.findall(" ".join(shown(capsys, *command).split())) == []


def test_references_to_other_pages_are_no_part_of_help() -> None:
    def function() -> None:
        """Do it.

        Args:
            first: A loss, see :func:`a` and
                :meth:`b <c.d>`. More.
            second: Objects; see :attr:`HOOKS` for names.
            third: A share, see :mod:`x`; the rest.
        """

    found = arguments_of(function)
    assert found == {"first": "A loss. More.", "second": "Objects; see HOOKS for names.", "third": "A share; the rest."}


def test_lists_of_models_and_strategies_have_no_marks(capsys) -> None:
    for args in (["models"], ["strategies"], *(["strategies", name] for name in strategies())):
        assert main(args) == 0
        assert MARKS.findall(capsys.readouterr().out) == []


def test_every_group_has_its_own_headline(capsys) -> None:
    def headlines(*args: str) -> list[str]:
        return [line for line in shown(capsys, *args).splitlines() if re.fullmatch(r"[A-Z].*:", line)]

    parts = ["Plain training:", "Teachers:", "Options of ckd:"]
    assert headlines("train", "--backbone", "VBPR") == ["Options:", "Backbone VBPR:", "Trainer:", *parts[:2]]
    assert headlines("train", "--objective", "ckd")[3:] == parts
    assert headlines("train", "--objective=odsw", "--strategy.inner=ckd")[3:] == [*parts, "Options of odsw:"]
    found = headlines("train", "--backbone", "GRCN", "--objective", "multitask")
    assert found == ["Options:", "Backbone GRCN:", "Trainer:", *parts[:2], "Options of multitask:"]
    found = headlines("compare", "--contenders", "low,ckd", "--options", "{low: {strategy: multitask}}")
    assert found == ["Options:", "Backbone FISM:", "Trainer:", *parts, "Options of low:", "Baseline LightGCN:"]


def test_options_of_the_chosen_backbone_and_strategy_are_shown_with_their_defaults(capsys) -> None:
    text = " ".join(shown(capsys, "train", "--backbone=VBPR", "--objective", "multitask").split())
    assert "--model.item_bias true|false" in text
    assert "--strategy.weight NUMBER" in text
    best = backbones()["VBPR"].recommended
    lr = best["trainer"]["lr"]
    assert re.search(rf"--trainer.lr NUMBER [^-]*\(default: {lr}\)", text)
    assert re.search(rf"--strategy.l2 NUMBER [^-]*\(default: {best['plain']['l2']}\)", text)


def test_required_options_stand_in_the_first_line_and_are_marked(capsys) -> None:
    text = shown(capsys, "recommend")
    assert text.splitlines()[0] == "usage: pyg-ckd recommend --checkpoint PATH --out PATH [options]"
    assert " ".join(text.split()).count("(required)") == 2


CLEANED = {
    "Weight :math:`\\lambda` of the penalty, see :func:`~pyg_ckd.nn.l2_penalty`.": (
        "Weight lambda of the penalty, see l2_penalty."
    ),
    "One of :math:`\\mathbf{W}_m`, or :obj:`None`.": "One of W_m, or None.",
    "See :class:`pyg_ckd.Trainer` and :meth:`the loop <pyg_ckd.Trainer.fit>`.": "See Trainer and the loop.",
    '``"sum"`` as in `the paper <https://doi.org/1>`_ [5]_.': '"sum" as in the paper.',
    "Names, *e.g.*, **two** of a * b * c.": "Names, e.g., two of a * b * c.",
    "Number of columns. (default: :obj:`None`, 128)": "Number of columns. (default: 128)",
    'A name. (default: :obj:`"2014"`)': "A name.",
    "Shares. (default: ``(0.8, 0.1, 0.1)``)": "Shares.",
    "Over\ntwo  lines.": "Over two lines.",
    ":math:`\\tau > 0` or :math:`a \\cdot b \\leq \\textrm{max}`": "tau > 0 or a * b <= max",
}


@pytest.mark.parametrize("text", CLEANED)
def test_marks_of_docstrings_become_plain_words(text: str) -> None:
    assert clean(text) == CLEANED[text]


def test_arguments_are_read_from_a_docstring() -> None:
    def function() -> None:
        """Do it.

        Args:
            first: One line
                and the next: with a colon.
            second (int): Another.
            **more: The rest.

        Returns:
            third: Not an argument.
        """

    found = arguments_of(function)
    assert found == {"first": "One line and the next: with a colon.", "second": "Another.", "more": "The rest."}


def test_a_long_name_stands_on_a_line_of_its_own() -> None:
    assert item("--a INT", "Text.") == ["  --a INT".ljust(24) + "Text."]
    assert item("--a_very_long_option.name INT", "Text.") == ["  --a_very_long_option.name INT", " " * 24 + "Text."]
    assert item("--a_very_long_option.name INT", "") == ["  --a_very_long_option.name INT"]
