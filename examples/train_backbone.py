"""Train one backbone without balancing and see how much of it each modality carries."""

from __future__ import annotations

import argparse

from pyg_ckd import Trainer, estimate_effects, evaluate
from pyg_ckd.datasets import load
from pyg_ckd.nn import backbones
from pyg_ckd.training import build


def main() -> None:
    """Train, evaluate on the test part, and measure the effects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="synthetic", help="synthetic, an .npz file or a folder")
    parser.add_argument("--backbone", default="EarlyFusionLightGCN", choices=sorted(backbones()))
    parser.add_argument("--max_epochs", type=int, default=30)
    args = parser.parse_args()
    data = load(args.data)
    model = build(backbones()[args.backbone], data, seed=0)
    history = Trainer(max_epochs=args.max_epochs, lr=5e-3).fit(model, data)
    print(f"best epoch {history.best_epoch}, validation recall@20 {history.best_value:.4f}")
    print(evaluate(model, data, k=[10, 20]))
    print(estimate_effects(model, data))


if __name__ == "__main__":
    main()
