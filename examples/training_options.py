"""Train backbones with one option of plain training at a time, and print what each option changes.

``python -m examples.training_options --data FILE... --backbones VBPR LightGCN --out DIR`` trains with the recommended
settings, and with each option of :data:`OPTIONS` beside them. The table has the validation Recall@20 without options,
and by how much each option changes it; it earns its place where it is ahead on three data sets. A star marks values of
trainings that had not converged. Runs that are in DIR are not made again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from examples.defaults import marked, settings_of
from pyg_ckd import Objective, Trainer
from pyg_ckd.datasets import load
from pyg_ckd.files import read_json, write_json
from pyg_ckd.nn import backbones
from pyg_ckd.training import build

NONE = "none"
OPTIONS: dict[str, dict[str, Any]] = {
    NONE: {},
    "warmup_steps 200": {"warmup_steps": 200},
    "schedule cosine": {"schedule": "cosine"},
    "schedule step": {"schedule": "step"},
    "weight_decay 0.01": {"weight_decay": 0.01},
    "clip_norm 0.1": {"clip_norm": 0.1},
    "averaging 0.99": {"averaging": 0.99},
    "num_negatives 4": {"num_negatives": 4},
    "num_negatives 16": {"num_negatives": 16},
    "negatives popularity": {"negatives": "popularity"},
    "negatives hard": {"negatives": "hard"},
    "ranking softmax": {"ranking": "softmax", "num_negatives": 512},
    "batches four times as large, twice the rate": {"batch_size": 4, "lr": 2},
}
"""Options of a training by how they are called; ``batch_size`` and ``lr`` are factors."""


def train(data: HeteroData, name: str, option: str, seed: int, max_epochs: int) -> dict[str, Any]:
    """Train once; return what is kept of it.

    Args:
        data: The graph.
        name: The backbone.
        option: One of :data:`OPTIONS`.
        seed: The seed.
        max_epochs: The budget in epochs.
    """
    best, options = settings_of(name, 0), dict(OPTIONS[option])
    chosen = {"max_epochs": max_epochs, **best["trainer"], "seed": seed, "track_views": False}
    if "num_negatives" in chosen:
        chosen["num_negatives"] = 1  # What every option is compared with.
    start, plain = time.process_time(), Trainer(**chosen)
    options |= {key: getattr(plain, key) * options[key] for key in ("batch_size", "lr") if key in options}
    objective = Objective(build(backbones()[name], data, seed, **best["model"]), **best["plain"])
    history = Trainer(**{**chosen, **options}).fit(objective, data)
    found = {"val": history.best_value, "best_epoch": history.best_epoch, "stopped": history.stopped}
    return {"budget": max_epochs, **found, "seconds": time.process_time() - start}


def main() -> None:
    """Make the runs that are missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["synthetic"])
    parser.add_argument("--backbones", nargs="+", default=["VBPR"], choices=list(backbones()))
    parser.add_argument("--only", nargs="+", default=list(OPTIONS), choices=list(OPTIONS), metavar="OPTION")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--max-epochs", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/training_options"))
    args = parser.parse_args()
    wanted = [NONE, *(option for option in args.only if option != NONE)]
    for path in args.data:
        data = load(path)
        for name, option, seed in product(args.backbones, wanted, range(args.seeds)):
            file = _file(args.out, path, name, option, seed)
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, train(data, name, option, seed, args.max_epochs))
            elif read_json(file)["budget"] != args.max_epochs:
                parser.error(f"{file}: a run of another --max-epochs; choose another --out")
    print("\n".join(_table(args, wanted)))


def _file(out: Path, path: str, name: str, option: str, seed: int) -> Path:
    return out / f"{Path(path).stem}-{name}-{option.replace(' ', '_').replace(',', '')}-{seed}.json"


def _table(args: argparse.Namespace, wanted: list[str]) -> Iterator[str]:
    columns = [(name, path) for name in args.backbones for path in args.data]
    found = {key: {option: _mean(args, *key, option) for option in wanted} for key in columns}
    yield f"| option | {' | '.join(f'{name}, {Path(path).stem}' for name, path in columns)} | ahead | time |"
    yield "|" + " --- |" * (len(columns) + 3)
    for option in wanted:
        cells, ahead, times = [], 0, []
        for key in columns:
            value, base = found[key][option]["val"], found[key][NONE]["val"]
            text = f"{value:.4f}" if option == NONE else f"{100 * (value / base - 1):+.1f} %"
            cells.append(marked(text, *_runs(args, *key, option)))
            ahead += value > base
            times.append(found[key][option]["seconds"] / found[key][NONE]["seconds"])
        counted = "" if option == NONE else f"{ahead} of {len(columns)}"
        yield f"| {option} | {' | '.join(cells)} | {counted} | {sum(times) / len(times):.1f} |"


def _runs(args: argparse.Namespace, name: str, path: str, option: str) -> list[dict[str, Any]]:
    return [read_json(_file(args.out, path, name, option, seed)) for seed in range(args.seeds)]


def _mean(args: argparse.Namespace, name: str, path: str, option: str) -> Mapping[str, float]:
    runs = _runs(args, name, path, option)
    return {key: sum(run[key] for run in runs) / len(runs) for key in ("val", "seconds")}


if __name__ == "__main__":
    main()
