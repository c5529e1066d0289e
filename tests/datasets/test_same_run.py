"""The same arrays in any format give the same training run, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd import Trainer, evaluate
from pyg_ckd.data import build_data
from pyg_ckd.datasets import convert, load, write_npz
from pyg_ckd.datasets.formats.common import SIDECAR
from pyg_ckd.nn import VBPR
from pyg_ckd.training import build

FOLDERS = ["diffmm", "mmrec", "lattice"]


def arrays(grouped: bool) -> HeteroData:
    """Return a small graph as TikTok is: three modalities as they are in their files, some cold items."""
    rng = np.random.default_rng(0)
    keys = rng.permutation(60 * 40)[:700]
    users, items = keys // 40, keys % 40
    place = rng.choice(3, keys.size, p=[0.8, 0.1, 0.1])
    place[np.isin(items, [0, 39])] = 2
    parts = [np.stack([users[place == n], items[place == n]]) for n in range(3)]
    if grouped:
        parts = [part[:, np.argsort(part[0], kind="stable")] for part in parts]
    widths = {"visual": 12, "textual": 9, "acoustic": 5}
    features = {m: rng.normal(3, 2, (40, d)).astype(np.float32) for m, d in widths.items()}
    train, val, test = parts
    return build_data(train, features, val=val, test=test, num_users=60, num_items=40, transform="none")


def run(path: Path, k: int) -> tuple[list[dict[str, float]], dict[str, torch.Tensor], dict[str, float]]:
    """Return losses and metrics of each epoch, the parameters, and the test metrics of two epochs of training."""
    data = load(path)
    model = build(VBPR, data, 0)
    history = Trainer(max_epochs=2, monitor=f"recall@{k}", progress=False, seed=0).fit(model, data)
    rows = [{name: value for name, value in row.items() if "second" not in name} for row in history.rows]
    return rows, model.state_dict(), dict(evaluate(model, data, "test", k=k))


def same_run(source: Path, target: Path, k: int) -> None:
    (rows, state, metrics), (other_rows, other_state, other_metrics) = run(source, k), run(target, k)
    assert len(rows) == 2
    assert str(rows) == str(other_rows)  # As text, so that nan equals nan.
    assert state.keys() == other_state.keys()
    for name, value in state.items():
        assert value.numpy().tobytes() == other_state[name].numpy().tobytes(), name
    assert metrics == other_metrics


@pytest.mark.parametrize("name", FOLDERS)
def test_converted_arrays_give_the_same_run(name, tmp_path):
    write_npz(arrays(grouped=False), tmp_path / "data.npz")
    convert(tmp_path / "data.npz", tmp_path / name, name)
    same_run(tmp_path / "data.npz", tmp_path / name, 5)


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_without_our_own_file_give_the_same_run(name, tmp_path):
    write_npz(arrays(grouped=True), tmp_path / "data.npz")
    convert(tmp_path / "data.npz", tmp_path / name, name)
    (tmp_path / name / SIDECAR).unlink()
    same_run(tmp_path / "data.npz", tmp_path / name, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_tiktok_gives_the_same_run_in_every_format(name, real_data, tmp_path):
    source = real_data("tiktok.npz")
    convert(source, tmp_path / name, name)
    same_run(source, tmp_path / name, 20)


def test_another_order_of_interactions_gives_another_run(tmp_path):
    write_npz(arrays(grouped=False), tmp_path / "data.npz")
    write_npz(arrays(grouped=True), tmp_path / "grouped.npz")
    rows, other = (str(run(tmp_path / name, 5)[0]) for name in ("data.npz", "grouped.npz"))
    assert rows != other
