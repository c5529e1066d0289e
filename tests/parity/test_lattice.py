"""LATTICE against the MMRec toolbox."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyg_ckd.data.inputs import RATES
from pyg_ckd.nn import Adjacency, bpr_loss
from pyg_ckd.nn.models.base import Inputs
from pyg_ckd.nn.models.lattice import LATTICE
from pyg_ckd.nn.structure import ItemGraph, item_graph_type
from tests.conftest import Golden

PREFIX = {"visual": "image", "textual": "text"}


def dense(graph: ItemGraph, num_items: int, device: torch.device) -> Tensor:
    return graph.matmul(torch.eye(num_items, dtype=torch.float64, device=device))


def built(file: Golden) -> LATTICE:
    model = LATTICE(
        file.integer("n_users"),
        file.integer("n_items"),
        {m: file[f"feat/{m}"].size(1) for m in PREFIX},
        embedding_dim=file.integer("hyper/embedding_size"),
        num_layers=file.integer("hyper/n_ui_layers"),
        num_item_layers=file.integer("hyper/n_layers"),
        latent_dim=file.integer("hyper/feat_embed_dim"),
        num_neighbors=file.integer("hyper/knn_k"),
        skip_weight=file.number("hyper/lambda_coeff"),
        mixture="similarities",
        keep_negative=True,
    ).to(file.device, torch.float64)
    model.load_state_dict({ours: file[f"param/{theirs}"] for theirs, ours in names().items()})
    return model


def names() -> dict[str, str]:
    """Return from the reference's name of a parameter to ours, without the features that are inputs of ours."""
    out = {
        "user_embedding.weight": "user_embedding",
        "item_id_embedding.weight": "item_embedding",
        "modal_weight": "modality_weight",
    }
    for m, prefix in PREFIX.items():
        out |= {f"{prefix}_trs.{kind}": f"project.{m}.{kind}" for kind in ("weight", "bias")}
    return out


def compare_gradients(
    file: Golden, prefix: str, model: nn.Module, names: dict[str, str], features: dict[str, Tensor]
) -> None:
    """Compare the gradients of all parameters and of the features, which are parameters of the reference."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    found = {theirs: (gradients.pop(ours), file[f"param/{theirs}"]) for theirs, ours in names.items()}
    assert not gradients  # Every parameter has its place in the file.
    found |= {f"{name}_embedding.weight": (features[m].grad, features[m]) for m, name in PREFIX.items()}
    for theirs, (gradient, value) in found.items():
        file.compare(f"{prefix}/{theirs}", torch.zeros_like(value) if gradient is None else gradient)


def test_lattice_equals_mmrec_in_every_array(golden: Callable):
    file = golden("lattice")
    model = built(file)
    users, items, skip = model.num_users, model.num_items, model.skip_weight
    # The reference's graph of users and items is normalised by rows and has self-loops.
    graph = Adjacency.from_interactions(file["edges"].t(), users, items, "mean", self_loops=True, dtype=torch.float64)
    file.compare("graph/norm_adj", graph.matrix.to_dense())
    prepared = model.prepare({m: file[f"feat/{m}"] for m in PREFIX}, {RATES: graph})
    features = {m: file[f"param/{name}_embedding.weight"].clone().requires_grad_() for m, name in PREFIX.items()}
    inputs, full = Inputs(features, prepared, {}), frozenset(PREFIX)
    for m, name in PREFIX.items():
        file.compare(f"graph/{name}_original_adj", dense(prepared[item_graph_type(m)], items, file.device))
        (source, target), weight = model.learned_edges(m, inputs)
        file.compare(f"branch/{name}_knn", weight.new_zeros(items, items).index_put((target, source), weight))
    for name, share in {"learned_adj": 0.0, "original_adj": 1.0, "item_adj": skip}.items():
        model.skip_weight = share
        _, graphs, _ = model._mix_similarities([full], inputs)
        file.compare(f"branch/{name}", dense(graphs[full], items, file.device))
    out = model(features, prepared)
    file.compare("out/user", out.user)
    file.compare("out/item", out.item)
    file.compare("out/scores", out.user @ out.item.t())

    batch = [file[f"batch/{name}"] for name in ("users", "pos", "neg")]
    graphs = model.begin_epoch(features, prepared)
    for prefix in ("grad", "grad_frozen_graph"):  # The first step of the epoch and the second one.
        model.zero_grad(set_to_none=True)
        for x in features.values():
            x.grad = None
        out = model.outputs(features, graphs, [None])[0]
        bpr = bpr_loss(out.margin(*batch))
        # The reference divides by the configured size of a batch and not by the one that it has.
        penalty = 0.5 * torch.stack([row.square().sum() for row in out.rows(*batch)]).sum()
        emb = file.number("hyper/reg_weight") * penalty / file.integer("hyper/train_batch_size")
        (bpr + emb).backward()
        compare_gradients(file, prefix, model, names(), features)
    file.compare("branch/h", out.parts["h"])
    file.compare("loss/bpr", bpr)
    file.compare("loss/emb", emb)
    file.compare("loss/total", bpr + emb)
    file.finish()
