"""Full ranking of the validation part against a bare product and ``torch.topk`` of the same sizes."""

from __future__ import annotations

import torch

from benchmarks.common import WIDTH, Bars, Suite, Table
from benchmarks.serving import bare
from pyg_ckd.data import Embeddings
from pyg_ckd.evaluation.ranking import DEFAULT_METRICS, Evaluator

BARE = "bare matmul + topk"


def run(suite: Suite, k: int = 20) -> list[Table]:
    """Measure the evaluation of every epoch, that of a finished run, and the bare products.

    Args:
        suite: What to measure on.
        k: Length of the lists.
    """
    data, generator = suite.data, torch.Generator(suite.device).manual_seed(0)
    sizes = [(data[kind].num_nodes, WIDTH) for kind in ("user", "item")]
    embeddings = Embeddings(*(torch.randn(size, generator=generator, device=suite.device) for size in sizes))
    epoch, final = Evaluator(data, "val", [k], ["recall"]), Evaluator(data, "val", [max(1, k // 2), k])
    users = embeddings.user[epoch.users.to(suite.device)]
    found = suite.compare(
        {
            BARE: lambda: bare(users, embeddings.item, k),
            f"Evaluator, recall@{k}": lambda: epoch(embeddings),
            f"Evaluator, {len(DEFAULT_METRICS)} metrics at two cut-offs": lambda: final(embeddings),
        }
    )
    rows = [
        {
            "ranking": name,
            "seconds": timing.median,
            "minimum": timing.minimum,
            "ratio to bare": timing.median / found[BARE].median,
            "of minima": timing.minimum / found[BARE].minimum,
            "wanted, at most": None if name == BARE else 1.4,
        }
        for name, timing in found.items()
    ]
    note = f"{users.size(0)} users of the validation part, {sizes[1][0]} items, embeddings {WIDTH} wide."
    return [Table("evaluation of the validation part", rows, [note], Bars("ratio to bare", ("ranking",)))]
