"""Balance one backbone: teachers, a distilled student, and what it bought over plain joint training."""

from __future__ import annotations

import argparse

from pyg_ckd import DistillationWrapper, Trainer, evaluate, train_teachers
from pyg_ckd.datasets import load
from pyg_ckd.nn import backbones
from pyg_ckd.training import build


def main() -> None:
    """Train a plain and a distilled student and compare their joint and uni-modal views."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="synthetic", help="synthetic, an .npz file or a folder")
    names = sorted(name for name, cls in backbones().items() if cls.uses_features)
    parser.add_argument("--backbone", default="VBPR", choices=names)
    parser.add_argument("--max_epochs", type=int, default=30)
    args = parser.parse_args()
    data = load(args.data)
    backbone = backbones()[args.backbone]
    trainer = Trainer(max_epochs=args.max_epochs, lr=5e-3, track_views=False)

    plain = build(backbone, data, seed=0)
    trainer.fit(plain, data)
    teachers = train_teachers(backbone, data, trainer, use_cache=False)
    model = DistillationWrapper(build(backbone, data, seed=0), teachers, distillation_weight=0.5)
    trainer.fit(model, data)

    print(f"{'view':<12}{'plain':>8}{'CKD':>8}   recall@20 on the test part")
    for view in [None, *data.modalities]:
        before, after = (evaluate(m, data, k=20, metrics=["recall"], view=view)["recall@20"] for m in (plain, model))
        print(f"{view or 'joint':<12}{before:>8.4f}{after:>8.4f}")
    print(model.effects.summary())


if __name__ == "__main__":
    main()
