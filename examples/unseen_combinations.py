"""Rank new items by combinations of modalities that no item had in training: plain training against ``unseen``.

``python -m examples.unseen_combinations --data lastfm.npz --backbone VBPR --seeds 3 --out DIR`` draws for every item
``--size`` of its modalities, the same number for all, and takes the others away. A share of the items is *new*: it is
in no training interaction and has no modality there. After training, the new items are ranked against each other by
every combination of modalities, with features that training has not seen: on their validation interactions, by which
the imputation is chosen, and on all others, which are in the table. Its last line is the recall of the other items on
the validation part, with what they had in the training. Contenders are plain training and
:class:`~pyg_ckd.balance.unseen.UnseenInteraction`, on features that are filled in with every one of ``--impute`` and
``--unseen-impute``. Runs that are in DIR are not made again; one of other arguments is refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd import Objective, Trainer, train_teachers
from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.unseen import UnseenInteraction
from pyg_ckd.data import build_data, item_masks
from pyg_ckd.data.build import fingerprint
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.transforms import StandardizeFeatures
from pyg_ckd.datasets import load
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator, embed
from pyg_ckd.evaluation.statistics import holm, mean_std, paired_test
from pyg_ckd.files import atomic_path
from pyg_ckd.nn import backbones
from pyg_ckd.scoring import Embeddings
from pyg_ckd.training import build

METRIC = "recall@20"
PARTS = ("val", "test")
OPTIONS = ("rate", "weight", "temperature", "alignment")
"""Options of the strategy."""
SETTINGS = "settings"
"""What the settings of a run stand under in its file."""


def split(full: HeteroData, size: int, new_items: float, impute: str, seed: int) -> tuple[HeteroData, HeteroData]:
    """Return the graph to train on and the one to rank new items in.

    Args:
        full: A graph in which all items have all modalities, with features as they are in the source.
        size: Number of modalities that an item keeps for the training.
        new_items: Share of the items that are new.
        impute: What stands in for what items lack in the training.
        seed: Seeds what items keep and which are new.

    Raises:
        InputError: If the items have no such number of modalities, or the share is none.
    """
    if not 1 <= size <= len(full.modalities):
        raise InputError(f"size: found {size}, expected a number of modalities from 1 to {len(full.modalities)}")
    if not 0 < new_items < 1:
        raise InputError(f"new-items: found {new_items}, expected a share of the items between 0 and 1")
    generator, names = torch.Generator().manual_seed(seed), list(full.modalities)
    num_items, kinds = full["item"].num_nodes, list(combinations(range(len(names)), size))
    kept = torch.tensor(kinds)[torch.randint(len(kinds), (num_items,), generator=generator)]
    new = torch.rand(num_items, generator=generator) < new_items
    has = {m: (kept == n).any(dim=1) & ~new for n, m in enumerate(names)}
    scaler, features, known = StandardizeFeatures(), {}, {}
    for m in names:
        x = full["item"][m]
        features[m] = scaler.apply_rows(x, scaler.fit_rows(x[has[m]]))  # New rows, by the statistics of known ones.
        known[m] = features[m] * has[m].unsqueeze(1)
    edges = full[RATES]

    def of(items: Tensor, *parts: Tensor) -> Tensor:
        joined = torch.cat(parts, dim=1)
        return joined[:, items[joined[1]]]

    sizes = {"num_users": full["user"].num_nodes, "num_items": num_items, "transform": "none"}
    train, val = of(~new, edges.edge_index), of(~new, edges.val_edge_index)
    training = build_data(train, known, val=val, has=has, impute=impute, **sizes)
    test = of(new, edges.edge_index, edges.test_edge_index)
    return training, build_data(train, features, val=of(new, edges.val_edge_index), test=test, **sizes)


def settings_of(args: argparse.Namespace, full: HeteroData, contender: str, seed: int) -> dict[str, Any]:
    """Return what decides about the result of a run.

    Args:
        args: The arguments of the command line.
        full: The data.
        contender: As in :func:`run`.
        seed: The seed.
    """
    names = ("backbone", "size", "new_items", "split_seed", "max_epochs", *OPTIONS[: len(OPTIONS) * _taught(contender)])
    own = {name: getattr(args, name) for name in names}
    recommended = {part: dict(values) for part, values in backbones()[args.backbone].recommended.items()}
    found = {"data": fingerprint(full), "contender": contender, "seed": seed, **own, "recommended": recommended}
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def is_made(file: Path, settings: dict[str, Any]) -> bool:
    """Return whether a run is in its file.

    Args:
        file: The file, which need not exist.
        settings: What :func:`settings_of` returned of the run.

    Raises:
        InputError: If another run is in the file.
    """
    if not file.exists():
        return False
    with np.load(file) as stored:
        before = json.loads(str(stored[SETTINGS])) if SETTINGS in stored else None
    mend = "take another --out, or delete the file"
    if before is None:
        raise InputError(f"{file}: found a run that does not say its arguments, expected one that does; {mend}")
    for name in sorted(before.keys() | settings.keys()):
        one, other = (values.get(name, "nothing") for values in (before, settings))
        if one != other:
            raise InputError(f"{file}: found a run with {name} = {one}, expected {other}; {mend}")
    return True


def run(args: argparse.Namespace, path: str, contender: str, seed: int) -> None:
    """Train one contender, and write the recall of every user in every combination.

    Args:
        args: The arguments of the command line.
        path: The data.
        contender: Its name and how features are filled in, such as ``plain-mean``.
        seed: The seed.
    """
    impute, full = contender.partition("-")[2], load(path, transform="none")
    training, ranking = split(full, args.size, args.new_items, impute, args.split_seed)
    cls = backbones()[args.backbone]
    options = {part: dict(values) for part, values in cls.recommended.items()}
    model, plain = options.get("model", {}), options.get("plain", {})
    fixed = {"max_epochs": args.max_epochs, "seed": seed, "track_views": False, "progress": False, "eval_every": 10}
    trainer = Trainer(**{"num_negatives": 1, **options.get("trainer", {}), **fixed})
    objective: Objective
    if not _taught(contender):
        objective = Objective(build(cls, training, seed, **model), **plain)
    else:
        teachers = _teachers(args, path, training, trainer, impute, seed)
        student = build(cls, training, seed, **model)
        objective = UnseenInteraction(student, teachers, has=item_masks(training), **{**plain, **_chosen(args)})
    history = trainer.fit(objective, training)
    views = _views(ranking)
    found = {"known": np.array([history.best_value])}
    found[SETTINGS] = np.array(json.dumps(settings_of(args, full, contender, seed)))
    for part in PARTS:
        evaluator = Evaluator(ranking, part, 20, ["recall"], candidates="cold")
        for view, tables in zip(views, embed(objective, ranking, views), strict=True):
            found[f"{part}/{'+'.join(view)}"] = evaluator.per_user(tables)[METRIC].numpy()
    with atomic_path(_file(args, path, contender, seed)) as temporary, Path(temporary).open("wb") as file:
        np.savez(file, **found)  # type: ignore[arg-type]  # NumPy says bool for all of them.


def _chosen(args: argparse.Namespace) -> dict[str, float]:
    return {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}


def _taught(contender: str) -> bool:
    return contender.startswith("unseen")


def _teachers(
    args: argparse.Namespace, path: str, data: HeteroData, trainer: Trainer, impute: str, seed: int
) -> dict[str, Embeddings]:
    cls = backbones()[args.backbone]
    options = {"l2": 1e-2, **cls.recommended.get("model", {}), **cls.recommended.get("teacher", {})}
    return dict(train_teachers(cls, data, trainer, cache_dir=args.out / "teachers", **options))


def _views(data: HeteroData) -> list[tuple[str, ...]]:
    names = data.modalities
    return [view for size in range(1, len(names) + 1) for view in combinations(names, size)]


def _file(args: argparse.Namespace, path: str, contender: str, seed: int) -> Path:
    return args.out / f"{Path(path).stem}-{args.backbone}-{args.size}-{contender}-{seed}.npz"


def table(args: argparse.Namespace, path: str, contenders: list[str]) -> Iterator[str]:
    """Return the lines of the table of a data set: recall of new items by every combination.

    Args:
        args: The arguments of the command line.
        path: The data.
        contenders: Their names.
    """
    runs = {name: [dict(np.load(_file(args, path, name, seed))) for seed in range(args.seeds)] for name in contenders}
    views = [key.partition("/")[2] for key in runs[contenders[0]][0] if key.startswith("test/")]
    best = {}
    for kind in ("plain", "unseen"):
        value = {
            n: fmean(r[f"val/{v}"].mean() for r in runs[n] for v in views) for n in contenders if n.startswith(kind)
        }
        best[kind] = max(value, key=lambda name: value[name])
    pairs = [
        [np.mean([r[f"test/{v}"] for r in runs[best[kind]]], axis=0) for kind in ("unseen", "plain")] for v in views
    ]
    p_values = holm([float(paired_test(*pair).p_value) for pair in pairs])
    head = ["combination", "trained on", *contenders, f"{best['unseen']} over {best['plain']}", "p (users)"]
    yield f"| {' | '.join(head)} |\n|{' --- |' * len(head)}"
    for view, (mine, theirs), p in zip(views, pairs, p_values, strict=True):
        cells = ["{:.4f} ± {:.4f}".format(*mean_std([r[f"test/{view}"].mean() for r in runs[n]])) for n in contenders]
        known = "yes" if view.count("+") + 1 == args.size else "no"
        lead = f"{100 * (mine.mean() / theirs.mean() - 1):+.1f} %"
        yield f"| {view.replace('+', ', ')} | {known} | {' | '.join(cells)} | {lead} | {p:.2g} |"
    known_items = [fmean(float(r["known"][0]) for r in runs[name]) for name in contenders]
    yield f"| known items, validation | yes | {' | '.join(f'{value:.4f}' for value in known_items)} | | |"


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs that are missing, print a table for every data set, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["synthetic"])
    parser.add_argument("--backbone", default="VBPR", choices=list(backbones()))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=1, help="modalities that an item has in training")
    parser.add_argument("--new-items", type=float, default=0.2)
    parser.add_argument("--impute", nargs="+", default=["mean", "graph", "neighbors"], help="of plain training")
    parser.add_argument("--unseen-impute", nargs="+", default=["mean"], help="of the strategy")
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--max-epochs", type=int, default=40)
    for name in OPTIONS:
        parser.add_argument(f"--{name}", type=float, help="option of the strategy")
    parser.add_argument("--out", type=Path, default=Path("runs/unseen"))
    args = parser.parse_args(argv)
    try:
        _study(args)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _study(args: argparse.Namespace) -> None:
    as_integer(args.seeds, "seeds", 1)
    args.out.mkdir(parents=True, exist_ok=True)
    contenders = [f"plain-{impute}" for impute in args.impute] + [f"unseen-{impute}" for impute in args.unseen_impute]
    for path in args.data:
        full, runs = load(path, transform="none"), [(c, seed) for seed in range(args.seeds) for c in contenders]
        made = [is_made(_file(args, path, *one), settings_of(args, full, *one)) for one in runs]
        for one, there in zip(runs, made, strict=True):  # Only now that no file is of another run.
            if not there:
                run(args, path, *one)
        print(f"{Path(path).stem}, {args.backbone}, trained on {args.size} of the modalities per item:\n")
        print("\n".join(table(args, path, contenders)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
