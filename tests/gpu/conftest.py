"""The device of these tests: CUDA, or the CPU where ``PYG_CKD_GPU_TESTS=cpu`` asks for a trial."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import GOLDEN, Golden

HERE = Path(__file__).parent
TRIAL = os.environ.get("PYG_CKD_GPU_TESTS") == "cpu"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # Read once, when cuBLAS starts.


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = pytest.mark.skip(reason="no CUDA device; PYG_CKD_GPU_TESTS=cpu tries these tests on the CPU")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not (TRIAL or torch.cuda.is_available()):
                item.add_marker(missing)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the library shall compute."""
    return torch.device("cpu" if TRIAL else "cuda")


@pytest.fixture(scope="session")
def cuda(device: torch.device) -> torch.device:
    """The same, for what has a meaning on CUDA alone."""
    if device.type != "cuda":
        pytest.skip("has a meaning on CUDA alone")
    return device


@pytest.fixture
def golden(device: torch.device) -> Callable[[str], Golden]:
    """Open a golden file by name, its arrays on the device."""
    return lambda name: Golden(GOLDEN / f"{name}.npz", device)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Let PyTorch refuse what may give other bits in another run."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
