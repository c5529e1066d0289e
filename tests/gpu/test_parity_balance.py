"""The tests that compare strategies with golden files, with those arrays on the device.

What these tests make themselves without naming a device is there too.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent
MODULES = [*sorted((FOLDER / "balance").glob("test_*.py")), FOLDER / "parity" / "test_information.py"]


@pytest.fixture(autouse=True)
def _default(device: torch.device) -> Iterator[None]:
    torch.set_default_device(device)
    yield
    torch.set_default_device(None)


def _with_golden_files() -> dict[str, object]:
    found = {}
    for path in MODULES:
        module = importlib.import_module(f"tests.{path.parent.name}.{path.stem}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("test_") and "golden" in inspect.signature(function).parameters:
                found[f"test_{path.stem.removeprefix('test_')}_{name.removeprefix('test_')}"] = function
    return found


globals().update(_with_golden_files())


def test_every_golden_file_of_a_strategy_is_read_here():
    names = {path.stem for path in (FOLDER / "golden" / "balance").glob("*.npz")}
    text = "".join(path.read_text() for path in MODULES)
    assert names == {name for name in names if f'"balance/{name}"' in text}
