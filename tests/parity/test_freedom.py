"""FREEDOM against the MMRec toolbox, on all edges and on a recorded sample of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn import Adjacency
from pyg_ckd.nn.models.freedom import FREEDOM, interactions, prune
from pyg_ckd.nn.structure import item_graph_type, with_content_graphs
from tests.conftest import Golden

THEIRS = {"visual": "image", "textual": "text"}
EPS = 1e-7  # The reference adds it to all degrees and row sums.


@pytest.fixture
def file(golden: Callable) -> Golden:
    return golden("freedom")


def the_model(file: Golden) -> tuple[FREEDOM, dict[str, Tensor], dict[str, str]]:
    """Return model, features and from our name of a parameter to theirs."""
    modalities = [key.removeprefix("feat/") for key in file if key.startswith("feat/")]
    features = {}
    for m in modalities:  # The reference trains a copy of the features.
        features[m] = file[f"param/{THEIRS[m]}_embedding.weight"].clone().requires_grad_()
        assert torch.equal(features[m], file[f"feat/{m}"])
    omega = file.number("hyper/mm_image_weight")
    weights = {"visual": omega, "textual": 1 - omega}
    model = FREEDOM(
        file.integer("n_users"),
        file.integer("n_items"),
        {m: x.size(1) for m, x in features.items()},
        embedding_dim=file.integer("hyper/embedding_size"),
        num_layers=file.integer("hyper/n_ui_layers"),
        num_item_layers=file.integer("hyper/n_mm_layers"),
        num_neighbors=file.integer("hyper/knn_k"),
        modality_weights={m: weights[m] for m in modalities},
        dropout=file.number("hyper/dropout"),
        modality_loss_weight=file.number("hyper/reg_weight"),
    ).to(file.device, torch.float64)
    assert file.integer("hyper/feat_embed_dim") == model.user_embedding.size(1)
    names = {"user_embedding": "user_embedding.weight", "item_embedding": "item_id_embedding.weight"}
    names |= {f"project.{m}.weight": f"{THEIRS[m]}_trs.weight" for m in modalities}
    model.load_state_dict({ours: file[f"param/{theirs}"] for ours, theirs in names.items()})
    return model, features, names


def compare_training(file: Golden, prefix: str, graphs: dict) -> None:
    """Compare losses and gradients on one batch."""
    model, features, names = the_model(file)
    triples = [file[f"batch/{name}"] for name in ("users", "pos", "neg")]
    batch = TripletBatch(*triples, *3 * [triples[0][:0]])
    (out,) = model.outputs(features, graphs, [None])
    terms = model.losses(out, batch, features, frozenset(features))
    total = sum(terms.values())
    file.compare(f"{prefix[0]}bpr", terms["bpr"])
    model.modality_loss_weight = 1.0  # Theirs come before the weight, which may be zero.
    for m in features:
        file.compare(f"{prefix[0]}{m}", model.losses(out, batch, features, frozenset(features))[f"bpr/{m}"])
    file.compare(f"{prefix[0]}total", total)
    total.backward()
    gradients = {name: gradient_of(parameter) for name, parameter in model.named_parameters()}
    for ours, theirs in names.items():
        file.compare(f"{prefix[1]}{theirs}", gradients.pop(ours))
    assert not gradients  # Every parameter has its place in the file.
    for m, x in features.items():
        file.compare(f"{prefix[1]}{THEIRS[m]}_embedding.weight", gradient_of(x))
        file.compare(f"{prefix[1]}{THEIRS[m]}_trs.bias", torch.zeros(model.user_embedding.size(1)))  # It cancels.


def gradient_of(x: Tensor) -> Tensor:
    return torch.zeros_like(x) if x.grad is None else x.grad


def test_freedom_equals_mmrec_in_every_array(file):
    model, features, _ = the_model(file)
    sizes, k = (model.num_users, model.num_items), model.num_neighbors
    adjacency = Adjacency.from_interactions(file["edges"].t(), *sizes, eps=EPS, dtype=torch.float64)
    graphs = with_content_graphs(features, {RATES: adjacency}, sizes[1], k, "binary", eps=EPS)
    file.compare("graph/norm_adj", adjacency.matrix.to_dense())
    item_graphs = {m: graphs[item_graph_type(m)] for m in features}
    dense = {m: graph.matrix.to_dense() for m, graph in item_graphs.items()}
    for m in features:
        file.compare(f"graph/{THEIRS[m]}_adj", dense[m])
    file.compare("graph/mm_adj", sum(model.modality_weights[m] * matrix for m, matrix in dense.items()))

    edges, weight = interactions(adjacency, model.num_users)
    user, item = file["edges"].t()
    place = torch.searchsorted(edges[0] * sizes[1] + edges[1], user * sizes[1] + item)  # Of the file's edges in ours.
    file.compare("graph/edge_values", weight[place])

    out = model(features, graphs)
    file.compare("out/user", out.user)
    file.compare("out/item", out.item)
    file.compare("out/scores", out.user @ out.item.t())
    plain = model.propagate(torch.cat([model.user_embedding, model.item_embedding]), adjacency)
    file.compare("branch/h", out.item - plain[model.num_users :])
    for m in features:
        bias = file[f"param/{THEIRS[m]}_trs.bias"]
        file.compare(f"branch/{m}", model.project[m](features[m]) + bias)
    compare_training(file, ("loss/", "grad/"), graphs)

    kept, model.dropout = file["pruned/kept_edge_indices"], file.number("pruned/dropout")
    expected = weight.numel() * (1 - model.dropout)
    more = model.begin_epoch(features, graphs)[RATES].weight.numel() // 2 - kept.numel()
    assert more == 0 or (more == 1 and abs(expected - round(expected)) < 1e-6)  # Theirs floors what rounding made less.
    for key in ("pruned/kept_edge_indices", "pruned/dropout"):
        file.compare(key, file[key])  # Inputs of what follows.
    pruned = graphs | {RATES: prune(adjacency, model.num_users, place[kept], eps=EPS)}
    file.compare("pruned/masked_adj", pruned[RATES].matrix.to_dense())
    out = model(features, pruned)
    file.compare("pruned/user", out.user)
    file.compare("pruned/item", out.item)
    compare_training(file, ("pruned/loss_", "pruned/grad/"), pruned)
    file.finish()


def test_without_the_small_number_all_is_the_same_up_to_it(file):
    model, features, _ = the_model(file)
    out = model(features, {RATES: file["edges"].t()})
    torch.testing.assert_close(out.user, file["out/user"], atol=1e-6, rtol=0)
    torch.testing.assert_close(out.item, file["out/item"], atol=1e-6, rtol=0)
