"""Memory that does not grow with the data: building graphs, shuffling, features in files, and features cut by items.

Each figure is of a process of its own, which measures itself from after its input was made.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Missing, Row, Suite, Table
from benchmarks.memory import alone, anonymous, forget_peak, held, peak, resident, watched
from benchmarks.several import in_processes
from pyg_ckd import Trainer, evaluate
from pyg_ckd.data.sampler import TripletSampler
from pyg_ckd.datasets import convert, load
from pyg_ckd.nn import VBPR, Adjacency, EarlyFusionLightGCN
from pyg_ckd.processes import present
from pyg_ckd.scoring.sparse import csr_matrix, row_starts
from pyg_ckd.training import build as build_model

CPU = torch.device("cpu")
QUICK, FULL = 2_000_000, 20_000_000
MATRIX = {False: (20_000, 1024), True: (200_000, 1024)}
"""Rows and columns of the features in a file, 781 MiB in full."""


def run(suite: Suite, count: int | None = None, matrix: tuple[int, int] | None = None) -> list[Table]:
    """Measure all four.

    Args:
        suite: What to measure on; the CPU whatever it says.
        count: Interactions of the graphs.
        matrix: Rows and columns of the features.
    """
    count = count or (FULL if suite.full else QUICK)
    shape = matrix or MATRIX[suite.full]
    return [building(count), shuffling(count), out_of_core(*shape), cut_by_items(*shape)]


def building(count: int) -> Table:
    """Build the graph with the package and by sorting keys of row and column."""
    table = Table(f"building the graph of {count} interactions, bytes for each", [])
    for name in ("keys", "package"):
        found = _alone(table, name, build, name, count)
        if found:
            table.rows.append({"way": name, **found})
    table.notes.append(
        "Keys: torch.unique of row * N + column in both directions. The graph itself has 16 and 4 for a node."
    )
    return table


def shuffling(count: int) -> Table:
    """Make a sampler and begin an epoch, with one permutation and with blocks."""
    table = Table(f"a sampler of {count} interactions, bytes for each beyond the interactions", [])
    for shuffle in ("whole", "blocks"):
        found = _alone(table, shuffle, sample, shuffle, count)
        if found:
            table.rows.append({"shuffle": shuffle, **found})
    return table


def out_of_core(rows: int, columns: int) -> Table:
    """Train VBPR with sparse gradients on features in memory and in files."""
    size = rows * columns * 4 / 2**20
    table = Table(f"VBPR, sparse gradients, features [{rows}, {columns}] ({size:.0f} MiB): anonymous memory (MiB)", [])
    with tempfile.TemporaryDirectory() as place:
        for kind in ("none", "memory", "float32", "float16"):
            written = _alone(table, kind, write, kind, place, rows, columns)
            found = _alone(table, kind, train, kind, place)
            if found:
                table.rows.append({"features": kind, **written, **found})
    table.notes.append(
        "Writing is what convert takes, training what loading, an epoch, its validation and an evaluation take. None "
        "has a single column in memory: what tables, optimiser and sampler take. Memory holds all features as float32; "
        "the others open a folder of write_folder."
    )
    return table


def cut_by_items(rows: int, columns: int, ranks: int = 2) -> Table:
    """Train early fusion in several processes that have all features each, or those of some items."""
    size, dim = rows * columns * 4 / 2**20, 64
    title = f"EarlyFusionLightGCN in {ranks} processes, users cut, features [{rows}, {columns}] ({size:.0f} MiB)"
    table = Table(f"{title}: memory of one process (MiB)", [])
    with tempfile.TemporaryDirectory() as place:
        _alone(table, "float16", write, "float16", place, rows, columns)
        _alone(table, "float32", write, "float32", place, rows, columns)
        for kind, cut_features in itertools.product(("float16", "float32"), (False, True)):
            found = in_processes(ranks, train_part, f"{place}/{kind}", cut_features)
            most: Row = {key: max(one[key] for one in found) for key in found[0]}
            table.rows.append({"features in a file": kind, "cut": "yes" if cut_features else "no", **most})
    table.notes.append(
        "Anonymous and mapped from files, each at its highest from before loading to the end of an epoch and its "
        f"validation, the larger one of the processes. float16 is converted in memory. A table of all items has "
        f"{rows * dim * 4 / 2**20:.0f} MiB. Sent is what Processes counts."
    )
    return table


def train_part(folder: str, cut_features: bool) -> dict[str, float]:
    """Return what one of several processes takes for an epoch, its validation included, beside what it had before."""
    steps, options = _Count(), {"strategy": "users", "cut_features": cut_features}
    before, start = (resident("RssAnon"), resident("RssFile")), time.process_time()
    with watched(0.01) as own, watched(0.01, "RssFile") as mapped:
        data = load(folder)
        model = build_model(EarlyFusionLightGCN, data, 0, num_layers=1)
        more: dict[str, Any] = {**options, "callbacks": steps}
        trainer = Trainer(max_epochs=1, batch_size=8192, eval_users=0.1, progress=False, track_views=False, **more)
        trainer.fit(model, data)
    found = {"anonymous": max(own) - before[0], "from files": max(mapped) - before[1]}
    return found | {"sent, MB a step": steps.sent / steps.taken / 1e6, "CPU s": time.process_time() - start}


class _Count:
    """Counts steps, and the bytes that they send."""

    taken = sent = before = 0

    def on_train_batch_start(self, **_: Any) -> None:
        self.before = present().bytes

    def on_train_batch_end(self, **_: Any) -> None:
        self.taken, self.sent = self.taken + 1, self.sent + present().bytes - self.before


def build(way: str, count: int) -> dict[str, float]:
    """Return bytes for each interaction at the peak and after it, and seconds."""
    edges, users, items = _interactions(count)
    call: Callable[..., Any] = Adjacency.from_interactions if way == "package" else by_keys
    call(edges[:, :1000], users, items)
    forget_peak(CPU)
    before, start = held(CPU), time.process_time()
    graph = call(edges, users, items)
    seconds = time.process_time() - start
    return {"peak": (peak(CPU) - before) / count, "kept": (held(CPU) - before) / count, "CPU s": seconds} | {
        "entries": float(graph.matrix.values().numel())
    }


def sample(shuffle: str, count: int) -> dict[str, float]:
    """Return bytes for each interaction of making the sampler, and of the first batches of an epoch."""
    edges, users, items = _interactions(count)
    list(TripletSampler(edges[:, :1000], users, items, shuffle=shuffle))
    forget_peak(CPU)
    before = held(CPU)
    sampler = TripletSampler(edges, users, items, shuffle=shuffle)
    making = (peak(CPU) - before) / count
    forget_peak(CPU)
    before, start = held(CPU), time.process_time()
    for number, _ in enumerate(sampler):
        if number == 100:
            break
    seconds = time.process_time() - start
    return {"made, peak": making, "epoch, peak": (peak(CPU) - before) / count, "CPU s of 100 batches": seconds}


def write(kind: str, place: str, rows: int, columns: int, users: int = 4_000) -> dict[str, float | None]:
    """Write the data, prepared if they are to stay in files, and return how much more anonymous memory that took."""
    folder = Path(place) / "raw"
    if not folder.exists():
        _write_raw(folder, rows, columns, users)
    if not kind.startswith("float"):
        return {"writing": None}
    before = anonymous()
    with watched() as seen:
        convert(folder, Path(place) / kind, "folder", "standardize", kind)
    return {"writing": max(seen) - before}


def train(kind: str, place: str) -> dict[str, float]:
    """Return how much more anonymous memory there is at most until the end of the evaluation, and seconds."""
    folder, before = Path(place) / "raw", anonymous()
    start = time.process_time()
    data = load(Path(place) / kind if kind.startswith("float") else folder, "standardize" if kind != "none" else cut)
    opened, seen = time.process_time() - start, [anonymous()]
    model = VBPR.from_data(data, sparse=True)
    watch, options = _Watch(seen), {"num_negatives": 1, "track_views": False, "progress": False}
    trainer = Trainer(max_epochs=1, batch_size=2048, eval_users=0.1, callbacks=watch, **options)
    start = time.process_time()
    trainer.fit(model, data)
    seconds = time.process_time() - start
    evaluate(model, data, k=20, metrics="recall", split="val")
    seen.append(anonymous())
    return {
        "training": max(seen) - before,
        "CPU s to open": opened,
        "CPU s of the epoch": seconds,
    }


def cut(data: Any) -> Any:
    """Keep one column of every modality."""
    for m in data.modalities:
        data["item"][m] = data["item"][m][:, :1].clone()
    return data


class _Watch:
    def __init__(self, seen: list[float]) -> None:
        self.seen = seen

    def on_train_batch_end(self, **_: Any) -> None:
        self.seen.append(anonymous())

    def on_validation_end(self, **_: Any) -> None:
        self.seen.append(anonymous())


def by_keys(edges: Tensor, num_users: int, num_items: int) -> Adjacency:
    """Build the symmetric graph by sorting a key of 64 bits for every entry."""
    size = num_users + num_items
    user, item = edges[0], edges[1] + num_users
    row, col = torch.cat([user, item]), torch.cat([item, user])
    key = torch.unique(row * size + col)
    row, col = key.div(size, rounding_mode="floor"), key % size
    count = torch.bincount(row, minlength=size)
    scale = count.float().pow(-0.5)
    matrix = csr_matrix(row_starts(count).int(), col.int(), scale[row] * scale[col], size)
    return Adjacency(matrix, matrix)


def _interactions(count: int) -> tuple[Tensor, int, int]:
    """Draw interactions, a few percent of them more than once."""
    generator = torch.Generator().manual_seed(0)
    users, items = max(2, count // 10), max(2, count // 25)
    edges = torch.empty(2, count, dtype=torch.int64)
    torch.randint(users, (count,), generator=generator, out=edges[0])
    edges[1] = (torch.rand(count, generator=generator, dtype=torch.float64) ** 2 * items).long()
    return edges, users, items


def _write_raw(folder: Path, rows: int, columns: int, users: int) -> None:
    folder.mkdir()
    generator = np.random.default_rng(0)
    matrix = np.lib.format.open_memmap(folder / "visual.npy", "w+", np.float32, (rows, columns))
    for start in range(0, rows, 4096):
        matrix[start : start + 4096] = generator.standard_normal((min(4096, rows - start), columns), np.float32)
    del matrix
    pairs = np.unique(generator.integers(users * rows, size=20 * users))
    split = np.where(np.arange(pairs.size) % 10 == 0, "val", "train")
    lines = [f"{pair // rows},{pair % rows},{part}" for pair, part in zip(pairs, split, strict=True)]
    (folder / "interactions.csv").write_text("\n".join(["user,item,split", *lines]), encoding="utf-8")


def _alone(table: Table, name: str, function: Callable[..., Any], *args: Any) -> dict[str, float]:
    try:
        return alone(function, *args)
    except (Missing, RuntimeError) as error:
        table.notes.append(f"{name}: left out, {error}.")
        return {}
