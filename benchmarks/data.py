"""Large data sets: how long, and in what memory, they become a graph, and how fast a processed one opens.

``python -m benchmarks.data --size full`` makes 10 million interactions of a million users with a million items of 128
features in a temporary folder and reads them in every way, each in a process of its own: ``build_data`` on arrays that
stay memory-mapped, folders of Parquet or CSV files with ids of several types, and a processed data set. ``--size
quick`` is a hundredth of that. It prints a Markdown table, and writes the figures with ``--out figures.json``. Seconds
count from the loaded libraries to the graph, and the peak of the resident set holds everything, mapped pages of files
included. ``OMP_NUM_THREADS`` sets the number of threads.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch_geometric.data import HeteroData

from benchmarks.neighbors import peak_memory
from pyg_ckd.data import build_data, held_out
from pyg_ckd.datasets import MultimodalFolder, read_folder
from pyg_ckd.files import write_json

SIZES = {"quick": (100_000, 10_000, 10_000, 128), "full": (10_000_000, 1_000_000, 1_000_000, 128)}
_ROWS = 2**16


def mapped(folder: Path, features: str, transform: str) -> HeteroData:
    """Build a graph of integer arrays and one matrix of features, all mapped from their files."""
    train, val, test = (np.load(folder / f"{split}.npy", mmap_mode="r") for split in ("train", "val", "test"))
    x = np.load(folder / f"{features}.npy", mmap_mode="c")
    return build_data(train, {"visual": x}, val=val, test=test, transform=transform)


CASES: dict[str, Callable[[Path], HeteroData]] = {
    "build_data, float32, features as given": lambda folder: mapped(folder, "float32", "none"),
    "build_data, float32, standardized": lambda folder: mapped(folder, "float32", "standardize"),
    "build_data, float16, standardized": lambda folder: mapped(folder, "float16", "standardize"),
    "read_folder, Parquet, 64-bit ids": lambda folder: read_folder(folder / "integers"),
    "read_folder, Parquet, text ids": lambda folder: read_folder(folder / "text"),
    "read_folder, CSV, text ids": lambda folder: read_folder(folder / "csv"),
    "MultimodalFolder, first time": lambda folder: MultimodalFolder(folder / "integers", folder / "root")[0],
    "MultimodalFolder, processed": lambda folder: MultimodalFolder(folder / "integers", folder / "root")[0],
}


def generate(folder: Path, interactions: int, users: int, items: int, dims: int, seed: int) -> None:
    """Write random interactions of popular items, split 8:1:1, and normal features, in every layout."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, interactions)
    item = (rng.random(interactions) ** 2 * items).astype(np.int64)
    key = rng.permutation(np.unique(user * items + item))
    pairs = np.stack([key // items, key % items])
    first, second = int(0.8 * key.size), int(0.9 * key.size)
    np.save(folder / "train.npy", pairs[:, :first])
    np.save(folder / "val.npy", pairs[:, first:second])
    np.save(folder / "test.npy", pairs[:, second:])
    for dtype in ("float32", "float16"):
        file = np.lib.format.open_memmap(folder / f"{dtype}.npy", "w+", dtype, (items, dims))
        for start in range(0, items, _ROWS):
            stop = min(items, start + _ROWS)
            file[start:stop] = rng.standard_normal((stop - start, dims), dtype=np.float32)
        file.flush()
    for name, write in {"integers": _integers, "text": _text, "csv": _text}.items():
        home = folder / name
        home.mkdir()
        (home / "visual.npy").symlink_to(folder / "float32.npy")
        suffix = "csv" if name == "csv" else "parquet"
        frame, listed = write(pairs, items)
        for table, stem in ((frame, "interactions"), (listed, "items")):
            target = home / f"{stem}.{suffix}"
            table.to_csv(target, index=False) if suffix == "csv" else table.to_parquet(target)


def _integers(pairs: np.ndarray, items: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    spread = np.int64(2**40 + 15)  # Ids far beyond the number of rows.
    frame = pd.DataFrame({"user": pairs[0] * spread, "item": pairs[1] * spread, "timestamp": pairs[1]})
    return frame, pd.DataFrame({"item": np.arange(items) * spread})


def _text(pairs: np.ndarray, items: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    names = pd.Series(np.char.add("B", np.char.zfill(np.arange(items).astype(str), 12)))
    people = pd.Series(np.char.add("user-", np.arange(pairs[0].max() + 1).astype(str)))
    frame = pd.DataFrame({"user": people.take(pairs[0]).array, "item": names.take(pairs[1]).array})
    return frame, pd.DataFrame({"item": names})


def measure(task: tuple[str, Path]) -> dict[str, float]:
    """Read once; return seconds elapsed, seconds of CPU, peak memory in MiB and the number of interactions."""
    name, folder = task
    elapsed, cpu = time.perf_counter(), time.process_time()
    data = CASES[name](folder)
    elapsed, cpu = time.perf_counter() - elapsed, time.process_time() - cpu
    edges = sum(held_out(data, split).size(1) for split in ("train", "val", "test"))
    return {"seconds": elapsed, "cpu_seconds": cpu, "peak_mib": peak_memory(), "interactions": edges}


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a process of its own, so that its peak memory is nobody else's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="quick")
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="parts of the names of those to run")
    parser.add_argument("--folder", type=Path, default=None, help="where to keep the files; a temporary folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="also write the figures to this JSON file")
    args = parser.parse_args()
    interactions, users, items, dims = SIZES[args.size]
    print(
        f"{interactions} interactions of {users} users with {items} items x {dims} features, "
        f"{torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}\n"
    )
    print("| source | seconds | seconds of CPU | peak memory (MiB) |\n| --- | ---: | ---: | ---: |", flush=True)
    results = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        alone(generate, folder, *SIZES[args.size], args.seed)
        for case in CASES:
            if any(part in case for part in args.cases):
                found = results[case] = alone(measure, (case, folder))
                figures = f"{found['seconds']:.2f} | {found['cpu_seconds']:.2f} | {found['peak_mib']:.0f}"
                print(f"| {case} | {figures} |", flush=True)
    if args.out is not None:
        about = {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}
        write_json(args.out, {"size": SIZES[args.size], "seed": args.seed, "cases": results, **about})


if __name__ == "__main__":
    main()
