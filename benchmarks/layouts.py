"""Training shared by several processes: what a step costs each of them, what it sends, and what each holds.

``python -m benchmarks.layouts`` trains on a random graph of a million interactions, in one process and in two under
every strategy that the backbone names, and prints a Markdown table. CPU time of a process is the figure to trust where
all processes run on one machine. Ratios are to one process, which is measured in the same run, before and after the
others.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.problems import BATCH_SIZE, Problem
from benchmarks.several import in_processes
from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletSampler
from pyg_ckd.files import write_json
from pyg_ckd.nn import backbones
from pyg_ckd.processes import present
from pyg_ckd.training import RowAdam
from pyg_ckd.training.groups import parameter_groups
from pyg_ckd.training.layouts.choice import LAYOUTS
from pyg_ckd.training.layouts.whole import Whole


def graph_of(users: int, items: int, interactions: int, modalities: int, dims: int) -> Problem:
    """Return random interactions, of popular items more, and normal features."""
    generator = torch.Generator().manual_seed(0)
    user = torch.randint(users, (interactions,), generator=generator)
    popular = (torch.rand(interactions, generator=generator, dtype=torch.float64) ** 2 * items).long()
    key = torch.unique(user * items + popular)
    key = key[torch.randperm(key.numel(), generator=generator)]
    edges = torch.stack([key.div(items, rounding_mode="floor"), key % items])
    return Problem({}, edges, users, items).with_random_features(modalities, dims)


def measure(
    problem: Problem,
    name: str,
    distils: bool,
    strategy: str,
    steps: int,
    batch_size: int = BATCH_SIZE,
    ready: Callable[[], Any] = lambda: None,
    **options: Any,
) -> dict[str, Any]:
    """Take steps as the trainer does and return what they cost this process.

    Args:
        problem: Features and interactions.
        name: The backbone.
        distils: Whether it is distilled.
        strategy: How the training is shared out; nothing is one process.
        steps: Steps that count, after two others.
        batch_size: Triples in a step, of all processes together.
        ready: Called before the first step.
        **options: Options of the backbone.
    """
    processes = present()
    kind = DistillationWrapper if distils else Objective
    objective = problem.objective(backbones()[name], kind, **options).train()
    layout = (LAYOUTS[strategy] if strategy else Whole)(processes)
    features, graph = layout.cut(objective, problem.features, {RATES: problem.edge_index})
    optimizer = RowAdam(parameter_groups(objective), lr=1e-3, fused=True)
    sizes = (problem.num_users, problem.num_items, batch_size, objective.num_random_triples)
    batches = chain.from_iterable(repeat(TripletSampler(problem.edge_index, *sizes, shuffle=objective.student.shuffle)))
    ready()
    cpu, wall = [], []
    for number in range(steps + 2):
        batch = next(batches)
        if number == 2:
            processes.calls = processes.bytes = 0
        began = time.process_time(), time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        share, factor = layout.share(batch)
        with layout.step():
            terms = {key: factor * term for key, term in objective.loss(features, graph, share).items()}
        objective.backward(terms, lambda loss, **options: loss.backward(**options))
        layout.sum_gradients(objective)
        optimizer.step()
        cpu.append(time.process_time() - began[0])
        wall.append(time.perf_counter() - began[1])
    held = sum(p.numel() for p in objective.parameters())
    moments = sum(v.numel() for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor) and v.dim())
    teachers = sum(table.numel() for tables in objective.given_teachers().values() for table in tables)
    return {
        "cpu": statistics.median(cpu[2:]),
        "fastest": min(cpu[2:]),
        "wall": statistics.median(wall[2:]),
        "parameters": held,
        "adam": moments,
        "teachers": teachers,
        "edges": graph[RATES].weight.numel(),
        "calls": processes.calls / steps,
        "bytes": processes.bytes / steps,
    }


def _work(strategy: str, args: argparse.Namespace) -> dict[str, Any]:
    problem = graph_of(args.users, args.items, args.interactions, args.modalities, args.dims)
    return measure(problem, args.backbone, args.ckd, strategy, args.steps)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="LightGCN")
    parser.add_argument("--ckd", action="store_true", help="distillation in the place of plain training")
    parser.add_argument("--strategies", nargs="+", default=None, help="by default all that the backbone names")
    parser.add_argument("--processes", type=int, nargs="+", default=[2])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--modalities", type=int, default=2)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="also write the figures to this JSON file")
    args = parser.parse_args()
    chosen = args.strategies or [s for s in LAYOUTS if s in backbones()[args.backbone].strategies]
    run = partial(in_processes, threads=args.threads)
    found = {"one process": run(1, _work, "", args)}
    for size in args.processes:
        found |= {f"{strategy}, {size} processes": run(size, _work, strategy, args) for strategy in chosen}
    found["one process again"] = run(1, _work, "", args)
    ones = [found[name][0] for name in ("one process", "one process again")]
    first = ones[0] | {key: statistics.mean(one[key] for one in ones) for key in ("cpu", "wall")}
    print(
        f"{args.backbone}, {'ckd' if args.ckd else 'plain'}: {args.users} users, {args.items} items, "
        f"{args.interactions} interactions drawn, batches of {BATCH_SIZE}, load average {os.getloadavg()[0]:.1f}\n"
    )
    columns = (
        *("CPU (ms/step)", "ratio", "wall, ratio", "MB/step", "calls/step", "parameters + Adam (M)", "ratio"),
        "edges, ratio",
    )
    print(f"| | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    for name, results in found.items():
        most = {key: max(result[key] for result in results) for key in first}
        held, whole = (x["parameters"] + x["adam"] for x in (most, first))
        cells = (
            *(f"{1e3 * most['cpu']:.0f}", f"{most['cpu'] / first['cpu']:.2f}", f"{most['wall'] / first['wall']:.2f}"),
            *(f"{most['bytes'] / 1e6:.2f}", f"{most['calls']:.0f}", f"{held / 1e6:.2f}", f"{held / whole:.3f}"),
            f"{most['edges'] / first['edges']:.2f}",
        )
        print(f"| {name} | {' | '.join(cells)} |")
    if args.out is not None:
        write_json(args.out, {"options": vars(args) | {"out": str(args.out)}, "found": found})


if __name__ == "__main__":
    main()
