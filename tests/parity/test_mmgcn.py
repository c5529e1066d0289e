"""MMGCN against the MMRec toolbox."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from pyg_ckd.data.inputs import RATES
from pyg_ckd.nn import MMGCN, bpr_loss
from pyg_ckd.nn.models.base import Inputs
from tests.conftest import Golden

BLOCKS = {"conv_embed_": "lin_neighbor", "linear_layer": "lin_self", "g_layer": "lin_merge"}


def names_of(file: Golden, modalities: list[str]) -> dict[str, str]:
    """Return from the reference's name of a parameter to ours, without the id embedding that we keep in two parts."""
    names = {}
    for m in modalities:
        prefix = f"{m[0]}_gcn"
        names[f"{prefix}.preference"] = f"preference.{m}"
        for key in file:
            if match := re.fullmatch(rf"param/{prefix}\.MLP\.(weight|bias)", key):
                names[key.removeprefix("param/")] = f"project.{m}.{match[1]}"
            if match := re.fullmatch(rf"param/{prefix}\.(\D+)(\d+)\.(weight|bias)", key):
                block, layer, kind = match.groups()
                names[key.removeprefix("param/")] = f"convs.{m}.{int(layer) - 1}.{BLOCKS[block]}.{kind}"
    return names


def ours_from_theirs(name: str, value: Tensor) -> Tensor:
    return value.t() if "conv_embed" in name else value  # The reference stores this matrix as input x output.


def test_mmgcn_equals_mmrec_in_every_array(golden: Callable):
    file = golden("mmgcn")
    modalities = [key.removeprefix("feat/") for key in file if key.startswith("feat/")]
    features = {m: file[f"feat/{m}"] for m in modalities}
    users, items = file.integer("n_users"), file.integer("n_items")
    names = names_of(file, modalities)
    latent = {m: file.integer("hyper/dim_latent") for m in modalities if f"param/{m[0]}_gcn.MLP.weight" in file}
    model = MMGCN(
        users,
        items,
        {m: x.size(1) for m, x in features.items()},
        embedding_dim=file.integer("hyper/embedding_size"),
        num_layers=sum(f"{modalities[0][0]}_gcn.conv_embed_" in name for name in names),
        latent_dims=latent,
        combine="concat",
        fusion="mean",
    ).to(file.device, torch.float64)
    state = {ours: ours_from_theirs(theirs, file[f"param/{theirs}"]) for theirs, ours in names.items()}
    state["user_embedding"], state["item_embedding"] = file["param/id_embedding"].split([users, items])
    model.load_state_dict(state)

    graph = model.prepare({}, {RATES: file["edges"].t()})
    for m in modalities:
        branch = model.branch(m, features[m], Inputs(features, graph, {}), factual=True)
        file.compare(f"branch/{m}", torch.cat(branch))
    out = model(features, graph)
    file.compare("out/user", out.user)
    file.compare("out/item", out.item)
    file.compare("out/scores", out.user @ out.item.t())

    user, positive, negative = (file[f"batch/{name}"] for name in ("users", "pos", "neg"))
    bpr = bpr_loss(out.margin(user, positive, negative))
    pair_user = model.user_embedding[torch.cat([user, user])]
    pair_item = model.item_embedding[torch.cat([positive, negative])]
    penalty = (pair_user.square() + pair_item.square()).mean() + model.preference["visual"].square().mean()
    loss = bpr + file.number("hyper/reg_weight") * penalty
    file.compare("loss/bpr", bpr)
    file.compare("loss/reg", penalty)
    file.compare("loss/total", loss)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    file.compare("grad/id_embedding", torch.cat([gradients.pop("user_embedding"), gradients.pop("item_embedding")]))
    for theirs, ours in names.items():
        file.compare(f"grad/{theirs}", ours_from_theirs(theirs, gradients.pop(ours)))
    assert not gradients  # Every parameter has its place in the file.
    file.finish()
