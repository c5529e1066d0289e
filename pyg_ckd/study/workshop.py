"""Where the runs of a study are made: what is the same for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch_geometric.data import HeteroData

from pyg_ckd.data.identity import digest_of_ids, usable_ids
from pyg_ckd.devices import Device, on_any_gpu
from pyg_ckd.study.executor import Pair, Workplace, run_all
from pyg_ckd.study.maker import Maker
from pyg_ckd.study.runs import Run, training_data
from pyg_ckd.study.store import RunStore


@dataclass(frozen=True)
class Workshop:
    """Makes runs in this process, in several, or on a cluster.

    Attributes:
        data: The graph.
        fingerprint: Its fingerprint.
        folder: Folder of the study.
        stores: Where runs are kept, by kind.
        monitor: The metric that decides.
        cutoffs: Cut-offs of all metrics.
        device: The trainer's option.
        workers: Number of processes.
        backend: Where they are, see :func:`~pyg_ckd.study.executor.check_executor`.
        say: Called with a line of text when training begins in this process.
    """

    data: HeteroData
    fingerprint: str
    folder: Path
    stores: Mapping[str, RunStore]
    monitor: str
    cutoffs: Sequence[int]
    device: Device | None = "auto"
    workers: int = 1
    backend: str = "loky"
    say: Callable[[str], object] = lambda line: None

    def make(self, runs: Sequence[Run], test: bool = True) -> Iterator[Pair]:
        """Make all runs and yield each with its record as soon as it is there.

        Args:
            runs: The runs, each once.
            test: Whether they are measured on the test part, too.

        Raises:
            InputError: If a run fails or a process dies; the message names the run. Finished runs are kept.
        """
        ids = usable_ids(self.data)
        maker = Maker(training_data(self.data), self.stores, self.monitor, self.cutoffs, self.say, test, ids)
        several = self.backend == "loky" and self.workers > 1
        place = Workplace(
            str(self.folder.resolve()),
            self.fingerprint,
            tuple((kind, str(store.folder.resolve())) for kind, store in self.stores.items()),
            self.monitor,
            tuple(self.cutoffs),
            parent=os.getpid() if several else 0,
            cards=torch.cuda.device_count() if several and on_any_gpu(self.device) else 0,
            test=test,
            ids=digest_of_ids(ids),
        )
        return run_all(runs, maker, place, self.workers, self.backend)
