"""GRCN against the MMRec toolbox, whose routing has no effect: 0 iterations here, whatever its setting."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn import Adjacency, bpr_loss
from pyg_ckd.nn.models.base import Inputs
from pyg_ckd.nn.models.grcn import GRCN
from tests.conftest import Golden


def places_of_edges(file: Golden, graph: Adjacency) -> Tensor:
    """Return where the edges of the file, first towards the items and then towards the users, are in the graph."""
    user, item = file["edges"].t() + file["edges"].new_tensor([[0], [file.integer("n_users")]])
    source, target = torch.cat([user, item]), torch.cat([item, user])
    ours = graph.edge_index[1] * graph.num_nodes + graph.edge_index[0]
    return torch.searchsorted(ours, target * graph.num_nodes + source)


def pair_penalty(user_table: Tensor, item_table: Tensor, batch: TripletBatch) -> Tensor:
    """Return MMRec's mean over (user, positive) and (user, negative) pairs and coordinates."""
    users = user_table[torch.cat([batch.user, batch.user])]
    items = item_table[torch.cat([batch.positive, batch.negative])]
    return (users.square() + items.square()).mean()


def test_grcn_equals_mmrec_in_every_array(golden: Callable):
    file = golden("grcn")
    # The order of the columns of the confidence and of the embeddings.
    modalities = [m for m in ("visual", "textual") if f"feat/{m}" in file]
    features = {m: file[f"feat/{m}"] for m in modalities}
    users, items = file.integer("n_users"), file.integer("n_items")
    file.integer("hyper/n_layers")  # The routing iterations that have no effect.
    model = GRCN(
        users,
        items,
        {m: x.size(1) for m, x in features.items()},
        embedding_dim=file.integer("hyper/embedding_size"),
        latent_dim=file.integer("hyper/latent_embedding"),
        num_routing=0,
    ).to(file.device, torch.float64)
    names = {f"{m[0]}_gcn.preference": f"preference.{m}" for m in modalities}
    names |= {f"{m[0]}_gcn.MLP.{kind}": f"project.{m}.{kind}" for m in modalities for kind in ("weight", "bias")}
    nodes = {"id_gcn.id_embedding": "embedding", "model_specific_conf": "confidence"}
    state = {ours: file[f"param/{theirs}"] for theirs, ours in names.items()}
    for theirs, ours in nodes.items():
        state[f"user_{ours}"], state[f"item_{ours}"] = file[f"param/{theirs}"].split([users, items])
    model.load_state_dict(state)

    graphs = model.prepare({}, {RATES: file["edges"].t()})
    graph, inputs = graphs[RATES], Inputs(features, graphs, {})
    places, (source, _) = places_of_edges(file, graph), graph.edge_index
    scores = []
    confidence = torch.cat([model.user_confidence, model.item_confidence])
    for column, m in enumerate(modalities):
        branch = model.branch(m, features[m], inputs, factual=True)
        file.compare(f"branch/{m}", torch.cat(branch))
        file.compare(f"branch/attention_{m}", branch.parts["attention"][places])
        scores.append(branch.parts["attention"] * confidence[source, column])
    file.compare("branch/edge_weight", torch.stack(scores).amax(dim=0).clamp(min=0)[places])
    out = model(features, graphs)
    file.compare("branch/id", torch.cat(out)[:, : model.user_embedding.size(1)])
    file.compare("out/user", out.user)
    file.compare("out/item", out.item)
    file.compare("out/scores", out.user @ out.item.t())

    batch = TripletBatch(
        *(file[f"batch/{name}"] for name in ("users", "pos", "neg")), *file["batch/users"].new_zeros(3, 0)
    )
    bpr = bpr_loss(out.margin(*batch[:3]))
    ids = pair_penalty(model.user_embedding, model.item_embedding, batch)
    content = torch.stack([p[batch.user].square().mean() for p in model.preference.values()]).sum()
    ids = ids + sum(model.preference[m].square().mean() for m in modalities if m == "visual")
    loss = bpr + file.number("hyper/reg_weight") * (ids + content)
    file.compare("loss/bpr", bpr)
    file.compare("loss/reg_embedding", ids)
    file.compare("loss/reg_content", content)
    file.compare("loss/total", loss)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for theirs, ours in nodes.items():
        file.compare(f"grad/{theirs}", torch.cat([gradients.pop(f"user_{ours}"), gradients.pop(f"item_{ours}")]))
    for theirs, ours in names.items():
        file.compare(f"grad/{theirs}", gradients.pop(ours))
    assert not gradients  # Every parameter has its place in the file.
    file.finish()
