"""A small strategy that uses every hook of the seam, with its state in buffers."""

from __future__ import annotations

from typing import Any

import torch

from pyg_ckd.balance import Objective
from pyg_ckd.scoring.views import unimodal_views


class Everything(Objective):
    """Slows the stronger modality down, weighs triples by margin and runs two backward passes, by a schedule."""

    def __init__(self, student: Any, l2: float = 1e-2) -> None:
        super().__init__(student, l2)
        self.register_buffer("lead", torch.zeros(len(student.modalities)))
        self.register_buffer("chosen", torch.zeros(()))
        self._alone = unimodal_views(student.modalities)
        self.seen: list[tuple[int, int, int]] = []

    @property
    def views(self):
        full = [self.view]
        return full if self.progress.epoch == 1 else [*full, *self._alone.values(), frozenset()]

    def begin_epoch(self, features, graphs):
        self.seen.append((self.progress.epoch, self.progress.max_epochs, len(self.progress.history)))
        return super().begin_epoch(features, graphs)

    def balance(self, out, batch):
        if len(out) == 1:
            return {}
        margins = torch.stack([out[v].margin(*batch[:3]) for v in self._alone.values()], dim=1)
        self.lead.mul_(0.9).add_(0.1 * margins.detach().float().mean(dim=0))
        return {"alone": 0.1 * torch.nn.functional.softplus(-margins).mean()}

    def triple_weights(self, out, batch):
        weight = torch.sigmoid(-out[self.view].margin(*batch[:3])).detach() + torch.rand(batch.user.numel())
        return weight / weight.mean()

    def backward(self, terms, run):
        last = list(terms)[-1]
        if last != "alone":
            run(sum(terms.values()))
            return
        run(terms[last], retain_graph=True)
        for p in self.student.parameters():
            if p.grad is not None:
                p.grad.mul_(0.5)
        run(sum(term for name, term in terms.items() if name != last))

    def step_sizes(self):
        if self.progress.epoch < 3:
            return {}
        share = torch.softmax(-self.lead, dim=0).tolist()
        return dict(zip(self.modalities, share, strict=True))

    def before_validation(self, features, graphs, score):
        values = [score(out) for out in self.forward_views(features, graphs, list(self._alone.values()))]
        self.chosen.fill_(max(values))

    def epoch_statistics(self):
        return {f"lead/{m}": value for m, value in zip(self.modalities, self.lead.tolist(), strict=True)}
