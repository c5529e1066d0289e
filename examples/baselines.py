"""Fit the closed-form baselines to data sets and print what they reach as a Markdown table.

``python -m examples.baselines --data FILE...`` chooses their knobs on the validation part and measures on the test
part, one data set after the other.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pyg_ckd import evaluate
from pyg_ckd.datasets import load
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import BASELINES, fit_baseline

HEAD = ("data", "baseline", "validation recall@20", "test recall@20", "test ndcg@20", "knobs", "CPU seconds")


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["synthetic"])
    parser.add_argument("--baselines", nargs="+", default=list(BASELINES), choices=BASELINES)
    args = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}", flush=True)
    for path in args.data:
        data = load(path)
        for name in args.baselines:
            start = time.process_time()
            try:
                fitted = fit_baseline(name, data)
            except InputError as error:
                print(f"| {Path(path).stem} | {name} | – | – | – | {error} | – |", flush=True)
                continue
            seconds = time.process_time() - start
            test = evaluate(fitted.embeddings, data, "test", k=20, metrics=["recall", "ndcg"])
            knobs = ", ".join(f"{k} {_text(v)}" for k, v in fitted.settings.items()) or "–"
            value = "–" if fitted.value is None else f"{fitted.value:.4f}"
            row = [Path(path).stem, name, value, f"{test['recall@20']:.4f}", f"{test['ndcg@20']:.4f}", knobs]
            print(f"| {' | '.join([*row, f'{seconds:.0f}'])} |", flush=True)


def _text(value: object) -> str:
    if isinstance(value, list):
        return " + ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
