"""EgoGCN against the authors' release, whose ids and preferences deviate from the paper: see the comments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn import bpr_loss
from pyg_ckd.nn.conv.dot_attention_conv import DotAttentionConv
from pyg_ckd.nn.models.base import Inputs
from pyg_ckd.nn.models.egogcn import EgoGCN
from tests.conftest import Golden
from tests.parity.test_grcn import pair_penalty, places_of_edges

MODALITIES = ["visual", "acoustic", "textual"]  # The order of the columns of the embeddings.
OTHERS = {"v": "at", "a": "vt", "t": "av"}  # The release's order of the other modalities: fcy, fcz.


def names_of_gates() -> dict[str, str]:
    """Return from the release's name of a gate to ours."""
    names = {}
    for m in MODALITIES:
        others = [n[0] for n in MODALITIES if n != m]
        for gate, other in zip(("fcy", "fcz"), OTHERS[m[0]], strict=True):
            for kind in ("weight", "bias"):
                place = others.index(other)
                names[f"{m[0]}_gcn.conv_embed_11.{gate}.{kind}"] = f"modulate.{m}.lins.{place}.{kind}"
    return names


def check(file: Golden, modulation: str, prefix: str) -> None:
    """Compare one variant of the model with the arrays under a prefix."""
    features = {m: file[f"feat/{m}"] for m in MODALITIES}
    users, items = file.integer("n_users"), file.integer("n_items")
    model = EgoGCN(
        users,
        items,
        {m: x.size(1) for m, x in features.items()},
        embedding_dim=file.integer("hyper/dim_E"),
        latent_dim=file.integer("hyper/dim_C"),
        num_layers=2,
        num_routing=file.integer("hyper/num_routing"),
        modulation=modulation,
        threshold=file.number("hyper/alpha_threshold"),
    ).to(file.device, torch.float64)
    gates = names_of_gates()
    names = {f"MLP{m[0]}.{kind}": f"project.{m}.{kind}" for m in MODALITIES for kind in ("weight", "bias")}
    names |= gates if modulation == "soft" else {}
    state = {ours: file[f"param/{theirs}"] for theirs, ours in names.items()}
    state["user_embedding"], state["item_embedding"] = file["param/id_gcn_real.id_embedding"].split([users, items])
    for m in MODALITIES:  # Every forward pass of the release first overwrites the preferences with these.
        rows = file[f"param/preference{m[0]}"]
        state[f"preference.{m}"] = rows / rows.norm(dim=1, keepdim=True)
    model.load_state_dict(state)

    graphs = model.prepare({}, {RATES: file["edges"].t()})
    graph, inputs = graphs[RATES], Inputs(features, graphs, {})
    places = places_of_edges(file, graph)
    starts = {m: model.start(m, inputs, factual=True) for m in MODALITIES}
    content = {m: model.content(m, starts, graph) for m in MODALITIES}
    for m in MODALITIES:
        starts[m].retain_grad()
        _, (_, attention) = DotAttentionConv()(starts[m], graph, return_attention_weights=True)
        file.compare(f"{prefix}branch/attention1_{m}", attention[places])
        file.compare(f"{prefix}branch/{m}", content[m])
    ids = torch.cat([model.user_embedding, model.item_embedding])
    second = graph.matmul(graph.matmul(ids / ids.norm(dim=1, keepdim=True)))
    block = model.ids(inputs) + second  # The release's third layer runs on the output of the first, not the second.
    file.compare(f"{prefix}branch/id", block)
    out = model.split(torch.cat([block, *content.values()], dim=1), {})
    torch.testing.assert_close(torch.cat(model(features, graphs)), torch.cat(out) - pad(second, out.user.size(1)))
    file.compare(f"{prefix}out/user", out.user)
    file.compare(f"{prefix}out/item", out.item)
    file.compare(f"{prefix}out/scores", out.user @ out.item.t())

    batch = TripletBatch(
        *(file[f"batch/{name}"] for name in ("users", "pos", "neg")), *file["batch/users"].new_zeros(3, 0)
    )
    bpr = bpr_loss(out.margin(*batch[:3]))
    reg_id = pair_penalty(model.user_embedding, model.item_embedding, batch)
    reg_content = torch.stack([p[batch.user].square().mean() for p in model.preference.values()]).sum()
    weight = file.number("hyper/reg_weight")
    loss = bpr + weight * (reg_id + reg_content)
    file.compare(f"{prefix}loss/bpr", bpr)
    file.compare(f"{prefix}loss/reg_id", reg_id)
    file.compare(f"{prefix}loss/reg_content", reg_content)
    file.compare(f"{prefix}loss/total", loss)
    of_penalty = torch.autograd.grad(weight * reg_content, [model.preference[m] for m in MODALITIES], retain_graph=True)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for m, penalty in zip(MODALITIES, of_penalty, strict=True):  # The release does not differentiate the normalisation.
        gradients.pop(f"preference.{m}")
        file.compare(f"{prefix}grad/preference{m[0]}", starts[m].grad[:users] + penalty)
    own = [gradients.pop("user_embedding"), gradients.pop("item_embedding")]
    file.compare(f"{prefix}grad/id_gcn_real.id_embedding", torch.cat(own))
    for theirs, ours in names.items():
        file.compare(f"{prefix}grad/{theirs}", gradients.pop(ours))
    assert not gradients  # Every parameter has its place in the file.
    for theirs in gates.keys() - names.keys():  # The hard variant has no gates.
        file.compare(f"{prefix}grad/{theirs}", torch.zeros_like(file[f"param/{theirs}"]))


def pad(x: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.size(1)))


def test_egogcn_equals_the_release_in_every_array(golden: Callable):
    file = golden("egogcn")
    check(file, "hard", "")
    check(file, "soft", "soft/")
    file.finish()
