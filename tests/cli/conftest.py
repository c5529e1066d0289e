"""A small data set for the tests of the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def arrays() -> dict[str, Any]:
    """A small valid data set in the layout of the .npz reader."""
    rng = np.random.default_rng(0)
    key = rng.permutation(30 * 20)[:240]
    pairs = np.stack([key // 20, key % 20]).astype(np.int32)
    return {
        "num_users": np.int64(30),
        "num_items": np.int64(20),
        "train": pairs[:, :180],
        "val": pairs[:, 180:210],
        "test": pairs[:, 210:],
        "visual": rng.normal(size=(20, 6)).astype(np.float32),
        "acoustic": rng.normal(size=(20, 4)).astype(np.float32),
    }


@pytest.fixture
def save(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    def write(content: dict[str, Any]) -> str:
        path = tmp_path / "data.npz"
        np.savez(path, **content)
        return str(path)

    return write
