"""DualGNN against the MMRec toolbox."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import torch
from torch import Tensor
from torch_geometric.utils import coalesce

from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.neighbors import co_occurrence
from pyg_ckd.nn import Adjacency, bpr_loss
from pyg_ckd.nn.models.base import Inputs
from pyg_ckd.nn.models.dualgnn import SHARES, DualGNN
from tests.conftest import Golden

BLOCKS = {"MLP": 0, "MLP_1": 2}


class Published(DualGNN):
    """Weights are not normalised, and the first one multiplies the sum of all modalities, hence every modality."""

    def weights(self, view):
        first, *others = (self.attention[m] for m in self.modalities)
        return torch.cat([first, *(first + other for other in others)], dim=1)


def names_of(modalities: list[str]) -> dict[str, str]:
    """Return from the reference's name of a parameter to ours, without the weights that we keep by modality."""
    names = {}
    for m in modalities:
        names[f"{m[0]}_gcn.preference"] = f"preference.{m}"
        for theirs, ours in BLOCKS.items():
            for kind in ("weight", "bias"):
                names[f"{m[0]}_gcn.{theirs}.{kind}"] = f"project.{m}.{ours}.{kind}"
    return names


def compare_neighbors(file: Golden, edges: Tensor, users: int, items: int) -> None:
    """Compare the neighbours, in the reference's order among equal counts, and what it drew from them."""
    index, count = co_occurrence(edges, users, items)
    file.compare("graph/user_graph_counts", count)
    theirs = file["graph/user_graph_neighbors"]
    # Ours come by count, then number: put in the places that the same order of the reference's rows gives.
    places = (theirs - count * (users + 1)).argsort(dim=1, stable=True)
    file.compare("graph/user_graph_neighbors", torch.empty_like(index).scatter(1, places, index))

    drawn = file["graph/epoch_user_graph"]
    k = drawn.size(1)
    there = (theirs[:, :k] >= 0).sum(dim=1, keepdim=True)
    listed = torch.arange(k, device=file.device) < there
    first = torch.nn.functional.pad(theirs, (0, k), value=-1)[:, :k]
    shared = torch.zeros(users, users, dtype=torch.int64, device=file.device)
    user, rank = (index >= 0).nonzero().t()
    shared[user, index[user, rank]] = count[user, rank]
    repeated = shared.gather(1, drawn) > 0  # What is drawn beside the list is an entry of the list.
    expected = torch.where(listed, first, torch.where(repeated, drawn, -1))
    alone = there.squeeze(1) == 0
    expected[alone] = 0
    file.compare("graph/epoch_user_graph", expected)
    weight = shared.gather(1, drawn).double().softmax(dim=1)
    weight[alone] = 0
    file.compare("graph/user_weight_matrix", weight)


def test_dualgnn_equals_mmrec_in_every_array(golden: Callable):
    file = golden("dualgnn")
    modalities = [key.removeprefix("feat/") for key in file if key.startswith("feat/")]
    modalities.sort(key=["visual", "textual"].index)
    features = {m: file[f"feat/{m}"] for m in modalities}
    users, items = file.integer("n_users"), file.integer("n_items")
    file.integer("hyper/embedding_size")  # Without effect: everything is `dim_latent` wide.
    names = names_of(modalities)
    model = Published(
        users,
        items,
        {m: x.size(1) for m, x in features.items()},
        embedding_dim=file.integer("hyper/dim_latent"),
        num_neighbors=file.integer("hyper/k"),
    ).to(file.device, torch.float64)
    state = {ours: file[f"param/{theirs}"] for theirs, ours in names.items()}
    state |= {f"attention.{m}": file["param/weight_u"][:, n] for n, m in enumerate(modalities)}
    model.load_state_dict(state)

    edges = file["edges"].t()
    compare_neighbors(file, edges, users, items)
    drawn, weight = file["graph/epoch_user_graph"], file["graph/user_weight_matrix"]
    repeated = torch.stack([drawn.flatten(), torch.arange(users, device=file.device).repeat_interleave(drawn.size(1))])
    shares = Adjacency.from_edges(*coalesce(repeated, weight.flatten(), num_nodes=users), users)
    graph = model.prepare({}, {RATES: edges, SHARES: shares})

    inputs = Inputs(features, graph, {})
    branches = {m: model.branch(m, features[m], inputs, factual=True) for m in modalities}
    for m, branch in branches.items():
        file.compare(f"branch/{m}", torch.cat(branch))
    own = model.fuse(frozenset(modalities), branches, inputs)
    file.compare("branch/user_before_user_graph", own.user)
    out = model(features, graph)
    file.compare("branch/user_graph_out", out.user - own.user)
    file.compare("out/user", out.user)
    file.compare("out/item", out.item)
    file.compare("out/scores", out.user @ out.item.t())

    user, positive, negative = (file[f"batch/{name}"] for name in ("users", "pos", "neg"))
    bpr = bpr_loss(out.margin(user, positive, negative)) / log(2)  # The reference takes the logarithm to base 2.
    penalties = {m: model.preference[m][user].square().mean() for m in modalities}
    weight_u = torch.stack([model.attention[m] for m in modalities], dim=1)
    weight_i = file["param/weight_i"].clone().requires_grad_()  # Regularised there, and without any other use.
    penalty = sum(penalties.values()) + weight_u.square().mean() + weight_i.square().mean()
    loss = bpr + file.number("hyper/reg_weight") * penalty
    file.compare("loss/bpr", bpr)
    for m, value in penalties.items():
        file.compare(f"loss/reg_{m[0]}", value)
    file.compare("loss/total", loss)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    file.compare("grad/weight_u", torch.stack([gradients.pop(f"attention.{m}") for m in modalities], dim=1))
    for theirs, ours in names.items():
        file.compare(f"grad/{theirs}", gradients.pop(ours))
    assert not gradients  # Every parameter has its place in the file.
    file.compare("grad/weight_i", weight_i.grad)
    for name in [key.removeprefix("param/") for key in file if key.startswith("param/MLP_")]:
        file.compare(f"grad/{name}", torch.zeros_like(file[f"param/{name}"]))  # Not used by the forward pass.
    file.finish()
