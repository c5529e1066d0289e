"""On real data the baselines come out where they should."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyg_ckd import Objective, Trainer, evaluate
from pyg_ckd.datasets import load
from pyg_ckd.evaluation import popularity
from pyg_ckd.nn import LightGCN
from pyg_ckd.training import build

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("name", "recall"), [("tiktok.npz", 0.060)])
def test_popularity_reaches_the_known_recall(name: str, recall: float, data_dir: Path) -> None:
    if not (data_dir / name).is_file():
        pytest.skip(f"no file {data_dir / name}; set PYG_CKD_DATA to the folder of the data sets")
    data = load(data_dir / name)
    assert evaluate(popularity(data), data, "test", k=20)["recall@20"] == pytest.approx(recall, abs=5e-4)


def test_lightgcn_reaches_what_others_report_on_tiktok(data_dir: Path) -> None:
    if not (data_dir / "tiktok.npz").is_file():
        pytest.skip(f"no file {data_dir / 'tiktok.npz'}; set PYG_CKD_DATA to the folder of the data sets")
    data = load(data_dir / "tiktok.npz")
    best = LightGCN.recommended
    model = Objective(build(LightGCN, data, 0, **best["model"]), **best["plain"])
    Trainer(**{**best["trainer"], "track_views": False, "progress": False}).fit(model, data)
    assert evaluate(model, data, "test", k=20)["recall@20"] >= 0.090
