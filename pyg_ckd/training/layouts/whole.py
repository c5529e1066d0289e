"""Everything on every process: the whole graph, and a share of the triples of a batch."""

from __future__ import annotations

from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.training.layouts.base import Layout


class Whole(Layout):
    """Every process has the whole model and graph, and computes the losses of a share of the triples.

    Of a step, the part of the triples shrinks with the number of processes alone; propagation and the optimizer do not.
    """

    name = "ddp"

    def share(self, batch: TripletBatch) -> tuple[TripletBatch, float]:
        """Return a run of the batch's triples and of its random triples, as even as can be."""
        if self.processes.alone:
            return batch, 1.0
        start, stop = self.processes.share(batch.user.numel())
        first, last = self.processes.share(batch.random_user.numel())
        chosen, random = slice(start, stop), slice(first, last)
        return batch.shared(chosen, random, self.processes), (stop - start) / max(1, batch.user.numel())
