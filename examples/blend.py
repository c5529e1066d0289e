"""Add the scores of a closed form to those of a trained model, with a weight that is chosen on the validation part.

``python -m examples.blend --data FILE... --baselines ease ease-content`` trains the backbone plainly with its
recommended settings and fits the closed forms. For every user, scores are put on the scale of the model's by their
standard deviations over all items. The table has the validation and test Recall@20 of the model, of each closed form
and of the two together, and the p-value of a paired test over users of the two together against the model.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from examples.defaults import METRIC, settings_of
from pyg_ckd import Objective, Trainer
from pyg_ckd.datasets import load
from pyg_ckd.evaluation import Evaluator, embed, fit_baseline
from pyg_ckd.evaluation.statistics import paired_test
from pyg_ckd.nn import backbones
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.neighbourhood import Neighbourhood
from pyg_ckd.training import build

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True)
class Blend:
    """Scores of tables plus scores of weights between items, on the scale of the former.

    Attributes:
        tables: The model's embeddings.
        closed: The closed form.
        weight: What the closed form counts, 0 or more.
    """

    tables: Embeddings
    closed: Neighbourhood
    weight: float

    @property
    def dtype(self) -> torch.dtype:
        """The type of the scores."""
        return self.tables.item.dtype

    def scores(self, users: Tensor) -> Tensor:
        """Return the scores of all items ``[B, I]``.

        Args:
            users: Rows of users, int64 ``[B]``.
        """
        own, more = self.tables.user[users] @ self.tables.item.t(), self.closed.scores(users).to(self.dtype)
        scale = own.std(dim=1, keepdim=True) / more.std(dim=1, keepdim=True).clamp(min=1e-12)
        return own.add_(more * scale, alpha=self.weight)


def main() -> None:
    """Train, fit and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["synthetic"])
    parser.add_argument("--baselines", nargs="+", default=["ease", "ease-content"], choices=["ease", "ease-content"])
    parser.add_argument("--backbone", default="FISM", choices=list(backbones()))
    parser.add_argument("--max-epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chosen = settings_of(args.backbone, 0)
    print(f"| data | model | weight | validation | test {METRIC} | p, over users |\n|{' --- |' * 6}")
    for path in args.data:
        data, stem = load(path), Path(path).stem
        objective = Objective(build(backbones()[args.backbone], data, args.seed, **chosen["model"]), **chosen["plain"])
        trainer = {"max_epochs": args.max_epochs, **chosen["trainer"], "seed": args.seed, "track_views": False}
        Trainer(**trainer).fit(objective, data)
        tables = embed(objective, data)[0]
        val, test = (Evaluator(data, split, 20, ["recall"]) for split in ("val", "test"))
        plain = test(tables, per_user=True)
        print(f"| {stem} | {args.backbone} | | {val(tables)[METRIC]:.4f} | {plain[METRIC]:.4f} | |", flush=True)
        for name in args.baselines:
            closed = fit_baseline(name, data).embeddings
            assert isinstance(closed, Neighbourhood)
            print(f"| {stem} | {name} | | {val(closed)[METRIC]:.4f} | {test(closed)[METRIC]:.4f} | |", flush=True)
            value, weight = max((val(Blend(tables, closed, w))[METRIC], w) for w in WEIGHTS)
            both = test(Blend(tables, closed, weight), per_user=True)
            assert plain.per_user is not None
            assert both.per_user is not None
            p = paired_test(both.per_user[METRIC].to_numpy(), plain.per_user[METRIC].to_numpy()).p_value
            row = [stem, f"{args.backbone} and {name}", f"{weight:g}", f"{value:.4f}", f"{both[METRIC]:.4f}"]
            print(f"| {' | '.join(row)} | {p:.2g} |", flush=True)


if __name__ == "__main__":
    main()
