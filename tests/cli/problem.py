"""What the tests of the commands share: a quick training, and the one line of bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyg_ckd.cli import main

QUICK = [
    *("--trainer.max_epochs", "2"),
    *("--trainer.progress", "false"),
    *("--trainer.lr", "0.01"),
    *("--trainer.batch_size", "64"),
]


def fails(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    """Run the command line, require exit code 2 and one line on stderr, and return the line."""
    capsys.readouterr()
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert err.startswith("pyg-ckd: error: ")
    assert "Traceback" not in out + err
    return err


def train(data: str, out: Path, *more: str) -> list[str]:
    return ["train", "--data", data, "--out", str(out), "--backbone", "VBPR", "--k", "[5]", *QUICK, *more]
