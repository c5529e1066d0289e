"""On real data the baselines come out where they should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pyg_ckd import Objective, Trainer, evaluate
from pyg_ckd.datasets import load
from pyg_ckd.evaluation import ease, ease_content, fit_baseline, item_knn, item_knn_content, popularity
from pyg_ckd.nn import LightGCN
from pyg_ckd.training import build

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("name", "recall"), [("tiktok.npz", 0.060)])
def test_popularity_reaches_the_known_recall(name: str, recall: float, data_dir: Path) -> None:
    if not (data_dir / name).is_file():
        pytest.skip(f"no file {data_dir / name}; set PYG_CKD_DATA to the folder of the data sets")
    data = load(data_dir / name)
    assert evaluate(popularity(data), data, "test", k=20)["recall@20"] == pytest.approx(recall, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "model", "recall"),
    [
        ("dbbook2014.npz", lambda data: item_knn(data, k=100, shrinkage=0), 0.235),
        ("dbbook2014.npz", lambda data: ease(data, ridge=100), 0.283),
        ("dbbook2014.npz", lambda data: ease_content(data, ridge=50, weight=2, form="collective"), 0.301),
        ("lastfm.npz", lambda data: ease(data, ridge=100), 0.393),
        ("lastfm.npz", lambda data: ease_content(data, ridge=50, weight=5, form="collective"), 0.411),
        ("ml1m.npz", lambda data: item_knn(data, k=100, shrinkage=0), 0.227),
        ("tiktok.npz", lambda data: ease(data, ridge=50), 0.088),
    ],
    ids=str,
)
def test_closed_forms_reach_what_others_found(name: str, model: Callable, recall: float, data_dir: Path) -> None:
    if not (data_dir / name).is_file():
        pytest.skip(f"no file {data_dir / name}; set PYG_CKD_DATA to the folder of the data sets")
    data = load(data_dir / name)
    assert evaluate(model(data), data, "test", k=20)["recall@20"] == pytest.approx(recall, abs=4e-3)


@pytest.mark.parametrize(
    ("name", "without", "with_content"), [("lastfm.npz", 0.39, 0.41), ("dbbook2014.npz", 0.28, 0.30)]
)
def test_chosen_on_validation_content_pays_on_the_test_part(
    name: str, without: float, with_content: float, data_dir: Path
) -> None:
    if not (data_dir / name).is_file():
        pytest.skip(f"no file {data_dir / name}; set PYG_CKD_DATA to the folder of the data sets")
    data = load(data_dir / name)
    recall = {
        baseline: evaluate(fit_baseline(baseline, data).embeddings, data, "test", k=20)["recall@20"]
        for baseline in ("ease", "ease-content")
    }
    assert recall["ease"] >= without
    assert recall["ease-content"] >= with_content


def test_links_help_item_knn_on_dbbook(data_dir: Path) -> None:
    if not (data_dir / "dbbook2014.npz").is_file():
        pytest.skip(f"no file {data_dir / 'dbbook2014.npz'}; set PYG_CKD_DATA to the folder of the data sets")
    data = load(data_dir / "dbbook2014.npz")
    model = item_knn_content(data, k=100, shrinkage=0, weight=0.4, modalities=["links"])
    assert evaluate(model, data, "test", k=20)["recall@20"] >= 0.256


def test_lightgcn_reaches_what_others_report_on_tiktok(data_dir: Path) -> None:
    if not (data_dir / "tiktok.npz").is_file():
        pytest.skip(f"no file {data_dir / 'tiktok.npz'}; set PYG_CKD_DATA to the folder of the data sets")
    data = load(data_dir / "tiktok.npz")
    best = LightGCN.recommended
    model = Objective(build(LightGCN, data, 0, **best["model"]), **best["plain"])
    Trainer(**{**best["trainer"], "track_views": False, "progress": False}).fit(model, data)
    assert evaluate(model, data, "test", k=20)["recall@20"] >= 0.090
