"""Ranking and metrics against the MMRec toolbox and the published code of the distillation paper."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pyg_ckd.data import build_data
from pyg_ckd.evaluation import Evaluator, user_metrics
from pyg_ckd.scoring.embeddings import Embeddings
from tests.conftest import Golden


@pytest.mark.usefixtures("double")
def test_rankings_and_metrics_equal_both_published_sources(golden: Callable):
    file: Golden = golden("metrics")
    users, items = file.integer("n_users"), file.integer("n_items")
    scores, train, test, cuts = (file[key] for key in ("scores", "train_edges", "test_edges", "ks"))
    train, test = train.cpu(), test.cpu()  # A graph is there, and tables are where they were computed.
    for name, edges in (("train_mask", train), ("test_mask", test)):
        mask = torch.zeros(users, items, dtype=torch.bool)
        mask[edges[:, 0], edges[:, 1]] = True
        file.compare(name, mask)

    features = {"constant": torch.ones(items, 1)}
    sizes = {"num_users": users, "num_items": items}
    data = build_data(train.t(), features, test=test.t(), **sizes)
    metrics = ["recall", "precision", "ndcg", "map", "hit"]
    evaluator = Evaluator(data, "test", k=cuts.tolist(), metrics=metrics)
    embeddings = Embeddings(scores, torch.eye(items, device=file.device))  # Whose scores are the given ones.
    file.compare("eval_users", evaluator.users)
    file.compare("n_pos", torch.bincount(evaluator.labels[0]))
    ranked = evaluator.rank(embeddings)
    file.compare("topk_items", ranked)
    is_hit = torch.zeros(users, items, dtype=torch.int64)
    is_hit[test[:, 0], test[:, 1]] = 1
    file.compare("topk_hits", is_hit[evaluator.users].gather(1, ranked))

    mean, per_user = evaluator(embeddings), evaluator.per_user(embeddings)
    retrieved = user_metrics(ranked, evaluator.labels, metrics, cuts.tolist(), ideal="retrieved")
    for name in per_user:
        file.compare(f"mmrec/{name}", mean[name])
        file.compare(f"mmrec/per_user/{name}", per_user[name])
        values = per_user if name.startswith(("recall", "hit")) else retrieved
        file.compare(f"ckd/per_user/{name}", values[name])
        file.compare(f"ckd/{name}", values[name].mean())
    file.finish()
