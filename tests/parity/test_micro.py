"""MICRO against its authors' code."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn import Adjacency
from pyg_ckd.nn.models.base import Inputs
from pyg_ckd.nn.models.micro import MICRO
from pyg_ckd.nn.structure import item_graph_type
from tests.conftest import Golden
from tests.parity.test_lattice import PREFIX, compare_gradients, dense


def built(file: Golden) -> MICRO:
    model = MICRO(
        file.integer("n_users"),
        file.integer("n_items"),
        {m: file[f"feat/{m}"].size(1) for m in PREFIX},
        embedding_dim=file.integer("hyper/embedding_size"),
        num_layers=file.integer("hyper/n_ui_layers"),
        num_item_layers=file.integer("hyper/n_layers"),
        latent_dim=file["param/image_trs.weight"].size(0),
        num_neighbors=file.integer("hyper/knn_k"),
        skip_weight=file.number("hyper/lambda_coeff"),
        keep_negative=True,
        contrast_weight=file.number("hyper/loss_ratio"),
        temperature=file.number("hyper/tau"),
    ).to(file.device, torch.float64)
    model.load_state_dict({ours: file[f"param/{theirs}"] for theirs, ours in names().items()})
    return model


def names() -> dict[str, str]:
    """Return from the reference's name of a parameter to ours, without the features that are inputs of ours."""
    out = {"user_embedding.weight": "user_embedding", "item_id_embedding.weight": "item_embedding"}
    out |= {name: name for name in ("query.0.weight", "query.0.bias", "query.2.weight")}
    for m, prefix in PREFIX.items():
        out |= {f"{prefix}_trs.{kind}": f"project.{m}.{kind}" for kind in ("weight", "bias")}
    return out


def test_micro_equals_its_authors_code_in_every_array(golden: Callable):
    file = golden("micro")
    model = built(file)
    users, items, full = model.num_users, model.num_items, frozenset(PREFIX)
    # The reference's graph of users and items is normalised by rows and has self-loops.
    graph = Adjacency.from_interactions(file["edges"].t(), users, items, "mean", self_loops=True, dtype=torch.float64)
    file.compare("graph/norm_adj", graph.matrix.to_dense())
    prepared = model.prepare({m: file[f"feat/{m}"] for m in PREFIX}, {RATES: graph})
    features = {m: file[f"param/{name}_embedding.weight"].clone().requires_grad_() for m, name in PREFIX.items()}
    inputs = Inputs(features, prepared, {})
    for m, name in PREFIX.items():
        file.compare(f"graph/{name}_original_adj", dense(prepared[item_graph_type(m)], items, file.device))
        file.compare(f"branch/{name}_adj", dense(model.item_graph(m, inputs), items, file.device))
    out = model(features, prepared)
    file.compare("out/user", out.user)
    file.compare("out/item", out.item)
    file.compare("out/scores", out.user @ out.item.t())

    user, positive, negative = (file[f"batch/{name}"] for name in ("users", "pos", "neg"))
    nothing = user[:0]
    batch = TripletBatch(user, positive, negative, nothing, nothing, nothing)
    graphs = model.begin_epoch(features, prepared)
    for prefix in ("grad", "grad_frozen_graph"):  # The first step of the epoch and the second one.
        model.zero_grad(set_to_none=True)
        for x in features.values():
            x.grad = None
        out = model.outputs(features, graphs, [None])[0]
        terms = model.losses(out, batch, features, full)
        # The reference divides by the configured size of a batch and not by the one that it has.
        share = user.numel() / file.integer("hyper/train_batch_size")
        terms["emb"] = file.number("hyper/reg_weight") * share * model.penalty(out, batch)
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        compare_gradients(file, prefix, model, names(), features)
    model.contrast_weight = 1.0  # Theirs come before the weight, which may be zero.
    alone = model.losses(out, batch, features, full)
    for m, name in PREFIX.items():
        file.compare(f"branch/{name}_item_embeds", out.parts[f"h/{m}"])
        file.compare(f"loss/contrastive_{name}", alone.pop(f"contrast/{m}"))
    file.compare("branch/h", out.parts["h"])
    file.compare("branch/fusion_weight", out.parts["alpha"])
    file.compare("loss/total", total)
    file.compare("loss/bpr", alone.pop("bpr"))
    file.compare("loss/emb", terms["emb"])
    assert not alone
    file.finish()
