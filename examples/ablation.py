"""The paper's ablation: every piece of the distillation switched off on its own, on one data set.

``python examples/ablation.py`` takes the synthetic data; ``--data FILE.npz`` any other. Teachers are trained once per
seed. Prints a Markdown table of mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
from typing import Any

from pyg_ckd import DistillationWrapper, Objective, Trainer, evaluate, train_teachers
from pyg_ckd.datasets import load
from pyg_ckd.evaluation.statistics import mean_std
from pyg_ckd.nn import backbones
from pyg_ckd.training import build

VARIANTS: dict[str, dict[str, Any]] = {
    "no teachers": {"teachers": None},
    "no specific": {"specific": False},
    "no generic": {"generic": False},
    "no re-weighting": {"reweight": False},
    "all": {},
}


def main() -> None:
    """Run all variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--backbone", default="VBPR", choices=sorted(backbones()))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--max_epochs", type=int, default=100)
    parser.add_argument("--patience", type=int, default=500, help="steps without a rise")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--l2", type=float, default=1e-2, help="of the plain student and the teachers")
    parser.add_argument("--ckd_l2", type=float, default=1e-2, help="of the distilled student")
    parser.add_argument("--distillation_weight", type=float, default=0.1)
    parser.add_argument("--generic_weight", type=float, default=5.0)
    args = parser.parse_args()

    data = load(args.data)
    views = [None, *data.modalities]
    columns = ["joint", *data.modalities]
    results: dict[str, list[list[float]]] = {name: [] for name in ("plain", *VARIANTS)}
    for seed in range(args.seeds):
        trainer = Trainer(max_epochs=args.max_epochs, patience=args.patience, lr=args.lr, seed=seed, track_views=False)
        backbone = backbones()[args.backbone]
        teachers = train_teachers(backbone, data, trainer, l2=args.l2)
        for name in results:
            student = build(backbone, data, seed)
            if name == "plain":
                model = Objective(student, l2=args.l2)
            else:
                options = {"teachers": teachers, "l2": args.ckd_l2, **VARIANTS[name]}
                weights = {"distillation_weight": args.distillation_weight, "generic_weight": args.generic_weight}
                model = DistillationWrapper(student, **options, **weights)
            trainer.fit(model, data)
            results[name].append([evaluate(model, data, k=20, metrics=["recall"], view=v)["recall@20"] for v in views])

    print(f"Recall@20 on the test part of {data.source}, {args.backbone}, {args.seeds} seeds\n")
    print(f"| variant | {' | '.join(columns)} |\n| --- | {' | '.join('---:' for _ in columns)} |")
    for name, runs in results.items():
        cells = ["{:.4f} ± {:.4f}".format(*mean_std(column)) for column in zip(*runs, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
