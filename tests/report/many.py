"""A made-up study of five contenders with the shape of a real one: results of format 2, as a study writes them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pyg_ckd.evaluation.statistics import paired_test
from tests.report.study import metrics

MODALITIES = ("visual", "textual", "acoustic")
TEACHERS = {"visual": 0.0605, "textual": 0.0702, "acoustic": 0.0484, "tags": 0.056, "audio": 0.051}
BASELINES = {"popularity": 0.0281, "item-knn": 0.0667, "ease": 0.0712, "lightgcn": 0.0648}
CONTENDERS = {"plain": 0.0704, "ckd": 0.0779, "multitask": 0.0722, "ensemble": 0.0668, "mine": 0.0812}
REACH = {
    "plain": (0.76, 0.95, 0.62),
    "ckd": (0.95, 0.99, 0.91),
    "multitask": (0.9, 0.97, 0.83),
    "ensemble": (1.0, 1.0, 1.0),
    "mine": (0.97, 0.98, 0.94),
}
STRATEGIES = {
    "plain": ("pyg_ckd.balance.objective.Objective", {"l2": 0.001}, False),
    "ckd": ("pyg_ckd.balance.ckd.DistillationWrapper", {"distillation_weight": 0.01, "temperature": 0.1}, True),
    "multitask": ("pyg_ckd.balance.multitask.MultitaskObjective", {"weight": 0.3}, False),
    "ensemble": ("pyg_ckd.balance.ensemble.UnimodalEnsemble", {}, True),
    "mine": ("my_pkg.balancing.Mine", {"slow_down": 0.5}, False),
}
SECONDS = {"plain": 1.21, "ckd": 1.58, "multitask": 1.49, "mine": 1.33, "lightgcn": 0.64}
EPOCHS = 120
USERS = 2000


def noise(*key: object) -> np.random.Generator:
    return np.random.default_rng(list("|".join(map(str, key)).encode()))


def reach(name: str, place: int) -> float:
    return REACH[name][place] if name in REACH and place < 3 else 0.7 + 0.05 * (place % 4)


def level(name: str) -> float:
    return {**BASELINES, **CONTENDERS}.get(name) or TEACHERS.get(name.removeprefix("teacher:")) or 0.0745


def run(name: str, kind: str, seed: int, modalities: tuple[str, ...]) -> dict:
    rng = noise(name, seed)
    fixed = name in ("popularity", "item-knn", "ease")
    recall = level(name) + (0 if fixed else rng.normal(0, 0.0006))
    trained = not fixed and name != "ensemble"
    best = int(rng.integers(60, 110)) if trained else None
    late = name == "multitask" and seed == 0
    views = {}
    if kind == "contender":
        views = {
            m: {"recall@20": TEACHERS[m] * reach(name, i) + rng.normal(0, 0.0004), "ndcg@20": 0.03 * reach(name, i)}
            for i, m in enumerate(modalities)
        }
    seconds = SECONDS.get(name, 0.52) if trained else None
    return {
        "name": name,
        "kind": kind,
        "backbone": None if fixed else "LightGCN" if name == "lightgcn" else "MMGCN",
        "seed": seed,
        "key": f"{name}-{seed}",
        "best_epoch": EPOCHS if late else best,
        "epochs": EPOCHS if late else best + 10 if best else 1 if name == "ensemble" else None,
        "stopped": "max_epochs" if late else "no improvement in the last 10 evaluations" if trained else None,
        "converged": (not late) if trained else None,
        "seconds_per_epoch": seconds,
        "training_seconds": seconds * (best + 10) if seconds else 2.5 if name == "ease" else 0.4,
        "settings": {"item-knn": {"shrinkage": 10, "neighbors": 100}, "ease": {"l2": 300}}.get(name, {}),
        "val": metrics(recall * 1.02, cold=False),
        "test": metrics(recall),
        "views": views,
    }


def compare(runs: list[dict], a: str, b: str, metric: str, seeds: tuple[int, ...]) -> list[dict]:
    """Compare over users, with users drawn around the means, and over seeds."""
    means = {n: np.mean([r["test"][metric] for r in runs if r["name"] == n]) for n in (a, b)}
    draws = {n: noise("users", n, metric).normal(0, 1, USERS) for n in (a, b)}
    draws = {n: means[n] + 0.06 * (draw - draw.mean()) for n, draw in draws.items()}
    found = [{"a": a, "b": b, "metric": metric, "over": "users", **vars(paired_test(draws[a], draws[b]))}]
    pairs = [[r["test"][metric] for r in runs if r["name"] == n] for n in (a, b)]
    if len(seeds) > 1 and len(pairs[1]) == len(seeds):
        found.append({"a": a, "b": b, "metric": metric, "over": "seeds", **vars(paired_test(*pairs))})
    return found


def holm(tests: list[dict]) -> None:
    """Correct the p-values of every family by Holm's rule, written out."""
    families: dict[tuple, list[dict]] = {}
    for test in tests:
        families.setdefault((test["b"], test["metric"], test["over"]), []).append(test)
    for family in families.values():
        largest = 0.0
        for place, test in enumerate(sorted(family, key=lambda test: test["p_value"])):
            largest = max(largest, min(1.0, (len(family) - place) * test["p_value"]))
            test["p_holm"] = largest


def effect(name: str, place: int, modality: str) -> dict:
    rng = noise("effect", name, modality)
    scale = (0.7, 1.0, 0.18, 0.4, 0.3)[place] * (1 if name == "plain" else 0.9 + 0.2 * place)
    mean = scale * (0.8 + 0.02 * rng.normal())
    found = {"mean": mean, "low": 0.92 * mean, "high": 1.08 * mean, "ratio": 1.2 * mean, "share": mean / 2.1}
    found |= {"weight": 1.6 - 0.6 * scale, "recall_drop": 0.02 * scale, "recall_drop_low": 0.015 * scale}
    found |= {"recall_drop_high": 0.025 * scale, "recall_alone": TEACHERS[modality] * reach(name, place)}
    return found | {"snr": 0.5 * scale}


def study(
    modalities: tuple[str, ...] = MODALITIES,
    seeds: tuple[int, ...] = (0, 1, 2),
    contenders: tuple[str, ...] = tuple(CONTENDERS),
    baselines: tuple[str, ...] = tuple(BASELINES),
) -> dict:
    fixed = [name for name in baselines if name != "lightgcn"]
    runs = [run(name, "baseline", 0, modalities) for name in fixed]
    for seed in seeds:
        runs += [run("lightgcn", "baseline", seed, modalities)] if "lightgcn" in baselines else []
        runs += [run(f"teacher:{m}", "teacher", seed, modalities) for m in modalities]
        runs += [run(name, "contender", seed, modalities) for name in contenders]
    tests = [
        test
        for metric in ("recall@20", "ndcg@20")
        for name in contenders
        for other in ("plain", *baselines)
        if name != other
        for test in compare(runs, name, other, metric, seeds)
    ]
    holm(tests)
    val = {n: np.mean([r["val"]["recall@20"] for r in runs if r["name"] == n]) for n in contenders}
    best = max(val, key=val.get)
    strategies = {name: STRATEGIES.get(name, (f"my_pkg.{name}", {"weight": 0.1}, False)) for name in contenders}
    return {
        "format": 2,
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
            "planted": {m: 1 / len(modalities) for m in modalities},
        },
        "settings": {
            "backbone": "MMGCN",
            "model": {"embedding_dim": 64, "num_layers": 2},
            "trainer": {"max_epochs": EPOCHS, "lr": 0.001, "batch_size": 1024},
            "seeds": list(seeds),
        },
        "monitor": "recall@20",
        "versions": {"pyg_ckd": "0.2.0", "torch": "2.9.0", "torch_geometric": "2.7.0"},
        "started": "2025-05-04T10:11:12+0000",
        "duration_seconds": 4321.0,
        "contenders": [
            {"name": name, "strategy": path, "options": options, "needs_teachers": needs}
            for name, (path, options, needs) in strategies.items()
        ],
        "baselines": list(baselines),
        "left_out": {"ease-content": "5,631 items and 1,024 columns need 2.1 GiB, more than the limit of 2.0 GiB"},
        "runs": runs,
        "effects": {name: {m: effect(name, i, m) for i, m in enumerate(modalities)} for name in contenders}
        if len(modalities) > 1
        else {},
        "content": {
            "metric": "recall@20",
            "split": "val",
            "modalities": {
                m: {"recall": 0.03 / (1 + 0.5 * i), "shuffled": 0.01, "p_value": 1e-6, "high": 0.04, "users": 3000}
                for i, m in enumerate(modalities)
            },
        },
        "effects_split": "val",
        "comparisons": tests,
        "winner": {
            "name": best,
            "metric": "recall@20",
            "val": float(val[best]),
            "test": float(np.mean([r["test"]["recall@20"] for r in runs if r["name"] == best])),
        },
    }


def history(results: dict, name: str, seed: int, every: int = 2) -> pd.DataFrame:
    """Return curves that rise to the validation values of the record at its best epoch and fall off afterwards."""
    record = next(r for r in results["runs"] if (r["name"], r["seed"]) == (name, seed))
    rng, epochs, best = noise("history", name, seed), record["epochs"] or 1, record["best_epoch"] or 1
    epoch = np.arange(1, epochs + 1)
    rise = (1 - np.exp(-epoch / 16)) / (1 - np.exp(-best / 16)) - 0.01 * np.maximum(epoch - best, 0)
    columns = {"loss/bpr": np.exp(-epoch / 30), "val/recall@20": record["val"]["recall@20"] * rise}
    for i, m in enumerate(record["views"]):
        final = TEACHERS[m] * 1.02 * reach(name, i)
        columns[f"val/{m}/recall@20"] = final * (rise if name != "plain" else rise * (1.15 - 0.15 * epoch / best))
        if name in ("ckd", "mine"):
            columns[f"effect/{m}"] = (0.7, 1.0, 0.3, 0.5, 0.6)[i] * (0.8 + 0.3 * rise)
            columns[f"weight/{m}"] = 1 + (0.2, -0.4, 0.6, -0.2, -0.2)[i] * rise
    frame = pd.DataFrame(columns, index=pd.Index(epoch, name="epoch"))
    for column in frame:
        frame[column] += rng.normal(0, 0.0005 if "val" in column else 0.01, epochs)
        if "val" in column:
            frame.loc[(frame.index % every != best % every) & (frame.index != best), column] = np.nan
    peak = frame["val/recall@20"].max()
    frame.loc[best, "val/recall@20"] = max(peak + 1e-5, frame.loc[best, "val/recall@20"])
    return frame


def histories(results: dict) -> dict:
    return {
        (run["name"], run["seed"]): history(results, run["name"], run["seed"])
        for run in results["runs"]
        if run["epochs"] is not None
    }


def renamed(results: dict, names: dict[str, str]) -> dict:
    """Return the same study with other names of contenders."""
    out = {**results, "runs": [{**run, "name": names.get(run["name"], run["name"])} for run in results["runs"]]}
    out["contenders"] = [{**entry, "name": names.get(entry["name"], entry["name"])} for entry in results["contenders"]]
    out["effects"] = {names.get(name, name): table for name, table in results["effects"].items()}
    pairs = [{key: names.get(test[key], test[key]) for key in ("a", "b")} for test in results["comparisons"]]
    out["comparisons"] = [{**test, **pair} for test, pair in zip(results["comparisons"], pairs, strict=True)]
    winner = results["winner"]
    return out | {"winner": {**winner, "name": names.get(winner["name"], winner["name"])}}
