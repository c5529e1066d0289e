"""A made-up study with the shape of a real one."""

import numpy as np
import pandas as pd

LEVELS = {"visual": (0.046, 0.058), "textual": (0.066, 0.069), "acoustic": (0.030, 0.044), "tags": (0.05, 0.055)}
TEACHERS = {"visual": 0.0605, "textual": 0.0702, "acoustic": 0.0484, "tags": 0.056}
JOINT = {"popularity": 0.0281, "lightgcn": 0.0648, "plain": 0.0704, "ckd": 0.0812}


def metrics(recall: float, cold: bool = True) -> dict[str, float]:
    values = {
        "recall@10": 0.63 * recall,
        "recall@20": recall,
        "ndcg@10": 0.36 * recall,
        "ndcg@20": 0.44 * recall,
        "precision@20": 0.053 * recall,
        "map@20": 0.21 * recall,
        "coverage@20": 0.62,
        "personalization@20": 0.91,
    }
    if cold:
        values |= {"warm/recall@20": 1.04 * recall, "cold/recall@20": 0.21 * recall}
    return values


def run(name: str, seed: int, modalities: list[str], backbone: str | None = "MMGCN") -> dict:
    rng = np.random.default_rng([seed, *name.encode()])
    recall = JOINT.get(name) or TEACHERS[name.removeprefix("teacher:")]
    recall += 0 if name == "popularity" else rng.normal(0, 0.0009)
    views = {}
    if name in ("plain", "ckd"):
        views = {m: {"recall@20": LEVELS[m][name == "ckd"] + rng.normal(0, 0.0005)} for m in modalities}
    trained = name != "popularity"
    return {
        "name": name,
        "backbone": backbone if trained else None,
        "seed": seed,
        "best_epoch": int(rng.integers(60, 110)) if trained else None,
        "seconds_per_epoch": 1.234 if trained else None,
        "val": metrics(recall * 1.02, cold=False),
        "test": metrics(recall),
        "views": views,
    }


def study(modalities=("visual", "textual", "acoustic"), seeds=(0, 1, 2)) -> dict:
    modalities = list(modalities)
    names = ["lightgcn", *(f"teacher:{m}" for m in modalities), "plain", "ckd"]
    runs = [run("popularity", 0, modalities), *(run(name, seed, modalities) for seed in seeds for name in names)]
    compared = {"a": "ckd", "b": "plain", "mean_a": 0.0812, "mean_b": 0.0704, "difference": 0.0108, "low": 0.0041}
    compared |= {"high": 0.0175}
    effects = {"mean": 0.81, "low": 0.74, "high": 0.88, "ratio": 0.9, "weight": 0.8, "recall_drop": 0.02}
    scale = dict(zip(modalities, (0.7, 1.0, 0.18, 0.4), strict=False))
    return {
        "format": 1,
        "data": {
            "source": "synthetic (seed 7)",
            "num_users": 9412,
            "num_items": 5631,
            "num_train": 81234,
            "num_val": 9412,
            "num_test": 9410,
            "density": 0.00189,
            "cold_items": 213,
            "cold_users": 0,
            "fingerprint": "3f2a9c41d7",
            "modalities": {m: {"dim": 128 * (i + 1), "coverage": 1.0 - 0.1 * i} for i, m in enumerate(modalities)},
            "planted": {m: s / sum(scale.values()) for m, s in scale.items()},
        },
        "settings": {
            "backbone": "MMGCN",
            "options": {"embedding_dim": 64, "num_layers": 2},
            "trainer": {"max_epochs": 200, "lr": 0.001, "batch_size": 1024},
            "distillation": {"distillation_weight": 0.01, "generic_weight": 5.0, "temperature": 0.1},
            "l2": 0.0001,
            "seeds": list(seeds),
        },
        "versions": {"pyg_ckd": "0.1.0", "torch": "2.9.0", "torch_geometric": "2.7.0"},
        "duration_seconds": 4321.0,
        "started": "2025-05-04T10:11:12",
        "runs": runs,
        "effects": {m: {k: v * scale[m] for k, v in effects.items()} for m in modalities}
        if len(modalities) > 1
        else {},
        "comparisons": [
            compared | {"metric": "recall@20", "over": "seeds", "p_value": 0.021, "num": 3},
            compared | {"metric": "recall@20", "over": "users", "p_value": 0.0031, "num": 9412},
            compared | {"metric": "ndcg@20", "over": "users", "p_value": 0.00004, "num": 9412},
        ],
    }


def history(name: str, modalities=("visual", "textual", "acoustic"), epochs: int = 100, every: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(len(name))
    epoch = np.arange(1, epochs + 1)
    rise = 1 - np.exp(-epoch / 16)
    columns = {"loss/bpr": np.exp(-epoch / 30), "val/recall@20": JOINT[name] * rise}
    for m in modalities:
        decay = 1 - 0.12 * (name == "plain") * epoch / epochs
        columns[f"val/{m}/recall@20"] = LEVELS[m][name == "ckd"] * (1 - np.exp(-epoch / 12)) * decay
        if name == "ckd" and len(modalities) > 1:
            columns[f"effect/{m}"] = 12 * LEVELS[m][0] * (0.8 + 0.4 * rise)
            columns[f"weight/{m}"] = 1 + 8 * (0.05 - LEVELS[m][0]) * rise
    frame = pd.DataFrame(columns, index=pd.Index(epoch, name="epoch"))
    for column in frame:
        frame[column] += rng.normal(0, 0.0006 if "val" in column else 0.01, epochs)
        if "val" in column:
            frame.loc[frame.index % every != 0, column] = np.nan
    return frame


def histories(modalities=("visual", "textual", "acoustic"), seeds=(0, 1, 2)) -> dict:
    lengths = {"plain": 90, "ckd": 120}
    return {(n, seed): history(n, modalities, lengths[n]) for n in lengths for seed in seeds}
