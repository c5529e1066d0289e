"""Training is of one process; shares of interactions know the positives of the others."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.data import TripletSampler
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from tests.training.problem import planted_data, trainer


def test_one_of_several_processes_is_refused_before_it_writes(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = planted_data()
    with pytest.raises(InputError, match=r"found 2 processes \(WORLD_SIZE\), as torchrun starts them, expected one"):
        trainer(max_epochs=1, checkpoint_dir=tmp_path / "run").fit(VBPR.from_data(data), data)
    assert not any(file.is_file() for file in tmp_path.rglob("*"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    trainer(max_epochs=1).fit(VBPR.from_data(data), data)


@pytest.mark.parametrize("negatives", ["uniform", "popularity", "hard"])
@pytest.mark.parametrize("shares", [2, 3])
def test_a_share_of_the_interactions_draws_no_positive_of_another_one(negatives, shares):
    edges = torch.tensor([(u, i) for u in range(6) for i in range(8) if (u + i) % 3]).t()
    met = set(map(tuple, edges.t().tolist()))
    for rank in range(shares):
        sampler = TripletSampler(edges[:, rank::shares], 6, 8, negatives=negatives, known=edges)
        if sampler.wants_embeddings:
            from pyg_ckd.data import Embeddings

            sampler.update(Embeddings(torch.randn(6, 2), torch.randn(8, 2)))
        for _ in range(20):
            for batch in sampler:
                assert not met & set(zip(batch.user.tolist(), batch.negative.tolist(), strict=True))
