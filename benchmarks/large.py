"""Three million users on one machine: two processes build, train, evaluate, export and go on after a break.

``python -m benchmarks.large --folder DIR`` writes random interactions and features once into a folder whose features
stay in their files, and then, for each backbone, starts processes that train it with ``strategy="users"``: some steps
of an epoch, an evaluation of some validation users, a checkpoint, and lists of these users in Parquet files. The same
is started again for a second epoch, which goes on from the checkpoint. It prints what each stage took, the peak memory
of a process beside that of the simulation of ``benchmarks/scale_model.py``, and the epoch that was reached.

Memory is what a process has of its own (``RssAnon``); pages of mapped files are the system's. ``--users``,
``--items`` and ``--interactions`` make it as small as one likes.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Table
from benchmarks.memory import alone, anonymous, watched
from benchmarks.scale import random_problem
from benchmarks.scale_model import GPU, Layout, Sizes, forecast
from benchmarks.several import in_processes
from pyg_ckd import Trainer
from pyg_ckd.data import build_data
from pyg_ckd.data.sampler import TripletBatch, TripletSampler
from pyg_ckd.datasets import load, write_folder
from pyg_ckd.files import write_json
from pyg_ckd.nn import backbones
from pyg_ckd.serving import Recommender

WANTED = 1.3
HELD_OUT = 200_000
"""Interactions of the validation part, and of the test part."""
SEED = 0


class FirstBatches(TripletSampler):
    """Yields the first batches of an epoch alone.

    Args:
        *args: As of the sampler.
        steps: How many.
        **options: As of the sampler.
    """

    def __init__(self, *args: Any, steps: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.steps = steps

    def __len__(self) -> int:
        """Return the number of batches."""
        return min(self.steps, super().__len__())

    def __iter__(self) -> Iterator[TripletBatch]:
        """Yield the batches; what is left of the epoch is not drawn."""
        return islice(super().__iter__(), self.steps)


def main(argv: Sequence[str] | None = None) -> None:
    """Run everything and print the table.

    Args:
        argv: Arguments; by default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="where data and checkpoints are; a temporary folder")
    parser.add_argument("--users", type=int, default=3_000_000)
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--interactions", type=int, default=60_000_000)
    parser.add_argument("--modalities", type=int, default=2)
    parser.add_argument("--features", type=int, default=128, help="columns of every modality")
    parser.add_argument("--batch", type=int, default=65_536)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--evaluated", type=int, default=10_000, help="users who are evaluated, and get lists")
    parser.add_argument("--backbones", nargs="+", default=["VBPR", "EarlyFusionLightGCN"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="also write the figures to this JSON file")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() if args.folder is None else nullcontext(args.folder) as name:
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        options = {key: value for key, value in vars(args).items() if key not in ("folder", "out")}
        written = alone(write, options, str(folder)) if not (folder / "ready").exists() else {}
        if written:
            print(f"written: {json.dumps(written)}", flush=True)
        rows = []
        for backbone in args.backbones:
            for epochs in (1, 2):
                found = in_processes(args.processes, run, str(folder), options, backbone, epochs)
                write_json(folder / f"{backbone}-{epochs}.json", {"processes": found})
                rows.append(row_of(options, backbone, epochs, found))
                print(json.dumps(rows[-1]), flush=True)
        print(Table("several processes, users", rows).markdown())
        if args.out is not None:
            write_json(args.out, {"options": options, "written": written, "rows": rows})


def sizes_of(options: dict[str, Any], backbone: str) -> Sizes:
    """Return what is trained, as the simulation takes it."""
    return Sizes(
        options["users"],
        options["items"],
        options["interactions"],
        backbone=backbone,
        modalities=options["modalities"],
        features=options["features"],
        layers=backbones()[backbone].recommended.get("model", {}).get("num_layers", 2),
        batch=options["batch"],
    )


def write(options: dict[str, Any], place: str) -> dict[str, float]:
    """Write the data; return seconds and MiB of memory at most."""
    torch.set_num_threads(1)
    with watched(0.05) as seen:
        start = time.perf_counter()
        problem = random_problem(sizes_of(options, "VBPR"))
        drawn = time.perf_counter() - start
        edges, held = problem.edge_index, min(HELD_OUT, problem.edge_index.size(1) // 10)
        val, test, train = edges[:, :held], edges[:, held : 2 * held], edges[:, 2 * held :]
        sizes = {"num_users": problem.num_users, "num_items": problem.num_items}
        start = time.perf_counter()
        data = build_data(train, problem.features, val=val, test=test, **sizes)
        built, start = time.perf_counter() - start, time.perf_counter()
        write_folder(data, Path(place) / "ready", "standardize", "float16")
    return {"draw s": drawn, "build s": built, "write s": time.perf_counter() - start, "peak MiB": max(seen)}


def run(folder: str, options: dict[str, Any], backbone: str, epochs: int) -> dict[str, Any]:
    """Load, train, evaluate, export; return seconds and memory of the stages."""
    place = Path(folder)
    before, stages, peaks = anonymous(), {}, {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        start = time.perf_counter(), time.process_time()
        with watched(0.05) as seen:
            yield
        stages[name] = time.perf_counter() - start[0], time.process_time() - start[1]
        peaks[name] = max(seen) - before

    with stage("load"):
        data = load(place / "ready")
        torch.manual_seed(SEED)
        more = {"sparse": True} if backbone == "VBPR" else {}
        model = backbones()[backbone].from_data(data, **more)
    seen: dict[str, Any] = {"steps": []}
    trainer = Trainer(
        max_epochs=epochs,
        batch_size=options["batch"],
        sampler=partial(FirstBatches, steps=options["steps"], shuffle="blocks"),
        strategy="users",
        device="cpu",
        eval_users=options["evaluated"],
        track_views=False,
        checkpoint_dir=place / "checkpoints" / backbone,
        callbacks=_Clock(seen),
        progress=False,
        seed=SEED,
    )
    with stage("fit"):
        history = trainer.fit(model, data)
    with stage("export"):
        users = torch.arange(0, options["users"], max(1, options["users"] // options["evaluated"]))
        recommender = Recommender(model, data)
        recommender.export_top_k(place / f"lists-{backbone}-{epochs}", 20, user_ids=users[: options["evaluated"]])
    return {
        "stages": stages,
        "peaks": peaks,
        "rows": history.rows,
        "trained": len(seen["steps"]),
        "step s": sorted(seen["steps"])[len(seen["steps"]) // 2] if seen["steps"] else 0.0,
        "anonymous in a step": seen.get("memory", 0.0) - before,
    }


class _Clock:
    def __init__(self, seen: dict[str, Any]) -> None:
        self.seen, self.start = seen, 0.0

    def on_train_batch_start(self, **_: Any) -> None:
        self.start = time.process_time()

    def on_train_batch_end(self, **_: Any) -> None:
        self.seen["steps"].append(time.process_time() - self.start)
        self.seen["memory"] = max(self.seen.get("memory", 0.0), anonymous())


def row_of(options: dict[str, Any], backbone: str, epochs: int, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of the table for one start of the processes."""
    simulated = forecast(sizes_of(options, backbone), Layout.of("users", options["processes"]), GPU)
    told = (simulated.bytes + simulated.memory["parameters"]) / 2**20  # The weights of the best epoch are kept as well.
    most = {name: max(f["peaks"][name] for f in found) for name in found[0]["peaks"]}
    highest = max(most.values())
    metrics = found[0]["rows"][-1]
    return {
        "backbone": backbone,
        "epochs": epochs,
        "steps": found[0]["trained"],
        "CPU s a step": max(f["step s"] for f in found),
        **{f"{name} s": max(f["stages"][name][0] for f in found) for name in found[0]["stages"]},
        **{f"{name}, peak MiB": value for name, value in most.items()},
        "simulated MiB": told,
        "peak / simulated": highest / told,
        "wanted, at most": WANTED,
        "epoch": metrics.get("epoch"),
        "recall": next((v for k, v in metrics.items() if "recall" in k), None),
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
