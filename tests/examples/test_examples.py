"""Every example runs from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("wrap_your_model.py", ["--max_epochs", "1"], ["recall@20", "weight"]),
        ("ablation.py", ["--max_epochs", "1"], ["| no teachers |", "| no re-weighting |", "| all |"]),
    ],
)
def test_an_example_runs(name: str, args: list[str], words: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PYG_HOME": str(tmp_path)}
    command = [sys.executable, str(EXAMPLES / name), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout
