"""Fixtures that all rooms share: golden files, real data, small random graphs, double precision."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.data import build_data

HERE = Path(__file__).parent
GOLDEN = Path(os.environ.get("PYG_CKD_GOLDEN", HERE / "golden"))
DATA = Path(os.environ.get("PYG_CKD_DATA", HERE.parent.parent / "shared" / "data"))
TOLERANCE = 1e-8
SPREAD = {HERE / "examples", HERE / "test_guides.py"}
"""Folders and files of few tests that take long and have nothing in common."""


@cache
def starts_processes(file: Path) -> bool:
    """Return whether tests of a file start groups of processes."""
    return file.is_file() and "in_processes" in file.read_text(encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run the tests of a file in one worker: what they share would be computed by every worker.

    Groups of processes come one after the other, for processes wait for each other.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = config.rootpath / nodeid.split("::")[0]
            if SPREAD.isdisjoint((file, file.parent)):
                return "groups of processes" if starts_processes(file) else str(file)
            return nodeid

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Trace the first case of every test alone: the others run the same lines, and tracing takes half as long again."""
    seen: set[str] = set()
    for item in items:
        test = item.nodeid.split("[")[0]
        if test in seen:
            item.add_marker(pytest.mark.no_cover)
        seen.add(test)
        if starts_processes(item.path):
            item.add_marker(pytest.mark.several)


class Golden:
    """A golden file whose every key is either read as an input or compared as a result.

    Args:
        path: The ``.npz`` file.
        device: Where its arrays shall lie.
    """

    INPUTS = re.compile(
        r"(param|hyper|batch|teacher|feat)/.+|n_users|n_items|embedding_dim|edges|(train|test)_edges|\w+_features|ks|scores"
    )

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        with np.load(path, allow_pickle=False) as file:
            self._arrays = {key: file[key] for key in file.files}
        self.name = path.stem
        self._read: set[str] = set()
        self._difference: dict[str, float] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def __getitem__(self, key: str) -> Tensor:
        self._read.add(key)
        return torch.from_numpy(self._arrays[key]).to(self.device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def integer(self, key: str) -> int:
        return int(self[key])

    def number(self, key: str) -> float:
        return float(self[key])

    def compare(self, key: str, value: Tensor | float) -> None:
        """Note by how much ``value`` differs from the array under ``key``."""
        expected = torch.from_numpy(np.asarray(self._arrays[key]))
        value = torch.as_tensor(value).detach().cpu()
        assert value.shape == expected.shape, f"{self.name}: {key} has shape {tuple(value.shape)}"
        difference = (value.to(torch.float64) - expected.to(torch.float64)).abs()
        assert not difference.isnan().any(), f"{self.name}: {key} has NaN"
        self._difference[key] = float(difference.max()) if difference.numel() else 0.0

    def finish(self) -> None:
        """Require that nothing was left out and that nothing differs; log the largest difference."""
        inputs = {key for key in self._read if self.INPUTS.fullmatch(key)}
        left = sorted(self._arrays.keys() - inputs - self._difference.keys())
        assert not left, f"{self.name}: not covered: {left}"
        wrong = {key: value for key, value in self._difference.items() if not value <= TOLERANCE}
        assert not wrong, f"{self.name}: differs by more than {TOLERANCE}: {wrong}"
        largest = max(self._difference.values())
        logging.getLogger(__name__).info("%s: %d arrays within %.1e", self.name, len(self._difference), largest)


@pytest.fixture
def golden() -> Callable[[str], Golden]:
    """Open a golden file by name."""
    return lambda name: Golden(GOLDEN / f"{name}.npz")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets."""
    if not DATA.is_dir():
        pytest.skip(f"no folder {DATA}; set PYG_CKD_DATA to the folder of the data sets")
    return DATA


@pytest.fixture
def double() -> Iterator[None]:
    """Make float64 the default type inside a test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def random_data(
    num_users: int = 12,
    num_items: int = 9,
    modalities: Sequence[str] | int = 2,
    seed: int = 0,
    transform: str = "standardize",
) -> HeteroData:
    """Return a small graph in which every user has a training, a validation and a test item.

    The last item has no interaction at all. Features are normal with mean 1 (before ``transform``); modality ``m`` is
    ``3 + m`` wide.
    """
    names = [f"mod{n}" for n in range(modalities)] if isinstance(modalities, int) else list(modalities)
    rng = np.random.default_rng(seed)
    splits: dict[str, list[tuple[int, int]]] = {"train": [], "val": [], "test": []}
    for user in range(num_users):
        items = rng.permutation(num_items - 1)
        size = int(rng.integers(1, num_items - 3))
        splits["train"] += [(user, int(i)) for i in items[:size]]
        splits["val"].append((user, int(items[size])))
        splits["test"].append((user, int(items[size + 1])))
    edges = {name: np.array(pairs).T for name, pairs in splits.items()}
    features = {m: rng.normal(1.0, 1.0, (num_items, 3 + n)) for n, m in enumerate(names)}
    return build_data(
        edges["train"],
        features,
        val=edges["val"],
        test=edges["test"],
        num_users=num_users,
        num_items=num_items,
        transform=transform,
    )


@pytest.fixture
def make_data() -> Callable[..., HeteroData]:
    """Build small random graphs, see :func:`random_data`."""
    return random_data
