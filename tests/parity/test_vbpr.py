"""VBPR against the MMRec toolbox, whose one projection takes the concatenated features, textual columns first."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pyg_ckd.data.inputs import RATES
from pyg_ckd.nn import VBPR, bpr_loss, l2_penalty


def test_vbpr_equals_mmrec_in_every_array(golden: Callable):
    file = golden("vbpr")
    sizes = (file.integer("n_users"), file.integer("n_items"))
    features = {m: file[f"feat/{m}"] for m in ("textual", "visual") if f"feat/{m}" in file}  # The order of the columns.
    dims = {m: x.size(1) for m, x in features.items()}
    width = file.integer("hyper/embedding_size")
    model = VBPR(*sizes, dims, width, item_bias=False, fusion="sum").to(file.device, torch.float64)
    user, bias = file["param/u_embedding"], file["param/item_linear.bias"]
    weights = dict(zip(dims, file["param/item_linear.weight"].split(list(dims.values()), dim=1), strict=True))
    state = {
        "user_embedding": user[:, :width],
        "preference.shared": user[:, width:],
        "item_embedding": file["param/i_embedding"],
    }
    first = next(iter(dims))  # The one bias is put on one of the modalities.
    for m, weight in weights.items():
        state |= {f"project.{m}.weight": weight, f"project.{m}.bias": bias if m == first else 0 * bias}
    model.load_state_dict(state)

    out = model(features, {RATES: file["edges"].t()})
    file.compare("out/user", out.user)
    file.compare("out/item", out.item)
    file.compare("out/scores", out.user @ out.item.t())
    file.compare("branch/content_item", out.item[:, width:])

    batch = [file[f"batch/{name}"] for name in ("users", "pos", "neg")]
    bpr, penalty = bpr_loss(out.margin(*batch), eps=1e-10), l2_penalty(*out.rows(*batch), squared=False)
    loss = bpr + file.number("hyper/reg_weight") * penalty
    file.compare("loss/bpr", bpr)
    file.compare("loss/reg", penalty)
    file.compare("loss/total", loss)
    loss.backward()
    grad = {name: parameter.grad for name, parameter in model.named_parameters()}
    file.compare("grad/u_embedding", torch.cat([grad["user_embedding"], grad["preference.shared"]], dim=1))
    file.compare("grad/i_embedding", grad["item_embedding"])
    file.compare("grad/item_linear.weight", torch.cat([grad[f"project.{m}.weight"] for m in dims], dim=1))
    file.compare("grad/item_linear.bias", grad[f"project.{first}.bias"])
    file.finish()
