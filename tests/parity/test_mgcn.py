"""MGCN against the MMRec toolbox."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pyg_ckd.data.inputs import RATES
from pyg_ckd.nn import bpr_loss, l2_penalty
from pyg_ckd.nn.loss import contrastive_loss
from pyg_ckd.nn.models.base import Inputs
from pyg_ckd.nn.models.mgcn import MGCN
from pyg_ckd.nn.structure import item_graph_type
from tests.conftest import Golden

THEIRS = {"visual": ("image", "v"), "textual": ("text", "t")}


def names_of() -> dict[str, str]:
    """Return from the reference's name of a parameter to ours."""
    lins = {"query_common.0": "lin_query"}
    for m, (long, short) in THEIRS.items():
        lins |= {f"{long}_trs": f"project.{m}", f"gate_{short}.0": f"lin_purify.{m}"}
        lins[f"gate_{long}_prefer.0"] = f"lin_prefer.{m}"
    names = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in lins.items() for kind in ("weight", "bias")}
    tables = {"user_embedding.weight": "user_embedding", "item_id_embedding.weight": "item_embedding"}
    return names | tables | {"query_common.2.weight": "lin_score.weight"}


def compare_representations(file: Golden, model: MGCN, inputs: Inputs) -> None:
    """Compare what the embeddings are made of, piece by piece."""
    content = model.propagate(model.ego(frozenset(), inputs), inputs.graph)
    file.compare("branch/content_embeds", content)
    enriched = {m: model.enrich(m, True, inputs) for m in THEIRS}
    weight = torch.cat([model.score(x) for x in enriched.values()], dim=1).softmax(dim=1)
    common = (weight.unsqueeze(2) * torch.stack(list(enriched.values()), dim=1)).sum(dim=1)
    file.compare("branch/weight_common", weight)
    file.compare("branch/common_embeds", common)
    specific = {m: torch.sigmoid(model.lin_prefer[m](content)) * (x - common) for m, x in enriched.items()}
    for m, (long, _) in THEIRS.items():
        file.compare(f"branch/{long}_embeds", enriched[m])
        file.compare(f"branch/{long}_gated_specific", specific[m])
    file.compare("branch/side_embeds", model.combine(common, sum(specific.values())))


def test_mgcn_equals_mmrec_in_every_array(golden: Callable):
    file = golden("mgcn")
    features = {m: file[f"feat/{m}"].requires_grad_() for m in THEIRS}  # Trainable copies there, inputs here.
    users, items = file.integer("n_users"), file.integer("n_items")
    names = names_of()
    model = MGCN(
        users,
        items,
        {m: x.size(1) for m, x in features.items()},
        embedding_dim=file.integer("hyper/embedding_size"),
        num_layers=file.integer("hyper/n_ui_layers"),
        num_item_layers=file.integer("hyper/n_layers"),
        num_neighbors=file.integer("hyper/knn_k"),
        keep_negative=True,
        fusion="mean",
    ).to(file.device, torch.float64)
    model.load_state_dict({ours: file[f"param/{theirs}"] for theirs, ours in names.items()})

    graph = model.prepare(features, {RATES: file["edges"].t()})
    file.compare("graph/norm_adj", graph[RATES].matrix.to_dense())
    file.compare("graph/R", graph[RATES].to_users(users).matrix.to_dense())
    for m, (long, _) in THEIRS.items():
        file.compare(f"graph/{long}_original_adj", graph[item_graph_type(m)].matrix.to_dense())
        assert torch.equal(file[f"param/{long}_embedding.weight"], features[m])
    compare_representations(file, model, Inputs(features, graph, {}))

    (out,) = model.outputs(features, graph, [None])
    file.compare("out/user", out.user)
    file.compare("out/item", out.item)
    file.compare("out/scores", out.user @ out.item.t())

    user, positive, negative = (file[f"batch/{name}"] for name in ("users", "pos", "neg"))
    bpr = bpr_loss(out.margin(user, positive, negative))
    # There the penalty is divided by the batch size that was asked for, and repeated rows are their own negatives.
    scale = user.numel() / file.integer("hyper/train_batch_size")
    penalty = file.number("hyper/reg_weight") * scale * l2_penalty(*out.rows(user, positive, negative))
    side, content = out.parts["side"], out.parts["content"]
    contrastive = sum(contrastive_loss(side[r], content[r], model.temperature) for r in (user, users + positive))
    loss = bpr + penalty + file.number("hyper/cl_loss") * contrastive
    file.compare("loss/bpr", bpr)
    file.compare("loss/emb", penalty)
    file.compare("loss/cl", contrastive)
    file.compare("loss/total", loss)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for theirs, ours in names.items():
        file.compare(f"grad/{theirs}", gradients.pop(ours))
    for m, (long, _) in THEIRS.items():
        file.compare(f"grad/{long}_embedding.weight", features[m].grad)
    assert not gradients  # Every parameter has its place in the file.
    file.finish()
