"""LightGCN against the MMRec toolbox."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pyg_ckd.data.inputs import RATES
from pyg_ckd.nn import Adjacency, LightGCN, bpr_loss, l2_penalty
from pyg_ckd.scoring.embeddings import Embeddings


def test_lightgcn_equals_mmrec_in_every_array(golden: Callable):
    file = golden("lightgcn")
    sizes = (file.integer("n_users"), file.integer("n_items"))
    model = LightGCN(
        *sizes, embedding_dim=file.integer("hyper/embedding_size"), num_layers=file.integer("hyper/n_layers")
    ).to(file.device, torch.float64)
    names = {"user_embedding": "embedding_dict.user_emb", "item_embedding": "embedding_dict.item_emb"}
    model.load_state_dict({ours: file[f"param/{theirs}"] for ours, theirs in names.items()})

    adjacency = Adjacency.from_interactions(file["edges"].t(), *sizes, eps=1e-7, dtype=torch.float64)
    file.compare("graph/norm_adj", adjacency.matrix.to_dense())
    out = model({}, {RATES: adjacency})
    file.compare("out/user", out.user)
    file.compare("out/item", out.item)
    file.compare("out/scores", out.user @ out.item.t())

    batch = [file[f"batch/{name}"] for name in ("users", "pos", "neg")]
    bpr = bpr_loss(out.margin(*batch), eps=1e-10)
    ego = Embeddings(model.user_embedding, model.item_embedding)
    penalty = l2_penalty(*ego.rows(*batch), squared=False)
    loss = bpr + file.number("hyper/reg_weight") * penalty
    file.compare("loss/bpr", bpr)
    file.compare("loss/reg", penalty)
    file.compare("loss/total", loss)
    loss.backward()
    for name, parameter in model.named_parameters():
        file.compare(f"grad/{names[name]}", parameter.grad)
    file.finish()
