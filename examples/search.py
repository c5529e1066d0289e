"""Choose settings on the validation part with the same budget for plain and distilled training, one command per study.

``python examples/search.py --data FILE.npz --backbone VBPR --out DIR`` trains

- plain students on every pair of ``--lr`` and ``--l2``,
- one teacher per modality with the pair that was best for the plain student,
- distilled students with that learning rate, on every pair of ``--l2_factor`` (times the plain student's L2 weight) and
  ``--distillation_weight``: as many runs as for the plain student, or the search is refused.

Only the validation part is looked at. Finished runs are kept in ``DIR/search.json``, so that the same command goes on
after a break; the choice is written to ``DIR/chosen.yaml``, which ``pyg-ckd compare --config`` takes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from pyg_ckd import DistillationWrapper, Objective, Trainer, train_teachers
from pyg_ckd.data import fingerprint
from pyg_ckd.datasets import load
from pyg_ckd.files import atomic_path, write_json
from pyg_ckd.nn import backbones
from pyg_ckd.training import build


class Record:
    """The runs that are finished, by their settings.

    Args:
        path: The file that holds them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[dict[str, Any]] = []
        if path.exists():
            self.runs = json.loads(path.read_text(encoding="utf-8"))["runs"]

    def value(self, settings: dict[str, Any], run: Callable[[], tuple[float, int]]) -> float:
        """Return the best validation value under some settings, trained now unless it is known."""
        for known in self.runs:
            if known["settings"] == settings:
                return float(known["value"])
        value, epoch = run()
        self.runs.append({"settings": settings, "value": value, "epoch": epoch})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"runs": self.runs})
        print(f"{value:.4f} (epoch {epoch})  {settings}", flush=True)
        return value


def main() -> None:
    """Run the search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", default="VBPR", choices=sorted(backbones()))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lr", type=float, nargs="+", default=[5e-3])
    parser.add_argument("--l2", type=float, nargs="+", default=[3e-3, 1e-2, 3e-2, 1e-1])
    parser.add_argument("--l2_factor", type=float, nargs="+", default=[1.0, 0.25])
    parser.add_argument("--distillation_weight", type=float, nargs="+", default=[0.1, 0.5])
    parser.add_argument("--batch_size", type=int, default=2048)
    parser.add_argument("--max_epochs", type=int, default=200)
    parser.add_argument("--patience", type=int, default=1000, help="steps without a rise")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    plain = list(product(args.lr, args.l2))
    distilled = list(product(args.l2_factor, args.distillation_weight))
    if len(plain) != len(distilled):
        parser.error(f"found {len(plain)} plain and {len(distilled)} distilled settings, expected as many of both")

    data = load(args.data)
    cls = backbones()[args.backbone]
    model = dict(cls.recommended.get("model", {}))
    common = {"data": fingerprint(data), "backbone": args.backbone, "seed": args.seed, **model}
    trainer = {"batch_size": args.batch_size, "max_epochs": args.max_epochs, "patience": args.patience}
    record = Record(args.out / "search.json")

    def fit(objective: Objective, lr: float) -> tuple[float, int]:
        history = Trainer(**trainer, lr=lr, seed=args.seed, track_views=False).fit(objective, data)
        return history.best_value, history.best_epoch

    def train_plain(lr: float, l2: float) -> float:
        settings = {"kind": "plain", "lr": lr, "l2": l2, **trainer, **common}
        return record.value(settings, lambda: fit(Objective(build(cls, data, args.seed, **model), l2=l2), lr))

    lr, l2 = max(plain, key=lambda point: train_plain(*point))
    teacher_trainer = Trainer(**trainer, lr=lr, seed=args.seed, track_views=False)
    teachers = train_teachers(cls, data, teacher_trainer, l2=l2, cache_dir=args.out / "teachers", **model)
    for m, history in teachers.histories.items():
        print(f"{history.best_value:.4f} (epoch {history.best_epoch})  teacher {m}", flush=True)

    def train_distilled(factor: float, weight: float) -> float:
        options = {"l2": l2 * factor, "distillation_weight": weight}
        settings = {"kind": "ckd", "lr": lr, "teacher_l2": l2, **options, **trainer, **common}
        student = build(cls, data, args.seed, **model)
        return record.value(settings, lambda: fit(DistillationWrapper(student, teachers, **options), lr))

    factor, weight = max(distilled, key=lambda point: train_distilled(*point))
    chosen = {
        "backbone": args.backbone,
        "model": model,
        "trainer": {**trainer, "lr": lr},
        "plain": {"l2": l2},
        "teacher": {"l2": l2},
        "distillation": {"l2": l2 * factor, "distillation_weight": weight},
    }
    with atomic_path(args.out / "chosen.yaml") as path:
        path.write_text(yaml.safe_dump({k: v for k, v in chosen.items() if v}, sort_keys=False), encoding="utf-8")
    print(f"chosen: {chosen}", flush=True)


if __name__ == "__main__":
    main()
