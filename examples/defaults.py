"""Train backbones as the command line would, on several data sets, and find defaults that carry over to others.

``python -m examples.defaults --data FILE... --backbones NAME... --seeds 3 --trials 1 --out DIR`` trains every backbone
plainly with its recommended settings (trial 0) and with ``--trials`` - 1 others, drawn once for all data sets, and
prints two tables: what the recommended settings reach on the test part beside the baselines, with paired tests over
users against each of them; and, for several trials, the regret on validation of the settings that are best on the
*other* data sets against the best on the one left out. ``--max-epochs`` is one number for all data sets, or one for
each. Runs that are in DIR are not made again. With ``--keep FILE``, such as ``docs/results/runs/trials.json``, neither
are trials that FILE has, and finished ones are added to it. A star marks values of trainings that had not converged.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from torch_geometric.data import HeteroData

from pyg_ckd import Objective, Trainer
from pyg_ckd.datasets import load
from pyg_ckd.evaluation import Evaluator, fit_baseline
from pyg_ckd.evaluation.statistics import holm, mean_std, paired_test
from pyg_ckd.files import read_json, write_json
from pyg_ckd.nn import backbones
from pyg_ckd.training import build

CLOSED = ("item-knn-content", "ease", "ease-content")
METRIC = "recall@20"
RATES, PENALTIES, WIDTHS, BATCHES = (
    (3e-4, 1e-3, 2e-3, 5e-3, 1e-2),
    (0.0, 1e-3, 1e-2, 3e-2, 0.1),
    (64, 128),
    (1024, 4096),
)
MOST = 1 + len(RATES) * len(PENALTIES) * len(WIDTHS) * len(BATCHES)
TOO_EARLY, RISING = "budget: too early to tell", "budget: still rising at the end"
"""How trainings end that had not converged."""


def marked(text: str, *records: Mapping[str, Any]) -> str:
    """Return a number, with a star if a training that it is from had not converged.

    Args:
        text: The number.
        records: What is kept of the trainings.
    """
    return f"{text}*" if any(record.get("stopped") in (TOO_EARLY, RISING) for record in records) else text


def settings_of(name: str, trial: int) -> dict[str, dict[str, Any]]:
    """Return the settings of a trial; the first one is what is recommended, and no two drawn ones are the same.

    Args:
        name: The backbone.
        trial: Number of the trial.
    """
    drawn: list[dict[str, Any]] = []
    for number in range(1, trial + 1):
        draw = random.Random(f"{name} {number}")
        while len(drawn) < number:
            found = {"lr": draw.choice(RATES), "batch_size": draw.choice(BATCHES)}
            found |= {"l2": draw.choice(PENALTIES), "embedding_dim": draw.choice(WIDTHS)}
            drawn += [found] if found not in drawn else []
    best = {part: dict(values) for part, values in backbones()[name].recommended.items()}
    best = {part: best.get(part, {}) for part in ("model", "trainer", "plain")}
    if backbones()[name].pairwise:
        best["trainer"]["num_negatives"] = backbones()[name].bpr_negatives  # A default that may change.
    if drawn:
        best["plain"]["l2"], best["model"]["embedding_dim"] = drawn[-1]["l2"], drawn[-1]["embedding_dim"]
        best["trainer"] |= {name: drawn[-1][name] for name in ("lr", "batch_size")}
    return best


def train(
    data: HeteroData,
    name: str,
    trial: int,
    seed: int,
    max_epochs: int,
    capture: bool = False,
    model: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Train once; return a record, and the recall of every test user.

    Args:
        data: The graph.
        name: The backbone.
        trial: Number of the trial.
        seed: The seed.
        max_epochs: The budget in epochs.
        capture: Whether steps on a GPU are captured.
        model: Options of the model beside those of the trial.
    """
    chosen = settings_of(name, trial)
    chosen["model"] |= model or {}
    start = time.process_time()
    objective = Objective(build(backbones()[name], data, seed, **chosen["model"]), **chosen["plain"])
    trainer = Trainer(
        **{"max_epochs": max_epochs, **chosen["trainer"], "seed": seed, "track_views": False, "capture": capture}
    )
    history = trainer.fit(objective, data)
    record = {"settings": chosen, "budget": max_epochs, "val": history.best_value, "stopped": history.stopped}
    return _measured(data, objective, record, start)


def fit(data: HeteroData, name: str) -> tuple[dict[str, Any], np.ndarray]:
    """Fit a closed form; return a record, and the recall of every test user.

    Args:
        data: The graph.
        name: The baseline.
    """
    start = time.process_time()
    fitted = fit_baseline(name, data)
    return _measured(data, fitted.embeddings, {"settings": fitted.settings, "val": fitted.value}, start)


def _measured(data: HeteroData, model: Any, record: dict[str, Any], start: float) -> tuple[dict[str, Any], np.ndarray]:
    from pyg_ckd.evaluation import embed

    seconds = time.process_time() - start
    scores = embed(model, data)[0] if isinstance(model, Objective) else model
    found = Evaluator(data, "test", 20, ["recall", "ndcg"])(scores, per_user=True)
    assert found.per_user is not None
    return {**record, **found, "seconds": seconds}, found.per_user[METRIC].to_numpy()


def main() -> None:
    """Make the runs that are missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["synthetic"])
    parser.add_argument("--backbones", nargs="+", default=["FISM", "LightGCN"], choices=list(backbones()))
    parser.add_argument("--baselines", nargs="*", default=list(CLOSED))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=1)
    text = "budget of a training: one number for all data sets, or one for each"
    parser.add_argument("--max-epochs", type=int, nargs="+", default=[200], metavar="N", help=text)
    parser.add_argument("--capture", action="store_true", help="capture steps on a GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/defaults"))
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep what runs found in this JSON file as well")
    args = parser.parse_args()
    if args.trials > MOST:
        parser.error(f"--trials: found {args.trials}, expected at most {MOST}, for there are no more settings to draw")
    if len(args.max_epochs) not in (1, len(args.data)):
        expected = f"one number, or one for each of {len(args.data)} data sets"
        parser.error(f"--max-epochs: found {len(args.max_epochs)} numbers, expected {expected}")
    budgets = args.max_epochs * (len(args.data) if len(args.max_epochs) == 1 else 1)
    for path, budget in zip(args.data, budgets, strict=True):
        data: HeteroData | None = None
        for name, trial, seed in _planned(args):
            file = _file(args.out, path, name, trial, seed)
            closed = name in args.baselines
            found = _found(args).get(file.stem)
            if found is not None:
                if not closed and (found["settings"], found["budget"]) != (settings_of(name, trial), budget):
                    of = file if file.exists() else f"{args.keep}, {file.stem}"
                    parser.error(f"{of}: a run of other settings or another --max-epochs; choose another file")
                continue
            data = load(path) if data is None else data
            record, users = fit(data, name) if closed else train(data, name, trial, seed, budget, args.capture)
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file.with_suffix(".npz"), recall=users)
            write_json(file, record)  # Last: a record says that all is there.
            _keep(args)
            print(f"{file.stem}: validation {record['val']:.4f}, test {record[METRIC]:.4f}", flush=True)
    _keep(args)
    print("\n".join([*_reached(args), "", *_regrets(args)]))


def _keep(args: argparse.Namespace) -> None:
    if args.keep:
        write_json(args.keep, dict(sorted(_found(args).items())))


def _found(args: argparse.Namespace) -> dict[str, Any]:
    """Return the records of finished runs by how their files are called."""
    kept = read_json(args.keep) if args.keep and args.keep.exists() else {}
    return {**kept, **{file.stem: read_json(file) for file in sorted(args.out.glob("*.json"))}}


def _planned(args: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    for name in args.baselines:
        yield name, 0, 0
    for name in args.backbones:
        for seed in range(args.seeds):
            yield name, 0, seed
        for trial in range(1, args.trials):
            yield name, trial, 0


def _file(out: Path, path: str, name: str, trial: int, seed: int) -> Path:
    return out / f"{Path(path).stem}-{name}-{trial}-{seed}.json"


def _read(args: argparse.Namespace, path: str, name: str) -> tuple[list[dict[str, Any]], np.ndarray]:
    files = [_file(args.out, path, name, 0, seed) for seed in range(1 if name in args.baselines else args.seeds)]
    records = [json.loads(file.read_text()) for file in files if file.exists()]
    users = [np.load(file.with_suffix(".npz"))["recall"] for file in files if file.exists()]
    return records, np.mean(users, axis=0) if users else np.zeros(0)


def _reached(args: argparse.Namespace) -> Iterator[str]:
    first = args.backbones[0]
    measured = f"seeds | validation | test {METRIC} | test ndcg@20"
    yield f"| data | model | {measured} | {first} is better by | p, over users | CPU s |"
    yield "|" + " --- |" * 9
    for path in args.data:
        others = [*args.baselines, *args.backbones]
        found = {name: _read(args, path, name) for name in others}
        records, mine = found[first]
        rivals = [name for name in others if name != first and found[name][0] and records]
        tests = [paired_test(mine, found[name][1]) for name in rivals]
        p_values = dict(zip(rivals, holm([float(test.p_value) for test in tests]), strict=True)) if tests else {}
        for name in others:
            made, users = found[name]
            if not made:
                continue
            value, deviation = mean_std([record[METRIC] for record in made])
            text = f"{value:.4f}" if name in args.baselines else marked(f"{value:.4f} ± {deviation:.4f}", *made)
            lead = f"{100 * (mine.mean() / users.mean() - 1):+.1f} %" if name in p_values else ""
            p = f"{p_values[name]:.2g}" if name in p_values else ""
            val, ndcg = (fmean(record[key] for record in made) for key in ("val", "ndcg@20"))
            seconds = fmean(record["seconds"] for record in made)
            row = [Path(path).stem, name, str(len(made)), f"{val:.4f}", text, f"{ndcg:.4f}", lead, p, f"{seconds:.0f}"]
            yield f"| {' | '.join(row)} |"


def _regrets(args: argparse.Namespace) -> Iterator[str]:
    if args.trials < 2 or len(args.data) < 2:
        return
    found, regret = _found(args), "regret of the default | regret of the choice"
    yield f"| backbone | data left out | trials | default | tuned there | chosen on the others | {regret} |"
    yield "|" + " --- |" * 8
    made: list[dict[str, Any]] = []
    for name in args.backbones:
        records = {
            path: {
                trial: found[stem]
                for trial in range(args.trials)
                if (stem := _file(args.out, path, name, trial, 0).stem) in found
            }
            for path in args.data
        }
        values = {path: {trial: run["val"] for trial, run in runs.items()} for path, runs in records.items()}
        for path, here in values.items():
            others = [v for other, v in values.items() if other != path and len(v) == args.trials]
            common = set(here).intersection(*others) if others else set()
            if not common or 0 not in here:
                continue
            tuned = max(here, key=lambda trial: here[trial])
            chosen = max(sorted(common), key=lambda trial: fmean(v[trial] / max(v.values()) for v in others))
            cells = [marked(f"{here[trial]:.4f}", records[path][trial]) for trial in (0, tuned, chosen)]
            regrets = [f"{100 * (1 - here[trial] / here[tuned]):.1f} %" for trial in (0, chosen)]
            yield f"| {' | '.join([name, Path(path).stem, str(len(here)), *cells, *regrets])} |"
            made += records[path].values()
    ended = Counter(run.get("stopped") for run in made)
    counts = f"{ended[TOO_EARLY]} too early to tell, {ended[RISING]} still rising"
    yield f"\n*: had not converged, as {ended[TOO_EARLY] + ended[RISING]} of {len(made)} trials ({counts})."


if __name__ == "__main__":
    main()
