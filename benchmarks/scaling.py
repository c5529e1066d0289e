"""Time per interaction and epoch on graphs of growing size, and where the tables outgrow the cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.common import WIDTH, Lines, Row, Suite, Table, cache_bytes
from benchmarks.problems import BATCH_SIZE, Problem, Steps
from benchmarks.propagation import OURS, passes
from pyg_ckd.data.inputs import RATES
from pyg_ckd.nn import VBPR, Adjacency

QUICK, FULL = (100_000, 300_000, 1_000_000), (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
UPDATES = {"all rows": False, "rows of the batch": True}
"""What Adam updates in a step, and whether gradients are sparse."""

STEP, PRODUCT = "training, {} (ns per interaction)", "propagation (ns per edge)"


def run(suite: Suite, sizes: Sequence[int] | None = None, batch_size: int = BATCH_SIZE) -> list[Table]:
    """Measure plain VBPR, dense and with sparse gradients, and one propagation forward and backward on random graphs.

    Args:
        suite: What to measure on.
        sizes: Interactions of the graphs, in increasing order.
        batch_size: Triples in a step.
    """
    table = Table("time per interaction and epoch", [])
    for size in sizes or (FULL if suite.full else QUICK):
        table.rows.append(measure(suite, size, batch_size))
    for update in UPDATES:
        for row in table.rows:
            row[f"growth, {update}"] = row[STEP.format(update)] / table.rows[0][STEP.format(update)]
    for row in table.rows:
        row["wanted, at most"] = 2.0
    marks, cache = {}, cache_bytes(suite.device)
    if cache:
        per_interaction = sum(row["table (MiB)"] / row["interactions"] for row in table.rows) / len(table.rows)
        marks = {"one table fills the cache": cache / 2**20 / per_interaction}
        table.notes.append(
            f"The last cache of {cache / 2**20:.0f} MiB holds one table of user and item embeddings up to about "
            f"{marks['one table fills the cache']:.0f} interactions."
        )
    table.chart = Lines("interactions", (*map(STEP.format, UPDATES), PRODUCT), marks)
    return [table]


def measure(suite: Suite, size: int, batch_size: int) -> Row:
    """Return the row of one graph; an epoch is its first moment, its steps, and its last, when all rows are settled."""
    problem = Problem.random(size, suite.device)
    interactions, nodes = problem.edge_index.size(1), problem.num_users + problem.num_items
    row: Row = {"interactions": interactions, "nodes": nodes, "table (MiB)": 4 * WIDTH * nodes / 2**20}
    for update, sparse in UPDATES.items():
        steps = Steps(problem, problem.objective(VBPR, sparse=sparse), batch_size)
        steps()  # Before it there is nothing to settle.
        once = {"start": lambda steps=steps: next(iter(steps.sampler)), "end": steps.optimizer.settle}
        found = suite.compare({**once, "step": steps})
        epoch = sum(found[name].median for name in once) + len(steps.sampler) * found["step"].median
        row[f"step, {update} (ms)"] = 1e3 * found["step"].median
        row[f"epoch, {update} (s)"] = epoch
        row[STEP.format(update)] = 1e9 * epoch / interactions
    graph: Adjacency = steps.graph[RATES]
    x, grad = (torch.randn(nodes, WIDTH, device=suite.device) for _ in range(2))
    product = suite.compare(passes({OURS: graph.matmul}, x, grad)["both"])[OURS]
    return row | {PRODUCT: 1e9 * product.median / graph.weight.numel()}
