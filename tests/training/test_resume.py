"""A run killed at any moment ends with the bits of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    key = rng.permutation(200 * 100)[:3000]
    pairs = np.stack([key // 100, key % 100])
    path = tmp_path_factory.mktemp("data") / "data.npz"
    features = {m: rng.normal(size=(100, 16)).astype(np.float32) for m in ("visual", "textual")}
    np.savez(
        path,
        num_users=200,
        num_items=100,
        train=pairs[:, :2400],
        val=pairs[:, 2400:2700],
        test=pairs[:, 2700:],
        **features,
    )
    return path


def start(data: Path, out: Path) -> subprocess.Popen[bytes]:
    options = ["--backbone", "VBPR", "--objective", "ckd", "--trainer.max_epochs", "25"]
    command = [sys.executable, "-m", "pyg_ckd.cli", "train", "--data", str(data), "--out", str(out), *options]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()


def wait_for(path: Path, epochs: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the checkpoint has seen some epochs; return False if the process was faster."""
    while process.poll() is None:
        if path.exists() and len(torch.load(path, weights_only=True)["run"]["rows"]) >= epochs:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(data, out))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["between teachers", "within a teacher", "after 2 epochs", "after 12 epochs"])
def test_a_killed_run_ends_with_the_same_bits(moment: str, data: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(data, out)
    if "teacher" in moment:
        pattern = "*.pt" if moment == "between teachers" else "*/last.pt"
        while not any((out / "teachers").glob(pattern)) and process.poll() is None:
            time.sleep(0.01)
    else:
        assert wait_for(out / "last.pt", int(moment.split()[1]), process), "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "model.pt").exists()

    finish(start(data, out))
    for name in ("history.csv", "metrics.json"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()
    ours, theirs = (torch.load(folder / "model.pt", weights_only=True)["state"] for folder in (out, undisturbed))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
