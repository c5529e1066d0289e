"""Evaluation and export shared out over processes of one thread each: CPU seconds, and whether bits are the same."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from benchmarks.common import WIDTH, Bars, Missing, Suite, Table
from benchmarks.problems import random_interactions
from benchmarks.several import in_processes
from pyg_ckd.data import Embeddings, build_data
from pyg_ckd.evaluation import Evaluator
from pyg_ckd.evaluation.ranking import DEFAULT_METRICS
from pyg_ckd.processes import apart, present
from pyg_ckd.scoring.neighbourhood import Scorer
from pyg_ckd.serving import Recommender

WANTED = 0.6
"""CPU seconds of each of two processes as a share of those of one, at most."""
ROUNDS = 2, 10
"""Runs at least and at most, the more the smaller the graph."""
PAIRS = 10**9
"""Pairs of users and items that are ranked in all, but for the least number of runs."""
METRICS = (*DEFAULT_METRICS, "coverage", "personalization")


class _Kept(Evaluator):
    """An evaluator that keeps the lists of its last call."""

    lists: Tensor

    def rank(self, embeddings: Embeddings | Scorer) -> Tensor:
        self.lists = super().rank(embeddings)
        return self.lists


def run(suite: Suite, ranks: Sequence[int] = (2,), interactions: int | None = None, k: int = 20) -> list[Table]:
    """Evaluate random tables and export their lists, by one process and by several.

    Args:
        suite: What to measure on.
        ranks: Numbers of processes.
        interactions: Interactions of the random graph. (default: :obj:`None`, 200,000, or a million at full size)
        k: Length of the lists.
    """
    if suite.device.type != "cpu":
        raise Missing("shares are measured on the CPU")
    count = interactions or (1_000_000 if suite.full else 200_000)
    graphs = {"data of the suite": suite.data, f"random, {count} interactions": _random(count)}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(graphs, folder / "graphs.pt")
        for size in ranks:
            found = in_processes(size, _member, str(folder), k)
            for key in found[0]["alone"]:
                alone, together = ([process[way][key] for process in found] for way in ("alone", "together"))
                one, each = (max(work["cpu"] for work in works) for works in (alone, together))
                rows.append(
                    {
                        "graph": key[0],
                        "work": key[1],
                        "users": alone[0]["users"],
                        "processes": size,
                        "CPU seconds of one": one,
                        "CPU seconds of each": each,
                        "ratio": each / one,
                        "wanted, at most": WANTED if size == 2 else None,
                        "same bits": "yes" if len({work["bits"] for work in (*alone, *together)}) == 1 else "no",
                    }
                )
    notes = [
        f"Embeddings {WIDTH} wide, lists of {k}, {len(METRICS)} metrics at two cut-offs; the fastest of at least "
        f"{ROUNDS[0]} runs, the slowest process. Every process does the whole as well, as one would, to meet the same "
        "machine. Bits are the SHA-256 of lists and metrics, or of the table that is read from disk."
    ]
    return [Table("evaluation and export in shares", rows, notes, Bars("ratio", ("graph", "work")))]


def _random(count: int) -> HeteroData:
    pairs, num_users, num_items = random_interactions(count)
    cut = int(0.8 * pairs.size(1))
    sizes = {"num_users": num_users, "num_items": num_items}
    return build_data(pairs[:, :cut], {"visual": torch.randn(num_items, 4)}, test=pairs[:, cut:], **sizes)


def _member(folder: str, k: int) -> dict[str, dict[tuple[str, str], dict[str, Any]]]:
    place, processes = Path(folder), present()
    graphs = torch.load(place / "graphs.pt", weights_only=False)
    with apart():
        alone = _work(graphs, place / f"alone-{processes.size}-{processes.rank}", k)
    return {"alone": alone, "together": _work(graphs, place / f"together-{processes.size}", k)}


def _work(graphs: dict[str, HeteroData], folder: Path, k: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Return for every graph and work the CPU seconds of this process and a digest of what was found."""
    import pyarrow.parquet as pq

    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, data in graphs.items():
        generator = torch.Generator().manual_seed(0)
        sizes = [data[kind].num_nodes for kind in ("user", "item")]
        embeddings = Embeddings(*(torch.randn(size, WIDTH, generator=generator) for size in sizes))
        evaluator, recommender = _Kept(data, "test", [max(1, k // 2), k], METRICS), Recommender(embeddings, data)
        seconds: dict[str, list[float]] = {"evaluation": [], "export": []}
        for turn in range(min(max(ROUNDS[0], PAIRS // (sizes[0] * sizes[1])), ROUNDS[1])):
            start = time.process_time()
            metrics = evaluator(embeddings)
            seconds["evaluation"].append(time.process_time() - start)
            path, start = folder / name.replace(" ", "-") / str(turn), time.process_time()
            recommender.export_top_k(path, k)
            seconds["export"].append(time.process_time() - start)
        table = pq.read_table(path)
        columns = [column.combine_chunks().to_numpy(zero_copy_only=False).tobytes() for column in table.columns]
        digests = {
            "evaluation": _digest(evaluator.lists.numpy().tobytes(), repr(dict(metrics)).encode()),
            "export": _digest(repr(table.schema).encode(), *columns),
        }
        users = {"evaluation": evaluator.users.numel(), "export": sizes[0]}
        for work, bits in digests.items():
            found[name, work] = {"cpu": min(seconds[work]), "bits": bits, "users": users[work]}
    return found


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
