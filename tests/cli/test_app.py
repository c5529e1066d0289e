"""``pyg-ckd`` itself: commands, version, exit codes, encodings of the terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pyg_ckd.cli import main
from tests.cli.problem import fails


def test_a_wrong_command_gives_the_closest_one(capsys) -> None:
    assert "'compare'" in fails(capsys, ["compre", "--data", "x"])


def test_options_before_the_command_are_refused_with_the_right_order(capsys, tmp_path) -> None:
    config = tmp_path / "x.yaml"
    config.write_text("backbone: VBPR\n")
    line = fails(capsys, ["--config", str(config), "train", "--data", "x"])
    assert "found option --config in its place" in line
    assert "pyg-ckd train --config ..." in line
    assert "expected one of compare, train" in fails(capsys, ["--config", str(config)])


def test_the_process_exits_with_code_2_and_without_a_traceback(tmp_path) -> None:
    command = [sys.executable, "-m", "pyg_ckd.cli", "train", "--data", str(tmp_path / "x.npz"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "words"), [("train", "goes on from the last checkpoint"), ("models", "nothing is half-written")]
)
def test_an_interruption_gives_one_line_that_says_what_the_same_command_does(command, words, capsys, monkeypatch):
    def interrupt(args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyg_ckd.cli.app._run", interrupt)
    assert main([command]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]
